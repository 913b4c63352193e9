//! A base that is quantized as it is read: QLoRA's frozen NF4 weights under adapters in full precision.

use crate::change::{Change, Changed, Way, panels};
use crate::merge::Updates;
use crate::recipe::Quantization;
use crate::weights::Source;
use crate::{Error, PeftAdapter, Result, WeightView, Weights};
use candle_core::DType;
use kernels::{Matrix, Nf4};
use rayon::prelude::*;
use serde::Serialize;

impl Weights {
    /// The same weights with the linear layers of the decoder's blocks quantized, as bitsandbytes does it: embeddings,
    /// norms, biases and the output head stay as they are. Nothing is read yet: a tensor is quantized when its matrix
    /// is asked for, from the stored file and a few rows at a time, so that there never is a second copy of it.
    pub fn quantized(self, quantization: Quantization) -> Result<Self> {
        let Quantization::Nf4 = quantization;
        self.map_views(|view| {
            if !is_linear_of_a_block(&view) {
                return Ok(view);
            }
            if view.float_dtype().is_none() {
                return Err(Error::AlreadyQuantized {
                    dtype: view.dtype_name(),
                    name: view.name,
                });
            }
            Ok(WeightView {
                name: view.name.clone(),
                shape: view.shape.clone(),
                source: Source::ToNf4(Box::new(view)),
            })
        })
    }
}

/// `model.layers.0.self_attn.q_proj.weight`: in the architectures that are read, every matrix of a block is a linear layer.
fn is_linear_of_a_block(view: &WeightView) -> bool {
    view.shape.len() == 2 && view.name.contains(".layers.") && view.name.ends_with(".weight")
}

/// How far a quantized base is from the stored one, over the tensors that an adapter changes.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct QuantizationDifference {
    /// ‖Q − W‖ / ‖W‖.
    pub relative_to_weights: f64,
    /// ‖Q − W‖ / ‖Δ‖: how large it is beside what the adapter changes.
    pub relative_to_change: f64,
}

/// Measures the difference between the base as it is stored and as training saw it.
pub fn quantization_difference(
    stored: &Weights,
    trained: &Weights,
    adapter: &PeftAdapter,
) -> Result<QuantizationDifference> {
    let updates = Updates::new(stored, adapter, false)?;
    let (mut difference, mut weight, mut delta) = (0.0, 0.0, 0.0);
    for module in adapter.modules() {
        let view = stored.view(&format!("{module}.weight"))?;
        let as_trained = trained.view(&view.name)?;
        let changed = Changed::open(&view, updates.change(&view))?;
        let quantized = Changed::open(&as_trained, Change::Keep)?;
        let parts: Vec<[f64; 3]> = panels(0..changed.rows, changed.columns, 1 << 16)
            .into_par_iter()
            .map(|rows| {
                let (mut w, mut q, mut e) = (Vec::new(), Vec::new(), Vec::new());
                changed.read_base(rows.clone(), &mut w)?;
                quantized.read_base(rows.clone(), &mut q)?;
                changed.read(rows, &w, Way::Tiled, &mut e)?;
                let squares = |a: &[f32]| -> f64 {
                    let off = |(a, w): (&f32, &f32)| (f64::from(*a) - f64::from(*w)).powi(2);
                    a.iter().zip(&w).map(off).sum()
                };
                let norm = w.iter().map(|w| f64::from(*w).powi(2)).sum();
                Ok([squares(&q), norm, squares(&e)])
            })
            .collect::<Result<_>>()?;
        for [d, w, e] in parts {
            difference += d;
            weight += w;
            delta += e;
        }
        view.release();
    }
    let ratio = |a: f64, b: f64| if b == 0.0 { 0.0 } else { (a / b).sqrt() };
    Ok(QuantizationDifference {
        relative_to_weights: ratio(difference, weight),
        relative_to_change: ratio(difference, delta),
    })
}

impl WeightView {
    /// The dtype that the tensor is written in where none is asked for: its own; for NF4, that of the numbers it was
    /// quantized from; f32 for GGML's blocks.
    pub fn written_dtype(&self) -> DType {
        match &self.source {
            Source::Nf4 { dtype, .. } => *dtype,
            Source::ToNf4(view) => view.written_dtype(),
            _ => self.float_dtype().unwrap_or(DType::F32),
        }
    }

    /// Bytes that the weight takes when it is computed with where it lies.
    pub fn size_bytes(&self) -> u64 {
        let size = match &self.source {
            Source::Plain { bytes, .. } | Source::Ggml { bytes, .. } => bytes.len(),
            Source::Random { dtype, .. } => self.elements() * dtype.size_in_bytes(),
            Source::Nf4 { nf4, .. } => nf4.size_bytes(),
            Source::ToNf4(_) => Nf4::size_of(self.elements(), true),
        };
        size as u64
    }

    /// Refuses to train what is to be quantized.
    pub(crate) fn check_trainable(&self) -> Result<()> {
        match self.source {
            Source::ToNf4(_) => Err(Error::QuantizedUnderFull {
                name: self.name.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// The tensor's numbers in NF4, with double quantization.
    pub(crate) fn to_nf4(&self, rows: usize, columns: usize) -> Result<Matrix> {
        let nf4 = Nf4::quantize(&self.matrix_of(rows, columns)?, true).map_err(|e| match e {
            kernels::Error::NotFinite { element, .. } => Error::NotFinite {
                name: self.name.clone(),
                element,
            },
            e => e.into(),
        })?;
        Ok(Matrix::nf4(nf4, rows, columns)?)
    }
}
