//! The rates of the operations at the sizes of Llama-2-13B and 4,096 tokens, beside the device's ceilings.

use anyhow::Result;
use kernels::{
    AdamW, AttentionShape, DType, Direction, Keep, LowRankUpdate, Matrix, Moments, Nf4, RopeTable,
    RoundingKey, RowSquares, Segment, Segments, Tensor,
};

use super::Check;
use super::ceilings::{self, filled, tflops};
use super::record::{Figure, Record, StageRecord};
use super::timing::{Timing, time};
use crate::terminal::note;

/// Sizes of Llama-2-13B, or small ones.
#[derive(Clone, Copy)]
struct Sizes {
    tokens: usize,
    hidden: usize,
    ffn: usize,
    heads: usize,
    head_dim: usize,
    vocab: usize,
    rank: usize,
    /// Numbers that an optimizer steps: a rank of 16 on all linear layers has four times as many.
    parameters: usize,
}

const WHOLE: Sizes = Sizes {
    tokens: 4096,
    hidden: 5120,
    ffn: 13_824,
    heads: 40,
    head_dim: 128,
    vocab: 32_000,
    rank: 16,
    parameters: 1 << 24,
};

const TINY: Sizes = Sizes {
    tokens: 16,
    hidden: 32,
    ffn: 48,
    heads: 2,
    head_dim: 16,
    vocab: 64,
    rank: 4,
    parameters: 1000,
};

/// What an operation does, to be divided by its time.
enum Work {
    /// Bytes read and written, at least.
    Bytes(f64),
    /// Products and sums.
    Flops(f64),
}

struct Bench<'a> {
    check: &'a Check<'a>,
    sizes: Sizes,
    /// Bytes a second, and FLOPs a second.
    ceilings: (Option<f64>, Option<f64>),
    figures: Vec<Figure>,
}

pub(super) fn speed_ops(check: &Check, before: &Record) -> Result<StageRecord> {
    let mut bench = Bench {
        check,
        sizes: if check.tiny { TINY } else { WHOLE },
        ceilings: ceilings::of(before),
        figures: Vec::new(),
    };
    bench.rows()?;
    bench.attention("one sequence", 1)?;
    bench.attention("16 sequences", 16)?;
    bench.products()?;
    bench.head()?;
    bench.optimizers()?;
    let without = bench.ceilings == (None, None);
    let record = StageRecord::measured("speed-ops", bench.figures);
    Ok(match without {
        true => record.because("without `ceilings` in the same record no shares are told"),
        false => record,
    })
}

impl Bench<'_> {
    fn tensor(&self, rows: usize, cols: usize, dtype: DType) -> Result<Tensor> {
        Ok(filled(rows * cols, dtype, self.check.place())?.reshape((rows, cols))?)
    }

    fn time(&mut self, what: &str, work: Work, call: impl FnMut() -> Result<()>) -> Result<()> {
        note(&format!("  {what}"));
        let timing = time(self.check.place(), self.check.tiny, call)?;
        self.figures
            .push(figure(what, &work, &timing, self.ceilings));
        Ok(())
    }

    /// Norm, rotary embedding, SwiGLU, sums of a residual.
    fn rows(&mut self) -> Result<()> {
        let s = self.sizes;
        let (t, d, f) = (s.tokens, s.hidden, s.ffn);
        // bf16: two bytes a number.
        let bytes = |numbers: usize| Work::Bytes(2.0 * numbers as f64);
        let x = self.tensor(t, d, DType::BF16)?;
        let dy = self.tensor(t, d, DType::BF16)?;
        let w = filled(d, DType::F32, self.check.place())?;
        self.time("rms_norm", bytes(2 * t * d), || {
            drop(kernels::rms_norm(&x, &w, 1e-5)?);
            Ok(())
        })?;
        self.time("rms_norm, forward and backward", bytes(5 * t * d), || {
            let (_, saved) = kernels::rms_norm(&x, &w, 1e-5)?;
            drop(kernels::rms_norm_backward(saved, &dy, false)?);
            Ok(())
        })?;
        let mut sum = self.tensor(t, d, DType::BF16)?;
        self.time("add_assign", bytes(3 * t * d), || {
            Ok(kernels::add_assign(&mut sum, &x)?)
        })?;
        self.time("rms_norm of a sum", bytes(4 * t * d), || {
            drop(kernels::rms_norm_of_sum(&mut sum, &x, &w, 1e-5)?);
            Ok(())
        })?;
        let positions: Vec<u32> = (0..t as u32).collect();
        let half = s.head_dim / 2;
        let inv_freq: Vec<f64> = (0..half)
            .map(|i| 1e4f64.powf(-(i as f64) / half as f64))
            .collect();
        let table = RopeTable::new(&positions, &inv_freq, 1.0, DType::BF16)?;
        let table = table.to_device(self.check.place())?;
        let mut q = self.tensor(t, s.heads * s.head_dim, DType::BF16)?;
        self.time("rope", bytes(2 * t * s.heads * s.head_dim), || {
            Ok(kernels::rope(&mut q, s.heads, &table, Direction::Forward)?)
        })?;
        let (gate, up) = (
            self.tensor(t, f, DType::BF16)?,
            self.tensor(t, f, DType::BF16)?,
        );
        let dy = self.tensor(t, f, DType::BF16)?;
        self.time("swiglu", bytes(3 * t * f), || {
            drop(kernels::swiglu(gate.clone(), up.clone())?);
            Ok(())
        })?;
        self.time("swiglu, forward and backward", bytes(8 * t * f), || {
            let (_, saved) = kernels::swiglu(gate.clone(), up.clone())?;
            drop(kernels::swiglu_backward(saved, &dy)?);
            Ok(())
        })
    }

    fn attention(&mut self, what: &str, sequences: usize) -> Result<()> {
        let s = self.sizes;
        let (t, width) = (s.tokens, s.heads * s.head_dim);
        let len = t / sequences;
        let segments: Vec<Segment> = (0..sequences)
            .map(|i| Segment {
                start: i * len,
                len,
                prefix: None,
            })
            .collect();
        let segments = Segments::new(&segments, t)?;
        let shape = AttentionShape {
            heads: s.heads,
            kv_heads: s.heads,
            head_dim: s.head_dim,
            scale: 1.0 / (s.head_dim as f64).sqrt(),
            window: None,
        };
        let [q, k, v, d_o] = [0; 4].map(|_| self.tensor(t, width, DType::BF16));
        let (q, k, v, d_o) = (q?, k?, v?, d_o?);
        let flops = attention_flops(sequences, len, width);
        self.time(&format!("attention, {what}"), Work::Flops(flops), || {
            drop(kernels::attention(&q, &k, &v, &segments, &shape)?);
            Ok(())
        })?;
        let what = format!("attention, {what}, forward and backward");
        self.time(&what, Work::Flops(3.5 * flops), || {
            let (_, saved) = kernels::attention(&q, &k, &v, &segments, &shape)?;
            drop(kernels::attention_backward(saved, &d_o)?);
            Ok(())
        })
    }

    /// A linear layer from a dense weight and from NF4, and an adapter's two thin products.
    fn products(&mut self) -> Result<()> {
        let s = self.sizes;
        let (t, d, f, r) = (s.tokens, s.hidden, s.ffn, s.rank);
        let x = self.tensor(t, d, DType::BF16)?;
        let flops = |n: usize| Work::Flops(2.0 * (t * d * n) as f64);
        let dense = Matrix::dense(self.tensor(f, d, DType::BF16)?);
        self.time("linear, gate, bf16", flops(f), || {
            drop(kernels::linear(&x, &dense)?);
            Ok(())
        })?;
        let dy = self.tensor(t, f, DType::BF16)?;
        self.time("linear_dx, gate, bf16", flops(f), || {
            drop(kernels::linear_dx(&dy, &dense)?);
            Ok(())
        })?;
        let (a, b) = (
            self.tensor(r, d, DType::F32)?,
            self.tensor(f, r, DType::F32)?,
        );
        let squares = RowSquares::of(&dense)?;
        let update = LowRankUpdate {
            a: &a,
            b: &b,
            scaling: 2.0,
        };
        let what = "lengths of rows under DoRA, gate, bf16";
        self.time(what, Work::Bytes(2.0 * (f * d) as f64), || {
            drop(kernels::row_norms(&dense, &squares, update)?);
            Ok(())
        })?;
        drop(dense);
        let host = filled(f * d, DType::F32, &kernels::Device::Cpu)?.reshape((f, d))?;
        let nf4 = Nf4::quantize(&Matrix::dense(host), true)?;
        let nf4 = Matrix::nf4(nf4, f, d)?.to_device(self.check.place(), DType::BF16)?;
        self.time("linear, gate, NF4", flops(f), || {
            drop(kernels::linear(&x, &nf4)?);
            Ok(())
        })?;
        let a = Matrix::dense(self.tensor(r, d, DType::BF16)?);
        self.time("linear, A of an adapter", flops(r), || {
            drop(kernels::linear(&x, &a)?);
            Ok(())
        })
    }

    fn head(&mut self) -> Result<()> {
        let s = self.sizes;
        let (t, d, v) = (s.tokens, s.hidden, s.vocab);
        let x = self.tensor(t, d, DType::BF16)?;
        let w = Matrix::dense(self.tensor(v, d, DType::BF16)?);
        let targets: Vec<u32> = (0..t as u32).map(|i| (i * 7919) % v as u32).collect();
        // The logits, and their gradient back to x.
        let work = Work::Flops(4.0 * t as f64 * d as f64 * v as f64);
        self.time("linear_cross_entropy with dx", work, || {
            drop(kernels::linear_cross_entropy(
                &x, &w, &targets, 1e-3, true, false,
            )?);
            Ok(())
        })
    }

    fn optimizers(&mut self) -> Result<()> {
        let n = self.sizes.parameters;
        let place = self.check.place();
        let settings = AdamW {
            learning_rate: 1e-6,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
            gradient_scale: 1.0,
        };
        let g = filled(n, DType::F32, place)?;
        let mut p = filled(n, DType::F32, place)?;
        let mut moments = Moments::plain(&p, DType::F32)?;
        // Weights and two moments are read and written, the gradient is read.
        self.time("adamw, f32", Work::Bytes(28.0 * n as f64), || {
            Ok(kernels::adamw_step(
                &mut p,
                &Keep::Exact,
                &g,
                &mut moments,
                &settings,
                1,
            )?)
        })?;
        let mut p = filled(n, DType::BF16, place)?;
        let g = filled(n, DType::BF16, place)?;
        let mut moments = Moments::blockwise(n, place)?;
        let keep = Keep::Stochastic(RoundingKey {
            seed: 1,
            step: 1,
            parameter: 1,
        });
        self.time(
            "adamw-8bit, bf16 rounded at random",
            Work::Bytes(10.0 * n as f64),
            || {
                Ok(kernels::adamw_step(
                    &mut p,
                    &keep,
                    &g,
                    &mut moments,
                    &settings,
                    1,
                )?)
            },
        )?;
        self.time("sum_of_squares", Work::Bytes(2.0 * n as f64), || {
            kernels::sum_of_squares(&g)?;
            Ok(())
        })
    }
}

/// Forward: each row with half of its sequence's rows, twice 2 FLOPs a number. Backward has five such products to its two.
fn attention_flops(sequences: usize, len: usize, width: usize) -> f64 {
    4.0 * sequences as f64 * (len as f64).powi(2) / 2.0 * width as f64
}

fn figure(
    what: &str,
    work: &Work,
    timing: &Timing,
    ceilings: (Option<f64>, Option<f64>),
) -> Figure {
    let (figure, ceiling, of) = match work {
        Work::Bytes(bytes) => {
            let rate = timing.rate(*bytes) / 1e9;
            (
                Figure::new(what, rate, "GB/s"),
                ceilings.0,
                "the copy's rate",
            )
        }
        Work::Flops(flops) => (
            tflops(what, *flops, timing),
            ceilings.1,
            "the product's rate",
        ),
    };
    let share = ceiling
        .filter(|ceiling| *ceiling > 0.0)
        .map_or(String::new(), |ceiling| {
            format!("{:.0} % of {of}; ", 100.0 * figure.value / ceiling)
        });
    let micros = 1e6 * timing.median;
    let note = format!("{share}{micros:.0} µs {}", timing.spread());
    figure.note(note)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_shown_beside_the_ceilings() {
        let timing = Timing::of(vec![1e-3, 1e-3, 1.1e-3]);
        let ceilings = (Some(4000.0), Some(800.0));
        let figures = [
            figure("a", &Work::Bytes(2e9), &timing, ceilings),
            figure("b", &Work::Flops(4e11), &timing, ceilings),
            figure("c", &Work::Flops(4e11), &timing, (None, None)),
        ];
        let lines: Vec<String> = figures
            .iter()
            .map(|f| format!("{} {} {}: {}", f.what, f.value, f.unit, f.note))
            .collect();
        insta::assert_snapshot!(lines.join("\n"), @"
        a 2000 GB/s: 50 % of the copy's rate; 1000 µs ± 5.0 %
        b 400 TFLOP/s: 50 % of the product's rate; 1000 µs ± 5.0 %
        c 400 TFLOP/s: 1000 µs ± 5.0 %
        ");
    }

    /// The formula of one layer's attention, 6 s h a token forward and backward over three passes' worth: 2 s h forward.
    #[test]
    fn attentions_flops_are_the_published_ones() {
        let (s, h) = (4096, 5120);
        let forward = 2.0 * (s * s * h) as f64;
        assert_eq!(attention_flops(1, s, h), forward);
        assert_eq!(attention_flops(16, s / 16, h), forward / 16.0);
    }
}
