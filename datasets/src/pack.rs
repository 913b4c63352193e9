//! Puts several samples in one row of tokens, so that none of them is padding.

use crate::tokens::{Pack, Tokenized};

/// How many samples are placed together. First-fit decreasing over the whole
/// set would be a little denser, but a window keeps memory flat for any number
/// of samples and keeps what is packed together near each other in the order
/// the caller chose (its shuffle), so long and short samples stay mixed.
pub const WINDOW: usize = 1024;

/// Packs samples by first-fit decreasing within windows of [`WINDOW`]: every
/// sample is in exactly one pack, whole, as a segment of its own, and the
/// result depends on nothing but the samples and their order.
///
/// A sample longer than `max_seq_len` gets a pack to itself; tokenizing has
/// already dealt with what is too long.
pub fn pack(samples: &[Tokenized], max_seq_len: usize) -> Vec<Pack> {
    samples
        .chunks(WINDOW)
        .flat_map(|window| pack_window(window, max_seq_len))
        .collect()
}

fn pack_window(window: &[Tokenized], max_seq_len: usize) -> Vec<Pack> {
    let mut order: Vec<&Tokenized> = window.iter().filter(|sample| !sample.is_empty()).collect();
    // Stable: samples of one length stay in the caller's order.
    order.sort_by_key(|sample| std::cmp::Reverse(sample.len()));
    let mut packs: Vec<Pack> = Vec::new();
    for sample in order {
        let room = |pack: &&mut Pack| pack.len() + sample.len() <= max_seq_len;
        match packs.iter_mut().find(room) {
            Some(pack) => pack.push(sample),
            None => packs.push(Pack::single(sample)),
        }
    }
    packs
}

/// Tokens that samples must have in common at their start to share them.
const SHARED_TOKENS: usize = 16;

/// As [`pack`], but samples of a pack that begin with the same prompt tokens have them once, as a segment that they
/// continue ([`Pack::push_segment`]): a task's instruction is not computed again for each of its samples.
///
/// Exact where a token's arithmetic depends on nothing but the tokens before it, so not under dropout, whose masks are
/// a sample's own. A shared token is never a target.
pub fn pack_sharing_prefixes(samples: &[Tokenized], max_seq_len: usize) -> Vec<Pack> {
    samples
        .chunks(WINDOW)
        .flat_map(|window| {
            let window: Vec<&Tokenized> =
                window.iter().filter(|sample| !sample.is_empty()).collect();
            let prefixes = shared_prefixes(&window);
            pack_families(&window, &prefixes, max_seq_len)
        })
        .collect()
}

/// The family of each sample and how many tokens it has in common with it; nothing for a sample that stands alone.
fn shared_prefixes(samples: &[&Tokenized]) -> Vec<Option<(usize, usize)>> {
    let mut order: Vec<usize> = (0..samples.len()).collect();
    // Stable, so that equal samples stay in the caller's order.
    order.sort_by(|a, b| samples[*a].input_ids.cmp(&samples[*b].input_ids));
    let shareable = |sample: &Tokenized| {
        let targets = sample.loss_mask.iter().position(|target| *target);
        targets.unwrap_or(sample.len()).min(sample.len() - 1)
    };
    let common = |a: usize, b: usize| {
        let (a, b) = (samples[a], samples[b]);
        let same = a
            .input_ids
            .iter()
            .zip(&b.input_ids)
            .take_while(|(a, b)| a == b)
            .count();
        same.min(shareable(a)).min(shareable(b))
    };
    let mut families = vec![None; samples.len()];
    let mut first = 0;
    while first < order.len() {
        let mut end = first + 1;
        let mut shared = usize::MAX;
        while end < order.len() {
            let next = common(order[end - 1], order[end]);
            // One that has much less in common would cost the others what they share.
            if next < SHARED_TOKENS || (shared != usize::MAX && next < shared / 4 * 3) {
                break;
            }
            shared = shared.min(next);
            end += 1;
        }
        if end - first > 1 {
            for sample in &order[first..end] {
                families[*sample] = Some((first, shared));
            }
        }
        first = end;
    }
    families
}

/// First-fit decreasing, where a sample takes only what its pack does not have of it.
fn pack_families(
    samples: &[&Tokenized],
    families: &[Option<(usize, usize)>],
    max_seq_len: usize,
) -> Vec<Pack> {
    let mut order: Vec<usize> = (0..samples.len()).collect();
    order.sort_by_key(|sample| std::cmp::Reverse(samples[*sample].len()));
    // Each pack with the families whose prefix it has, and the segment that is the prefix.
    let mut packs: Vec<(Pack, Vec<(usize, usize)>)> = Vec::new();
    for index in order {
        let sample = samples[index];
        let Some((family, shared)) = families[index] else {
            match packs
                .iter_mut()
                .find(|(pack, _)| pack.len() + sample.len() <= max_seq_len)
            {
                Some((pack, _)) => pack.push(sample),
                None => packs.push((Pack::single(sample), Vec::new())),
            }
            continue;
        };
        let rest = sample.len() - shared;
        let holds = |prefixes: &[(usize, usize)]| {
            prefixes.iter().find(|(f, _)| *f == family).map(|(_, s)| *s)
        };
        let with = packs
            .iter_mut()
            .find(|(pack, prefixes)| holds(prefixes).is_some() && pack.len() + rest <= max_seq_len);
        let (pack, prefixes) = match with {
            Some(found) => found,
            None => match packs
                .iter()
                .position(|(pack, _)| pack.len() + sample.len() <= max_seq_len)
            {
                Some(at) => &mut packs[at],
                None => {
                    packs.push((Pack::default(), Vec::new()));
                    packs.last_mut().expect("one was just added")
                }
            },
        };
        let prefix = holds(prefixes).unwrap_or_else(|| {
            let (ids, mask) = (&sample.input_ids[..shared], &sample.loss_mask[..shared]);
            let segment = pack.push_segment(ids, mask, sample.sample, None);
            prefixes.push((family, segment));
            segment
        });
        let (ids, mask) = (&sample.input_ids[shared..], &sample.loss_mask[shared..]);
        pack.push_segment(ids, mask, sample.sample, Some(prefix));
    }
    packs.into_iter().map(|(pack, _)| pack).collect()
}

/// Cuts documents, laid one after another with `eos` behind each, into blocks
/// of `block` tokens (at least 3); the remainder is a shorter last block. Every
/// token is a target but a block's first, which nothing predicts.
///
/// A block is one segment: a document sees the end of the one before it, as in
/// the usual continual pre-training (and Me-LLaMA's: no BOS, EOS between). No
/// token is left out: where one would be alone in the last block, with nothing
/// to predict it, the block before gives it its last.
pub fn pack_documents<I>(documents: I, eos: u32, block: usize) -> Vec<Tokenized>
where
    I: IntoIterator,
    I::Item: AsRef<[u32]>,
{
    let block = block.max(3);
    let mut blocks: Vec<Vec<u32>> = Vec::new();
    let mut open: Vec<u32> = Vec::new();
    for document in documents {
        for &id in document.as_ref().iter().chain([&eos]) {
            open.push(id);
            if open.len() == block {
                blocks.push(std::mem::take(&mut open));
            }
        }
    }
    if let ([_], Some(last)) = (open.as_slice(), blocks.last_mut()) {
        open.splice(0..0, last.pop());
    }
    if !open.is_empty() {
        blocks.push(open);
    }
    let sample = |(number, input_ids): (usize, Vec<u32>)| {
        let mut loss_mask = vec![true; input_ids.len()];
        loss_mask[0] = false;
        Tokenized {
            id: format!("block-{}", number + 1),
            sample: number as u64,
            input_ids,
            loss_mask,
        }
    };
    blocks.into_iter().enumerate().map(sample).collect()
}
