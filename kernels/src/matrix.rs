//! A weight (N, K), where it already is: in a tensor, in NF4, or in a mapped file as it was written there.

use crate::access::{self, Slice, read};
use crate::cuda::ops::{DeviceMatrix, GgmlBlocks, Nf4Tensors};
use crate::real::{Real, widen_bf16, widen_f16};
use crate::simd::wide;
use crate::{Bytes, Error, GgmlType, Nf4, Result};
use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use rayon::prelude::*;
use std::ops::Range;

/// A weight of N rows (outputs) and K columns (inputs). A clone shares the numbers.
#[derive(Clone, Debug)]
pub struct Matrix {
    source: Source,
    rows: usize,
    cols: usize,
    /// The same numbers, or the only ones of a dense one, in a device's memory.
    device: Option<DeviceMatrix>,
}

#[derive(Clone, Debug)]
enum Source {
    Dense(Tensor),
    Mapped {
        bytes: Bytes,
        dtype: DType,
    },
    Ggml {
        bytes: Bytes,
        kind: GgmlType,
        head_rows: Option<usize>,
    },
    Nf4(Nf4),
}

impl Matrix {
    /// A weight in a tensor (N, K), whose storage it shares: an optimizer's update is seen.
    pub fn dense(tensor: Tensor) -> Self {
        let cols = tensor.dims().last().copied().unwrap_or(1);
        let rows = tensor.elem_count().checked_div(cols).unwrap_or(0);
        let device = tensor
            .device()
            .is_cuda()
            .then(|| DeviceMatrix::Dense(tensor.clone()));
        Self {
            source: Source::Dense(tensor),
            rows,
            cols,
            device,
        }
    }

    /// A weight as safetensors store it: little-endian F32, F16, BF16 or F64, aligned or not.
    pub fn mapped(bytes: Bytes, dtype: DType, rows: usize, cols: usize) -> Result<Self> {
        if !matches!(dtype, DType::F32 | DType::F16 | DType::BF16 | DType::F64) {
            return Err(Error::Type {
                op: "a mapped weight",
                found: dtype,
                expected: "F32, F16, BF16 or F64",
            });
        }
        check_bytes(&bytes, rows, cols, dtype.size_in_bytes(), 1, dtype.as_str())?;
        Ok(Self {
            source: Source::Mapped { bytes, dtype },
            rows,
            cols,
            device: None,
        })
    }

    /// A weight as GGUF stores it. With `heads`, its rows are in llama.cpp's order for q and k,
    /// which pairs the two halves of a head, and are read in the checkpoint's order.
    pub fn ggml(
        bytes: Bytes,
        kind: GgmlType,
        rows: usize,
        cols: usize,
        heads: Option<usize>,
    ) -> Result<Self> {
        if !cols.is_multiple_of(kind.block_size()) {
            let (stored, block) = (kind.name().to_string(), kind.block_size());
            return Err(Error::Block {
                stored,
                block,
                cols,
            });
        }
        check_bytes(
            &bytes,
            rows,
            cols,
            kind.block_bytes(),
            kind.block_size(),
            kind.name(),
        )?;
        let head_rows = match heads {
            Some(heads) if heads == 0 || !rows.is_multiple_of(2 * heads) => {
                return Err(Error::HeadRows { rows, heads });
            }
            Some(heads) => Some(rows / heads),
            None => None,
        };
        Ok(Self {
            source: Source::Ggml {
                bytes,
                kind,
                head_rows,
            },
            rows,
            cols,
            device: None,
        })
    }

    /// A weight in NF4, its rows one after another; a block may straddle two of them.
    pub fn nf4(nf4: Nf4, rows: usize, cols: usize) -> Result<Self> {
        let (expected, found) = (rows.saturating_mul(cols), nf4.elements());
        if expected != found {
            return Err(Error::Nf4 {
                elements: expected,
                what: "numbers",
                expected,
                found,
            });
        }
        Ok(Self {
            source: Source::Nf4(nf4),
            rows,
            cols,
            device: None,
        })
    }

    /// Where products with it are computed.
    pub fn device(&self) -> Device {
        match &self.device {
            Some(there) => there.device(),
            None => Device::Cpu,
        }
    }

    /// N, the outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// K, the inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes it takes where it is computed with.
    pub fn size_bytes(&self) -> usize {
        if let Some(there) = &self.device {
            return there.size_bytes();
        }
        match &self.source {
            Source::Dense(t) => t.elem_count() * t.dtype().size_in_bytes(),
            Source::Mapped { bytes, .. } | Source::Ggml { bytes, .. } => bytes.len(),
            Source::Nf4(nf4) => nf4.size_bytes(),
        }
    }

    /// The same weight with its numbers in a device's memory too: what is quantized as it is, and the rest in `dtype`.
    /// Products and lookups go there; where the numbers came from stays to be read.
    pub fn to_device(&self, device: &Device, dtype: DType) -> Result<Self> {
        if device.is_cpu() || self.device.is_some() {
            return Ok(self.clone());
        }
        let there = match &self.source {
            Source::Nf4(nf4) => {
                DeviceMatrix::Nf4(Nf4Tensors::upload(nf4, (self.rows, self.cols), device)?)
            }
            Source::Ggml {
                bytes,
                kind,
                head_rows,
            } => DeviceMatrix::Ggml(GgmlBlocks::upload(
                bytes.as_slice(),
                *kind,
                *head_rows,
                (self.rows, self.cols),
                device,
            )?),
            Source::Mapped {
                bytes,
                dtype: stored,
            } if *stored == dtype => {
                let shape = [self.rows, self.cols];
                let tensor = Tensor::from_raw_buffer(bytes.as_slice(), dtype, &shape, device)?;
                DeviceMatrix::Dense(tensor)
            }
            _ => DeviceMatrix::Dense(self.to_tensor(dtype)?.to_device(device)?),
        };
        Ok(Self {
            device: Some(there),
            ..self.clone()
        })
    }

    /// Its numbers in a device's memory, where they are there.
    pub(crate) fn on_device(&self) -> Option<&DeviceMatrix> {
        self.device.as_ref()
    }

    /// The tensor, of a dense one.
    pub fn tensor(&self) -> Option<&Tensor> {
        match &self.source {
            Source::Dense(tensor) => Some(tensor),
            _ => None,
        }
    }

    /// A tensor (N, K) of that type: the dense tensor itself if it has it, else a copy.
    pub fn to_tensor(&self, dtype: DType) -> Result<Tensor> {
        if let Source::Dense(tensor) = &self.source
            && tensor.dtype() == dtype
        {
            return Ok(tensor.clone());
        }
        let shape = (self.rows, self.cols);
        let hold = self.hold("to_tensor")?;
        let rows = hold.rows();
        match dtype {
            DType::F64 => access::tensor(rows.widen_all::<f64>(), shape),
            dtype => {
                let wide = access::tensor(rows.widen_all::<f32>(), shape)?;
                if dtype == DType::F16 {
                    return Ok(wide.to_dtype(dtype)?);
                }
                access::narrow(&wide, dtype)
            }
        }
    }

    /// Widens rows into `out` (rows.len() × K). Rows or space that are not there are left out.
    pub fn read_rows_f32(&self, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        let hold = self.hold("read_rows")?;
        let rows = rows.start.min(self.rows)..rows.end.min(self.rows);
        let fits = out
            .len()
            .checked_div(self.cols)
            .unwrap_or(0)
            .min(rows.len());
        hold.rows()
            .read(rows.start..rows.start + fits, &mut out[..fits * self.cols]);
        Ok(())
    }

    /// Locks the numbers for reading.
    pub(crate) fn hold(&self, op: &'static str) -> Result<Hold<'_>> {
        Ok(Hold {
            matrix: self,
            dense: match &self.source {
                Source::Dense(tensor) => Some(match tensor.dtype() {
                    DType::F32 => DenseHold::F32(read(op, tensor)?),
                    DType::F64 => DenseHold::F64(read(op, tensor)?),
                    DType::BF16 => DenseHold::Bf16(read(op, tensor)?),
                    DType::F16 => DenseHold::F16(read(op, tensor)?),
                    found => {
                        return Err(Error::Type {
                            op,
                            found,
                            expected: "F32, F16, BF16 or F64",
                        });
                    }
                }),
                _ => None,
            },
        })
    }
}

fn check_bytes(
    bytes: &Bytes,
    rows: usize,
    cols: usize,
    block_bytes: usize,
    block: usize,
    stored: &str,
) -> Result<()> {
    let expected = rows
        .checked_mul(cols / block)
        .and_then(|n| n.checked_mul(block_bytes));
    if expected == Some(bytes.len()) && bytes.as_slice().len() == bytes.len() {
        return Ok(());
    }
    Err(Error::Bytes {
        rows,
        cols,
        stored: stored.to_uppercase(),
        expected: expected.unwrap_or(usize::MAX),
        found: bytes.as_slice().len(),
    })
}

/// A matrix locked for reading.
pub(crate) struct Hold<'a> {
    matrix: &'a Matrix,
    dense: Option<DenseHold<'a>>,
}

enum DenseHold<'a> {
    F32(Slice<'a, f32>),
    F64(Slice<'a, f64>),
    Bf16(Slice<'a, bf16>),
    F16(Slice<'a, f16>),
}

impl Hold<'_> {
    /// The rows, in a form that threads may share.
    pub(crate) fn rows(&self) -> Rows<'_> {
        let numbers = match (&self.dense, &self.matrix.source) {
            (Some(DenseHold::F32(s)), _) => Numbers::F32(s),
            (Some(DenseHold::F64(s)), _) => Numbers::F64(s),
            (Some(DenseHold::Bf16(s)), _) => Numbers::Bf16(s),
            (Some(DenseHold::F16(s)), _) => Numbers::F16(s),
            (None, Source::Mapped { bytes, dtype }) => Numbers::mapped(bytes.as_slice(), *dtype),
            (
                None,
                Source::Ggml {
                    bytes,
                    kind,
                    head_rows,
                },
            ) => {
                let bytes = bytes.as_slice();
                match (kind, head_rows) {
                    (GgmlType::F32, None) => Numbers::mapped(bytes, DType::F32),
                    (GgmlType::F16, None) => Numbers::mapped(bytes, DType::F16),
                    (GgmlType::BF16, None) => Numbers::mapped(bytes, DType::BF16),
                    (kind, head_rows) => Numbers::Ggml {
                        bytes,
                        kind: *kind,
                        head_rows: *head_rows,
                    },
                }
            }
            (None, Source::Nf4(nf4)) => Numbers::Nf4(nf4),
            // A dense source is always held.
            (None, Source::Dense(_)) => Numbers::F32(&[]),
        };
        Rows {
            numbers,
            cols: self.matrix.cols,
            count: self.matrix.rows,
        }
    }
}

/// The rows of a matrix that is locked for reading.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    numbers: Numbers<'a>,
    cols: usize,
    count: usize,
}

#[derive(Clone, Copy)]
enum Numbers<'a> {
    F32(&'a [f32]),
    F64(&'a [f64]),
    Bf16(&'a [bf16]),
    F16(&'a [f16]),
    /// Little-endian, at any address.
    Unaligned {
        bytes: &'a [u8],
        dtype: DType,
    },
    Ggml {
        bytes: &'a [u8],
        kind: GgmlType,
        head_rows: Option<usize>,
    },
    Nf4(&'a Nf4),
}

impl<'a> Numbers<'a> {
    fn mapped(bytes: &'a [u8], dtype: DType) -> Self {
        let aligned = match dtype {
            DType::F32 => aligned::<f32>(bytes).map(Numbers::F32),
            DType::F64 => aligned::<f64>(bytes).map(Numbers::F64),
            DType::BF16 => aligned::<bf16>(bytes).map(Numbers::Bf16),
            DType::F16 => aligned::<f16>(bytes).map(Numbers::F16),
            _ => None,
        };
        aligned.unwrap_or(Numbers::Unaligned { bytes, dtype })
    }
}

/// The bytes seen as numbers, where their address and this machine's byte order allow it.
fn aligned<T: candle_core::WithDType>(bytes: &[u8]) -> Option<&[T]> {
    // SAFETY: only called with float types, for which every bit pattern is a value.
    let (before, numbers, after) = unsafe { bytes.align_to::<T>() };
    (cfg!(target_endian = "little") && before.is_empty() && after.is_empty()).then_some(numbers)
}

impl<'a> Rows<'a> {
    /// The whole matrix without a copy, if it is stored as `T`.
    pub(crate) fn as_slice<T: Real>(&self) -> Option<&'a [T]> {
        match self.numbers {
            Numbers::F32(s) => T::from_f32s(s),
            Numbers::F64(s) => T::from_f64s(s),
            _ => None,
        }
    }

    /// The whole matrix without a copy, if it is stored in bf16.
    pub(crate) fn as_bf16(&self) -> Option<&'a [bf16]> {
        match self.numbers {
            Numbers::Bf16(s) => Some(s),
            _ => None,
        }
    }

    /// K, the inputs.
    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    /// Widens rows into `out`, one after another.
    pub(crate) fn read<T: Real>(&self, rows: Range<usize>, out: &mut [T]) {
        let all = rows.start * self.cols..rows.end * self.cols;
        match self.numbers {
            Numbers::F32(s) => convert(&s[all], out, T::from_f32),
            Numbers::F64(s) => convert(&s[all], out, T::of),
            Numbers::Bf16(s) => convert(
                &s[all],
                out,
                #[inline(always)]
                |x| T::from_f32(widen_bf16(x.to_bits())),
            ),
            Numbers::F16(s) => convert(
                &s[all],
                out,
                #[inline(always)]
                |x| T::from_f32(widen_f16(x.to_bits())),
            ),
            Numbers::Unaligned { bytes, dtype } => read_unaligned(bytes, dtype, all, out),
            Numbers::Ggml {
                bytes,
                kind,
                head_rows,
            } => {
                let row_bytes = self.cols / kind.block_size() * kind.block_bytes();
                let mut row = Vec::new();
                for (out, index) in out.chunks_exact_mut(self.cols.max(1)).zip(rows) {
                    let stored = head_rows.map_or(index, |n| stored_row(index, n));
                    let blocks = &bytes[stored * row_bytes..][..row_bytes];
                    if let Some(out) = T::as_f32_mut(out) {
                        kind.dequantize(blocks, out);
                    } else {
                        row.resize(self.cols, 0.0);
                        kind.dequantize(blocks, &mut row);
                        convert(&row, out, T::from_f32);
                    }
                }
            }
            Numbers::Nf4(nf4) => {
                let out = &mut out[..all.len()];
                if let Some(out) = T::as_f32_mut(out) {
                    return nf4.read(all.start, out);
                }
                let mut some = [0f32; 1024];
                for (i, out) in out.chunks_mut(some.len()).enumerate() {
                    let values = &mut some[..out.len()];
                    nf4.read(all.start + i * 1024, values);
                    convert(values, out, T::from_f32);
                }
            }
        }
    }

    /// Widens rows into `out` with all threads.
    pub(crate) fn read_parallel<T: Real>(&self, rows: Range<usize>, out: &mut [T]) {
        let cols = self.cols.max(1);
        let some = (access::CHUNK / cols).max(1);
        out.par_chunks_mut(some * cols)
            .enumerate()
            .for_each(|(i, out)| {
                let first = rows.start + i * some;
                self.read(first..first + out.len() / cols, out);
            });
    }

    fn widen_all<T: Real>(&self) -> Vec<T> {
        let mut out = vec![T::ZERO; self.count * self.cols];
        self.read_parallel(0..self.count, &mut out);
        out
    }
}

/// Where llama.cpp's converter put row `index` of a head of `n` rows: it turned the two halves of
/// a head, (2, n/2), into pairs, (n/2, 2).
fn stored_row(index: usize, n: usize) -> usize {
    let (head, within) = (index / n, index % n);
    let (half, i) = (within / (n / 2), within % (n / 2));
    head * n + 2 * i + half
}

fn convert<S: Copy, T: Real>(from: &[S], to: &mut [T], widen: impl Fn(S) -> T) {
    wide!({
        for (t, f) in to.iter_mut().zip(from) {
            *t = widen(*f);
        }
    });
}

pub(crate) fn read_unaligned<T: Real>(
    bytes: &[u8],
    dtype: DType,
    elements: Range<usize>,
    out: &mut [T],
) {
    let size = dtype.size_in_bytes();
    let bytes = &bytes[elements.start * size..elements.end * size];
    let (two, four, eight) = (
        bytes.as_chunks::<2>().0,
        bytes.as_chunks::<4>().0,
        bytes.as_chunks::<8>().0,
    );
    match dtype {
        DType::F32 => convert(
            four,
            out,
            #[inline(always)]
            |b| T::from_f32(f32::from_le_bytes(b)),
        ),
        DType::F64 => convert(
            eight,
            out,
            #[inline(always)]
            |b| T::of(f64::from_le_bytes(b)),
        ),
        DType::BF16 => convert(
            two,
            out,
            #[inline(always)]
            |b| T::from_f32(widen_bf16(u16::from_le_bytes(b))),
        ),
        _ => convert(
            two,
            out,
            #[inline(always)]
            |b| T::from_f32(widen_f16(u16::from_le_bytes(b))),
        ),
    }
}
