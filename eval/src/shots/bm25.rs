//! BM25 (Robertson and Zaragoza 2009, "The probabilistic relevance framework: BM25 and beyond"),
//! with the inverse document frequency that Lucene uses, which is never negative:
//!
//! score(q, d) = sum over the words w of q of
//!   ln(1 + (N - n_w + 0.5) / (n_w + 0.5)) * f (k1 + 1) / (f + k1 (1 - b + b |d| / avg|d|))
//!
//! with f how often d has w, n_w how many of the N documents have it, and |d| in words.

use std::collections::HashMap;

/// How soon more of the same word says nothing more.
const K1: f64 = 1.2;
/// How much long documents are held against.
const B: f64 = 0.75;

/// An index of documents.
#[derive(Debug)]
pub(super) struct Bm25 {
    /// For each word, the documents that have it and how often, in their order.
    postings: HashMap<String, Vec<(u32, u32)>>,
    /// K1 (1 - B + B |d| / avg|d|) of each document.
    norms: Vec<f64>,
}

/// A text's words: runs of letters and digits, in lower case.
pub(super) fn words(text: &str) -> impl Iterator<Item = String> {
    let parts = text.split(|c: char| !c.is_alphanumeric());
    parts
        .filter(|part| !part.is_empty())
        .map(|part| part.to_lowercase())
}

impl Bm25 {
    pub(super) fn new<'t>(documents: impl Iterator<Item = &'t str>) -> Bm25 {
        let mut postings: HashMap<String, Vec<(u32, u32)>> = HashMap::new();
        let mut lengths = Vec::new();
        for (number, text) in documents.enumerate() {
            let number = number as u32;
            let mut length = 0;
            for word in words(text) {
                length += 1;
                let of_word = postings.entry(word).or_default();
                match of_word.last_mut() {
                    Some((document, times)) if *document == number => *times += 1,
                    _ => of_word.push((number, 1)),
                }
            }
            lengths.push(f64::from(length));
        }
        let mean = (lengths.iter().sum::<f64>() / lengths.len().max(1) as f64).max(1.0);
        // The words of a prompt's template are in every document: they cost the most time and tell
        // none from another.
        postings.retain(|_, of_word| of_word.len() < lengths.len().max(2));
        let norm = |length: f64| K1 * (1.0 - B + B * length / mean);
        Bm25 {
            postings,
            norms: lengths.into_iter().map(norm).collect(),
        }
    }

    /// At most `count` documents, the most like `text` first; of equals the earlier ones.
    pub(super) fn nearest(
        &self,
        text: &str,
        count: usize,
        may: impl Fn(usize) -> bool,
    ) -> Vec<usize> {
        let scores = self.scores(text);
        let mut documents: Vec<usize> = (0..scores.len()).collect();
        let order = |a: &usize, b: &usize| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b));
        // So few are wanted that sorting all would be most of the work; copies are few as well.
        let mut wanted = count;
        loop {
            if wanted < documents.len() && wanted > 0 {
                documents.select_nth_unstable_by(wanted - 1, order);
            }
            let mut nearest = documents[..wanted.min(documents.len())].to_vec();
            nearest.sort_by(order);
            nearest.retain(|&document| may(document));
            if nearest.len() >= count || wanted >= documents.len() {
                nearest.truncate(count);
                return nearest;
            }
            wanted = (wanted * 2).max(16);
        }
    }

    fn scores(&self, text: &str) -> Vec<f64> {
        let mut scores = vec![0.0; self.norms.len()];
        let documents = self.norms.len() as f64;
        let mut asked: Vec<String> = words(text).collect();
        // Sums in one order are the same bits whatever the map's order.
        asked.sort_unstable();
        for same in asked.chunk_by(|a, b| a == b) {
            let Some(of_word) = self.postings.get(&same[0]) else {
                continue;
            };
            let having = of_word.len() as f64;
            let idf = (1.0 + (documents - having + 0.5) / (having + 0.5)).ln();
            let weight = same.len() as f64 * idf;
            for &(document, times) in of_word {
                let times = f64::from(times);
                let norm = self.norms[document as usize];
                scores[document as usize] += weight * times * (K1 + 1.0) / (times + norm);
            }
        }
        scores
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENTS: [&str; 5] = [
        "Question: does aspirin prevent stroke? Answer:",
        "Question: does aspirin, or more aspirin, prevent bleeding after a stroke in the elderly? Answer:",
        "Question: is the patella a bone? Answer:",
        "Question: does the femur bleed? Answer:",
        "Question: is the patella a bone? Answer:",
    ];

    /// The formula, word by word over the texts.
    fn plain(documents: &[&str], query: &str, document: usize) -> f64 {
        let split = |text: &str| words(text).collect::<Vec<_>>();
        let all: Vec<Vec<String>> = documents.iter().map(|text| split(text)).collect();
        let n = all.len() as f64;
        let mean = all.iter().map(Vec::len).sum::<usize>() as f64 / n;
        let term = |word: String| {
            let having = all.iter().filter(|words| words.contains(&word)).count() as f64;
            if having == n || having == 0.0 {
                return 0.0;
            }
            let idf = (1.0 + (n - having + 0.5) / (having + 0.5)).ln();
            let f = all[document].iter().filter(|w| **w == word).count() as f64;
            let length = all[document].len() as f64;
            idf * f * 2.2 / (f + 1.2 * (0.25 + 0.75 * length / mean))
        };
        split(query).into_iter().map(term).sum()
    }

    #[test]
    fn scores_are_the_formulas() {
        let index = Bm25::new(DOCUMENTS.into_iter());
        for query in [
            "Question: aspirin, aspirin and STROKE in the elderly? Answer:",
            "patella",
            "",
            "nothing known",
        ] {
            for (document, score) in index.scores(query).into_iter().enumerate() {
                let expected = plain(&DOCUMENTS, query, document);
                assert!((score - expected).abs() < 1e-12, "{query:?}, {document}");
            }
        }
    }

    #[test]
    fn the_nearest_come_first_and_equals_in_their_order() {
        let index = Bm25::new(DOCUMENTS.into_iter());
        let nearest = |query, count| index.nearest(query, count, |_| true);
        assert_eq!(nearest("Is the patella broken?", 3), [2, 4, 3]);
        assert_eq!(nearest("aspirin aspirin elderly bleeding", 1), [1]);
        assert_eq!(nearest("nothing known", 2), [0, 1]);
        assert_eq!(nearest("patella", 99).len(), 5);
        assert!(nearest("patella", 0).is_empty());
        let without = |shot| shot != 2 && shot != 4;
        assert_eq!(index.nearest("Is the patella broken?", 1, without)[0], 3);
        assert_eq!(index.nearest("patella", 5, without).len(), 3);
        assert!(
            Bm25::new([].into_iter())
                .nearest("x", 3, |_| true)
                .is_empty()
        );
    }
}
