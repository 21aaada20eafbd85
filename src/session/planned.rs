//! What a session needs, known before anything is allocated.

use crate::{
    Error, Model, Result,
    cache::{self, Shape},
    cpu::{Ask, Cpu, Row},
    kernel::Kernels,
    lora::Adapter,
    model::Hparams as Hp,
    plan::{Limits, Plan},
    team::Team,
};

/// Context that a session gets where nobody says: enough for most prompts, small on a device.
const DEFAULT_CTX: usize = 4096;

/// What a session is made for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Tokens per sequence; 0 is the model's own context, at most 4096. Models with LongRoPE (Phi-3
    /// with 128k) turn by other factors where it is over their first context, as llama.cpp does.
    pub n_ctx: usize,
    /// Sequences.
    pub n_seq: usize,
    /// Most tokens of one step; longer prompts run in several.
    pub n_batch: usize,
    /// Most tokens of one step whose logits are wanted.
    pub n_logits: usize,
    /// Whether there is memory for [`Session::score`](super::Session::score); it needs no `n_logits`.
    pub score: bool,
    /// Most of the likeliest ids that a score names.
    pub n_top: usize,
    /// How the KV cache stores its values.
    pub cache: cache::Type,
    /// Threads; 0 is all cores, or 1 in a build without the feature `threads`.
    pub n_threads: usize,
    /// Adapters, whose changes are added in this order.
    pub adapters: Vec<Adapter>,
    /// Instruction set; `None` is the best of this CPU.
    pub kernels: Option<&'static Kernels>,
    /// Ceiling on the planned memory, in bytes.
    pub max_memory: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            n_ctx: 0,
            n_seq: 1,
            n_batch: 128,
            n_logits: 1,
            score: false,
            n_top: 0,
            cache: cache::Type::F16,
            n_threads: 0,
            adapters: Vec::new(),
            kernels: None,
            max_memory: None,
        }
    }
}

/// Planned memory in bytes; the weights stay in the map and are not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// The KV cache, and the sequences' ids.
    pub kv: u64,
    /// The plan's buffers, and the rows of a step.
    pub buffers: u64,
    /// All threads' scratch.
    pub scratch: u64,
}

impl Memory {
    /// The sum.
    pub fn total(&self) -> u64 {
        self.kv.saturating_add(self.buffers).saturating_add(self.scratch)
    }
}

/// A session before its memory.
pub(super) struct Planned {
    pub plan: Plan,
    pub shape: Shape,
    pub limits: Limits,
    pub memory: Memory,
}

impl Planned {
    /// Checks the options and adds the memory up.
    pub fn new(model: &Model, options: &Options) -> Result<Planned> {
        let hp = model.hparams();
        let n_ctx = match options.n_ctx {
            0 => hp.n_ctx.min(DEFAULT_CTX),
            n if n <= hp.n_ctx => n,
            n => {
                return Err(Error::Invalid(format!(
                    "a context of {n} tokens is over the model's {}",
                    hp.n_ctx
                )));
            }
        };
        let plan = Plan::new(model, &options.adapters, n_ctx)?;
        let Options { n_seq, n_batch, n_logits, .. } = *options;
        if n_seq == 0 || n_batch == 0 || n_logits == 0 {
            return Err(Error::Invalid("n_seq, n_batch and n_logits are at least 1".into()));
        }
        let n_threads = match options.n_threads {
            0 => Team::n_cores(),
            n => n,
        };
        // A head's logits are few: any token of a step may want them.
        let n_logits = if model.classifier().is_some() { n_logits.max(n_batch) } else { n_logits };
        let Hp { n_layer, n_head_kv, head_dim, .. } = *hp;
        let shape = Shape { n_layer, n_seq, n_head_kv, n_ctx, head_dim, of: options.cache };
        let n_top = options.score.then_some(options.n_top.min(hp.n_vocab));
        let limits = Limits { n_ctx, n_batch, n_logits, n_top, n_threads };
        // The sequences' ids lie beside the cache.
        let ids =
            (n_seq as u64).saturating_mul(n_ctx as u64).saturating_mul(size_of::<u32>() as u64);
        // What a step is put together from.
        let row = size_of::<Row>() + size_of::<Ask>() + size_of::<(usize, usize)>();
        let rows = (n_batch as u64).saturating_mul(row as u64);
        let memory = Memory {
            kv: shape.bytes().saturating_add(ids),
            buffers: (plan.buffer_bytes(&limits) as u64).saturating_add(rows),
            scratch: Cpu::scratch_bytes(model, &plan, &limits) as u64,
        };
        Ok(Planned { plan, shape, limits, memory })
    }
}
