//! What can go wrong in an operation: always the caller's shapes, types, ids or devices.

use candle_core::DType;

/// Result of every operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// A refused operation. Variants name the operation and hold what was found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Two operands do not fit together.
    #[error(
        "{op}: {left} has shape {left_shape:?}, which does not fit {right} of shape {right_shape:?}"
    )]
    Shape {
        /// The operation.
        op: &'static str,
        /// Name of the first operand.
        left: &'static str,
        /// Its shape.
        left_shape: Vec<usize>,
        /// Name of the second operand, or of what was expected.
        right: &'static str,
        /// Its shape.
        right_shape: Vec<usize>,
    },
    /// An operand that must be a matrix has another number of dimensions.
    #[error("{op}: {what} has shape {shape:?}, but a matrix is needed")]
    Rank {
        /// The operation.
        op: &'static str,
        /// The operand.
        what: &'static str,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// Heads that cannot share keys and values, or a window that hides everything.
    #[error(
        "attention: {heads} query heads, {kv_heads} key/value heads, a window of {window}: {problem}"
    )]
    Heads {
        /// Query heads.
        heads: usize,
        /// Key and value heads.
        kv_heads: usize,
        /// The window, in words.
        window: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// A list does not have one entry for each row.
    #[error("{op}: {expected} entries are needed in {what}, but there are {found}")]
    Length {
        /// The operation.
        op: &'static str,
        /// The list.
        what: &'static str,
        /// How many entries it needs.
        expected: usize,
        /// How many it has.
        found: usize,
    },
    /// A tensor's type is not one the operation computes with.
    #[error("{op}: no arithmetic for {found:?} here (expected {expected})")]
    Type {
        /// The operation.
        op: &'static str,
        /// The type found.
        found: DType,
        /// What would do, in words.
        expected: &'static str,
    },
    /// A tensor lies on a device the operation has no kernel for.
    #[error("{op}: no kernel for a tensor on {device}")]
    Device {
        /// The operation.
        op: &'static str,
        /// The device, in words.
        device: String,
    },
    /// A tensor that is written in place is not one dense block.
    #[error("{op}: {what} is a strided view, but it is used as one dense block")]
    Strided {
        /// The operation.
        op: &'static str,
        /// The operand.
        what: &'static str,
    },
    /// The operand that is written shares its storage with one that is read.
    #[error("{op}: {what} shares its storage with the tensor that is written")]
    Aliased {
        /// The operation.
        op: &'static str,
        /// The operand that is read.
        what: &'static str,
    },
    /// A token id beyond the embedding table.
    #[error("token id {id} at position {position} is outside the table of {rows} rows")]
    TokenId {
        /// The id.
        id: u32,
        /// Rows of the table.
        rows: usize,
        /// Index of the id in the list given.
        position: usize,
    },
    /// A row number beyond a tensor's rows.
    #[error("{op}: row {row} (entry {position}) is outside a tensor of {rows} rows")]
    Row {
        /// The operation.
        op: &'static str,
        /// The row number.
        row: usize,
        /// Rows of the tensor.
        rows: usize,
        /// Index in the list given.
        position: usize,
    },
    /// Segments that do not describe the rows.
    #[error("attention: segment {index} (rows {start}..{end}) {problem}", end = start + len)]
    Segment {
        /// Index of the segment.
        index: usize,
        /// Its first row.
        start: usize,
        /// Its rows.
        len: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Fewer or more bytes than a weight of that shape takes.
    #[error(
        "a ({rows}, {cols}) weight stored as {stored} takes {expected} bytes, but {found} are given"
    )]
    Bytes {
        /// Rows of the weight.
        rows: usize,
        /// Columns of the weight.
        cols: usize,
        /// The stored type.
        stored: String,
        /// Bytes it takes.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// A byte range that leaves its owner.
    #[error("bytes {start}..{end} lie outside a file of {available} bytes")]
    Range {
        /// First byte.
        start: usize,
        /// One past the last byte.
        end: usize,
        /// Bytes there are.
        available: usize,
    },
    /// A row length that quantized blocks do not divide.
    #[error("{stored} packs {block} values a block, which does not divide rows of {cols}")]
    Block {
        /// The stored type.
        stored: String,
        /// Values a block.
        block: usize,
        /// Row length.
        cols: usize,
    },
    /// Rows that a number of heads does not divide into even parts.
    #[error("a weight of {rows} rows cannot be split into {heads} heads of even size")]
    HeadRows {
        /// Rows.
        rows: usize,
        /// Heads.
        heads: usize,
    },
    /// A GGML type number that is not read here.
    #[error("GGML tensor type {id} is not supported")]
    GgmlId {
        /// The number in the file.
        id: u32,
    },
    /// Fewer or more parts than an NF4 tensor of that size has.
    #[error("NF4 of {elements} numbers takes {expected} {what}, but {found} are given")]
    Nf4 {
        /// Numbers of the tensor.
        elements: usize,
        /// The part.
        what: &'static str,
        /// How many of it there must be.
        expected: usize,
        /// How many there are.
        found: usize,
    },
    /// A number that is to be quantized and is not finite.
    #[error("{op}: number {element} of the weight is not finite")]
    NotFinite {
        /// The operation.
        op: &'static str,
        /// Index of the first such number, counted row by row.
        element: usize,
    },
    /// A dropout probability outside [0, 1).
    #[error("dropout probability {p} is outside [0, 1)")]
    Probability {
        /// The value.
        p: f64,
    },
    /// A GPU cannot be used, or refused something.
    #[error(transparent)]
    Cuda(#[from] crate::cuda::CudaError),
    /// candle refused.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl Error {
    /// What to do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Device { .. } => Some("move the tensors to the CPU".into()),
            Self::TokenId { .. } => Some(
                "the tokenizer does not belong to this model, or its vocabulary was extended and the model's was not"
                    .into(),
            ),
            Self::Bytes { .. } | Self::Range { .. } | Self::Nf4 { .. } => {
                Some("the file is cut short or damaged: compare its hash with the source's".into())
            }
            Self::GgmlId { .. } => Some(
                "supported are F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K and Q6_K; quantize the model again to one of them"
                    .into(),
            ),
            Self::NotFinite { .. } => Some("the run that wrote the weight diverged: use an earlier checkpoint".into()),
            Self::Strided { .. } => Some("call contiguous() on it first".into()),
            Self::Cuda(error) => error.hint(),
            _ => None,
        }
    }
}
