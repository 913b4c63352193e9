//! Products of bf16 matrices by dot products of pairs, the AVX-512 BF16 instruction VDPBF16PS.
//!
//! y = x Wᵀ and dx = dy W with x and dy in bf16 and sums in f32. A weight that is stored otherwise is
//! rounded to bf16 on the way, as autocast and 4-bit layers with a bf16 compute type do.
//!
//! The instruction multiplies twice as many numbers as an f32 multiply-add, and bf16 needs no
//! widening first. It wants W in panels: 64 columns of the product wide, with the two numbers of a
//! pair beside each other. W is packed at each call, a slab at a time into a buffer that stays in the
//! cache. Packing it once and keeping that would take the weight's memory again for y and once more
//! for dx, and could not serve weights that are mapped or quantized; packing takes one read and one
//! write of 2 bytes for 2·T operations, a hundredth of the time at a thousand tokens.
//!
//! Each element is one chain over the inner dimension, two numbers at a time, whatever the blocks:
//! its bits depend neither on the number of threads nor on the other rows and columns.

mod pack;
mod tile;

use crate::access::{self, dims2, read};
use crate::linear::FEW_TOKENS;
use crate::matrix::Rows;
use crate::{Matrix, Result};
use candle_core::{DType, Tensor};
use half::bf16;
use pack::{Slab, pack_columns, pack_rows};
use rayon::prelude::*;
use tile::{ROWS, Tile, WIDTH};

/// Bytes of a packed slab.
const SLAB_BYTES: usize = 4 << 20;
/// Numbers of the inner dimension that are taken at a time: 128 KiB of a panel, in the second-level
/// cache while the rows pass. Even, so that pairs stay whole.
const DEPTH: usize = 1024;
/// Rows of a task: groups of tiles that meet a panel while it is near.
const TASK_ROWS: usize = 8 * ROWS;

/// A way to add up products of pairs of bf16 numbers in f32.
///
/// Each step of a sum takes two products: with a and b the pairs, s becomes
/// `fma(a.0, b.0, fma(a.1, b.1, s))`, rounded to nearest even twice; subnormal numbers count as zero
/// going in and coming out. (Intel's Software Developer's Manual, volume 2, VDPBF16PS.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bf16Dot(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    Portable,
}

impl Bf16Dot {
    /// The processor's instruction, if it has one. Without it f32 is faster.
    pub fn native() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("avx512bw")
            && std::arch::is_x86_feature_detected!("avx512bf16")
        {
            return Some(Self(Kind::Avx512));
        }
        None
    }

    /// The same sums in plain code, on any machine: slow, to check against.
    pub fn portable() -> Self {
        Self(Kind::Portable)
    }

    /// The processor's instruction, if it pays for that many rows of that type.
    pub(crate) fn pays(dtype: DType, rows: usize) -> Option<Self> {
        Self::native().filter(|_| dtype == DType::BF16 && rows > FEW_TOKENS)
    }

    /// y (T, N) = x (T, K) Wᵀ in f32, x rounded to bf16 if it is not.
    pub fn linear(self, x: &Tensor, w: &Matrix) -> Result<Tensor> {
        const OP: &str = "linear";
        let (t, k) = dims2(OP, "x", x)?;
        if k != w.cols() {
            let weight = [w.rows(), w.cols()];
            return Err(access::shape(OP, "x", x.dims(), "the weight", &weight));
        }
        let x = rounded(x)?;
        let x = read::<bf16>(OP, &x)?;
        let hold = w.hold(OP)?;
        let mut y = vec![0.0; t * w.rows()];
        self.product(&mut y, &x, hold.rows(), (t, w.rows(), k));
        access::tensor(y, (t, w.rows()))
    }

    /// dx (T, K) = dy (T, N) W in f32, dy rounded to bf16 if it is not.
    pub fn linear_dx(self, dy: &Tensor, w: &Matrix) -> Result<Tensor> {
        const OP: &str = "linear_dx";
        let (t, n) = dims2(OP, "dy", dy)?;
        if n != w.rows() {
            let weight = [w.rows(), w.cols()];
            return Err(access::shape(OP, "dy", dy.dims(), "the weight", &weight));
        }
        let dy = rounded(dy)?;
        let dy = read::<bf16>(OP, &dy)?;
        let hold = w.hold(OP)?;
        let mut dx = vec![0.0; t * w.cols()];
        self.product_dx(&mut dx, &dy, hold.rows(), (t, n, w.cols()));
        access::tensor(dx, (t, w.cols()))
    }

    /// y (t, n) = x (t, k) Wᵀ; W's rows are columns of the product.
    pub(crate) fn product(
        self,
        y: &mut [f32],
        x: &[bf16],
        w: Rows,
        (t, n, k): (usize, usize, usize),
    ) {
        if t == 0 || k == 0 {
            return y.fill(0.0);
        }
        let panel_len = k.div_ceil(2) * WIDTH;
        let columns = (SLAB_BYTES / (panel_len * size_of::<u32>())).max(1) * WIDTH;
        Slab::with(|slab| {
            for first in (0..n).step_by(columns) {
                let columns = columns.min(n - first);
                let panels = slab.fill(w, first..first + columns, columns, k, |rows, panels| {
                    panels
                        .par_chunks_mut(panel_len)
                        .zip(rows.par_chunks(WIDTH * k))
                        .for_each(|(panel, rows)| pack_rows(panel, rows, k));
                });
                let left = Left {
                    numbers: x,
                    stride: k,
                    depth: k,
                };
                let out = Out::new(&mut y[first..], (t, columns), n, false);
                self.multiply(out, left, panels);
            }
        });
    }

    /// dx (t, k) = dy (t, n) W; W's rows are the inner dimension.
    pub(crate) fn product_dx(
        self,
        dx: &mut [f32],
        dy: &[bf16],
        w: Rows,
        (t, n, k): (usize, usize, usize),
    ) {
        if n == 0 {
            return dx.fill(0.0);
        }
        let width = k.next_multiple_of(WIDTH);
        let depth = (SLAB_BYTES / (width.max(1) * size_of::<bf16>()) / 2 * 2).max(2);
        Slab::with(|slab| {
            for first in (0..n).step_by(depth) {
                let depth = depth.min(n - first);
                let panels = slab.fill(w, first..first + depth, k, depth, |rows, panels| {
                    panels
                        .par_chunks_mut(depth.div_ceil(2) * WIDTH)
                        .enumerate()
                        .for_each(|(i, panel)| pack_columns(panel, rows, k, i * WIDTH));
                });
                let left = Left {
                    numbers: &dy[first.min(dy.len())..],
                    stride: n,
                    depth,
                };
                self.multiply(Out::new(dx, (t, k), k, first > 0), left, panels);
            }
        });
    }

    /// out [+]= left · the panels' matrix, in tasks of some rows and one panel.
    fn multiply(self, out: Out, left: Left, panels: &[u32]) {
        let Left {
            numbers,
            stride,
            depth,
        } = left;
        let panel_len = depth.div_ceil(2) * WIDTH;
        let (rows, cols) = (out.rows, out.cols);
        if rows == 0 || cols == 0 {
            return;
        }
        assert!(
            (rows - 1) * stride + depth <= numbers.len()
                && panels.len() == cols.div_ceil(WIDTH) * panel_len,
            "a ({rows}, {depth}) view or its {} packed pairs leave their numbers",
            panels.len()
        );
        let tasks = rows.div_ceil(TASK_ROWS);
        (0..tasks * cols.div_ceil(WIDTH))
            .into_par_iter()
            .for_each(|task| {
                let (panel, first_row) = (task / tasks, task % tasks * TASK_ROWS);
                let first_col = panel * WIDTH;
                for k in (0..depth).step_by(DEPTH) {
                    for row in (first_row..rows.min(first_row + TASK_ROWS)).step_by(ROWS) {
                        let tile = Tile {
                            a: &numbers[row * stride + k..],
                            a_stride: stride,
                            depth: DEPTH.min(depth - k),
                            panel: &panels[panel * panel_len + k / 2 * WIDTH..],
                            c: out.at(row, first_col),
                            c_stride: out.stride,
                            rows: ROWS.min(rows - row),
                            cols: WIDTH.min(cols - first_col),
                            adds: out.adds || k > 0,
                        };
                        // SAFETY: the tile's rows and columns lie in `out`, no other task has
                        // them, and the operands reach as far, as was checked above.
                        unsafe { self.run(&tile) };
                    }
                }
            });
    }

    /// # Safety
    ///
    /// As for [`tile::run`].
    unsafe fn run(self, tile: &Tile) {
        match self.0 {
            // SAFETY: the caller's promise; only `native` makes this kind.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => unsafe { tile::avx512::run(tile) },
            // SAFETY: the caller's promise.
            Kind::Portable => unsafe { tile::run::<tile::Portable>(tile) },
        }
    }
}

/// The tensor as a dense one of bf16.
fn rounded(tensor: &Tensor) -> Result<Tensor> {
    access::dense(&crate::narrow(tensor, DType::BF16)?)
}

/// dx (T, K) = dy (T, N) W of a layer that computes in `compute`.
///
/// Gradients between layers are kept in the accumulate type. Where the processor multiplies bf16
/// faster, those of a bf16 layer are rounded for this product, as they are in autocast's backward.
pub fn linear_dx_in(dy: &Tensor, w: &Matrix, compute: DType) -> Result<Tensor> {
    if let Some(w) = w.on_device() {
        return crate::cuda::ops::linear_dx(dy, w, compute);
    }
    match Bf16Dot::pays(compute, dy.dim(0).unwrap_or(0)) {
        Some(dot) => dot.linear_dx(dy, w),
        None => crate::linear_dx(dy, w),
    }
}

/// The left operand: `depth` numbers of each row.
#[derive(Clone, Copy)]
struct Left<'a> {
    numbers: &'a [bf16],
    stride: usize,
    depth: usize,
}

/// The numbers that are written, by several threads at different places.
struct Out<'a> {
    first: *mut f32,
    rows: usize,
    cols: usize,
    stride: usize,
    /// Whether it holds sums that go on.
    adds: bool,
    lifetime: std::marker::PhantomData<&'a mut [f32]>,
}

// SAFETY: the only access is by tiles that do not overlap.
unsafe impl Sync for Out<'_> {}

impl<'a> Out<'a> {
    fn new(data: &'a mut [f32], (rows, cols): (usize, usize), stride: usize, adds: bool) -> Self {
        assert!(
            rows == 0 || cols == 0 || (rows - 1) * stride + cols <= data.len(),
            "a ({rows}, {cols}) view leaves its numbers"
        );
        assert!(rows < 2 || stride >= cols, "rows overlap");
        Self {
            first: data.as_mut_ptr(),
            rows,
            cols,
            stride,
            adds,
            lifetime: std::marker::PhantomData,
        }
    }

    fn at(&self, row: usize, col: usize) -> *mut f32 {
        debug_assert!(row < self.rows && col < self.cols);
        self.first.wrapping_add(row * self.stride + col)
    }
}
