//! The CUDA kernels against the processor's, without a GPU.
//!
//! Each `.cu` file is compiled by the system's C++ compiler against `emulator/emulator.h`, which gives CUDA's words their
//! meaning on a processor, and the very launches that a device would get (`kernels::cuda::launch`) are run. Threads of a
//! block are fibers that switch only where CUDA lets them meet; tensor-core instructions and asynchronous copies are
//! wrappers (`src/cuda/mma.cuh`) with a second body for the emulator.
//!
//! What a device leaves undefined is made to show. Every launch is run twice from the same buffers, and must give the same
//! bytes:
//!
//! | | first round | second round |
//! |---|---|---|
//! | blocks, and threads of a block | in order | shuffled |
//! | asynchronous copies | land at once | land when they are waited for |
//! | buffers | end at a page that can't be touched | begin after one, at an address off 16 bytes |
//!
//! Kernels that loop over their grid run a third time, with a grid of at most two blocks a side.
//!
//! Shared memory begins as NaN in every block, outputs as NaN, and bytes beside a buffer must stay as they were. A
//! barrier that not all threads of a block reach, lanes of a warp that meet at different lines, an argument of another
//! type than the kernel's parameter, a vector access at an odd address, and a copy nobody waited for are errors.
//!
//! What it can't show: how fast a kernel is, what the special function unit rounds (its 2^x is taken as exact), and races
//! that no order of whole threads between barriers brings out.
//!
//! Elementwise operations must equal the processor's bit for bit. Where a sum's order or an exponential differs, the
//! reference is the processor's operation in f64 on the same numbers, and the tolerance counts roundings.

mod emulator;
