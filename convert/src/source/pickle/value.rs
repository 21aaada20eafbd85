//! What a pickle can hold, and the names that it may use.

use crate::source::Dtype;

/// A value of a pickle: an index into its arena.
pub type Ref = u32;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Node<'a> {
    /// None.
    None,
    /// A flag.
    Bool(bool),
    /// An integer of at most 64 bits.
    Int(i64),
    /// A float.
    Float(f64),
    /// A string.
    Str(&'a str),
    /// Bytes.
    Bytes,
    /// A tuple or `torch.Size`.
    Tuple(Vec<Ref>),
    /// A list.
    List(Vec<Ref>),
    /// A set.
    Set,
    /// A dict or `OrderedDict`, in order of insertion.
    Dict(Vec<(Ref, Ref)>),
    /// A name out of the allowed ones.
    Symbol(Symbol),
    /// The bytes behind tensors: an entry `data/<key>` of the archive, or a part of a stream.
    Storage(Box<Storage<'a>>),
    /// A view of a storage.
    Tensor(Box<Tensor<'a>>),
    /// Something that carries no weights, such as a device.
    Opaque(Symbol),
}

/// A storage, named but not read.
#[derive(Clone, Debug, PartialEq)]
pub struct Storage<'a> {
    /// Type of its elements.
    pub dtype: Dtype,
    /// Name of its bytes.
    pub key: &'a str,
    /// Elements behind the name.
    pub whole: usize,
    /// First of them that belongs to the storage: another than 0 only in legacy streams.
    pub start: usize,
    /// Elements of the storage.
    pub len: usize,
}

/// A tensor: a view of a storage whose bounds are checked against the storage's length.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor<'a> {
    /// What it views.
    pub storage: Storage<'a>,
    /// First element, among all behind the storage's name.
    pub offset: usize,
    /// Sizes.
    pub shape: Vec<usize>,
    /// Elements from one index to the next, for each dimension.
    pub strides: Vec<usize>,
}

/// The names that a pickle may use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Symbol {
    /// `collections.OrderedDict`.
    OrderedDict,
    /// `torch._utils._rebuild_tensor_v2`, or `_rebuild_tensor` (before PyTorch 0.4).
    RebuildTensor,
    /// `torch._utils._rebuild_parameter`, also `_with_state`.
    RebuildParameter,
    /// `torch._tensor._rebuild_from_type_v2`: buffers.
    RebuildFromType,
    /// `torch.Tensor` and its two subclasses with a purpose.
    TensorClass,
    /// `torch.Size`.
    Size,
    /// `torch.device`.
    Device,
    /// `_codecs.encode`: how protocol 2 writes bytes.
    Encode,
    /// A numpy number, as losses and scores are.
    NumpyScalar,
    /// Its type.
    NumpyType,
    /// A type such as `torch.float16`.
    TorchType,
    /// A storage class.
    StorageClass(Dtype),
}

impl Symbol {
    /// The symbol with this name, if it is allowed.
    pub(super) fn find(module: &str, name: &str) -> Option<Symbol> {
        let other = |name, bits| Symbol::StorageClass(Dtype::Other { name, bits });
        Some(match (module, name) {
            ("collections", "OrderedDict") => Symbol::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor") => Symbol::RebuildTensor,
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
                Symbol::RebuildParameter
            }
            ("torch._tensor", "_rebuild_from_type_v2") => Symbol::RebuildFromType,
            ("torch", "Tensor") | ("torch.nn.parameter", "Parameter" | "Buffer") => {
                Symbol::TensorClass
            }
            ("torch", "Size") => Symbol::Size,
            ("torch", "device") => Symbol::Device,
            ("_codecs", "encode") => Symbol::Encode,
            ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar") => Symbol::NumpyScalar,
            ("numpy", "dtype") => Symbol::NumpyType,
            ("torch", "DoubleStorage") => Symbol::StorageClass(Dtype::F64),
            ("torch", "FloatStorage") => Symbol::StorageClass(Dtype::F32),
            ("torch", "HalfStorage") => Symbol::StorageClass(Dtype::F16),
            ("torch", "BFloat16Storage") => Symbol::StorageClass(Dtype::BF16),
            ("torch", "LongStorage") => other("I64", 64),
            ("torch", "IntStorage") => other("I32", 32),
            ("torch", "ShortStorage") => other("I16", 16),
            ("torch", "CharStorage") => other("I8", 8),
            ("torch", "ByteStorage") => other("U8", 8),
            ("torch", "BoolStorage") => other("BOOL", 8),
            (
                "torch",
                "float64" | "float32" | "float16" | "bfloat16" | "int64" | "int32" | "int16"
                | "int8" | "uint8" | "bool",
            ) => Symbol::TorchType,
            _ => return None,
        })
    }
}
