//! What the timed models read: a pack of random tokens, as one full-length sequence or as an instruction set fills it.

use std::f64::consts::TAU;

use datasets::{Batch, Pack, Tokenized};

use super::record::Figure;

/// How a pack is filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filling {
    /// One sequence, every token of it a target but the first: what other programs' rates are told of.
    OneSequence,
    /// Short sequences whose prompts are no targets. Lengths and shares are drawn from distributions that are written
    /// down here, not measured on any data set: see [`instructions`].
    Instructions,
}

/// A sequence of a pack. What it reads first is no target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sequence {
    pub tokens: usize,
    pub prompt: usize,
}

/// Of a sequence's length: the median, and the standard deviation of its logarithm. Questions with answers and dialogues
/// are short, and a tail is of documents to be summarised.
const MEDIAN: f64 = 256.0;
const SIGMA: f64 = 0.9;
/// Fewest tokens of a sequence.
const SHORTEST: f64 = 16.0;
/// Smallest and largest share that the prompt takes.
const PROMPTS: [f64; 2] = [0.2, 0.8];
/// The pack that these numbers are of; they shrink with it.
const PACK: f64 = 4096.0;
/// Every check times the same lengths.
const SEED: u64 = 214;

/// Knuth's linear congruential generator; its upper bits are random enough for tokens.
struct Stream(u64);

impl Stream {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// In (0, 1).
    fn share(&mut self) -> f64 {
        (self.next() as f64 + 0.5) / (1u64 << 31) as f64
    }

    /// Of the normal distribution (Box and Muller).
    fn normal(&mut self) -> f64 {
        (-2.0 * self.share().ln()).sqrt() * (TAU * self.share()).cos()
    }
}

impl Filling {
    /// The sequences of a pack of so many tokens, which they fill.
    pub(super) fn sequences(self, tokens: usize) -> Vec<Sequence> {
        match self {
            Self::OneSequence => vec![Sequence { tokens, prompt: 1 }],
            Self::Instructions => instructions(tokens),
        }
    }
}

/// Log-normal lengths, the last one cut to what is left, and prompts that take an evenly distributed share of each.
fn instructions(tokens: usize) -> Vec<Sequence> {
    let mut stream = Stream(SEED);
    let scale = tokens as f64 / PACK;
    let shortest = (SHORTEST * scale).max(6.0) as usize;
    let mut sequences = Vec::new();
    let mut left = tokens;
    while left > 0 {
        let drawn = MEDIAN * scale * (SIGMA * stream.normal()).exp();
        let share = PROMPTS[0] + (PROMPTS[1] - PROMPTS[0]) * stream.share();
        let mut tokens = (drawn as usize)
            .clamp(shortest, left.max(shortest))
            .min(left);
        if left - tokens < shortest {
            tokens = left;
        }
        left -= tokens;
        let prompt = (share * tokens as f64).round() as usize;
        sequences.push(Sequence {
            tokens,
            prompt: prompt.clamp(1, tokens.saturating_sub(1).max(1)),
        });
    }
    sequences
}

/// The batch of one pack of them, of tokens below `vocab`.
pub(super) fn batch(sequences: &[Sequence], vocab: usize, seed: u64) -> Batch {
    let mut stream = Stream(seed | 1);
    let mut pack = Pack::default();
    for (sample, sequence) in sequences.iter().enumerate() {
        let ids = (0..sequence.tokens).map(|_| (stream.next() % vocab as u64) as u32);
        pack.push(&Tokenized {
            id: format!("random {sample}"),
            sample: sample as u64,
            input_ids: ids.collect(),
            loss_mask: (0..sequence.tokens).map(|i| i >= sequence.prompt).collect(),
        });
    }
    Batch::from_packs([&pack])
}

/// Bounds of the lengths that are told apart.
const LENGTHS: [usize; 3] = [128, 512, 2048];

/// What the sequences are: shares of the pack's tokens by length, and of targets.
pub(super) fn figures(sequences: &[Sequence]) -> Vec<Figure> {
    let total: usize = sequences.iter().map(|s| s.tokens).sum();
    let percent = |tokens: usize| 100.0 * tokens as f64 / total.max(1) as f64;
    let count = Figure::new("sequences of a pack", sequences.len() as f64, "").note(format!(
        "drawn, of no data set: log-normal, median {MEDIAN} of {PACK} tokens, sigma {SIGMA}"
    ));
    let mut figures = vec![count];
    let mut above = 0;
    for bound in LENGTHS.into_iter().map(Some).chain([None]) {
        let within = |s: &&Sequence| s.tokens > above && bound.is_none_or(|b| s.tokens <= b);
        let tokens = sequences.iter().filter(within).map(|s| s.tokens).sum();
        let what = match bound {
            Some(bound) => format!("tokens in sequences of {} to {bound}", above + 1),
            None => format!("tokens in longer sequences than {above}"),
        };
        figures.push(Figure::new(what, percent(tokens), "%"));
        above = bound.unwrap_or(above);
    }
    let targets = sequences.iter().map(|s| s.tokens - s.prompt).sum();
    let [least, most] = PROMPTS.map(|share| 100.0 * share);
    let note = format!("prompts, {least} to {most} % of a sequence, are none");
    figures.push(Figure::new("target tokens", percent(targets), "%").note(note));
    figures
}

#[cfg(test)]
mod tests {
    use super::super::table::number;
    use super::*;

    #[test]
    fn sequences_fill_their_pack() {
        for tokens in [48, 1000, 4096, 16_384] {
            for filling in [Filling::OneSequence, Filling::Instructions] {
                let sequences = filling.sequences(tokens);
                assert_eq!(sequences.iter().map(|s| s.tokens).sum::<usize>(), tokens);
                assert!(sequences.iter().all(|s| (1..s.tokens).contains(&s.prompt)));
                let batch = batch(&sequences, 123, 9);
                assert_eq!(batch.input_ids.len(), tokens);
                assert!(batch.input_ids.iter().all(|id| *id < 123));
                let targets: usize = sequences.iter().map(|s| s.tokens - s.prompt).sum();
                assert_eq!(batch.target_tokens(), targets);
            }
        }
        assert!(Filling::Instructions.sequences(48).len() > 1);
    }

    #[test]
    fn normals_are_distributed_as_such() {
        let mut stream = Stream(3);
        let mut normals: Vec<f64> = (0..20_001).map(|_| stream.normal()).collect();
        normals.sort_by(f64::total_cmp);
        let at = |share: f64| normals[(share * 20_000.0) as usize];
        for (share, expected) in [(0.1, -1.2816), (0.5, 0.0), (0.9, 1.2816)] {
            assert!(
                (at(share) - expected).abs() < 0.05,
                "{share}: {}",
                at(share)
            );
        }
    }

    #[test]
    fn what_is_timed_is_told() {
        let lines: Vec<String> = figures(&Filling::Instructions.sequences(4096))
            .iter()
            .map(|f| format!("{}: {} {} {}", f.what, number(f.value), f.unit, f.note))
            .map(|line| line.trim_end().to_owned())
            .collect();
        insta::assert_snapshot!(lines.join("\n"), @"
        sequences of a pack: 14.00  drawn, of no data set: log-normal, median 256 of 4096 tokens, sigma 0.9
        tokens in sequences of 1 to 128: 6.592 %
        tokens in sequences of 129 to 512: 62.70 %
        tokens in sequences of 513 to 2048: 30.71 %
        tokens in longer sequences than 2048: 0 %
        target tokens: 46.34 % prompts, 20 to 80 % of a sequence, are none
        ");
    }
}
