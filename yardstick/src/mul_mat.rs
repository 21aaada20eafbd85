//! ggml's side of a product: `ggml_mul_mat` on its CPU backend with its own pool of threads, on the
//! weights as they lie or as its repacking buffer holds them.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use crate::llama;
use crate::pool::Pool;
use crate::products::{Product, Weights};

/// Where ggml finds the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// As they lie in the file.
    Mapped,
    /// In a second copy, repacked for its fastest kernels.
    Repacked,
}

/// Graphs that multiply one input with each copy of the weights. Fields are freed in this order.
pub struct MulMat<'w> {
    backend: Backend,
    pool: Pool,
    graphs: Vec<*mut sys::ggml_cgraph>,
    output: *mut sys::ggml_tensor,
    _context: Context,
    _buffers: [Buffer; 2],
    _weights: PhantomData<&'w Weights>,
}

impl<'w> MulMat<'w> {
    /// Graphs for all passes over the copies; `None` where ggml repacks no weights of this kind.
    pub fn new(
        product: &Product,
        weights: &'w Weights,
        x: &[f32],
        (mode, n_threads, hot): (Mode, usize, bool),
    ) -> Result<Option<MulMat<'w>>, String> {
        assert_eq!(x.len(), product.n * product.n_in, "activations");
        llama::init();
        let pool = Pool::new(n_threads)?;
        let backend = Backend::new(n_threads, &pool)?;
        let (n_copies, n_passes) = (weights.n_copies(), product.n_passes(n_threads, hot));
        let per_pass = product.per_pass(n_threads);
        let graph_size = 2 * per_pass + 8;
        let context = Context::new(2 * n_copies + n_passes * per_pass + 8, n_passes, graph_size)?;
        let [n, n_out, n_in] = [product.n, product.n_out, product.n_in].map(|n| n as i64);
        let tensor = |of, n_in, n| context.tensor(of, n_in, n);

        let of = product.format as sys::ggml_type;
        let copies: Vec<_> = (0..n_copies).map(|_| tensor(of, n_in, n_out)).collect();
        let input = tensor(sys::GGML_TYPE_F32, n_in, n);
        let output = tensor(sys::GGML_TYPE_F32, n_out, n);
        let floats = Buffer::cpu(4 * (x.len() + product.n * product.n_out) + 1024)?;
        // SAFETY: input and output are new tensors of this context, one after the other in a buffer
        // with room for both, and x has the input's size, which is checked above.
        unsafe {
            let base = floats.base();
            sys::ggml_backend_tensor_alloc(floats.0.as_ptr(), input, base.cast());
            let after = base.add((4 * x.len()).next_multiple_of(256));
            sys::ggml_backend_tensor_alloc(floats.0.as_ptr(), output, after.cast());
            sys::ggml_backend_tensor_set(input, x.as_ptr().cast(), 0, 4 * x.len());
        }
        let stored = match mode {
            Mode::Mapped => Buffer::around(weights, &copies)?,
            Mode::Repacked => match Buffer::repacked(&context, weights, &copies, input)? {
                Some(buffer) => buffer,
                None => return Ok(None),
            },
        };
        let mut graphs = Vec::with_capacity(n_passes);
        for pass in 0..n_passes {
            // SAFETY: the context has room for the graph and its nodes, as `Context::new` was told;
            // every node writes to the output's place, which has its size.
            unsafe {
                let graph = sys::ggml_new_graph_custom(context.0.as_ptr(), graph_size, false);
                for copy in product.copies(pass, n_threads, hot) {
                    let node = sys::ggml_mul_mat(context.0.as_ptr(), copies[copy], input);
                    sys::ggml_backend_tensor_alloc(floats.0.as_ptr(), node, (*output).data);
                    sys::ggml_build_forward_expand(graph, node);
                }
                graphs.push(graph);
            }
        }
        let _buffers = [stored, floats];
        let _weights = PhantomData;
        Ok(Some(MulMat { backend, pool, graphs, output, _context: context, _buffers, _weights }))
    }

    /// Multiplies with the copies of pass `i`.
    pub fn pass(&mut self, i: usize) {
        let graph = self.graphs[i % self.graphs.len()];
        // SAFETY: the graph's tensors all have memory, which lives as long as self.
        let status = unsafe { sys::ggml_backend_graph_compute(self.backend.0.as_ptr(), graph) };
        assert_eq!(status, sys::GGML_STATUS_SUCCESS, "ggml_backend_graph_compute");
    }

    /// What the last product gave, `[n, n_out]`.
    pub fn output(&self) -> Vec<f32> {
        // SAFETY: the output has memory for ggml_nbytes bytes.
        unsafe {
            let mut out = vec![0f32; sys::ggml_nbytes(self.output) / 4];
            sys::ggml_backend_tensor_get(self.output, out.as_mut_ptr().cast(), 0, 4 * out.len());
            out
        }
    }

    /// Puts ggml's threads to sleep, so that they don't spin beside the next who is measured.
    pub fn rest(&self) {
        self.pool.pause();
    }
}

/// ggml's CPU backend.
struct Backend(NonNull<sys::ggml_backend>);

impl Backend {
    fn new(n_threads: usize, pool: &Pool) -> Result<Backend, String> {
        let n_threads = i32::try_from(n_threads).map_err(|e| e.to_string())?;
        // SAFETY: the backend is used once it's known to be there; the pool outlives it, as
        // `MulMat` frees it first.
        unsafe {
            let backend = NonNull::new(sys::ggml_backend_cpu_init()).ok_or("no CPU backend")?;
            sys::ggml_backend_cpu_set_n_threads(backend.as_ptr(), n_threads);
            sys::ggml_backend_cpu_set_threadpool(backend.as_ptr(), pool.as_ptr());
            Ok(Backend(backend))
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        // SAFETY: made by ggml_backend_cpu_init, freed once.
        unsafe { sys::ggml_backend_free(self.0.as_ptr()) }
    }
}

/// Tensors and graphs without their data.
struct Context(NonNull<sys::ggml_context>);

impl Context {
    fn new(n_tensors: usize, n_graphs: usize, graph_size: usize) -> Result<Context, String> {
        // SAFETY: both take and give plain numbers.
        let (tensor, graph) = unsafe {
            (sys::ggml_tensor_overhead(), sys::ggml_graph_overhead_custom(graph_size, false))
        };
        let mem_size = n_tensors * tensor + n_graphs * graph;
        let params =
            sys::ggml_init_params { mem_size, mem_buffer: std::ptr::null_mut(), no_alloc: true };
        // SAFETY: ggml allocates mem_size bytes itself.
        let context = unsafe { sys::ggml_init(params) };
        NonNull::new(context).map(Context).ok_or_else(|| "ggml_init".to_string())
    }

    fn tensor(&self, of: sys::ggml_type, n_in: i64, n: i64) -> *mut sys::ggml_tensor {
        // SAFETY: the context has room, as `Context::new` was told; else ggml aborts.
        unsafe { sys::ggml_new_tensor_2d(self.0.as_ptr(), of, n_in, n) }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: made by ggml_init, freed once.
        unsafe { sys::ggml_free(self.0.as_ptr()) }
    }
}

/// Memory of tensors.
struct Buffer(NonNull<sys::ggml_backend_buffer>);

impl Buffer {
    fn some(buffer: sys::ggml_backend_buffer_t) -> Result<Buffer, String> {
        NonNull::new(buffer).map(Buffer).ok_or_else(|| "ggml has no memory".to_string())
    }

    fn cpu(n_bytes: usize) -> Result<Buffer, String> {
        // SAFETY: the CPU's buffer type is static.
        Buffer::some(unsafe {
            sys::ggml_backend_buft_alloc_buffer(sys::ggml_backend_cpu_buffer_type(), n_bytes)
        })
    }

    fn base(&self) -> *mut u8 {
        // SAFETY: the buffer is valid.
        unsafe { sys::ggml_backend_buffer_get_base(self.0.as_ptr()).cast() }
    }

    /// The copies' own memory.
    fn around(weights: &Weights, copies: &[*mut sys::ggml_tensor]) -> Result<Buffer, String> {
        let base = weights.copy(0).as_ptr().cast_mut();
        let last = weights.copy(copies.len() - 1).as_ptr_range().end;
        // SAFETY: the copies lie one after the other in memory that outlives the buffer (`MulMat`
        // borrows it), are aligned to cache lines and have the tensors' size; no graph writes to
        // them.
        unsafe {
            let n_bytes = last.offset_from(base).cast_unsigned();
            let buffer = Buffer::some(sys::ggml_backend_cpu_buffer_from_ptr(base.cast(), n_bytes))?;
            for (i, &tensor) in copies.iter().enumerate() {
                let data = weights.copy(i).as_ptr().cast_mut().cast();
                sys::ggml_backend_tensor_alloc(buffer.0.as_ptr(), tensor, data);
            }
            Ok(buffer)
        }
    }

    /// A repacked copy of each, in the first of ggml's extra buffer types that takes such a product:
    /// llama.cpp's own choice.
    fn repacked(
        context: &Context,
        weights: &Weights,
        copies: &[*mut sys::ggml_tensor],
        input: *mut sys::ggml_tensor,
    ) -> Result<Option<Buffer>, String> {
        // SAFETY: the function's type is the one that ggml documents for its name; the list ends with
        // a null pointer; the probe is an empty buffer that the first copy has only while ggml is
        // asked; all tensors are of this context and without memory, as `alloc_ctx` wants the copies
        // to be, and every copy of the weights has its tensor's size.
        unsafe {
            let device = sys::ggml_backend_dev_by_type(sys::GGML_BACKEND_DEVICE_TYPE_CPU);
            let address = sys::ggml_backend_reg_get_proc_address(
                sys::ggml_backend_dev_backend_reg(device),
                c"ggml_backend_dev_get_extra_bufts".as_ptr(),
            );
            let bufts: sys::ggml_backend_dev_get_extra_bufts_t = std::mem::transmute(address);
            let Some(bufts) = bufts else { return Ok(None) };
            let product = sys::ggml_mul_mat(context.0.as_ptr(), copies[0], input);
            let mut next = bufts(device);
            while !next.is_null() && !(*next).is_null() {
                let probe = Buffer::some(sys::ggml_backend_buft_alloc_buffer(*next, 0))?;
                (*copies[0]).buffer = probe.0.as_ptr();
                let takes = sys::ggml_backend_dev_supports_op(device, product);
                (*copies[0]).buffer = std::ptr::null_mut();
                if takes {
                    return Buffer::filled(*next, weights, copies).map(Some);
                }
                next = next.add(1);
            }
        }
        Ok(None)
    }

    /// # Safety
    /// The copies are tensors without memory, of the size of each copy of the weights.
    unsafe fn filled(
        buft: sys::ggml_backend_buffer_type_t,
        weights: &Weights,
        copies: &[*mut sys::ggml_tensor],
    ) -> Result<Buffer, String> {
        // SAFETY: each tensor gets its own part of a buffer that has room for all of them.
        unsafe {
            let size = |&tensor: &*mut sys::ggml_tensor| {
                sys::ggml_backend_buft_get_alloc_size(buft, tensor).next_multiple_of(128)
            };
            let n_bytes = copies.iter().map(size).sum();
            let buffer = Buffer::some(sys::ggml_backend_buft_alloc_buffer(buft, n_bytes))?;
            let mut at = buffer.base();
            for (i, &tensor) in copies.iter().enumerate() {
                sys::ggml_backend_tensor_alloc(buffer.0.as_ptr(), tensor, at.cast());
                let stored = weights.copy(i);
                sys::ggml_backend_tensor_set(tensor, stored.as_ptr().cast(), 0, stored.len());
                at = at.add(size(&tensor));
            }
            Ok(buffer)
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: made by ggml, freed once.
        unsafe { sys::ggml_backend_buffer_free(self.0.as_ptr()) }
    }
}
