//! The order in which a training reads its samples.

use std::collections::BTreeSet;

use datasets::Tokenized;
use finetune::Steps;
use finetune::recipe::{MicroBatchSize, TrainSection};

/// Seven samples of unequal lengths.
fn samples() -> Vec<Tokenized> {
    [5, 3, 11, 2, 7, 4, 9]
        .iter()
        .enumerate()
        .map(|(i, len)| Tokenized {
            id: format!("s{i}"),
            sample: i as u64,
            input_ids: vec![i as u32 + 1; *len],
            loss_mask: (0..*len).map(|t| t > 0).collect(),
        })
        .collect()
}

/// The samples of each micro-batch's packs, of each step.
fn order(shuffle: bool, packing: bool, seed: u64) -> Vec<Vec<Vec<Vec<u64>>>> {
    let settings = TrainSection {
        epochs: 2.0,
        shuffle,
        micro_batch_size: MicroBatchSize::Packs(2),
        gradient_accumulation_steps: 2,
        ..Default::default()
    };
    let samples = samples();
    let steps = Steps::new(&samples, &settings, 12, packing, seed).unwrap();
    let of_pack = |pack: &datasets::Pack| pack.segments.iter().map(|s| s.sample).collect();
    let of_batch = |batch: &Vec<datasets::Pack>| batch.iter().map(of_pack).collect();
    steps
        .after(0)
        .map(|step| step.micro_batches.iter().map(of_batch).collect())
        .collect()
}

#[test]
fn without_shuffling_samples_come_in_the_order_of_the_data_in_every_epoch() {
    let epoch = vec![
        vec![vec![vec![0], vec![1]], vec![vec![2], vec![3]]],
        vec![vec![vec![4], vec![5]], vec![vec![6]]],
    ];
    assert_eq!(order(false, false, 1), [epoch.clone(), epoch].concat());
    assert_eq!(order(false, false, 1), order(false, false, 2));
}

#[test]
fn without_shuffling_every_epoch_has_the_same_packs() {
    let steps = order(false, true, 1);
    let (first, second) = steps.split_at(steps.len() / 2);
    assert_eq!(first, second);
    let read: BTreeSet<u64> = first
        .iter()
        .flatten()
        .flatten()
        .flatten()
        .copied()
        .collect();
    assert_eq!(read, (0..7).collect());
}

#[test]
fn shuffling_follows_the_seed_and_the_epoch() {
    let steps = order(true, false, 1);
    assert_ne!(steps[..2], steps[2..]);
    assert_ne!(steps, order(true, false, 2));
    assert_eq!(steps, order(true, false, 1));
}
