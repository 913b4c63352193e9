//! Writes a model as a Hugging Face folder, tensor by tensor and panel by panel: what is in memory is a few panels of
//! rows, never the model. The folder appears under its name only when it is whole.

use crate::dora::row_squares;
use crate::low_rank::product;
use crate::safetensors_file::{self, Entry};
use crate::{Error, Parameters, Result, WeightView, Weights, encode, folder};
use candle_core::{DType, Device, Tensor};
use kernels::{Matrix, Op, gemm};
use rayon::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

/// Elements of the panel of rows that is in work at a time: 16 MB of f32.
const PANEL: usize = 1 << 22;

/// How a model folder is written.
#[derive(Clone, Debug, Default)]
pub struct ExportOptions {
    /// Dtype of all float tensors. If unset each keeps its own; NF4 becomes what it was quantized from, and GGML's blocks
    /// become f32, which is exact.
    pub dtype: Option<DType>,
    /// JSON files to be written beside the weights, such as the `tokenizer.json` of a GGUF base. They come before
    /// files of the same name in the base's folder.
    pub companions: Vec<(String, Value)>,
}

/// What becomes of one tensor.
pub(crate) enum Change<'a> {
    Keep,
    /// W + scaling · B A, each row then brought to its magnitude if there are any.
    Add(LowRank<'a>),
    /// The tensor instead.
    Replace(&'a Tensor),
}

/// A (r, in) and B (out, r), and DoRA's magnitudes (out), in f32.
pub(crate) struct LowRank<'a> {
    pub module: &'a str,
    pub a: &'a Tensor,
    pub b: &'a Tensor,
    pub scaling: f64,
    pub magnitude: Option<&'a Tensor>,
}

/// Writes a GGUF file's tensors, unpacked, and a `config.json` made from its metadata as a Hugging Face folder; or
/// a folder in another dtype. Returns the bytes of `model.safetensors`.
pub fn convert(weights: &Weights, out: &Path, options: &ExportOptions) -> Result<u64> {
    staged(weights, out, |dir| {
        write_model(weights, dir, options, |_| Ok(Change::Keep))
    })
}

/// Writes fully trained weights: those of `base` with `parameters` in their place.
pub fn save_full(
    base: &Weights,
    parameters: &Parameters,
    out: &Path,
    options: &ExportOptions,
) -> Result<u64> {
    let trained: BTreeMap<&str, &Tensor> = parameters
        .0
        .iter()
        .map(|p| (p.name.as_str(), &p.value))
        .collect();
    for (name, value) in &trained {
        let Ok(view) = base.view(name) else {
            return Err(Error::ParameterWithoutTensor {
                name: (*name).into(),
            });
        };
        if view.shape != value.dims() {
            return Err(Error::Shape {
                name: view.name,
                expected: view.shape,
                found: value.dims().into(),
            });
        }
    }
    let change = |view: &WeightView| {
        Ok(trained
            .get(view.name.as_str())
            .map_or(Change::Keep, |t| Change::Replace(t)))
    };
    staged(base, out, |dir| write_model(base, dir, options, change))
}

/// Refuses to write over the base that is being read.
pub fn refuse_base_as_output(base: &Weights, out: &Path) -> Result<()> {
    let same = |a: &Path| Some(a.canonicalize().ok()? == out.canonicalize().ok()?);
    match base.path().and_then(same) {
        Some(true) => Err(Error::OutputIsBase { path: out.into() }),
        _ => Ok(()),
    }
}

/// Runs `work` on a folder that takes the name `out` if all went well.
pub(crate) fn staged<R>(
    base: &Weights,
    out: &Path,
    work: impl FnOnce(&Path) -> Result<R>,
) -> Result<R> {
    refuse_base_as_output(base, out)?;
    let folder = ledger::files::StagedDir::create(out)?;
    let result = work(folder.path())?;
    folder.commit()?;
    Ok(result)
}

/// Writes `model.safetensors`, `config.json` and what travels with them into an existing folder.
pub(crate) fn write_model<'a>(
    base: &Weights,
    dir: &Path,
    options: &ExportOptions,
    change: impl Fn(&WeightView) -> Result<Change<'a>>,
) -> Result<u64> {
    let views: Vec<&WeightView> = base.views().collect();
    let mut entries = Vec::new();
    for view in &views {
        let dtype = match output_dtype(view, options.dtype) {
            Some(dtype) => encode::stored_dtype(dtype)?,
            None => view
                .plain()
                .map(|(_, dtype)| dtype)
                .ok_or_else(|| unsupported(view))?,
        };
        entries.push(Entry {
            name: view.name.clone(),
            dtype,
            shape: view.shape.clone(),
        });
    }
    let path = dir.join("model.safetensors");
    let mut next = views.iter();
    let bytes = safetensors_file::write(&path, &entries, |_, out| {
        let Some(view) = next.next() else {
            return Ok(());
        };
        let mut out = |bytes: &[u8]| out.write_all(bytes).map_err(Error::io(&path));
        write_tensor(
            view,
            output_dtype(view, options.dtype),
            &change(view)?,
            &mut out,
        )
    })?;
    for (name, json) in &options.companions {
        write_file(&dir.join(name), &crate::peft::pretty(json))?;
    }
    write_file(
        &dir.join("config.json"),
        &crate::peft::pretty(&output_config(base, options.dtype)),
    )?;
    if let Some(from) = base.folder() {
        folder::copy_companions(from, dir)?;
    }
    Ok(bytes)
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).map_err(Error::io(path))
}

fn unsupported(view: &WeightView) -> Error {
    Error::UnsupportedDtype {
        name: view.name.clone(),
        dtype: view.dtype_name(),
    }
}

/// The dtype a tensor is written in; nothing for integers and other buffers, which stay as they are.
pub(crate) fn output_dtype(view: &WeightView, chosen: Option<DType>) -> Option<DType> {
    view.is_float()
        .then(|| chosen.unwrap_or_else(|| view.written_dtype()))
}

/// The base's configuration, naming the dtype that was written.
fn output_config(base: &Weights, chosen: Option<DType>) -> Value {
    let mut config = base.config().clone();
    let embedding = || {
        base.view("model.embed_tokens.weight")
            .ok()
            .and_then(|v| output_dtype(&v, None))
    };
    let written = match base.gguf() {
        Some(_) => chosen.or_else(embedding),
        None => chosen,
    };
    if let (Some(dtype), Some(map)) = (written, config.as_object_mut()) {
        // transformers 5 writes `dtype`, before it was `torch_dtype`; both read the latter.
        let key = if map.contains_key("dtype") {
            "dtype"
        } else {
            "torch_dtype"
        };
        map.insert(key.into(), json!(encode::torch_name(dtype)));
    }
    config
}

fn write_tensor(
    view: &WeightView,
    dtype: Option<DType>,
    change: &Change,
    out: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let Some(dtype) = dtype else {
        return view.with_bytes(|bytes| out(bytes))?;
    };
    match change {
        Change::Keep if view.bytes_are(dtype) => return view.with_bytes(|bytes| out(bytes))?,
        Change::Replace(tensor) if tensor.dtype() == dtype => {
            return out(&encode::tensor_bytes(tensor)?);
        }
        _ => {}
    }
    let (matrix, update) = changed(view, change)?;
    for panel in panels(matrix.rows(), matrix.cols()) {
        let values = read_panel(&matrix, update, panel)?;
        out(&encode_parallel(&view.name, &values, dtype)?)?;
    }
    Ok(())
}

/// What [`read_panel`] reads a changed tensor from.
pub(crate) fn changed<'a>(
    view: &WeightView,
    change: &'a Change,
) -> Result<(Matrix, Option<&'a LowRank<'a>>)> {
    let (rows, columns) = view.rows_and_columns();
    Ok(match change {
        Change::Replace(tensor) => (Matrix::dense(tensor.reshape((rows, columns))?), None),
        Change::Keep => (view.matrix_of(rows, columns)?, None),
        Change::Add(update) => (view.matrix_of(rows, columns)?, Some(update)),
    })
}

/// Ranges of rows that are worked on together.
pub(crate) fn panels(rows: usize, columns: usize) -> impl Iterator<Item = Range<usize>> {
    panels_of(rows, columns, 1)
}

/// [`panels`] of whole groups of `group` rows.
pub(crate) fn panels_of(
    rows: usize,
    columns: usize,
    group: usize,
) -> impl Iterator<Item = Range<usize>> {
    let step = (PANEL / (columns * group).max(1)).max(1) * group;
    (0..rows)
        .step_by(step)
        .map(move |first| first..(first + step).min(rows))
}

/// Rows of W, or of W + scaling · B A, in f32.
pub(crate) fn read_panel(
    matrix: &Matrix,
    update: Option<&LowRank>,
    rows: Range<usize>,
) -> Result<Vec<f32>> {
    let columns = matrix.cols();
    let mut values = vec![0f32; rows.len() * columns];
    let some = ((1 << 16) / columns.max(1)).max(1);
    values
        .par_chunks_mut((some * columns).max(1))
        .enumerate()
        .try_for_each(|(i, out)| {
            let first = rows.start + i * some;
            matrix.read_rows_f32(first..(first + some).min(rows.end), out)
        })?;
    let Some(update) = update else {
        return Ok(values);
    };
    let b = update.b.narrow(0, rows.start, rows.len())?;
    let Some(magnitude) = update.magnitude else {
        let mut sum = Tensor::from_vec(values, (rows.len(), columns), &Device::Cpu)?;
        gemm(
            &mut sum,
            1.0,
            update.scaling,
            &b,
            Op::Plain,
            update.a,
            Op::Plain,
        )?;
        return Ok(sum.flatten_all()?.to_vec1::<f32>()?);
    };
    // Rounded where PEFT rounds: B A, its multiple, the sum, and then the row's factor.
    let delta = product(&b, Op::Plain, update.a, Op::Plain)?.flatten_all()?;
    let (delta, scaling) = (delta.to_vec1::<f32>()?, update.scaling as f32);
    let pairs = values.par_iter_mut().zip(delta);
    pairs.for_each(|(w, delta)| *w += delta * scaling);
    let magnitudes = magnitude.narrow(0, rows.start, rows.len())?.to_vec1()?;
    set_lengths(&mut values, columns, &magnitudes).map_err(|row| Error::ZeroRow {
        module: update.module.into(),
        row: rows.start + row,
    })?;
    Ok(values)
}

/// Brings each row to the length m: times m / ‖row‖, both in f32. Errors with the first row that is all zeros.
fn set_lengths(
    values: &mut [f32],
    columns: usize,
    magnitudes: &[f32],
) -> std::result::Result<(), usize> {
    let squares = row_squares(values, columns);
    if let Some(row) = squares.iter().position(|s| *s == 0.0) {
        return Err(row);
    }
    let rows = values.par_chunks_exact_mut(columns.max(1));
    rows.zip(squares)
        .zip(magnitudes)
        .for_each(|((row, square), m)| {
            let factor = m / square.sqrt() as f32;
            row.iter_mut().for_each(|w| *w *= factor);
        });
    Ok(())
}

/// [`encode::encode`] with all threads.
pub(crate) fn encode_parallel(name: &str, values: &[f32], dtype: DType) -> Result<Vec<u8>> {
    const PIECE: usize = 1 << 16;
    let width = dtype.size_in_bytes();
    let mut bytes = vec![0u8; values.len() * width];
    bytes
        .par_chunks_mut(PIECE * width)
        .zip(values.par_chunks(PIECE))
        .try_for_each(|(out, values)| encode::encode(name, values, dtype, out))?;
    Ok(bytes)
}
