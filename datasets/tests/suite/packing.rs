//! What packing may never do: lose a token, let samples touch, or depend on
//! anything but its arguments.

use std::collections::BTreeMap;

use datasets::random::Draws;
use datasets::{Batch, Pack, Tokenized, WINDOW, pack, pack_documents, pack_sharing_prefixes};

/// Samples of uneven lengths, 1 to `longest`, every token different.
fn samples(n: usize, longest: u64, seed: u64) -> Vec<Tokenized> {
    let draws = Draws::new(seed, "test");
    let mut next = 0;
    let sample = |i: usize| {
        let length = 1 + (draws.at(i as u64) % longest) as usize;
        let input_ids: Vec<u32> = (0..length as u32).map(|t| next + t).collect();
        next += length as u32;
        let loss_mask = (0..length).map(|t| t > length / 2).collect();
        Tokenized {
            id: format!("s/{i}"),
            sample: i as u64,
            input_ids,
            loss_mask,
        }
    };
    (0..n).map(sample).collect()
}

fn check(samples: &[Tokenized], packs: &[Pack], max_seq_len: usize) {
    let mut seen = BTreeMap::new();
    for pack in packs {
        assert!(
            pack.len() <= max_seq_len || pack.segments.len() == 1,
            "only what is too long alone"
        );
        let lengths = [
            pack.loss_mask.len(),
            pack.positions.len(),
            pack.segments.iter().map(|s| s.len).sum(),
        ];
        assert_eq!(lengths, [pack.len(); 3]);
        let mut end = 0;
        for segment in &pack.segments {
            assert_eq!(
                (segment.start, segment.prefix),
                (end, None),
                "segments follow each other"
            );
            end += segment.len;
            let run = segment.range();
            assert!(
                pack.positions[run.clone()]
                    .iter()
                    .copied()
                    .eq(0..segment.len as u32),
                "positions restart"
            );
            let tokens = (
                pack.input_ids[run.clone()].to_vec(),
                pack.loss_mask[run].to_vec(),
            );
            assert!(
                seen.insert(segment.sample, tokens).is_none(),
                "packed twice"
            );
        }
    }
    assert_eq!(seen.len(), samples.len(), "nothing lost");
    for sample in samples {
        assert_eq!(
            seen[&sample.sample],
            (sample.input_ids.clone(), sample.loss_mask.clone())
        );
    }
}

#[test]
fn nothing_is_lost_and_nothing_crosses() {
    for (n, longest, max_seq_len) in [
        (0, 9, 16),
        (1, 9, 16),
        (7, 16, 16),
        (300, 64, 64),
        (2500, 90, 128),
        (40, 30, 8),
    ] {
        for seed in 0..3 {
            let samples = samples(n, longest, seed);
            let packs = pack(&samples, max_seq_len);
            check(&samples, &packs, max_seq_len);
            assert_eq!(packs, pack(&samples, max_seq_len));
        }
    }
}

#[test]
fn a_window_is_packed_densely_and_alone() {
    let samples = samples(2 * WINDOW, 100, 5);
    let packs = pack(&samples, 256);
    let tokens: usize = samples.iter().map(Tokenized::len).sum();
    assert!(tokens as f64 / (packs.len() * 256) as f64 > 0.97);
    let (first, second) = samples.split_at(WINDOW);
    assert_eq!(packs, [pack(first, 256), pack(second, 256)].concat());
}

#[test]
fn a_batch_scores_each_target_from_the_row_before_it() {
    let samples = samples(60, 12, 2);
    let packs = pack(&samples, 32);
    let batch = Batch::from_packs(&packs);
    let (rows, targets) = batch.rows_with_targets();
    assert_eq!(rows.len(), batch.target_tokens());
    assert_eq!(
        batch.target_tokens(),
        samples.iter().map(Tokenized::target_tokens).sum::<usize>()
    );
    for (&row, &target) in rows.iter().zip(&targets) {
        assert_eq!(batch.input_ids[row + 1], target);
        assert_eq!(
            batch.positions[row + 1],
            batch.positions[row] + 1,
            "within one segment"
        );
    }
    assert_eq!(batch.len(), packs.iter().map(Pack::len).sum::<usize>());
}

#[test]
fn a_first_token_is_a_target_only_behind_a_prefix() {
    let mut pack = Pack::default();
    let other = pack.push_segment(&[1, 2], &[true, true], 0, None);
    assert_eq!(
        (other, pack.loss_mask[0]),
        (0, false),
        "nothing predicts it"
    );
    let prompt = pack.push_segment(&[10, 11, 12], &[false; 3], 1, None);
    pack.push_segment(&[20, 21], &[true, true], 1, Some(prompt));
    pack.push_segment(&[30], &[true], 1, Some(prompt));
    assert_eq!(pack.positions, [0, 1, 0, 1, 2, 3, 4, 3]);

    // Twice in one batch: segments and tokens are counted on.
    let batch = Batch::from_packs([&pack, &pack]);
    let prefixes: Vec<_> = batch.segments.iter().map(|s| s.prefix).collect();
    assert_eq!(
        prefixes,
        [None, None, Some(1), Some(1), None, None, Some(5), Some(5)]
    );
    let (rows, targets) = batch.rows_with_targets();
    // Both answers' first tokens are predicted by the prompt's last row.
    assert_eq!(rows, [0, 4, 5, 4, 8, 12, 13, 12]);
    assert_eq!(targets, [2, 20, 21, 30, 2, 20, 21, 30]);
    assert_eq!(rows.len(), batch.target_tokens());
}

#[test]
#[should_panic(expected = "a prefix has no prefix of its own")]
fn prefixes_do_not_chain() {
    let mut pack = Pack::default();
    let first = pack.push_segment(&[1], &[false], 0, None);
    let second = pack.push_segment(&[2], &[true], 0, Some(first));
    pack.push_segment(&[3], &[true], 0, Some(second));
}

#[test]
fn documents_fill_blocks_to_the_last_token() {
    let documents = [vec![1, 2, 3], vec![], vec![4], vec![5, 6, 7, 8, 9]];
    let flat = [1, 2, 3, 0, 0, 4, 0, 5, 6, 7, 8, 9, 0];
    for block in 3..16 {
        let blocks = pack_documents(&documents, 0, block);
        let joined: Vec<u32> = blocks.iter().flat_map(|b| b.input_ids.clone()).collect();
        assert_eq!(joined, flat);
        let lengths: Vec<usize> = blocks.iter().map(|b| b.len()).collect();
        let (last, full) = lengths.split_last().unwrap();
        let gave = usize::from(flat.len() % block == 1);
        assert!(full.iter().rev().skip(1).all(|&length| length == block));
        assert!(full.last().is_none_or(|&length| length == block - gave));
        assert!((2..=block).contains(last));
        for (i, block) in blocks.iter().enumerate() {
            assert_eq!(block.sample, i as u64);
            assert_eq!(
                block.target_tokens(),
                block.len() - 1,
                "all but the first, which nothing predicts"
            );
            assert!(!block.loss_mask[0]);
        }
    }
    assert_eq!(pack_documents(Vec::<Vec<u32>>::new(), 0, 8), []);
}

/// Samples of four tasks: each begins with its task's instruction, of which one is short, and goes on in its own way; every
/// fifth stands alone.
fn samples_of_tasks(n: usize) -> Vec<Tokenized> {
    let draws = Draws::new(4, "tasks");
    let sample = |i: usize| {
        let instruction = [40, 24, 33, 7][i % 4];
        let own = 3 + (draws.at(i as u64) % 30) as usize;
        let first = if i.is_multiple_of(5) {
            900 + i as u32
        } else {
            10 * (i % 4) as u32
        };
        let input_ids: Vec<u32> = (0..instruction as u32)
            .map(|t| first + t % 9)
            .chain((0..own as u32).map(|t| 2000 + 100 * i as u32 + t))
            .collect();
        Tokenized {
            id: format!("s/{i}"),
            sample: i as u64,
            loss_mask: (0..input_ids.len())
                .map(|t| t >= instruction + own / 2)
                .collect(),
            input_ids,
        }
    };
    (0..n).map(sample).collect()
}

#[test]
fn shared_prefixes_are_read_once_and_nothing_is_lost() {
    let samples = samples_of_tasks(103);
    let packs = pack_sharing_prefixes(&samples, 128);
    let mut seen = BTreeMap::new();
    for pack in &packs {
        assert!(pack.len() <= 128);
        let continued: Vec<usize> = pack.segments.iter().filter_map(|s| s.prefix).collect();
        for (number, segment) in pack.segments.iter().enumerate() {
            if continued.contains(&number) {
                assert!(
                    segment.range().all(|i| !pack.loss_mask[i]),
                    "a shared token is no target"
                );
                continue;
            }
            let before = segment
                .prefix
                .map_or(0..0, |prefix| pack.segments[prefix].range());
            let all: Vec<usize> = before.chain(segment.range()).collect();
            let tokens: Vec<u32> = all.iter().map(|i| pack.input_ids[*i]).collect();
            let mask: Vec<bool> = all.iter().map(|i| pack.loss_mask[*i]).collect();
            let positions: Vec<u32> = all.iter().map(|i| pack.positions[*i]).collect();
            assert!(
                positions.iter().copied().eq(0..tokens.len() as u32),
                "positions go on"
            );
            assert!(seen.insert(segment.sample, (tokens, mask)).is_none());
        }
    }
    for sample in &samples {
        assert_eq!(
            seen[&sample.sample],
            (sample.input_ids.clone(), sample.loss_mask.clone())
        );
    }
    let read: usize = packs.iter().map(Pack::len).sum();
    let all: usize = samples.iter().map(Tokenized::len).sum();
    // Three tasks of four have an instruction worth sharing, and packs hold several samples of each.
    assert!(read * 10 < all * 8, "{read} of {all} tokens");
    assert_eq!(packs, pack_sharing_prefixes(&samples, 128));
}
