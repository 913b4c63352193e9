//! Launches as values: for each operation, the kernels it takes on a CUDA device, with their grids, blocks, shared
//! memory and arguments.
//!
//! All of it is a pure function of shapes and types, so it is tested without a device: the tests run these very
//! launches on the processor.
//!
//! A launch names its buffers by their place in a list, which the operation's function documents (`Buffers: 0 x, 1
//! weight, ...`); scratch buffers, where [`Launches`] asks for some, follow after. A buffer is dense unless a stride says
//! otherwise. Kernels move 16 bytes at a time where a row's address allows it and single numbers elsewhere, so that any
//! alignment is right and one of 16 bytes is fast; what *needs* the alignment says so.
//!
//! A launch over many tensors reads their addresses in a table, which comes with it, and is its first buffer.
//!
//! Kernels loop over their grid, so a grid that is cut off at the device's limit still does all of the work.

mod attention;
mod cached;
mod elementwise;
mod head;
mod optimizer;
mod rows;
mod squares;
mod weights;

pub use attention::{
    AttentionTiles, attention, attention_backward, has_tensor_core_kernel, takes_head_dim,
};
pub use cached::{CacheShape, attention_decode, cache_append};
pub use elementwise::{
    RowGroups, add_assign, add_bias, column_products, convert, divide, dropout, embedding,
    embedding_backward, fill, gather_rows, scale_assign, scale_columns, scatter_rows, sum_rows,
};
pub use head::{cross_entropy, sum_losses, token_scores};
pub use optimizer::{Addresses, Stepped, Weights, adamw, adamw_8bit, eight_bit_tables};
pub use rows::{
    rms_norm, rms_norm_backward, rms_norm_backward_weight, rope, swiglu, swiglu_backward,
};
pub use squares::{Squared, clip_scales, sums_of_squares};
pub use weights::{ggml_dequantize, nf4_dequantize, random_uniform, row_norms};

/// How numbers are stored in device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Float {
    /// 32 bits.
    F32,
    /// The upper 16 of them.
    Bf16,
}

impl Float {
    /// As kernels' names have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }

    /// Bytes of a number.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }
}

/// One argument of a kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arg {
    /// A buffer that is read.
    Read(usize),
    /// A buffer that is written, whatever it held.
    Write(usize),
    /// A buffer that is read and written.
    Update(usize),
    /// A null pointer in a buffer's place.
    Absent,
    /// A number.
    U32(u32),
    /// A number.
    U64(u64),
    /// A number.
    F32(f32),
    /// A number.
    F64(f64),
}

/// One kernel, once.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// The stem of the `.cu` file in `kernels/src/`.
    pub module: &'static str,
    /// The kernel's name there.
    pub function: String,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Dynamic shared memory. Above [`SHARED_BYTES`] the function's attribute
    /// `MAX_DYNAMIC_SHARED_SIZE_BYTES` has to be raised to it first.
    pub shared_bytes: u32,
    /// In the kernel's order.
    pub args: Vec<Arg>,
}

/// Kernels in their order, and the scratch memory between them.
#[derive(Clone, Debug, PartialEq)]
pub struct Launches {
    /// In this order, on one stream.
    pub steps: Vec<Launch>,
    /// Bytes of the one scratch buffer, which comes after the operation's own; 0 if none is needed.
    pub scratch_bytes: usize,
}

/// Shared memory a block has without asking for more.
pub const SHARED_BYTES: u32 = 48 << 10;
/// Most that a block can ask for on every device from compute capability 8.0 on (8.6 and 8.9 have the least).
pub const MOST_SHARED_BYTES: u32 = 99 << 10;
/// Largest first dimension of a grid.
pub const MOST_BLOCKS: u32 = (1 << 31) - 1;
/// Largest second or third dimension of a grid.
pub const MOST_BLOCKS_YZ: u32 = 65_535;

/// Threads of a block where nothing else is said.
const THREADS: u32 = 256;
/// Numbers a thread takes at a time: 16 bytes of bf16.
const PACK: usize = 8;

impl Launch {
    fn new(
        module: &'static str,
        function: String,
        grid: [u32; 3],
        block: [u32; 3],
        args: Vec<Arg>,
    ) -> Self {
        Self {
            module,
            function,
            grid,
            block,
            shared_bytes: 0,
            args,
        }
    }

    fn with_shared(mut self, bytes: u32) -> Self {
        self.shared_bytes = bytes;
        self
    }

    /// Whether a device of compute capability 8.0 or more takes it.
    pub fn is_valid(&self) -> bool {
        let threads: u32 = self.block.iter().product();
        let within = |grid: u32, most: u32| (1..=most).contains(&grid);
        within(self.grid[0], MOST_BLOCKS)
            && within(self.grid[1], MOST_BLOCKS_YZ)
            && within(self.grid[2], MOST_BLOCKS_YZ)
            && (1..=1024).contains(&threads)
            && self.block[2] <= 64
            && self.shared_bytes <= MOST_SHARED_BYTES
    }
}

impl From<Launch> for Launches {
    fn from(launch: Launch) -> Self {
        Self {
            steps: vec![launch],
            scratch_bytes: 0,
        }
    }
}

/// Blocks of `each` that cover n, at least one, at most what a grid takes: a kernel loops over the rest.
fn blocks(n: usize, each: usize) -> u32 {
    u32::try_from(n.div_ceil(each)).map_or(MOST_BLOCKS, |b| b.clamp(1, MOST_BLOCKS))
}

/// As [`blocks`], for a grid's second and third dimension.
fn blocks_yz(n: usize, each: usize) -> u32 {
    blocks(n, each).min(MOST_BLOCKS_YZ)
}

/// A shape's number in a kernel's argument. No device's memory holds more rows or columns than 32 bits count; one that
/// did would be cut short here, and be found by the shape check of its operation.
fn narrow(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// A count of elements in a kernel's argument.
fn wide(n: usize) -> Arg {
    Arg::U64(n as u64)
}
