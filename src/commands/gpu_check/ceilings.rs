//! What the device can do at most: the rates of a copy, and of matrix products.

use anyhow::Result;
use kernels::{DType, Device, Op, Tensor};

use super::Check;
use super::record::{Figure, Record, StageRecord};
use super::timing::{Timing, time};
use crate::terminal::note;

/// What the figures are called, by which other stages find them.
pub(super) const COPY: &str = "copy";
pub(super) const PRODUCT: &str = "product, 8192 x 8192 x 8192, bf16";

/// Rows of x, inputs and outputs of the products of Llama-2-13B at 4,096 tokens, and of an adapter of rank 16.
const SHAPES: [(&str, usize, usize, usize); 6] = [
    ("13B q, k, v or o", 4096, 5120, 5120),
    ("13B gate or up", 4096, 5120, 13_824),
    ("13B down", 4096, 13_824, 5120),
    ("13B head", 4096, 5120, 32_000),
    ("13B A of rank 16", 4096, 5120, 16),
    ("70B gate or up", 4096, 8192, 28_672),
];

pub(super) fn ceilings(check: &Check) -> Result<StageRecord> {
    let device = check.place();
    let mut figures = vec![copy(check)?];
    let most = if check.tiny { 16 } else { usize::MAX };
    // The processor multiplies no bf16 into bf16: a rehearsal there has f32.
    let dtype = if device.is_cpu() {
        DType::F32
    } else {
        DType::BF16
    };
    let square = 8192.min(most);
    figures.push(product(check, PRODUCT, [square; 3], dtype, dtype)?);
    for (what, m, k, n) in SHAPES {
        let shape = [m, k, n].map(|size| size.min(most));
        let what = format!("product, {what}");
        figures.push(product(
            check,
            &format!("{what}, into f32"),
            shape,
            dtype,
            DType::F32,
        )?);
        figures.push(product(
            check,
            &format!("{what}, into bf16"),
            shape,
            dtype,
            dtype,
        )?);
    }
    Ok(StageRecord::measured("ceilings", figures))
}

/// A copy within the device's memory: each byte is read once and written once.
fn copy(check: &Check) -> Result<Figure> {
    let bytes: usize = if check.tiny { 1 << 16 } else { 4 << 30 };
    note(&format!("  copy of {bytes} bytes"));
    let from = filled(bytes / 4, DType::F32, check.place())?;
    let timing = time(check.place(), check.tiny, || {
        drop(from.copy()?);
        Ok(())
    })?;
    let rate = timing.rate(2.0 * bytes as f64) / 1e9;
    let note = format!("{bytes} bytes, read and written; {}", timing.spread());
    Ok(Figure::new(COPY, rate, "GB/s").note(note))
}

/// A matrix product of x (m, k) with a weight (n, k), as layers have it.
fn product(
    check: &Check,
    what: &str,
    [m, k, n]: [usize; 3],
    input: DType,
    output: DType,
) -> Result<Figure> {
    note(&format!("  {what}"));
    let matrix = |rows: usize, cols: usize, dtype| -> Result<Tensor> {
        Ok(filled(rows * cols, dtype, check.place())?.reshape((rows, cols))?)
    };
    let (x, w, mut y) = (
        matrix(m, k, input)?,
        matrix(n, k, input)?,
        matrix(m, n, output)?,
    );
    let timing = time(check.place(), check.tiny, || {
        Ok(kernels::gemm(
            &mut y,
            0.0,
            1.0,
            &x,
            Op::Plain,
            &w,
            Op::Transposed,
        )?)
    })?;
    let flops = 2.0 * m as f64 * k as f64 * n as f64;
    Ok(tflops(what, flops, &timing).note(format!("{m} x {k} to {n}; {}", timing.spread())))
}

pub(super) fn tflops(what: &str, flops: f64, timing: &Timing) -> Figure {
    Figure::new(what, timing.rate(flops) / 1e12, "TFLOP/s")
}

/// Numbers that are no zeros, for which a GPU needs less power and so is faster.
pub(super) fn filled(n: usize, dtype: DType, device: &Device) -> Result<Tensor> {
    const PIECE: usize = 1 << 20;
    let piece: Vec<f32> = (0..PIECE.min(n) as u32)
        .map(|i| {
            let hash = (i ^ 0x9e37_79b9).wrapping_mul(0x21f0_aaad);
            f32::from((hash >> 16) as u16) / 32_768.0 - 0.99
        })
        .collect();
    let len = piece.len();
    let piece = Tensor::from_vec(piece, len, &Device::Cpu)?.to_dtype(dtype)?;
    let piece = piece.to_device(device)?;
    let pieces = vec![piece; n.div_ceil(len)];
    let all = match pieces.len() {
        1 => pieces[0].clone(),
        _ => Tensor::cat(&pieces, 0)?,
    };
    Ok(all.narrow(0, 0, n)?.contiguous()?)
}

/// The rates that others are shown beside, where `ceilings` was run.
pub(super) fn of(record: &Record) -> (Option<f64>, Option<f64>) {
    let ceilings = record.stage("ceilings");
    let value = |what| ceilings.and_then(|stage| stage.value(what));
    (value(COPY), value(PRODUCT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filled_has_as_many_numbers_as_asked_for_and_no_zeros() -> Result<()> {
        for n in [5, (1 << 20) + 7] {
            let list: Vec<f32> = filled(n, DType::F32, &Device::Cpu)?.to_vec1()?;
            assert_eq!(list.len(), n);
            assert!(list.iter().all(|x| *x != 0.0 && x.abs() < 1.1));
        }
        Ok(())
    }

    #[test]
    fn a_product_has_two_flops_a_term() {
        let timing = Timing::of(vec![0.5]);
        assert_eq!(tflops("x", 1e12, &timing).value, 2.0);
    }
}
