//! The Porter stemmer (Porter 1980) with the changes that NLTK's `PorterStemmer` makes by default,
//! which is what the `rouge_score` package stems with.
//!
//! NLTK's changes: a short table of irregular forms; words of one or two letters stay; `-ies` and
//! `-ied` of four-letter words keep `ie`; `y` becomes `i` after a consonant that is not the only
//! letter before it; `-bli` for `-abli`, `-alli` tried first and again, `-fulli` and `-logi` in step
//! 2; a vowel and a consonant alone count as a short syllable. Words are ASCII a-z and 0-9 here; a
//! digit counts as a consonant.

/// The stem of a lower-case ASCII word.
pub(super) fn stem(word: &str) -> String {
    debug_assert!(word.is_ascii());
    if let Some((_, stem)) = IRREGULAR.iter().find(|(form, _)| *form == word) {
        return (*stem).to_owned();
    }
    if word.len() <= 2 {
        return word.to_owned();
    }
    let word = plural(word.to_owned());
    let word = past(word);
    let word = final_y(word);
    let word = double_suffixes(word);
    let word = apply(word, STEP_3);
    let word = apply(word, STEP_4);
    final_l(final_e(word))
}

const IRREGULAR: &[(&str, &str)] = &[
    ("sky", "sky"),
    ("skies", "sky"),
    ("dying", "die"),
    ("lying", "lie"),
    ("tying", "tie"),
    ("news", "news"),
    ("innings", "inning"),
    ("inning", "inning"),
    ("outings", "outing"),
    ("outing", "outing"),
    ("cannings", "canning"),
    ("canning", "canning"),
    ("howe", "howe"),
    ("proceed", "proceed"),
    ("exceed", "exceed"),
    ("succeed", "succeed"),
];

/// A suffix, what replaces it, and whether it may be.
type Rule = (&'static str, &'static str, fn(stem: &str) -> bool);

/// Applies the rule of the first suffix that the word ends with, if its condition holds for what
/// stands before; a word whose condition fails stays, whatever rules follow.
fn apply(mut word: String, rules: &[Rule]) -> String {
    let found = rules.iter().find(|(suffix, ..)| word.ends_with(suffix));
    if let Some((suffix, replacement, condition)) = found {
        let stem = word.len() - suffix.len();
        if condition(&word[..stem]) {
            word.truncate(stem);
            word.push_str(replacement);
        }
    }
    word
}

/// Whether each letter is a consonant; a `y` is one unless a consonant stands before it.
fn consonants(word: &str) -> Vec<bool> {
    let mut flags: Vec<bool> = Vec::with_capacity(word.len());
    for letter in word.bytes() {
        let consonant = match letter {
            b'a' | b'e' | b'i' | b'o' | b'u' => false,
            b'y' => flags.last().is_none_or(|before| !before),
            _ => true,
        };
        flags.push(consonant);
    }
    flags
}

/// Porter's m: how often a consonant follows a vowel.
fn measure(stem: &str) -> usize {
    let flags = consonants(stem);
    flags.windows(2).filter(|pair| !pair[0] && pair[1]).count()
}

fn some(stem: &str) -> bool {
    measure(stem) > 0
}

fn several(stem: &str) -> bool {
    measure(stem) > 1
}

fn has_vowel(stem: &str) -> bool {
    consonants(stem).contains(&false)
}

/// Porter's *d.
fn ends_in_double_consonant(word: &str) -> bool {
    let letters = word.as_bytes();
    letters.len() >= 2
        && letters[letters.len() - 1] == letters[letters.len() - 2]
        && consonants(word).last() == Some(&true)
}

/// Porter's *o: consonant, vowel, consonant other than w, x, y at the end; or nothing but a vowel
/// and a consonant.
fn ends_in_short_syllable(word: &str) -> bool {
    match consonants(word).as_slice() {
        [false, true] => true,
        [.., true, false, true] => !word.ends_with(['w', 'x', 'y']),
        _ => false,
    }
}

/// Step 1a.
fn plural(word: String) -> String {
    if word.len() == 4 && word.ends_with("ies") {
        return apply(word, &[("ies", "ie", |_| true)]);
    }
    const RULES: &[Rule] = &[
        ("sses", "ss", |_| true),
        ("ies", "i", |_| true),
        ("ss", "ss", |_| true),
        ("s", "", |_| true),
    ];
    apply(word, RULES)
}

/// Step 1b.
fn past(word: String) -> String {
    if word.ends_with("ied") {
        let kept = if word.len() == 4 { 1 } else { 2 };
        return word[..word.len() - kept].to_owned();
    }
    if word.ends_with("eed") {
        return apply(word, &[("eed", "ee", some)]);
    }
    let stem = ["ed", "ing"]
        .iter()
        .find_map(|suffix| word.strip_suffix(suffix).filter(|stem| has_vowel(stem)));
    let Some(stem) = stem.map(String::from) else {
        return word;
    };
    if ["at", "bl", "iz"].iter().any(|end| stem.ends_with(end)) {
        return stem + "e";
    }
    if ends_in_double_consonant(&stem) {
        return match stem.ends_with(['l', 's', 'z']) {
            true => stem,
            false => stem[..stem.len() - 1].to_owned(),
        };
    }
    if measure(&stem) == 1 && ends_in_short_syllable(&stem) {
        return stem + "e";
    }
    stem
}

/// Step 1c.
fn final_y(word: String) -> String {
    let after_consonant = |stem: &str| stem.len() > 1 && consonants(stem).last() == Some(&true);
    apply(word, &[("y", "i", after_consonant)])
}

/// Step 2.
fn double_suffixes(mut word: String) -> String {
    while let Some(stem) = word.strip_suffix("alli").filter(|stem| some(stem)) {
        word = format!("{stem}al");
    }
    apply(word, STEP_2)
}

const STEP_2: &[Rule] = &[
    ("ational", "ate", some),
    ("tional", "tion", some),
    ("enci", "ence", some),
    ("anci", "ance", some),
    ("izer", "ize", some),
    ("bli", "ble", some),
    ("alli", "al", some),
    ("entli", "ent", some),
    ("eli", "e", some),
    ("ousli", "ous", some),
    ("ization", "ize", some),
    ("ation", "ate", some),
    ("ator", "ate", some),
    ("alism", "al", some),
    ("iveness", "ive", some),
    ("fulness", "ful", some),
    ("ousness", "ous", some),
    ("aliti", "al", some),
    ("iviti", "ive", some),
    ("biliti", "ble", some),
    ("fulli", "ful", some),
    // The l belongs to the stem that is measured, so that geologi becomes geolog.
    ("logi", "log", |stem| some(&format!("{stem}l"))),
];

const STEP_3: &[Rule] = &[
    ("icate", "ic", some),
    ("ative", "", some),
    ("alize", "al", some),
    ("iciti", "ic", some),
    ("ical", "ic", some),
    ("ful", "", some),
    ("ness", "", some),
];

const STEP_4: &[Rule] = &[
    ("al", "", several),
    ("ance", "", several),
    ("ence", "", several),
    ("er", "", several),
    ("ic", "", several),
    ("able", "", several),
    ("ible", "", several),
    ("ant", "", several),
    ("ement", "", several),
    ("ment", "", several),
    ("ent", "", several),
    ("ion", "", |stem| {
        several(stem) && stem.ends_with(['s', 't'])
    }),
    ("ou", "", several),
    ("ism", "", several),
    ("ate", "", several),
    ("iti", "", several),
    ("ous", "", several),
    ("ive", "", several),
    ("ize", "", several),
];

/// Step 5a.
fn final_e(word: String) -> String {
    let droppable = |stem: &&str| match measure(stem) {
        0 => false,
        1 => !ends_in_short_syllable(stem),
        _ => true,
    };
    match word.strip_suffix('e').filter(droppable) {
        Some(stem) => stem.to_owned(),
        None => word,
    }
}

/// Step 5b.
fn final_l(word: String) -> String {
    match word.ends_with("ll") && several(&word[..word.len() - 1]) {
        true => word[..word.len() - 1].to_owned(),
        false => word,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_papers_examples_and_nltks_changes() {
        for (word, expected) in [
            ("caresses", "caress"),
            ("ponies", "poni"),
            ("ties", "tie"),
            ("died", "die"),
            ("spied", "spi"),
            ("agreed", "agre"),
            ("plastered", "plaster"),
            ("hopping", "hop"),
            ("filing", "file"),
            ("happy", "happi"),
            ("enjoy", "enjoy"),
            ("relational", "relat"),
            ("vietnamization", "vietnam"),
            ("hopefully", "hope"),
            ("geology", "geolog"),
            ("adjustment", "adjust"),
            ("probate", "probat"),
            ("controlling", "control"),
            ("dying", "die"),
        ] {
            assert_eq!(stem(word), expected, "{word}");
        }
    }

    /// `scripts/golden/metrics.py` writes the file: stems with every suffix that a rule knows.
    #[test]
    fn stems_are_those_of_nltk() {
        let lines: Vec<&str> = include_str!("../../tests/golden/stems.txt")
            .lines()
            .collect();
        assert!(lines.len() > 5000);
        let wrong: Vec<String> = lines
            .iter()
            .filter_map(|line| {
                let (word, expected) = line.split_once(' ').expect("a word and its stem");
                let stem = stem(word);
                (stem != expected).then(|| format!("{word}: {stem}, expected {expected}"))
            })
            .collect();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}
