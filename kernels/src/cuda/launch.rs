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
//! Kernels loop over their grid, so a grid that is cut off at the device's limit still does all of the work.

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

impl Launch {
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
