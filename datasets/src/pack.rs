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
