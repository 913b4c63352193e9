//! What is encoded word by word has the ids that the `tokenizers` crate gives,
//! on random texts and, where `MEDTUNE_DATA` names a folder, on real ones.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

use super::splitter::{LLAMA3, QWEN2, Splitter};
use super::{SpecialTokens, Tokenizer};
use crate::random::Draws;

/// How many random texts each vocabulary and pattern is held to; more with
/// `MEDTUNE_RANDOM_TEXTS`.
fn random_texts() -> u64 {
    let wanted = std::env::var("MEDTUNE_RANDOM_TEXTS").ok();
    wanted.and_then(|n| n.parse().ok()).unwrap_or(4_000)
}

fn golden(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/golden/tokenizers")
        .join(kind)
}

/// `tokenizer.json` of a golden folder, with changes.
fn changed(kind: &str, change: impl FnOnce(&mut Value)) -> Tokenizer {
    let json = std::fs::read(golden(kind).join("tokenizer.json")).unwrap();
    let mut json: Value = serde_json::from_slice(&json).unwrap();
    change(&mut json);
    Tokenizer::new(
        json.to_string().as_bytes(),
        kind.into(),
        SpecialTokens::default(),
        Map::new(),
        None,
    )
    .unwrap()
}

fn byte_level(use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
}

fn split(pattern: &str) -> Value {
    json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false},
        byte_level(false),
    ]})
}

/// The vocabularies that are encoded word by word.
fn vocabularies() -> Vec<(&'static str, Tokenizer)> {
    let folder = |kind| Tokenizer::from_folder(&golden(kind)).unwrap();
    vec![
        ("llama2_json", folder("llama2_json")),
        ("llama3", folder("llama3")),
        ("qwen2", folder("qwen2")),
        ("smollm2", folder("smollm2")),
        (
            "gpt-2",
            changed("smollm2", |json| json["pre_tokenizer"] = byte_level(true)),
        ),
        // Added tokens that share a beginning, and one that is not special.
        (
            "qwen2 with more added tokens",
            changed("qwen2", |json| {
                let added = json["added_tokens"].as_array_mut().unwrap();
                for (i, text) in ["<|", "<|im_", "'s", "  ", "é"].iter().enumerate() {
                    let mut token = added[0].clone();
                    token["id"] = json!(500 + i);
                    token["content"] = json!(text);
                    token["special"] = json!(i % 2 == 0);
                    added.push(token);
                }
            }),
        ),
    ]
}

/// Draws one after another.
struct Random {
    draws: Draws,
    drawn: u64,
}

impl Random {
    fn new(purpose: &str) -> Self {
        let draws = Draws::new(3, purpose);
        Self { draws, drawn: 0 }
    }

    fn below(&mut self, n: usize) -> usize {
        self.drawn += 1;
        (self.draws.at(self.drawn) % n as u64) as usize
    }
}

/// Texts that the patterns and the added tokens care about.
const FRAGMENTS: &[&str] = &[
    " ",
    "  ",
    "   ",
    "\n",
    "\r\n",
    "\r",
    "\t",
    "\u{b}",
    "\u{c}",
    "\u{85}",
    "\u{a0}",
    "\u{1c}",
    "\u{2003}",
    "\u{2028}",
    "\u{200b}",
    "\u{3000}",
    "\u{feff}",
    "'",
    "'s",
    "'S",
    "'t",
    "'T",
    "'re",
    "'rE",
    "'ve",
    "'VE",
    "'m",
    "'ll",
    "'lL",
    "'d",
    "'ſ",
    "ſ",
    "'l",
    "'r",
    "’s",
    "a",
    "the",
    "I",
    "mg",
    "Patient",
    "é",
    "e\u{301}",
    "\u{301}",
    "Å",
    "\u{212b}",
    "\u{1e9b}\u{323}",
    "ß",
    "İ",
    "病気",
    "한국",
    "각",
    "\u{1100}\u{1161}",
    "ไทย",
    "א",
    "हिन्दी",
    "1",
    "12",
    "123",
    "1234",
    "½",
    "Ⅳ",
    "٣",
    "三",
    "𝟙",
    "²",
    "0.05",
    "<",
    "<0.05",
    "<|",
    "<|im_",
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|begin_of_text|>",
    "<|eot_id|>",
    "</s>",
    "<s>",
    "<unk>",
    "<0x0A>",
    "▁",
    "▁▁",
    "▁a",
    ".",
    ",",
    "...",
    "!?",
    "-",
    "_",
    "(",
    ")",
    "µ",
    "°",
    "±",
    "→",
    "😀",
    "👩‍⚕️",
    "\u{0}",
    "\u{7f}",
    "\u{ad}",
    "\u{10ffff}",
    "\u{e000}",
];

/// A random text of up to about 60 fragments.
fn random_text(random: &mut Random) -> String {
    let mut text = String::new();
    for _ in 0..random.below(60) {
        match random.below(8) {
            0 => text.extend(char::from_u32(random.below(0x11_0000) as u32)),
            1 => text.extend(char::from_u32(random.below(0x3000) as u32)),
            2 | 3 => text.push(char::from(b' ' + random.below(95) as u8)),
            _ => text.push_str(FRAGMENTS[random.below(FRAGMENTS.len())]),
        }
    }
    text
}

/// Fails where the ids of `text` differ, from a text's beginning and after a token.
fn same_ids(kind: &str, tokenizer: &Tokenizer, text: &str) {
    let going_on = tokenizer
        .going_on
        .as_ref()
        .map(|going_on| &going_on.encoder);
    for encoder in [Some(&tokenizer.inner), going_on].into_iter().flatten() {
        let words = encoder
            .words()
            .unwrap_or_else(|| panic!("{kind}: the crate's way"));
        let ids = words.encode(encoder.tokenizer(), text).unwrap().unwrap();
        let expected = encoder.tokenizer().encode_fast(text, false).unwrap();
        // Not assert_eq: a real text is not for a log.
        if ids != expected.get_ids() {
            let at = ids.iter().zip(expected.get_ids()).position(|(a, b)| a != b);
            panic!(
                "{kind}: a text of {} bytes differs from token {at:?} on",
                text.len()
            );
        }
    }
}

#[test]
fn random_texts_have_the_ids_of_the_crate() {
    for (kind, tokenizer) in vocabularies() {
        let mut random = Random::new(kind);
        let mut bytes = 0;
        for _ in 0..random_texts() {
            let text = random_text(&mut random);
            bytes += text.len();
            same_ids(kind, &tokenizer, &text);
        }
        assert!(
            bytes > 50 * random_texts() as usize,
            "{kind}: {bytes} bytes"
        );
    }
}

/// Small vocabularies forgive a wrong cut, so the cuts are compared too.
#[test]
fn random_texts_are_cut_as_the_crate_cuts_them() {
    let cases = [
        (Splitter::Gpt2, byte_level(true)),
        (
            Splitter::DigitsThenGpt2,
            json!({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true}, byte_level(true)]}),
        ),
        (Splitter::Llama3 { numerals: 3 }, split(LLAMA3)),
        (Splitter::Llama3 { numerals: 1 }, split(QWEN2)),
    ];
    for (splitter, pre_tokenizer) in cases {
        let crates: tokenizers::PreTokenizerWrapper =
            serde_json::from_value(pre_tokenizer).unwrap();
        let mut random = Random::new("cuts");
        // Every character when asked for much.
        let step = if random_texts() > 4_000 { 1 } else { 7 };
        let characters = ('\0'..=char::MAX).step_by(step);
        let each_character = characters.map(|c| format!("a {c}{c} {c}1 '{c}\n{c} {c}"));
        let texts = std::iter::repeat_with(|| random_text(&mut random));
        for text in each_character.chain(texts.take(random_texts() as usize)) {
            same_cuts(splitter, &crates, &text);
        }
    }
}

fn same_cuts(splitter: Splitter, crates: &impl PreTokenizer, text: &str) {
    let mut expected = PreTokenizedString::from(text);
    crates.pre_tokenize(&mut expected).unwrap();
    let expected = expected.get_splits(OffsetReferential::Original, OffsetType::Byte);
    let expected: Vec<usize> = expected.iter().map(|(_, (_, end), _)| *end).collect();
    let (mut ends, mut end) = (Vec::new(), 0);
    let done: Result<(), ()> = splitter.words(text, |word| {
        end += word.len();
        ends.push(end);
        Ok(())
    });
    done.unwrap();
    assert!(
        ends == expected,
        "{splitter:?}: {text:?} is cut at {ends:?}, expected {expected:?}"
    );
}

/// Random SentencePiece vocabularies: whether the text falls into words is
/// seen, and where it does, the ids are those of merging the whole text.
#[test]
fn sentencepiece_falls_into_words_only_where_no_token_crosses() {
    let mut random = Random::new("pieces");
    let letters = ["a", "b", "c", "▁"];
    let (mut by_words, mut whole) = (0, 0);
    for round in 0..300 {
        let crossing = round % 3 == 0;
        let mut pieces: Vec<String> = letters.map(String::from).to_vec();
        let mut merges = Vec::new();
        for _ in 0..12 {
            let (left, right) = (random.below(pieces.len()), random.below(pieces.len()));
            let joined = format!("{}{}", pieces[left], pieces[right]);
            let crosses = joined.trim_start_matches('▁').contains('▁');
            if !pieces.contains(&joined) && (crossing || !crosses) {
                merges.push(json!([pieces[left], pieces[right]]));
                pieces.push(joined);
            }
        }
        let crosses = pieces
            .iter()
            .any(|p| p.trim_start_matches('▁').contains('▁'));
        let tokenizer = changed("llama2_json", |json| {
            json["model"]["vocab"] = pieces
                .iter()
                .enumerate()
                .map(|(i, p)| (p.clone(), json!(i + 3)))
                .collect();
            json["model"]["merges"] = json!(merges);
            json["model"]["byte_fallback"] = json!(false);
            json["model"]["unk_token"] = json!("a");
        });
        if crosses {
            assert!(tokenizer.inner.words().is_none());
            whole += 1;
            continue;
        }
        by_words += 1;
        for _ in 0..60 {
            let text: String = (0..random.below(40))
                .map(|_| ['a', 'b', 'c', ' ', ' ', '▁', 'x', '\n'][random.below(8)])
                .collect();
            same_ids("random pieces", &tokenizer, &text);
        }
    }
    assert!(
        by_words > 100 && whole > 50,
        "{by_words} by words, {whole} whole"
    );
}

#[test]
fn other_vocabularies_are_left_to_the_crate() {
    let left = |kind: &str, change: &dyn Fn(&mut Value)| {
        changed(kind, |json| change(json)).inner.words().is_none()
    };
    assert!(!left("smollm2", &|_| {}));
    // A space before a text's first run only (legacy = false).
    let llama2 = Tokenizer::from_folder(&golden("llama2")).unwrap();
    assert!(llama2.inner.words().is_none());
    assert!(left("smollm2", &|json| json["model"]["dropout"] = json!(0.1)));
    assert!(left("smollm2", &|json| json["pre_tokenizer"] = Value::Null));
    assert!(left("smollm2", &|json| json["pre_tokenizer"] = split(r"\s+")));
    assert!(left("smollm2", &|json| json["normalizer"] =
        json!({"type": "NFKC"})));
    assert!(left("smollm2", &|json| json["normalizer"] =
        json!({"type": "Lowercase"})));
    assert!(left(
        "llama3",
        &|json| json["pre_tokenizer"]["pretokenizers"][0]["behavior"] = json!("Removed")
    ));
    assert!(left(
        "llama3",
        &|json| json["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = json!(true)
    ));
    for rule in ["single_word", "lstrip", "rstrip"] {
        assert!(
            left("qwen2", &|json| json["added_tokens"][0][rule] = json!(true)),
            "{rule}"
        );
    }
    assert!(left(
        "qwen2",
        &|json| json["added_tokens"][0]["normalized"] = json!(true)
    ));
    // Without a normalizer it makes no difference, if all are so.
    assert!(left(
        "smollm2",
        &|json| json["added_tokens"][0]["normalized"] = json!(true)
    ));
    assert!(!left("smollm2", &|json| {
        for token in json["added_tokens"].as_array_mut().unwrap() {
            token["normalized"] = json!(true);
        }
    }));
}

/// More white space than the crate's expressions can cross at once.
#[test]
fn endless_white_space_is_left_to_the_crate() {
    let tokenizer = Tokenizer::from_folder(&golden("smollm2")).unwrap();
    for (length, by_words) in [(100_000, true), (100_001, false), (1_200_000, false)] {
        let text = format!("a{}b", " ".repeat(length));
        let ids = tokenizer.encode(&text, false).unwrap();
        let (words, crates) = (
            tokenizer.inner.words().unwrap(),
            tokenizer.inner.tokenizer(),
        );
        assert_eq!(words.encode(crates, &text).unwrap().is_some(), by_words);
        assert!(ids == crates.encode_fast(text.as_str(), false).unwrap().get_ids());
    }
}

/// Every file of the folder `MEDTUNE_DATA` as text, whatever its format: at most
/// `MEDTUNE_DATA_BYTES` of each. `MEDTUNE_MODEL` adds a model's vocabulary.
#[test]
fn real_texts_have_the_ids_of_the_crate() {
    let Ok(root) = std::env::var("MEDTUNE_DATA") else {
        eprintln!("skipped: MEDTUNE_DATA names no folder of real data");
        return;
    };
    let most = std::env::var("MEDTUNE_DATA_BYTES").ok();
    let most: usize = most.and_then(|n| n.parse().ok()).unwrap_or(20_000);
    let mut vocabularies = vocabularies();
    if let Ok(model) = std::env::var("MEDTUNE_MODEL") {
        vocabularies.push((
            "the model's",
            Tokenizer::from_folder(Path::new(&model)).unwrap(),
        ));
    }
    let mut folders = vec![PathBuf::from(root)];
    let (mut files, mut bytes) = (0, 0);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let mut text = Vec::new();
            let file = std::fs::File::open(&path).unwrap();
            std::io::Read::read_to_end(&mut std::io::Read::take(file, most as u64), &mut text)
                .unwrap();
            let text = String::from_utf8_lossy(&text);
            (files, bytes) = (files + 1, bytes + text.len());
            let lines: Vec<&str> = text.split_inclusive('\n').collect();
            for (kind, tokenizer) in &vocabularies {
                // A line, and lines as one text: with their ends in them.
                for some in lines.chunks(5) {
                    same_ids(kind, tokenizer, some[0]);
                    same_ids(kind, tokenizer, &some.concat());
                }
            }
        }
    }
    eprintln!(
        "{files} files, {bytes} bytes, {} vocabularies",
        vocabularies.len()
    );
}
