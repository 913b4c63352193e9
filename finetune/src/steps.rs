//! Which samples each optimizer step reads: a pure function of the samples, the settings and the seed.

use datasets::random::shuffled;
use datasets::{Pack, Tokenized};

use crate::plan::BatchShape;
use crate::recipe::TrainSection;
use crate::{Error, Result};

/// The packs of one optimizer step.
pub struct Step {
    /// Passes over the training set at the end of this step.
    pub epoch: f64,
    /// Micro-batches, each of one or more packs.
    pub micro_batches: Vec<Vec<Pack>>,
}

/// The order of a whole training.
pub struct Steps<'a> {
    samples: &'a [Tokenized],
    max_seq_len: usize,
    packing: bool,
    share_prefixes: bool,
    shuffle: bool,
    seed: u64,
    micro_batch_size: usize,
    packs_a_step: usize,
    total: u64,
    largest: Largest,
}

/// The micro-batch that takes most memory.
#[derive(Debug, Clone, Copy, Default)]
struct Largest {
    /// The most tokens and the most targets of any, which need not be of the same one.
    shape: BatchShape,
    /// Where the one with most tokens is: epoch and number in it.
    at: (u64, usize),
}

/// Epochs that are looked through for the largest micro-batch: packing differs a little between them.
const EPOCHS_LOOKED_AT: u64 = 8;

impl<'a> Steps<'a> {
    /// Plans a training; errors where a sample is longer than a pack.
    pub fn new(
        samples: &'a [Tokenized],
        settings: &TrainSection,
        max_seq_len: usize,
        packing: bool,
        seed: u64,
    ) -> Result<Self> {
        let mut steps = Self {
            samples,
            max_seq_len,
            packing,
            share_prefixes: settings.share_prefixes,
            shuffle: settings.shuffle,
            seed,
            micro_batch_size: settings.micro_batch_size.packs(),
            packs_a_step: settings.packs_a_step(),
            total: 0,
            largest: Largest::default(),
        };
        if let Some(longest) = samples.iter().max_by_key(|s| s.input_ids.len())
            && longest.input_ids.len() > max_seq_len
        {
            return Err(Error::SampleTooLong {
                id: longest.id.clone(),
                tokens: longest.input_ids.len(),
                max_seq_len,
            });
        }
        steps.total = match settings.max_steps {
            Some(n) => {
                let mut seen = 0;
                for epoch in 0..EPOCHS_LOOKED_AT {
                    if seen >= n || samples.is_empty() {
                        break;
                    }
                    seen += steps.look_through(epoch);
                }
                n
            }
            None => {
                let whole = settings.epochs.floor() as u64;
                let mut total = 0;
                for epoch in 0..whole {
                    total += steps.look_through(epoch);
                }
                let part = settings.epochs - whole as f64;
                if part > 0.0 {
                    total += (steps.look_through(whole) as f64 * part).ceil() as u64;
                }
                total
            }
        };
        Ok(steps)
    }

    /// The most tokens and the most targets of any micro-batch.
    pub fn largest(&self) -> BatchShape {
        self.largest.shape
    }

    /// The micro-batch with most tokens.
    pub fn largest_micro_batch(&self) -> Vec<Pack> {
        let (epoch, number) = self.largest.at;
        let packs = self.packs(epoch);
        let packs = packs.chunks(self.micro_batch_size).nth(number);
        packs.map(<[Pack]>::to_vec).unwrap_or_default()
    }

    /// Optimizer steps in all.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The steps after the first `done` ones.
    pub fn after(&self, done: u64) -> impl Iterator<Item = Step> + '_ {
        let mut epoch = 0;
        let mut in_epoch = Vec::new().into_iter();
        let mut at = 0;
        std::iter::from_fn(move || {
            loop {
                if at >= self.total {
                    return None;
                }
                let Some(step) = in_epoch.next() else {
                    in_epoch = self.epoch(epoch).into_iter();
                    epoch += 1;
                    continue;
                };
                at += 1;
                if at > done {
                    return Some(step);
                }
            }
        })
    }

    fn epoch(&self, epoch: u64) -> Vec<Step> {
        let packs = self.packs(epoch);
        let count = packs.len().div_ceil(self.packs_a_step);
        packs
            .chunks(self.packs_a_step)
            .enumerate()
            .map(|(i, packs)| Step {
                epoch: epoch as f64 + (i + 1) as f64 / count as f64,
                micro_batches: packs
                    .chunks(self.micro_batch_size)
                    .map(<[Pack]>::to_vec)
                    .collect(),
            })
            .collect()
    }

    /// Counts an epoch's steps, and remembers its largest micro-batch.
    fn look_through(&mut self, epoch: u64) -> u64 {
        let packs = self.packs(epoch);
        for (number, packs) in packs.chunks(self.micro_batch_size).enumerate() {
            let tokens = packs.iter().map(Pack::len).sum();
            let shape = &mut self.largest.shape;
            if tokens > shape.tokens {
                shape.tokens = tokens;
                self.largest.at = (epoch, number);
            }
            shape.targets = shape
                .targets
                .max(packs.iter().map(Pack::target_tokens).sum());
        }
        packs.len().div_ceil(self.packs_a_step) as u64
    }

    /// Packs of one epoch. Which samples share a pack changes from epoch to epoch; a pack's place is shuffled too,
    /// since packing sorts by length. Without shuffling every epoch has the same packs, filled from samples in the
    /// order of the data.
    fn packs(&self, epoch: u64) -> Vec<Pack> {
        let order = self.order(self.samples.len(), 2 * epoch);
        if !self.packing {
            return order
                .iter()
                .map(|i| Pack::single(&self.samples[*i]))
                .collect();
        }
        let packs: Vec<Pack> = order
            .chunks(datasets::pack::WINDOW)
            .flat_map(|window| {
                let samples: Vec<Tokenized> =
                    window.iter().map(|i| self.samples[*i].clone()).collect();
                if self.share_prefixes {
                    datasets::pack_sharing_prefixes(&samples, self.max_seq_len)
                } else {
                    datasets::pack(&samples, self.max_seq_len)
                }
            })
            .collect();
        let mut slots: Vec<Option<Pack>> = packs.into_iter().map(Some).collect();
        self.order(slots.len(), 2 * epoch + 1)
            .into_iter()
            .map(|i| slots[i].take().expect("an order names each pack once"))
            .collect()
    }

    /// 0..n as they are read: drawn from the seed and a stream of it, or as they are.
    fn order(&self, n: usize, stream: u64) -> Vec<usize> {
        if self.shuffle {
            shuffled(n, self.seed, stream)
        } else {
            (0..n).collect()
        }
    }
}
