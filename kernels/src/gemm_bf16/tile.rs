//! A tile of the product, 6 rows by 64 columns, whose sums stay in registers.
//!
//! 24 of the 32 vector registers hold sums, 4 a step of the panel and 1 a pair of the left operand.

use half::bf16;

/// Numbers of a vector of sums.
pub(super) const LANES: usize = 16;
/// Vectors of a row of a tile.
const VECTORS: usize = 4;
/// Columns of a tile, and of a panel.
pub(super) const WIDTH: usize = LANES * VECTORS;
/// Rows of a tile.
pub(super) const ROWS: usize = 6;

/// What one tile is computed from. The first elements are given; [`run`] says how far it reads.
pub(super) struct Tile<'a> {
    /// The left operand's rows, `a_stride` apart.
    pub a: &'a [bf16],
    pub a_stride: usize,
    /// Numbers of the inner dimension.
    pub depth: usize,
    /// Pairs: for each two numbers of the inner dimension, 64 columns; the first in the low half.
    pub panel: &'a [u32],
    /// The sums' rows, `c_stride` apart.
    pub c: *mut f32,
    pub c_stride: usize,
    /// 1 to 6.
    pub rows: usize,
    /// 1 to 64.
    pub cols: usize,
    /// Whether the sums go on from what `c` holds.
    pub adds: bool,
}

/// Vectors of 16 sums and of 16 pairs.
pub(super) trait Vectors {
    type Sums: Copy;
    type Pairs: Copy;
    fn zero() -> Self::Sums;
    /// The first `lanes` (up to 16) from memory, the others 0.
    unsafe fn load(from: *const f32, lanes: usize) -> Self::Sums;
    /// The first `lanes` (up to 16) to memory.
    unsafe fn store(to: *mut f32, sums: Self::Sums, lanes: usize);
    unsafe fn pairs(from: *const u32) -> Self::Pairs;
    /// One pair in all places.
    fn broadcast(pair: u32) -> Self::Pairs;
    /// sums + the products of both numbers of each pair.
    fn dot(sums: Self::Sums, a: Self::Pairs, b: Self::Pairs) -> Self::Sums;
}

/// Computes a tile.
///
/// # Safety
///
/// `a` must hold `depth` numbers from each of `rows` rows, `panel` 64 pairs for each two of `depth`,
/// `c` must be valid for `cols` numbers in each of `rows` rows and not be used by others meanwhile,
/// and the processor must have what `V` uses.
#[inline(always)]
pub(super) unsafe fn run<V: Vectors>(tile: &Tile) {
    // SAFETY: the caller's promise.
    unsafe {
        match tile.rows {
            6 => rows::<V, 6>(tile),
            5 => rows::<V, 5>(tile),
            4 => rows::<V, 4>(tile),
            3 => rows::<V, 3>(tile),
            2 => rows::<V, 2>(tile),
            _ => rows::<V, 1>(tile),
        }
    }
}

/// # Safety
///
/// As for [`run`], with R rows.
#[inline(always)]
unsafe fn rows<V: Vectors, const R: usize>(tile: &Tile) {
    // SAFETY: every address is in what the caller has promised: rows below R, columns below `cols`
    // by the number of lanes, pairs below depth / 2, rounded up.
    unsafe {
        let (a, panel) = (tile.a.as_ptr(), tile.panel.as_ptr());
        let c = |row: usize, v: usize| tile.c.wrapping_add(row * tile.c_stride + v * LANES);
        let lanes = |v: usize| tile.cols.saturating_sub(v * LANES).min(LANES);
        let mut sums = [[V::zero(); VECTORS]; R];
        if tile.adds {
            for row in 0..R {
                for v in 0..VECTORS {
                    sums[row][v] = V::load(c(row, v), lanes(v));
                }
            }
        }
        for i in 0..tile.depth / 2 {
            step::<V, R>(&mut sums, panel.add(i * WIDTH), |row| {
                let at = a.add(row * tile.a_stride + 2 * i);
                u32::from((*at).to_bits()) | u32::from((*at.add(1)).to_bits()) << 16
            });
        }
        if tile.depth % 2 == 1 {
            // The panel has a zero beside the last number.
            step::<V, R>(&mut sums, panel.add(tile.depth / 2 * WIDTH), |row| {
                u32::from((*a.add(row * tile.a_stride + tile.depth - 1)).to_bits())
            });
        }
        for row in 0..R {
            for v in 0..VECTORS {
                V::store(c(row, v), sums[row][v], lanes(v));
            }
        }
    }
}

/// Adds the products of one pair a row with the 64 pairs at `panel`.
#[inline(always)]
unsafe fn step<V: Vectors, const R: usize>(
    sums: &mut [[V::Sums; VECTORS]; R],
    panel: *const u32,
    pair: impl Fn(usize) -> u32,
) {
    // SAFETY: the caller's: 64 pairs lie there.
    let b: [V::Pairs; VECTORS] = std::array::from_fn(|v| unsafe { V::pairs(panel.add(v * LANES)) });
    for row in 0..R {
        let a = V::broadcast(pair(row));
        for v in 0..VECTORS {
            sums[row][v] = V::dot(sums[row][v], a, b[v]);
        }
    }
}

/// Plain code for any processor.
pub(super) struct Portable;

impl Vectors for Portable {
    type Sums = [f32; LANES];
    type Pairs = [u32; LANES];

    fn zero() -> Self::Sums {
        [0.0; LANES]
    }
    unsafe fn load(from: *const f32, lanes: usize) -> Self::Sums {
        // SAFETY: the caller's: `lanes` numbers lie there.
        std::array::from_fn(|i| {
            if i < lanes {
                unsafe { *from.add(i) }
            } else {
                0.0
            }
        })
    }
    unsafe fn store(to: *mut f32, sums: Self::Sums, lanes: usize) {
        for (i, sum) in sums.into_iter().enumerate().take(lanes) {
            // SAFETY: the caller's: `lanes` numbers lie there.
            unsafe { *to.add(i) = sum };
        }
    }
    unsafe fn pairs(from: *const u32) -> Self::Pairs {
        // SAFETY: the caller's: 16 pairs lie there.
        std::array::from_fn(|i| unsafe { *from.add(i) })
    }
    fn broadcast(pair: u32) -> Self::Pairs {
        [pair; LANES]
    }
    fn dot(sums: Self::Sums, a: Self::Pairs, b: Self::Pairs) -> Self::Sums {
        std::array::from_fn(|i| {
            let high = |x: u32| flushed(f32::from_bits(x & 0xffff_0000));
            let low = |x: u32| flushed(f32::from_bits(x << 16));
            let sum = flushed(high(a[i]).mul_add(high(b[i]), flushed(sums[i])));
            flushed(low(a[i]).mul_add(low(b[i]), sum))
        })
    }
}

/// Zero of the same sign for a subnormal number.
fn flushed(x: f32) -> f32 {
    if x.is_subnormal() {
        0f32.copysign(x)
    } else {
        x
    }
}

/// The instruction itself.
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512 {
    use super::{LANES, Tile, Vectors};
    use std::arch::x86_64::*;

    struct Avx512;

    /// [`super::run`] by VDPBF16PS.
    ///
    /// # Safety
    ///
    /// As for [`super::run`]; the processor must have AVX-512 F, BW and BF16.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(in super::super) unsafe fn run(tile: &Tile) {
        // SAFETY: the caller's promise.
        unsafe { super::run::<Avx512>(tile) }
    }

    // SAFETY of every block below: only `run` uses these, with the instructions it has promised, and
    // they are compiled into it.
    impl Vectors for Avx512 {
        type Sums = __m512;
        type Pairs = __m512bh;

        #[inline(always)]
        fn zero() -> __m512 {
            unsafe { _mm512_setzero_ps() }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32, lanes: usize) -> __m512 {
            unsafe { _mm512_maskz_loadu_ps(mask(lanes), from) }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, sums: __m512, lanes: usize) {
            unsafe {
                if lanes == LANES {
                    _mm512_storeu_ps(to, sums);
                } else {
                    _mm512_mask_storeu_ps(to, mask(lanes), sums);
                }
            }
        }
        #[inline(always)]
        unsafe fn pairs(from: *const u32) -> __m512bh {
            unsafe { std::mem::transmute(_mm512_loadu_si512(from.cast())) }
        }
        #[inline(always)]
        fn broadcast(pair: u32) -> __m512bh {
            unsafe { std::mem::transmute(_mm512_set1_epi32(pair.cast_signed())) }
        }
        #[inline(always)]
        fn dot(sums: __m512, a: __m512bh, b: __m512bh) -> __m512 {
            unsafe { _mm512_dpbf16_ps(sums, a, b) }
        }
    }

    /// The lowest `lanes` of 16 bits.
    #[inline(always)]
    fn mask(lanes: usize) -> __mmask16 {
        ((1u32 << lanes) - 1) as __mmask16
    }
}
