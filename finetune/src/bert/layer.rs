//! One layer of an encoder: attention and MLP, each with a residual and a norm behind it.
//!
//! Sequences lie one after another, without padding: only attention knows where one ends. T tokens of all of them,
//! S of one, D model, H heads, F the MLP's width.

use adapters::Weights;
use candle_core::{DType, Device, Tensor};
use kernels::{Matrix, Op};
use rayon::prelude::*;

use super::activation::Activation;
use super::config::BertConfig;
use crate::Result;

/// Rows that a thread takes at a time.
const ROWS: usize = 16;

/// Checkpoint names with what stands before all of them: `bert.`, `roberta.` or nothing.
pub(super) struct Named<'w> {
    pub weights: &'w Weights,
    pub prefix: &'static str,
}

impl Named<'_> {
    /// A table or a weight, read from where it is stored.
    pub fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<Matrix> {
        let name = format!("{}{name}.weight", self.prefix);
        Ok(self
            .weights
            .view_shaped(&name, &[rows, columns])?
            .matrix()?)
    }

    /// A vector as f32; `older` is its name in TensorFlow's checkpoints, where it has another.
    fn vector(&self, name: &str, older: &str, width: usize) -> Result<Tensor> {
        let name = format!("{}{name}", self.prefix);
        let converted = match name.rsplit_once('.') {
            Some((stem, _)) => format!("{stem}.{older}"),
            None => older.to_owned(),
        };
        let found = match self.weights.has(&converted) {
            true => converted,
            false => name,
        };
        Ok(self
            .weights
            .view_shaped(&found, &[width])?
            .tensor(DType::F32)?)
    }
}

/// y = x Wᵀ + b.
struct Linear {
    weight: Matrix,
    bias: Tensor,
}

impl Linear {
    fn of(named: &Named, name: &str, outputs: usize, inputs: usize) -> Result<Self> {
        Ok(Self {
            weight: named.matrix(name, outputs, inputs)?,
            bias: named.vector(&format!("{name}.bias"), "bias", outputs)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut y = kernels::linear(x, &self.weight)?;
        kernels::add_bias(&mut y, &self.bias)?;
        Ok(y)
    }
}

/// Each row shifted to mean 0 and scaled to variance 1, then by a learnt weight and bias (Ba et al. 2016).
pub(super) struct LayerNorm {
    weight: Vec<f32>,
    bias: Vec<f32>,
    eps: f64,
}

impl LayerNorm {
    pub fn of(named: &Named, name: &str, config: &BertConfig) -> Result<Self> {
        let vector = |kind: &str, older: &str| -> Result<Vec<f32>> {
            let vector = named.vector(&format!("{name}.{kind}"), older, config.hidden_size)?;
            Ok(vector.to_vec1()?)
        };
        Ok(Self {
            weight: vector("weight", "gamma")?,
            bias: vector("bias", "beta")?,
            eps: config.layer_norm_eps,
        })
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let d = self.weight.len();
        map_rows(x, d, |row| {
            let mean = row.iter().map(|x| f64::from(*x)).sum::<f64>() / d as f64;
            let square = |x: &f32| (f64::from(*x) - mean).powi(2);
            let variance = row.iter().map(square).sum::<f64>() / d as f64;
            let scale = 1.0 / (variance + self.eps).sqrt();
            let (mean, scale) = (mean as f32, scale as f32);
            for ((x, weight), bias) in row.iter_mut().zip(&self.weight).zip(&self.bias) {
                *x = (*x - mean) * scale * weight + bias;
            }
        })
    }
}

/// A tensor (T, N) with each row changed, on all threads.
fn map_rows(x: &Tensor, width: usize, change: impl Fn(&mut [f32]) + Sync) -> Result<Tensor> {
    let mut values = x.flatten_all()?.to_vec1::<f32>()?;
    values
        .par_chunks_mut(ROWS * width)
        .for_each(|rows| rows.chunks_exact_mut(width).for_each(&change));
    Ok(Tensor::from_vec(values, x.shape(), &Device::Cpu)?)
}

/// A layer's weights.
pub(super) struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    attention_output: Linear,
    attention_norm: LayerNorm,
    intermediate: Linear,
    output: Linear,
    output_norm: LayerNorm,
    heads: usize,
    activation: Activation,
}

impl Layer {
    pub fn of(named: &Named, index: usize, config: &BertConfig) -> Result<Self> {
        let (d, f) = (config.hidden_size, config.intermediate_size);
        let name = |part: &str| format!("encoder.layer.{index}.{part}");
        let linear = |part: &str, outputs, inputs| Linear::of(named, &name(part), outputs, inputs);
        let norm = |part: &str| LayerNorm::of(named, &name(part), config);
        Ok(Self {
            query: linear("attention.self.query", d, d)?,
            key: linear("attention.self.key", d, d)?,
            value: linear("attention.self.value", d, d)?,
            attention_output: linear("attention.output.dense", d, d)?,
            attention_norm: norm("attention.output.LayerNorm")?,
            intermediate: linear("intermediate.dense", f, d)?,
            output: linear("output.dense", d, f)?,
            output_norm: norm("output.LayerNorm")?,
            heads: config.num_attention_heads,
            activation: config.hidden_act,
        })
    }

    /// x (T, D) -> (T, D), of sequences of these lengths.
    pub fn forward(&self, x: &Tensor, lengths: &[usize]) -> Result<Tensor> {
        let (q, k) = (self.query.forward(x)?, self.key.forward(x)?);
        let v = self.value.forward(x)?;
        let attended = attention(&q, &k, &v, lengths, self.heads)?;
        drop((q, k, v));
        let mut attended = self.attention_output.forward(&attended)?;
        kernels::add_assign(&mut attended, x)?;
        let x = self.attention_norm.forward(&attended)?;
        drop(attended);
        let inner = self.intermediate.forward(&x)?;
        let width = inner.dim(1)?;
        let inner = map_rows(&inner, width, |row| {
            for x in row {
                *x = self.activation.of(*x);
            }
        })?;
        let mut y = self.output.forward(&inner)?;
        drop(inner);
        kernels::add_assign(&mut y, &x)?;
        self.output_norm.forward(&y)
    }
}

/// softmax(q kᵀ / √(D/H)) v within each sequence, head by head: every token sees every other. (T, D)
fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    lengths: &[usize],
    heads: usize,
) -> Result<Tensor> {
    let (tokens, d) = q.dims2()?;
    let width = d / heads;
    let starts = lengths.iter().scan(0, |end, length| {
        *end += length;
        Some(*end - length)
    });
    let sequences: Vec<(usize, usize)> = starts.zip(lengths.iter().copied()).collect();
    let all: Vec<(usize, usize, usize)> = sequences
        .iter()
        .flat_map(|(start, length)| (0..heads).map(move |head| (*start, *length, head)))
        .collect();
    let one = |(start, length, head): &(usize, usize, usize)| -> Result<Vec<f32>> {
        let part = |x: &Tensor| x.narrow(0, *start, *length)?.narrow(1, head * width, width);
        head_attention(&part(q)?, &part(k)?, &part(v)?)
    };
    let attended = all.par_iter().map(one).collect::<Result<Vec<_>>>()?;
    let mut out = vec![0f32; tokens * d];
    for ((start, _, head), rows) in all.iter().zip(attended) {
        for (row, values) in rows.chunks_exact(width).enumerate() {
            out[(start + row) * d + head * width..][..width].copy_from_slice(values);
        }
    }
    Ok(Tensor::from_vec(out, (tokens, d), &Device::Cpu)?)
}

/// One head of one sequence: q, k, v (S, W) -> (S, W), row after row.
fn head_attention(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Vec<f32>> {
    let (length, width) = q.dims2()?;
    let scale = 1.0 / (width as f64).sqrt();
    let mut scores = Tensor::zeros((length, length), DType::F32, &Device::Cpu)?;
    kernels::gemm(&mut scores, 0.0, scale, q, Op::Plain, k, Op::Transposed)?;
    let scores = map_rows(&scores, length, softmax)?;
    let mut out = Tensor::zeros((length, width), DType::F32, &Device::Cpu)?;
    kernels::gemm(&mut out, 0.0, 1.0, &scores, Op::Plain, v, Op::Plain)?;
    Ok(out.flatten_all()?.to_vec1()?)
}

fn softmax(row: &mut [f32]) {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for x in row.iter_mut() {
        *x = (*x - largest).exp();
        sum += *x;
    }
    row.iter_mut().for_each(|x| *x /= sum);
}
