//! The logit part of a merge's proof: base + adapter and the merged model answer alike.
//!
//! The tensor part, in `adapters`, holds every weight to the last rounding step. This part goes the other way round: it
//! would notice what no comparison of tensors can, such as a config or a tied head that makes the same weights
//! compute something else.

use adapters::Weights;
use candle_core::DType;
use datasets::random::Draws;
use datasets::{Batch, Pack, Tokenized};
use serde::Serialize;

use crate::Result;
use crate::decoder::Decoder;
use crate::generate::argmax;

/// Probe sequences, and tokens in each: enough positions to see a wrong weight, few enough to take a second.
const PROBES: u64 = 4;
const PROBE_TOKENS: u64 = 24;

/// What asking both models the same probes found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LogitProof {
    /// Positions compared.
    pub positions: usize,
    /// Largest absolute difference of a logit.
    pub max_difference: f64,
    /// Largest absolute logit, to read the difference by.
    pub largest_logit: f64,
    /// Share of positions at which both models' first choice is the same.
    pub top1_agreement: f64,
    /// The difference that rounding the merged weights can make, relative to the largest logit.
    pub tolerance: f64,
}

impl LogitProof {
    /// Whether the difference is no more than rounding makes.
    pub fn holds(&self) -> bool {
        self.max_difference <= self.tolerance * self.largest_logit
    }

    /// What is wrong, where the proof does not hold.
    pub fn problem(&self) -> Option<String> {
        (!self.holds()).then(|| {
            format!(
                "the merged model's logits differ from base + adapter's by {:.3} where the largest is {:.3} (top-1 agreement {:.1} % of {} positions)",
                self.max_difference,
                self.largest_logit,
                100.0 * self.top1_agreement,
                self.positions
            )
        })
    }
}

/// A decoder, and the weights that it reads: each layer's are let go of when it is done, so that a model larger than
/// memory can be asked.
#[derive(Clone, Copy)]
pub struct Probed<'a> {
    /// The model.
    pub decoder: &'a Decoder,
    /// Where its weights lie.
    pub weights: &'a Weights,
}

impl Probed<'_> {
    /// Logits (T, V) of every position.
    fn logits(&self, batch: &Batch) -> Result<Vec<Vec<f32>>> {
        let mut done = |layer| self.weights.release(&format!("model.layers.{layer}."));
        let logits = self.decoder.logits_by_layer(batch, &mut done)?;
        Ok(logits.to_dtype(DType::F32)?.to_vec2()?)
    }
}

/// Asks both models fixed pseudo-random token sequences. `stored` is the dtype of the merged weights: each was rounded
/// once, by at most half its rounding step, and sixteen steps leave room for those errors to add up over the layers.
pub fn compare_logits(base: Probed, merged: Probed, stored: DType) -> Result<LogitProof> {
    let rounding_step = match stored {
        DType::BF16 => 2f64.powi(-7),
        DType::F16 => 2f64.powi(-10),
        _ => 2f64.powi(-23),
    };
    let mut proof = LogitProof {
        positions: 0,
        max_difference: 0.0,
        largest_logit: 0.0,
        top1_agreement: 0.0,
        tolerance: (16.0 * rounding_step).max(1e-3),
    };
    let vocab = |of: Probed| of.decoder.config().vocab_size as u64;
    let batch = probes(vocab(base).min(vocab(merged)));
    let mut agreeing = 0;
    for (a, b) in base.logits(&batch)?.iter().zip(&merged.logits(&batch)?) {
        proof.positions += 1;
        agreeing += usize::from(argmax(a) == argmax(b));
        for (a, b) in a.iter().zip(b) {
            // NaN must not pass as "no larger than".
            let difference = if (a - b).is_nan() {
                f64::INFINITY
            } else {
                (a - b).abs() as f64
            };
            proof.max_difference = proof.max_difference.max(difference);
            proof.largest_logit = proof.largest_logit.max(a.abs() as f64);
        }
    }
    proof.top1_agreement = agreeing as f64 / proof.positions as f64;
    Ok(proof)
}

/// The probe sequences, together in one batch: each layer's weights are read once.
fn probes(vocab: u64) -> Batch {
    let draws = Draws::new(0, "logit proof");
    let packs: Vec<Pack> = (0..PROBES)
        .map(|probe| {
            let input_ids: Vec<u32> = (0..PROBE_TOKENS)
                .map(|i| (draws.at(probe * PROBE_TOKENS + i) % vocab) as u32)
                .collect();
            Pack::single(&Tokenized {
                id: format!("probe {probe}"),
                sample: probe,
                loss_mask: vec![false; input_ids.len()],
                input_ids,
            })
        })
        .collect();
    Batch::from_packs(&packs)
}
