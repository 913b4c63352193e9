//! Added tokens (special ones among them) written in a text.

use tokenizers::AddedVocabulary;

/// Added tokens that are matched as they are written: each is found wherever
/// its text stands, the leftmost first, of several at one place the longest.
#[derive(Debug)]
pub(super) struct AddedTokens {
    /// By first byte, then longest first.
    tokens: Vec<(Box<[u8]>, u32)>,
    /// Where in `tokens` those with a first byte are.
    starts: [(u32, u32); 256],
}

impl AddedTokens {
    /// `None` where some token has rules of its own about what is around it, or
    /// is matched in the normalized text and `normalizes` says there is one.
    pub fn of(vocabulary: &AddedVocabulary, normalizes: bool) -> Option<Self> {
        let added = vocabulary.get_added_tokens_decoder();
        let as_written = added.values().all(|token| {
            let about_surroundings = token.single_word || token.lstrip || token.rstrip;
            let elsewhere = token.normalized && normalizes;
            !(about_surroundings || elsewhere || token.content.is_empty())
        });
        // The crate finds normalized ones in a second pass; one pass finds the
        // same where there is only one kind.
        let kinds = added.values().any(|token| token.normalized)
            && added.values().any(|token| !token.normalized);
        if !as_written || kinds || vocabulary.get_encode_special_tokens() {
            return None;
        }
        let mut tokens: Vec<(Box<[u8]>, u32)> = added
            .iter()
            .map(|(&id, token)| (token.content.as_bytes().into(), id))
            .collect();
        tokens.sort_by(|(a, _), (b, _)| (a[0], b.len(), a).cmp(&(b[0], a.len(), b)));
        if tokens.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return None;
        }
        let mut starts = [(0, 0); 256];
        for (i, (token, _)) in tokens.iter().enumerate() {
            let range = &mut starts[token[0] as usize];
            if range.1 == 0 {
                range.0 = i as u32;
            }
            range.1 = i as u32 + 1;
        }
        Some(Self { tokens, starts })
    }

    /// The first added token in `text`: where it begins, where it ends, its id.
    pub fn first_in(&self, text: &str) -> Option<(usize, usize, u32)> {
        let bytes = text.as_bytes();
        for (at, &byte) in bytes.iter().enumerate() {
            let (first, end) = self.starts[byte as usize];
            for (token, id) in &self.tokens[first as usize..end as usize] {
                if bytes[at..].starts_with(token) {
                    return Some((at, at + token.len(), *id));
                }
            }
        }
        None
    }
}
