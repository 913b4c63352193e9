//! Whether a training fits its device, and what the recipe left open: decided once, before anything is loaded.

use std::path::Path;

use datasets::Tokenized;
use serde::{Deserialize, Serialize};

use crate::plan::{BatchShape, PlanInput, TrainPlan, plan};
use crate::recipe::{MicroBatchSize, Recompute, TrainSection};
use crate::steps::Steps;
use crate::{Error, Result};

/// A micro-batch of this many tokens keeps any device busy: a larger one only takes memory.
const ENOUGH_TOKENS: usize = 16 * 1024;

/// What is fixed before a training.
#[derive(Debug, Clone)]
pub struct Fitted {
    /// The settings, with every `"auto"` resolved.
    pub settings: TrainSection,
    /// What they need.
    pub plan: TrainPlan,
}

/// The samples and how they become micro-batches.
#[derive(Clone, Copy)]
pub struct FitSamples<'a> {
    /// Training samples.
    pub samples: &'a [Tokenized],
    /// Longest pack, in tokens.
    pub max_seq_len: usize,
    /// Several samples a pack, or one.
    pub packing: bool,
    /// Seed of data order.
    pub seed: u64,
}

/// What was chosen for `"auto"`, as it lies in the run's folder: a run that goes on, on another machine too, keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Resolved {
    recompute: Recompute,
    micro_batch_size: MicroBatchSize,
}

/// Resolves what the recipe left open and plans the training for `usable_bytes` of memory; refuses one that does not
/// fit. `input.batch` is not read: the micro-batches are those of `data`. `file` keeps the choice.
pub fn fit(input: &PlanInput, data: FitSamples, usable_bytes: u64, file: &Path) -> Result<Fitted> {
    let mut settings = input.settings.clone();
    let open =
        settings.recompute == Recompute::Auto || settings.micro_batch_size == MicroBatchSize::Auto;
    if open {
        let resolved = match read(file)? {
            Some(resolved) => resolved,
            None => {
                let one = TrainSection {
                    micro_batch_size: MicroBatchSize::Packs(1),
                    ..settings.clone()
                };
                let single = Steps::new(
                    data.samples,
                    &one,
                    data.max_seq_len,
                    data.packing,
                    data.seed,
                )?;
                let resolved = choose(input, single.largest(), usable_bytes);
                let json = serde_json::to_vec_pretty(&resolved).expect("two words are JSON");
                ledger::files::write_atomic(file, &json)?;
                resolved
            }
        };
        settings = apply(&settings, resolved);
    }
    let steps = Steps::new(
        data.samples,
        &settings,
        data.max_seq_len,
        data.packing,
        data.seed,
    )?;
    let plan = plan(&PlanInput {
        settings: &settings,
        batch: steps.largest(),
        ..input.clone()
    });
    refuse_too_large(&plan, usable_bytes)?;
    Ok(Fitted { settings, plan })
}

fn read(file: &Path) -> Result<Option<Resolved>> {
    let text = match std::fs::read(file) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(Error::Io {
                path: file.to_owned(),
                source,
            });
        }
    };
    let resolved = serde_json::from_slice(&text).map_err(|e| Error::Io {
        path: file.to_owned(),
        source: std::io::Error::new(std::io::ErrorKind::InvalidData, e),
    })?;
    Ok(Some(resolved))
}

fn apply(settings: &TrainSection, resolved: Resolved) -> TrainSection {
    let packs = settings.packs_a_step();
    TrainSection {
        recompute: resolved.recompute,
        micro_batch_size: resolved.micro_batch_size,
        gradient_accumulation_steps: packs / resolved.micro_batch_size.packs().max(1),
        ..settings.clone()
    }
}

/// As [`fit`], before there are samples: for packs of this shape. Keeps no choice and refuses nothing.
pub fn fit_packs(input: &PlanInput, pack: BatchShape, usable_bytes: u64) -> TrainPlan {
    planned(input, pack, choose(input, pack, usable_bytes))
}

/// The plan of a choice, for packs of this shape.
fn planned(input: &PlanInput, pack: BatchShape, resolved: Resolved) -> TrainPlan {
    let size = resolved.micro_batch_size.packs();
    plan(&PlanInput {
        settings: &apply(input.settings, resolved),
        batch: BatchShape {
            tokens: pack.tokens * size,
            targets: pack.targets * size,
            longest: pack.longest,
        },
        ..input.clone()
    })
}

/// The least recomputation, and with it the largest micro-batch, that fits; where nothing does, what needs least. What the
/// settings say stays as it is.
fn choose(input: &PlanInput, pack: BatchShape, usable_bytes: u64) -> Resolved {
    let asked = input.settings;
    let policies: &[Recompute] = match asked.recompute {
        Recompute::Auto => &[Recompute::None, Recompute::Selective, Recompute::Full],
        _ => std::slice::from_ref(&asked.recompute),
    };
    let packs = asked.packs_a_step();
    let sizes: Vec<usize> = match asked.micro_batch_size {
        MicroBatchSize::Packs(n) => vec![n],
        MicroBatchSize::Auto => (1..=packs)
            .rev()
            .filter(|n| packs.is_multiple_of(*n) && (*n == 1 || n * pack.tokens <= ENOUGH_TOKENS))
            .collect(),
    };
    let mut least = Resolved {
        recompute: Recompute::None,
        micro_batch_size: MicroBatchSize::Packs(1),
    };
    for recompute in policies {
        for size in &sizes {
            least = Resolved {
                recompute: *recompute,
                micro_batch_size: MicroBatchSize::Packs(*size),
            };
            if planned(input, pack, least).peak_bytes <= usable_bytes {
                return least;
            }
        }
    }
    least
}

/// Refuses a plan that needs more than there is.
fn refuse_too_large(plan: &TrainPlan, usable_bytes: u64) -> Result<()> {
    if plan.peak_bytes <= usable_bytes {
        return Ok(());
    }
    let largest = plan.memory.iter().max_by_key(|part| part.bytes);
    let (largest_part, largest_bytes) =
        largest.map_or(("nothing", 0), |part| (part.part, part.bytes));
    Err(Error::WontFit {
        needed: plan.peak_bytes,
        free: usable_bytes,
        largest_part,
        largest_bytes,
    })
}
