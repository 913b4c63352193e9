//! Panels of a weight: 64 columns of the product, pair after pair of the inner dimension.

use super::tile::{LANES, WIDTH};
use crate::matrix::Rows;
use crate::real::Stored;
use crate::simd::wide;
use half::bf16;
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;

/// A pair as the instruction has it: the first number in the low half.
#[inline(always)]
fn pair(first: bf16, second: bf16) -> u32 {
    u32::from(first.to_bits()) | u32::from(second.to_bits()) << 16
}

/// Packs up to 64 rows of `k` numbers as columns of a panel, whose other columns become zeros.
pub(super) fn pack_rows(panel: &mut [u32], rows: &[bf16], k: usize) {
    if rows.len() < WIDTH * k {
        panel.fill(0);
    }
    for (v, rows) in rows.chunks(LANES * k).enumerate() {
        if rows.len() == LANES * k {
            pack_lanes(panel, rows, k, v * LANES);
        } else {
            for (i, row) in rows.chunks_exact(k).enumerate() {
                for (at, numbers) in row.chunks(2).enumerate() {
                    let second = numbers.get(1).copied().unwrap_or(bf16::ZERO);
                    panel[at * WIDTH + v * LANES + i] = pair(numbers[0], second);
                }
            }
        }
    }
}

/// Packs 16 rows as 16 columns from `first`.
fn pack_lanes(panel: &mut [u32], rows: &[bf16], k: usize, first: usize) {
    let mut done = 0;
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        done = unsafe { pack_squares(panel, rows, k, first) };
    }
    for (at, line) in panel.chunks_exact_mut(WIDTH).enumerate().skip(done) {
        for i in 0..LANES {
            let row = &rows[i * k..][..k];
            let second = row.get(2 * at + 1).copied().unwrap_or(bf16::ZERO);
            line[first + i] = pair(row[2 * at], second);
        }
    }
}

/// [`pack_lanes`] for as many pairs as make squares of 8, which are counted: 8 rows' 8 pairs are
/// turned in registers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn pack_squares(panel: &mut [u32], rows: &[bf16], k: usize, first: usize) -> usize {
    use std::arch::x86_64::*;
    const SIDE: usize = 8;
    let squares = k / (2 * SIDE);
    for (at, lines) in panel
        .chunks_exact_mut(SIDE * WIDTH)
        .take(squares)
        .enumerate()
    {
        for side in (0..LANES).step_by(SIDE) {
            let row = |i: usize| -> __m256i {
                let numbers = &rows[(side + i) * k + at * 2 * SIDE..][..2 * SIDE];
                // SAFETY: 16 numbers, 32 bytes.
                unsafe { _mm256_loadu_si256(numbers.as_ptr().cast()) }
            };
            // Pairs of rows, then of pairs, then of halves.
            let mut two = [_mm256_setzero_si256(); SIDE];
            let mut four = two;
            for i in 0..SIDE / 2 {
                let (a, b) = (row(2 * i), row(2 * i + 1));
                two[2 * i] = _mm256_unpacklo_epi32(a, b);
                two[2 * i + 1] = _mm256_unpackhi_epi32(a, b);
            }
            for i in [0, 4] {
                four[i] = _mm256_unpacklo_epi64(two[i], two[i + 2]);
                four[i + 1] = _mm256_unpackhi_epi64(two[i], two[i + 2]);
                four[i + 2] = _mm256_unpacklo_epi64(two[i + 1], two[i + 3]);
                four[i + 3] = _mm256_unpackhi_epi64(two[i + 1], two[i + 3]);
            }
            for i in 0..SIDE / 2 {
                let low = _mm256_permute2x128_si256::<0x20>(four[i], four[i + 4]);
                let high = _mm256_permute2x128_si256::<0x31>(four[i], four[i + 4]);
                for (line, turned) in [(i, low), (i + 4, high)] {
                    let to = &mut lines[line * WIDTH + first + side..][..SIDE];
                    // SAFETY: 8 pairs, 32 bytes.
                    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), turned) };
                }
            }
        }
    }
    squares * SIDE
}

/// Packs the columns from `first` of rows of `k` numbers, which are the inner dimension.
pub(super) fn pack_columns(panel: &mut [u32], rows: &[bf16], k: usize, first: usize) {
    let width = WIDTH.min(k - first);
    let zeros = [bf16::ZERO; WIDTH];
    wide!(
        for (line, rows) in panel.chunks_exact_mut(WIDTH).zip(rows.chunks(2 * k)) {
            let low = &rows[first..][..width];
            let high = if rows.len() == 2 * k {
                &rows[k + first..][..width]
            } else {
                &zeros[..width]
            };
            for (to, (low, high)) in line.iter_mut().zip(low.iter().zip(high)) {
                *to = pair(*low, *high);
            }
            line[width..].fill(0);
        }
    );
}

/// Panels, and rows on their way to them, in memory that is used again by the next product.
#[derive(Default)]
pub(super) struct Slab {
    panels: Vec<u32>,
    rounded: Vec<bf16>,
}

impl Slab {
    /// Calls `work` with this thread's slab, or with a new one if that is in use.
    pub(super) fn with(work: impl FnOnce(&mut Slab)) {
        thread_local! {
            static SLAB: RefCell<Slab> = RefCell::default();
        }
        // Taken out: a thread that waits inside `work` may be given another product to compute.
        let mut slab = SLAB.take();
        work(&mut slab);
        SLAB.set(slab);
    }

    /// Room for panels of `columns` columns and `depth` numbers, filled by `pack` from W's rows.
    pub(super) fn fill(
        &mut self,
        w: Rows,
        rows: Range<usize>,
        columns: usize,
        depth: usize,
        pack: impl FnOnce(&[bf16], &mut [u32]),
    ) -> &[u32] {
        let len = columns.div_ceil(WIDTH) * depth.div_ceil(2) * WIDTH;
        if self.panels.len() < len {
            self.panels.resize(len, 0);
        }
        let panels = &mut self.panels[..len];
        match w.as_bf16() {
            Some(all) => pack(&all[rows.start * w.cols()..rows.end * w.cols()], panels),
            None => {
                let len = rows.len() * w.cols();
                if self.rounded.len() < len {
                    self.rounded.resize(len, bf16::ZERO);
                }
                let rounded = &mut self.rounded[..len];
                round_rows(w, rows.start, rounded);
                pack(rounded, panels);
            }
        }
        panels
    }
}

/// Reads rows from `first` on and rounds them to bf16, with all threads.
fn round_rows(w: Rows, first: usize, out: &mut [bf16]) {
    let k = w.cols().max(1);
    out.par_chunks_mut(k).enumerate().for_each_init(
        || vec![0f32; k],
        |wide, (i, out)| {
            w.read(first + i..first + i + 1, wide);
            wide!(for (to, from) in out.iter_mut().zip(wide.iter()) {
                *to = <bf16 as Stored>::narrow(*from);
            });
        },
    );
}
