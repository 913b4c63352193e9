use std::collections::BTreeMap;

use rayon::prelude::*;

use super::grams::{Entry, GramTable};
use super::words::{for_each_gram, words as words_of};
use crate::random::mix;

/// An evaluation item that must not be trained on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The evaluation task.
    pub task: String,
    /// The item's id there.
    pub item_id: String,
    /// The question without its options (the stem), or the whole item. A passage
    /// that many items of a task share is best given once, as its own probe.
    pub text: String,
    /// What a multiple choice lets choose from; empty if it is none.
    pub options: Vec<String>,
}

/// Why a text counts as holding a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HitKind {
    /// They share a long run of words, or all words of a short probe.
    Ngram,
    /// The text has the question of a multiple choice.
    Stem,
}

impl HitKind {
    /// The kind's name in lists and counts.
    pub fn name(self) -> &'static str {
        match self {
            HitKind::Ngram => "ngram",
            HitKind::Stem => "stem",
        }
    }
}

/// A probe that a text holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hit {
    /// Its index among the probes.
    pub probe: usize,
    /// Why it counts.
    pub kind: HitKind,
    /// How many of the probe's words are in shared runs (of N words, only in
    /// those that count).
    pub words: usize,
    /// How many words the probe's text has.
    pub of_words: usize,
    /// How many of its options the text has, in any order.
    pub options: usize,
}

/// Finds texts that hold evaluation items.
///
/// Words are compared without case and punctuation. With N for `words` (13, the
/// rule of Brown et al. 2020, "Language models are few-shot learners", appendix
/// C), a text holds a probe if
///
/// | the probe's text has | it is a hit if the text has |
/// |---|---|
/// | N words or more | any N of them in a row |
/// | 8 to N - 1 | all of them in a row |
/// | fewer than 8 | nothing else, and options neither |
///
/// and for a multiple choice, so that the order of the options does not matter,
///
/// | its stem has | it is a hit if the text has |
/// |---|---|
/// | 8 to N + 7 words | 80 % of the stem's runs of 8 words |
/// | fewer than 8 | the whole stem and every option; together at least 8 words |
///
/// Boilerplate is no evidence: a run of 8 words that is in more than 10 of a
/// task's probes and in more than 1 % of them is a prompt's template or a
/// phrase of the trade. A longer run counts if it has at least 8 words outside
/// of such runs, or as many as any run of the probe has. A stem that is all boilerplate ("Which of the following
/// is true?") needs every option in the text too, and does not count if that
/// many probes share even its options.
///
/// Only hashes are kept: 22 to 28 bytes a word of the probes.
#[derive(Debug, Clone)]
pub struct Contamination {
    words: usize,
    items: Vec<Item>,
    tables: Vec<GramTable>,
    /// Hashes of whole texts and their probes, sorted.
    whole: Vec<(u64, u32)>,
}

/// What is kept of a probe.
#[derive(Debug, Clone, Default)]
struct Item {
    words: usize,
    /// The words of each option that has any.
    options: Vec<Vec<u64>>,
    /// The stem and options are those of too many probes to say anything.
    common: bool,
}

/// Words of the shorter grams, and the fewest that can be evidence.
const SHORT: usize = 8;
/// Of a stem's short grams, how many a text must have, in percent.
const STEM_PERCENT: usize = 80;
/// In so many of a task's probes a gram is never boilerplate.
const BOILERPLATE_PROBES: usize = 10;
/// In so many percent of a task's probes neither.
const BOILERPLATE_PERCENT: usize = 1;

impl Contamination {
    /// Looks for these probes, by runs of `words` words (13 is usual).
    pub fn new(probes: &[Probe], words: usize) -> Self {
        let mut this = Self {
            words: words.max(1),
            items: Vec::with_capacity(probes.len()),
            tables: Vec::new(),
            whole: Vec::new(),
        };
        let texts: Vec<Vec<u64>> = probes.par_iter().map(|p| words_of(&p.text)).collect();
        let tasks = tasks(probes);
        for (probe, text) in probes.iter().zip(&texts) {
            this.items.push(Item::new(text.len(), &probe.options));
        }
        let short = SHORT.min(this.words);
        let mut entries: BTreeMap<usize, Vec<Entry>> = BTreeMap::new();
        for of_task in tasks.values() {
            this.mark_common_choices(of_task, &texts);
            let own = own_words(of_task, &texts, short);
            for (&index, own) in of_task.iter().zip(own) {
                this.add_grams(index, &texts[index as usize], &own, &mut entries);
            }
        }
        this.whole.sort_unstable();
        this.tables = entries
            .into_iter()
            .map(|(length, entries)| GramTable::new(length, entries))
            .collect();
        this
    }

    /// Marks the multiple choices that too many of their task share.
    fn mark_common_choices(&mut self, of_task: &[u32], texts: &[Vec<u64>]) {
        let mut choices: Vec<(u64, u32)> = of_task
            .iter()
            .map(|&index| {
                (
                    self.items[index as usize].choice_key(&texts[index as usize]),
                    index,
                )
            })
            .collect();
        choices.sort_unstable();
        for same in choices.chunk_by(|a, b| a.0 == b.0) {
            for &(_, index) in same {
                self.items[index as usize].common = same.len() > boilerplate_limit(of_task.len());
            }
        }
    }

    fn add_grams(
        &mut self,
        index: u32,
        text: &[u64],
        own: &[bool],
        entries: &mut BTreeMap<usize, Vec<Entry>>,
    ) {
        let item = &self.items[index as usize];
        let short = SHORT.min(self.words);
        if !text.is_empty() && text.len() < short && !item.is_choice() {
            self.whole.push((sequence_key(text), index));
        }
        for length in self.gram_lengths(item) {
            let own_of = |at: usize| own[at..at + length].iter().filter(|&&own| own).count();
            // A probe with few own words, or with boilerplate between them, is
            // told by the grams that have most of them.
            let most = (0..=text.len() - length).map(own_of).max().unwrap_or(0);
            let enough = most.min(short);
            // Boilerplate counts only as part of a multiple choice's stem.
            let keep_all = item.is_choice() && (length < self.words || enough == 0);
            let of_length = entries.entry(length).or_default();
            for_each_gram(text, length, |at, key| {
                let evidence = enough > 0 && own_of(at) >= enough;
                if evidence || keep_all {
                    of_length.push(Entry::new(key, index, at, evidence));
                }
            });
        }
    }

    /// The lengths of the grams that a probe is found by.
    fn gram_lengths(&self, item: &Item) -> Vec<usize> {
        let short = SHORT.min(self.words);
        let mut lengths = Vec::new();
        if item.words >= self.words {
            lengths.push(self.words);
        }
        if item.is_choice() {
            // A longer stem with 80 % of its short grams has a long one.
            if item.words < self.words + SHORT && short < self.words {
                lengths.push(item.words.min(short));
            } else if item.words < self.words {
                lengths.push(item.words);
            }
        } else if (short..self.words).contains(&item.words) {
            lengths.push(item.words);
        }
        lengths.retain(|&length| length > 0);
        lengths
    }

    /// The probes that `text` holds, each once, in the order of the probes.
    pub fn hits(&self, text: &str) -> Vec<Hit> {
        let text = words_of(text);
        let mut hits = BTreeMap::new();
        let mut add = |hit: Hit| {
            // A probe may be found by both lengths of its grams.
            let known: &mut Hit = hits.entry(hit.probe).or_insert(hit);
            known.kind = known.kind.min(hit.kind);
            known.words = known.words.max(hit.words);
        };
        for table in &self.tables {
            let mut matches = table.matches(&text);
            matches.sort_unstable_by_key(|entry| (entry.probe, entry.at()));
            for of_probe in matches.chunk_by(|a, b| a.probe == b.probe) {
                if let Some(hit) = self.judge(table.words, of_probe, &text) {
                    add(hit);
                }
            }
        }
        if !self.whole.is_empty() && text.len() < SHORT {
            let key = sequence_key(&text);
            let from = self.whole.partition_point(|&(other, _)| other < key);
            for &(_, probe) in self.whole[from..].iter().take_while(|same| same.0 == key) {
                add(self.hit(probe, HitKind::Ngram, text.len(), 0));
            }
        }
        hits.into_values().collect()
    }

    /// Whether the grams of a probe that the text has make a hit.
    fn judge(&self, length: usize, found: &[Entry], text: &[u64]) -> Option<Hit> {
        let probe = found[0].probe;
        let item = &self.items[probe as usize];
        let evidence = found.iter().any(|entry| entry.is_evidence());
        let grams = item.words + 1 - length;
        let most = found.len() * 100 >= grams * STEM_PERCENT;
        let covered = covered(found, length);
        if !item.is_choice() || (length == self.words && evidence) {
            let options = item.options_in(text);
            return evidence.then(|| self.hit(probe, HitKind::Ngram, covered, options));
        }
        if !most {
            return None;
        }
        let options = item.options_in(text);
        let long_enough = item.words >= SHORT.min(self.words);
        let choice = options == item.options.len()
            && !item.common
            && item.words + item.options.iter().map(Vec::len).sum::<usize>() >= SHORT;
        let holds = choice || (evidence && long_enough);
        holds.then(|| self.hit(probe, HitKind::Stem, covered, options))
    }

    fn hit(&self, probe: u32, kind: HitKind, words: usize, options: usize) -> Hit {
        Hit {
            probe: probe as usize,
            kind,
            words,
            of_words: self.items[probe as usize].words,
            options,
        }
    }
}

impl Item {
    fn new(words: usize, options: &[String]) -> Self {
        let options = options.iter().map(|option| words_of(option));
        Self {
            words,
            options: options.filter(|option| !option.is_empty()).collect(),
            ..Self::default()
        }
    }

    fn is_choice(&self) -> bool {
        self.options.len() > 1
    }

    /// The same for the same stem and the same set of options.
    fn choice_key(&self, stem: &[u64]) -> u64 {
        let mut options: Vec<u64> = self.options.iter().map(|o| sequence_key(o)).collect();
        options.sort_unstable();
        mix(sequence_key(stem) ^ sequence_key(&options).rotate_left(1))
    }

    /// How many of the options are in `text`.
    fn options_in(&self, text: &[u64]) -> usize {
        let is_in = |option: &&Vec<u64>| text.windows(option.len()).any(|run| run == **option);
        self.options.iter().filter(is_in).count()
    }
}

/// The probes of each task.
fn tasks(probes: &[Probe]) -> BTreeMap<&str, Vec<u32>> {
    let mut tasks: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
    for (index, probe) in probes.iter().enumerate() {
        tasks.entry(&probe.task).or_default().push(index as u32);
    }
    tasks
}

/// In more than this many of a task's probes a gram is boilerplate.
fn boilerplate_limit(probes: usize) -> usize {
    BOILERPLATE_PROBES.max(probes * BOILERPLATE_PERCENT / 100)
}

/// For each probe of a task and each of its words, whether it is the probe's
/// own: in no run of `length` words that is boilerplate.
fn own_words(of_task: &[u32], texts: &[Vec<u64>], length: usize) -> Vec<Vec<bool>> {
    let text = |number: u32| &texts[of_task[number as usize] as usize];
    let mut grams: Vec<(u64, u32, u32)> = Vec::new();
    for number in 0..of_task.len() as u32 {
        for_each_gram(text(number), length, |at, key| {
            grams.push((key, number, at as u32));
        });
    }
    grams.par_sort_unstable();
    let mut own: Vec<Vec<bool>> = (0..of_task.len() as u32)
        .map(|number| vec![true; text(number).len()])
        .collect();
    for same in grams.chunk_by(|a, b| a.0 == b.0) {
        let probes = 1 + same
            .windows(2)
            .filter(|pair| pair[0].1 != pair[1].1)
            .count();
        if probes > boilerplate_limit(of_task.len()) {
            for &(_, number, at) in same {
                own[number as usize][at as usize..][..length].fill(false);
            }
        }
    }
    own
}

/// How many words the grams cover that start at these places.
fn covered(found: &[Entry], length: usize) -> usize {
    let mut words = 0;
    let mut end = 0;
    for entry in found {
        words += entry.at() + length - end.max(entry.at());
        end = entry.at() + length;
    }
    words
}

fn sequence_key(words: &[u64]) -> u64 {
    words.iter().fold(words.len() as u64, |key, &word| {
        mix(key.rotate_left(1) ^ word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Draws;

    /// Made-up text in which any run of words is its own.
    struct Writer {
        draws: Draws,
        next: u64,
    }

    impl Writer {
        fn new(purpose: &str) -> Self {
            Self {
                draws: Draws::new(11, purpose),
                next: 0,
            }
        }

        fn below(&mut self, limit: u64) -> u64 {
            self.next += 1;
            self.draws.at(self.next) % limit
        }

        fn text(&mut self, words: u64) -> String {
            let words: Vec<String> = (0..words)
                .map(|_| format!("word{}", self.below(2000)))
                .collect();
            words.join(" ")
        }

        fn choice(&mut self, id: usize, words: u64) -> Probe {
            Probe {
                task: "choice".into(),
                item_id: id.to_string(),
                text: format!("{}?", self.text(words)),
                options: (0..4).map(|_| self.text(2)).collect(),
            }
        }

        fn within_noise(&mut self, text: &str) -> String {
            format!("{}\n{text}\n{}", self.text(40), self.text(40))
        }
    }

    fn probe(text: &str, options: &[&str]) -> Probe {
        Probe {
            task: "t".into(),
            item_id: "1".into(),
            text: text.into(),
            options: options.iter().map(|o| o.to_string()).collect(),
        }
    }

    fn shown(probes: &[Probe], text: &str) -> String {
        let hits = Contamination::new(probes, 13).hits(text);
        hits.iter()
            .map(|h| {
                format!(
                    "{} {} {}/{} +{}",
                    h.probe,
                    h.kind.name(),
                    h.words,
                    h.of_words,
                    h.options
                )
            })
            .collect::<Vec<_>>()
            .join(", ")
    }

    const STEM: &str = "Which drug is given first to an adult in anaphylaxis";
    const OPTIONS: [&str; 4] = [
        "Adrenaline",
        "Cetirizine",
        "Oral prednisolone",
        "Salbutamol",
    ];

    #[test]
    fn thirteen_words_in_a_row() {
        let words: Vec<String> = (0..30).map(|i| format!("w{i}")).collect();
        let probes = [probe(&words.join(" "), &[])];
        let with =
            |run: &[String]| shown(&probes, &format!("x y {} z", run.join(", ").to_uppercase()));
        assert_eq!(with(&words[4..17]), "0 ngram 13/30 +0");
        assert_eq!(with(&words[4..16]), "");
        assert_eq!(with(&words), "0 ngram 30/30 +0");
        // Two runs apart.
        let mut two = words.clone();
        two[14] = "edited".into();
        assert_eq!(with(&two), "0 ngram 29/30 +0");
    }

    #[test]
    fn short_probes_are_found_whole() {
        let probes = [probe(STEM, &[]), probe("What is gout?", &[])];
        assert_eq!(
            shown(&probes, &format!("Q: {STEM}? A: adrenaline")),
            "0 ngram 10/10 +0"
        );
        assert_eq!(
            shown(&probes, "which drug is given first to an adult in shock"),
            ""
        );
        // Below eight words only the same text counts.
        assert_eq!(shown(&probes, "what is GOUT"), "1 ngram 3/3 +0");
        assert_eq!(shown(&probes, "What is gout? A disease."), "");
        assert_eq!(
            shown(&[probe("", &[]), probe("?", &OPTIONS)], "? Adrenaline"),
            ""
        );
    }

    #[test]
    fn a_stem_survives_other_options() {
        let probes = [probe(STEM, &OPTIONS)];
        let ask = |options: &str| shown(&probes, &format!("Answer this. {STEM}? {options}"));
        assert_eq!(
            ask("A) Salbutamol B) Oral prednisolone C) Adrenaline D) Cetirizine"),
            "0 stem 10/10 +4"
        );
        assert_eq!(ask("A) Salbutamol B) Noradrenaline"), "0 stem 10/10 +1");
        // One word at an end is another: 2 of 3 runs are left, then all but one of five.
        assert_eq!(
            shown(&probes, "which drug is given first to an adult in shock"),
            ""
        );
        let longer = [probe(&format!("{STEM} at home"), &OPTIONS)];
        assert_eq!(
            shown(&longer, &format!("{STEM} at work")),
            "0 stem 11/12 +0"
        );
    }

    #[test]
    fn a_very_short_stem_needs_its_options() {
        let probes = [probe(
            "Gout is treated with",
            &["colchicine", "insulin", "iron", "warfarin"],
        )];
        let text = "Gout is treated with: warfarin, iron, insulin or colchicine?";
        assert_eq!(shown(&probes, text), "0 stem 4/4 +4");
        assert_eq!(
            shown(
                &probes,
                "Gout is treated with colchicine, not with insulin or iron."
            ),
            ""
        );
        assert_eq!(
            shown(
                &probes,
                "Colchicine, insulin, iron, warfarin: which for gout?"
            ),
            ""
        );
        // Seven words in all are too few.
        let few = [probe(
            "Gout is treated with",
            &["colchicine", "insulin", "iron"],
        )];
        assert_eq!(shown(&few, text), "");
    }

    #[test]
    fn boilerplate_is_no_evidence() {
        let template = "Answer with yes, no or maybe after you have read the following abstract with great care";
        let mut writer = Writer::new("boilerplate");
        let probes: Vec<Probe> = (0..40)
            .map(|_| probe(&format!("{template}: {}", writer.text(20)), &[]))
            .collect();
        assert_eq!(shown(&probes, &format!("{template}: something else")), "");
        assert_eq!(shown(&probes, &probes[7].text), "7 ngram 25/36 +0");
        // Two words of its own, far apart, still tell an item.
        let apart: Vec<Probe> = (0..40)
            .map(|i| probe(&format!("a{i} {template} b{i}"), &[]))
            .collect();
        assert_eq!(shown(&apart, &apart[3].text), "3 ngram 18/18 +0");
        assert_eq!(shown(&apart, template), "");
        // In few probes the same words are evidence.
        assert_eq!(shown(&probes[..10], template).split(", ").count(), 10);

        // A stem that is all boilerplate needs its own options.
        let stem = "Which of the following statements about this is true";
        let probes: Vec<Probe> = (0..40)
            .map(|_| {
                let options: Vec<String> = (0..4).map(|_| writer.text(3)).collect();
                probe(
                    stem,
                    &options.iter().map(String::as_str).collect::<Vec<_>>(),
                )
            })
            .collect();
        assert_eq!(shown(&probes, &format!("{stem}? This one.")), "");
        let o = &probes[5].options;
        assert_eq!(
            shown(
                &probes,
                &format!("{stem}? {} / {} / {} / {}", o[2], o[0], o[3], o[1])
            ),
            "5 stem 9/9 +4"
        );
        // And those of many probes say nothing either.
        let same = vec![probe(stem, &["it is true", "it is false"]); 40];
        assert_eq!(
            shown(&same, &format!("{stem}? It is true. It is false.")),
            ""
        );
    }

    #[test]
    fn planted_items_are_found() {
        let mut writer = Writer::new("planted");
        let probes: Vec<Probe> = (0..2000)
            .map(|id| writer.choice(id, 3 + id as u64 % 60))
            .collect();
        let contamination = Contamination::new(&probes, 13);
        for (index, probe) in probes.iter().enumerate() {
            let mut options = probe.options.clone();
            let verbatim = format!("{} {}", probe.text, options.join(" "));
            options.rotate_left(1 + index % 3);
            let shuffled = format!(
                "{}\nA) {}",
                probe.text.to_uppercase(),
                options.join("\n*) ")
            );
            for text in [verbatim, shuffled] {
                let text = writer.within_noise(&text);
                let hits = contamination.hits(&text);
                assert!(hits.iter().any(|hit| hit.probe == index), "probe {index}");
                assert_eq!(hits.len(), 1, "probe {index}");
                assert_eq!((hits[0].words, hits[0].options), (hits[0].of_words, 4));
            }
        }
    }

    #[test]
    fn other_text_of_the_same_words_is_not() {
        let mut writer = Writer::new("unrelated");
        let probes: Vec<Probe> = (0..2000)
            .map(|id| writer.choice(id, 3 + id as u64 % 60))
            .collect();
        let contamination = Contamination::new(&probes, 13);
        for _ in 0..2000 {
            assert_eq!(contamination.hits(&writer.text(200)), []);
        }
        // Nor the options alone, nor half a question.
        for probe in &probes {
            assert_eq!(contamination.hits(&probe.options.join(" ")), []);
            let half: Vec<&str> = probe.text.split(' ').collect();
            let half = &half[..(half.len() / 2).min(12)];
            assert_eq!(
                contamination.hits(&writer.within_noise(&half.join(" "))),
                []
            );
        }
    }

    #[test]
    fn runs_may_be_as_short_as_one_word() {
        for words in 0..12 {
            let probes = [probe(STEM, &OPTIONS), probe(STEM, &[])];
            let contamination = Contamination::new(&probes, words);
            assert_eq!(contamination.hits(STEM).len(), 2, "{words}");
            assert_eq!(contamination.hits("something else"), []);
        }
        assert_eq!(Contamination::new(&[], 13).hits(STEM), []);
    }
}
