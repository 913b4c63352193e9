//! Weights in a device's memory, and the products with them.

use crate::cuda::launch;
use crate::cuda::tensors::{dense_as, float, gemm, run, uninit};
use crate::nf4::Absmax;
use crate::{Error, GgmlType, Indices, LowRankUpdate, Nf4, Op, Result, Uniform, access};
use candle_core::{DType, Device, Tensor};

/// A weight (N, K) in a device's memory.
#[derive(Clone, Debug)]
pub(crate) enum DeviceMatrix {
    /// A tensor; an optimizer's update is seen.
    Dense(Tensor),
    /// In NF4: made dense for each product, into memory that the next one takes again.
    Nf4(Nf4Tensors),
    /// In GGML's blocks: made dense likewise.
    Ggml(GgmlBlocks),
}

/// A weight in GGML's blocks.
#[derive(Clone, Debug)]
pub(crate) struct GgmlBlocks {
    shape: (usize, usize),
    kind: GgmlType,
    head_rows: Option<usize>,
    blocks: Tensor,
}

impl GgmlBlocks {
    pub(crate) fn upload(
        bytes: &[u8],
        kind: GgmlType,
        head_rows: Option<usize>,
        shape: (usize, usize),
        device: &Device,
    ) -> Result<Self> {
        Ok(Self {
            shape,
            kind,
            head_rows,
            blocks: Tensor::from_slice(bytes, bytes.len(), device)?,
        })
    }

    fn dense(&self, op: &'static str, dtype: DType) -> Result<Tensor> {
        let (n, k) = self.shape;
        let out = uninit(op, (n, k), dtype, &self.blocks)?;
        let launch = launch::ggml_dequantize(self.kind, float(op, &out)?, n, k, self.head_rows);
        run(op, launch, &[&self.blocks, &out])?;
        Ok(out)
    }
}

/// An NF4 weight's parts.
#[derive(Clone, Debug)]
pub(crate) struct Nf4Tensors {
    shape: (usize, usize),
    codes: Tensor,
    absmax: Tensor,
    /// Double quantization: the map (256) f32, the nested absmax f32, the offset.
    nested: Option<(Tensor, Tensor, f32)>,
}

impl Nf4Tensors {
    pub(crate) fn upload(nf4: &Nf4, shape: (usize, usize), device: &Device) -> Result<Self> {
        let bytes = |bytes: &[u8]| Tensor::from_slice(bytes, bytes.len(), device);
        let floats = |list: &[f32]| Tensor::from_slice(list, list.len(), device);
        let (absmax, nested) = match nf4.absmax() {
            Absmax::Plain(plain) => {
                let (list, _) = plain.as_slice().as_chunks::<4>();
                let list: Vec<f32> = list.iter().map(|x| f32::from_le_bytes(*x)).collect();
                (floats(&list)?, None)
            }
            Absmax::Nested {
                codes,
                map,
                absmax,
                offset,
            } => (
                bytes(codes.as_slice())?,
                Some((floats(&map[..])?, floats(absmax)?, *offset)),
            ),
        };
        Ok(Self {
            shape,
            codes: bytes(nf4.codes().as_slice())?,
            absmax,
            nested,
        })
    }

    fn dense(&self, op: &'static str, dtype: DType) -> Result<Tensor> {
        let (n, k) = self.shape;
        let out = uninit(op, (n, k), dtype, &self.codes)?;
        let offset = self.nested.as_ref().map(|(_, _, offset)| *offset);
        let launch = launch::nf4_dequantize(float(op, &out)?, 0, n * k, offset);
        let mut tensors = vec![&self.codes, &self.absmax, &out];
        if let Some((map, absmax, _)) = &self.nested {
            tensors.extend([map, absmax]);
        }
        run(op, launch, &tensors)?;
        Ok(out)
    }
}

impl DeviceMatrix {
    /// (N, K) of that type: the tensor itself where it has it.
    pub(crate) fn dense_in(&self, op: &'static str, dtype: DType) -> Result<Tensor> {
        match self {
            Self::Dense(tensor) => dense_as(op, tensor, dtype),
            Self::Nf4(nf4) => nf4.dense(op, dtype),
            Self::Ggml(ggml) => ggml.dense(op, dtype),
        }
    }

    /// (T, K), in `dtype`: the rows of T ids.
    pub(crate) fn rows(&self, ids: &Indices, dtype: DType) -> Result<Tensor> {
        const OP: &str = "embedding";
        let table = match self {
            Self::Dense(tensor) => tensor.clone(),
            Self::Nf4(nf4) => nf4.dense(OP, dtype)?,
            Self::Ggml(ggml) => ggml.dense(OP, dtype)?,
        };
        let (_, d) = access::dims2(OP, "the table", &table)?;
        let out = uninit(OP, (ids.len(), d), dtype, &table)?;
        let launch = launch::embedding(float(OP, &table)?, float(OP, &out)?, ids.len(), d);
        run(OP, launch, &[&table, ids.on_device(&table)?, &out])?;
        Ok(out)
    }

    /// The device.
    pub(crate) fn device(&self) -> Device {
        match self {
            Self::Dense(tensor) => tensor.device().clone(),
            Self::Nf4(nf4) => nf4.codes.device().clone(),
            Self::Ggml(ggml) => ggml.blocks.device().clone(),
        }
    }

    /// Bytes in the device's memory.
    pub(crate) fn size_bytes(&self) -> usize {
        let of = |t: &Tensor| t.elem_count() * t.dtype().size_in_bytes();
        match self {
            Self::Dense(tensor) => of(tensor),
            Self::Ggml(ggml) => of(&ggml.blocks),
            Self::Nf4(nf4) => {
                let nested = nf4
                    .nested
                    .as_ref()
                    .map_or(0, |(map, absmax, _)| of(map) + of(absmax));
                of(&nf4.codes) + of(&nf4.absmax) + nested
            }
        }
    }
}

/// y (T, N) f32 = x (T, K) Wᵀ, the weight read in x's type.
pub(crate) fn linear(x: &Tensor, w: &DeviceMatrix) -> Result<Tensor> {
    const OP: &str = "linear";
    let w = w.dense_in(OP, x.dtype())?;
    let mut y = uninit(OP, (x.dim(0)?, w.dim(0)?), DType::F32, x)?;
    gemm(&mut y, 0.0, 1.0, x, Op::Plain, &w, Op::Transposed)?;
    Ok(y)
}

/// dx (T, K) f32 = dy (T, N) W, both read in `dtype`.
pub(crate) fn linear_dx(dy: &Tensor, w: &DeviceMatrix, dtype: DType) -> Result<Tensor> {
    const OP: &str = "linear_dx";
    let dy = dense_as(OP, dy, dtype)?;
    let w = w.dense_in(OP, dtype)?;
    let mut dx = uninit(OP, (dy.dim(0)?, w.dim(1)?), DType::F32, &dy)?;
    gemm(&mut dx, 0.0, 1.0, &dy, Op::Plain, &w, Op::Plain)?;
    Ok(dx)
}

/// (N) f32: the length of each row of W + s·B A. What is stored dense is read as it is, the rest made dense in f32.
pub(crate) fn row_norms(w: &DeviceMatrix, update: LowRankUpdate) -> Result<Tensor> {
    const OP: &str = "row_norms";
    let w = match w {
        DeviceMatrix::Dense(tensor) => access::dense(tensor)?,
        stored => stored.dense_in(OP, DType::F32)?,
    };
    let a = dense_as(OP, update.a, DType::F32)?;
    let b = dense_as(OP, update.b, DType::F32)?;
    let ((n, k), (r, _)) = (w.dims2()?, a.dims2()?);
    let norms = uninit(OP, n, DType::F32, &w)?;
    let launch = launch::row_norms(float(OP, &w)?, n, k, r, update.scaling);
    run(OP, launch, &[&w, &a, &b, &norms])?;
    Ok(norms)
}

/// Random numbers in place of what a dense tensor holds.
pub(crate) fn fill_uniform(out: &Tensor, uniform: Uniform) -> Result<()> {
    const OP: &str = "fill_uniform";
    if !out.is_contiguous() {
        let what = "out";
        return Err(Error::Strided { op: OP, what });
    }
    let launch = launch::random_uniform(float(OP, out)?, out.elem_count(), uniform);
    run(OP, launch, &[out])
}
