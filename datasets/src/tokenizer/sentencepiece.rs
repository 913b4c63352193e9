//! SentencePiece vocabularies: LLaMA-2's `tokenizer.model`, and the `llama`
//! kind of GGUF.
//!
//! The file is a Protocol Buffers message (`sentencepiece_model.proto`); the
//! few fields that matter are read here from the wire format, which needs no
//! generated code.

use serde_json::{Value, json};

/// What a piece is; the numbers are SentencePiece's, and GGUF's token types.
pub(super) const NORMAL: u32 = 1;
pub(super) const UNKNOWN: u32 = 2;
pub(super) const CONTROL: u32 = 3;
pub(super) const USER_DEFINED: u32 = 4;
pub(super) const UNUSED: u32 = 5;
pub(super) const BYTE: u32 = 6;

/// A vocabulary of pieces with scores.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Pieces {
    /// Text, score and kind, by id.
    pub pieces: Vec<(String, f32, u32)>,
    pub unigram: bool,
    pub byte_fallback: bool,
    pub unk: u32,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub pad: Option<u32>,
    /// Whether a space is put before a text.
    pub add_dummy_prefix: bool,
}

/// How the space before a text is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PrefixSpace {
    /// Before every run of text between special tokens, as SentencePiece, the
    /// published LLaMA-2 `tokenizer.json` and llama.cpp do (`legacy`).
    EveryRun,
    /// Before the text's beginning (`legacy = false`).
    First,
    Never,
}

/// Why a `tokenizer.model` cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Problem {
    Damaged(&'static str),
    Unsupported(&'static str),
}

/// Reads `tokenizer.model`.
pub(super) fn read(bytes: &[u8]) -> Result<Pieces, Problem> {
    let mut model = Pieces {
        add_dummy_prefix: true,
        unigram: true,
        bos: Some(1),
        eos: Some(2),
        ..Pieces::default()
    };
    for field in Fields(bytes) {
        match field? {
            (1, Wire::Bytes(piece)) => model.pieces.push(read_piece(piece)?),
            (2, Wire::Bytes(spec)) => read_trainer_spec(spec, &mut model)?,
            (3, Wire::Bytes(spec)) => read_normalizer_spec(spec, &mut model)?,
            _ => {}
        }
    }
    if model.pieces.is_empty() {
        return Err(Problem::Damaged(
            "not a SentencePiece model: it has no pieces",
        ));
    }
    Ok(model)
}

fn read_piece(bytes: &[u8]) -> Result<(String, f32, u32), Problem> {
    let mut piece = (String::new(), 0.0, NORMAL);
    for field in Fields(bytes) {
        match field? {
            (1, Wire::Bytes(text)) => {
                piece.0 = String::from_utf8(text.to_vec())
                    .map_err(|_| Problem::Damaged("a piece is not valid UTF-8"))?;
            }
            (2, Wire::Fixed32(bits)) => piece.1 = f32::from_bits(bits),
            (3, Wire::Varint(kind)) => piece.2 = kind as u32,
            _ => {}
        }
    }
    Ok(piece)
}

fn read_trainer_spec(bytes: &[u8], model: &mut Pieces) -> Result<(), Problem> {
    // Ids are int32: -1, a 64-bit varint of ones, means there is none.
    let id = |value: u64| (value as i32 >= 0).then_some(value as u32);
    for field in Fields(bytes) {
        match field? {
            (3, Wire::Varint(1)) => model.unigram = true,
            (3, Wire::Varint(2)) => model.unigram = false,
            (3, Wire::Varint(_)) => {
                return Err(Problem::Unsupported(
                    "its model type is neither BPE nor unigram",
                ));
            }
            (35, Wire::Varint(on)) => model.byte_fallback = on != 0,
            (40, Wire::Varint(value)) => model.unk = id(value).unwrap_or(0),
            (41, Wire::Varint(value)) => model.bos = id(value),
            (42, Wire::Varint(value)) => model.eos = id(value),
            (43, Wire::Varint(value)) => model.pad = id(value),
            _ => {}
        }
    }
    Ok(())
}

fn read_normalizer_spec(bytes: &[u8], model: &mut Pieces) -> Result<(), Problem> {
    for field in Fields(bytes) {
        match field? {
            // The Llama family's rules are empty (`identity`). Others would be
            // lost, as transformers' Llama converter loses them.
            (2, Wire::Bytes(rules)) if !rules.is_empty() => {
                return Err(Problem::Unsupported("it rewrites text by rules of its own"));
            }
            (3, Wire::Varint(on)) => model.add_dummy_prefix = on != 0,
            _ => {}
        }
    }
    Ok(())
}

/// A field's value on the wire.
enum Wire<'b> {
    Varint(u64),
    Bytes(&'b [u8]),
    Fixed32(u32),
    Fixed64,
}

/// The fields of one message.
struct Fields<'b>(&'b [u8]);

impl<'b> Iterator for Fields<'b> {
    type Item = Result<(u64, Wire<'b>), Problem>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field().ok_or(Problem::Damaged(
            "it ends in the middle of a field, or is no SentencePiece model",
        ));
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'b> Fields<'b> {
    fn field(&mut self) -> Option<(u64, Wire<'b>)> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => self.take(8).map(|_| Wire::Fixed64)?,
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Fixed32(u32::from_le_bytes(self.take(4)?.try_into().ok()?)),
            _ => return None,
        };
        Some((tag >> 3, value))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }
}

impl Pieces {
    /// The vocabulary as `tokenizer.json`, as transformers' converter writes it
    /// (`convert_slow_tokenizer.py`, `LlamaConverter`). `around` are the ids put
    /// before and behind a text, `added` further `added_tokens` entries.
    pub(super) fn tokenizer_json(
        &self,
        prefix: PrefixSpace,
        around: (Option<u32>, Option<u32>),
        added: Vec<Value>,
    ) -> Value {
        let mut decoders = vec![
            json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if prefix != PrefixSpace::Never {
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": self.added_tokens(added),
            "normalizer": self.normalizer(prefix),
            "pre_tokenizer": match prefix {
                PrefixSpace::First => json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false}),
                _ => Value::Null,
            },
            "post_processor": around_text(around, |id| self.text(id)),
            "decoder": {"type": "Sequence", "decoders": decoders},
            "model": self.model(),
        })
    }

    fn text(&self, id: u32) -> Option<&str> {
        self.pieces.get(id as usize).map(|(text, ..)| text.as_str())
    }

    fn normalizer(&self, prefix: PrefixSpace) -> Value {
        let mut steps = Vec::new();
        if prefix == PrefixSpace::EveryRun {
            steps.push(json!({"type": "Prepend", "prepend": "▁"}));
        }
        // With `First`, Metaspace writes the spaces.
        if prefix != PrefixSpace::First {
            steps.push(json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"}));
        }
        match steps.len() {
            0 => Value::Null,
            _ => json!({"type": "Sequence", "normalizers": steps}),
        }
    }

    /// Control tokens (and the unknown one) are special, user-defined ones are not.
    fn added_tokens(&self, further: Vec<Value>) -> Vec<Value> {
        let pieces = self.pieces.iter().enumerate();
        let own =
            pieces.filter(|(_, (_, _, kind))| [UNKNOWN, CONTROL, USER_DEFINED].contains(kind));
        let mut tokens: Vec<Value> = own
            .map(|(id, (text, _, kind))| added_token(id as u32, text, *kind != USER_DEFINED))
            .collect();
        for token in further {
            match tokens.iter_mut().find(|own| own["id"] == token["id"]) {
                Some(own) => *own = token,
                None => tokens.push(token),
            }
        }
        tokens
    }

    fn model(&self) -> Value {
        if self.unigram {
            let vocab: Vec<Value> = self
                .pieces
                .iter()
                .map(|(text, score, _)| json!([text, score]))
                .collect();
            return json!({"type": "Unigram", "unk_id": self.unk, "vocab": vocab, "byte_fallback": self.byte_fallback});
        }
        let ids = self.pieces.iter().enumerate();
        let vocab: serde_json::Map<String, Value> = ids
            .map(|(id, (text, ..))| (text.clone(), json!(id)))
            .collect();
        json!({
            "type": "BPE", "dropout": null, "unk_token": self.text(self.unk), "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": self.byte_fallback, "ignore_merges": false,
            "vocab": vocab, "merges": self.merges(),
        })
    }

    /// A SentencePiece BPE has no list of merges: two neighbours are joined
    /// where the joined text is a piece, the best score first. So every way to
    /// cut a piece in two pieces is a merge, in the order of scores; ways of
    /// one score in transformers' order (`generate_merges`), which
    /// `sorted(.., reverse=True)` gives: longest left part first.
    fn merges(&self) -> Vec<(&str, &str)> {
        let ids: std::collections::HashMap<&str, usize> = self
            .pieces
            .iter()
            .enumerate()
            .map(|(id, (text, ..))| (text.as_str(), id))
            .collect();
        let mut merges = Vec::new();
        for (text, score, _) in &self.pieces {
            let length = text.chars().count();
            let cuts = text.char_indices().skip(1).enumerate();
            let mut local: Vec<_> = cuts
                .filter_map(|(before, (at, _))| {
                    let (left, right) = text.split_at(at);
                    let order = (*ids.get(left)?, *ids.get(right)?);
                    Some((
                        order,
                        (*score, before + 1, length - before - 1),
                        (left, right),
                    ))
                })
                .collect();
            local.sort_by_key(|&(order, ..)| order);
            merges.extend(local.into_iter().map(|(_, rank, merge)| (rank, merge)));
        }
        merges.sort_by(|((a, al, ar), _), ((b, bl, br), _)| {
            b.total_cmp(a).then((bl, br).cmp(&(al, ar)))
        });
        merges.into_iter().map(|(_, merge)| merge).collect()
    }
}

/// An entry of `added_tokens`.
pub(super) fn added_token(id: u32, text: &str, special: bool) -> Value {
    json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": special})
}

/// The post-processor that puts tokens before and behind a text.
pub(super) fn around_text<'t>(
    (before, behind): (Option<u32>, Option<u32>),
    text: impl Fn(u32) -> Option<&'t str>,
) -> Value {
    let named = |id: Option<u32>| id.and_then(|id| Some((id, text(id)?)));
    let (before, behind) = (named(before), named(behind));
    if before.is_none() && behind.is_none() {
        return Value::Null;
    }
    let token =
        |name: &str, type_id: u32| json!({"SpecialToken": {"id": name, "type_id": type_id}});
    let sequence = |id: &str, type_id: u32| {
        let mut parts = Vec::new();
        parts.extend(before.map(|(_, name)| token(name, type_id)));
        parts.push(json!({"Sequence": {"id": id, "type_id": type_id}}));
        parts.extend(behind.map(|(_, name)| token(name, type_id)));
        parts
    };
    let tokens: serde_json::Map<String, Value> = [before, behind]
        .into_iter()
        .flatten()
        .map(|(id, name)| {
            (
                name.to_string(),
                json!({"id": name, "ids": [id], "tokens": [name]}),
            )
        })
        .collect();
    let pair = [sequence("A", 0), sequence("B", 1)].concat();
    json!({
        "type": "TemplateProcessing",
        "single": sequence("A", 0),
        "pair": pair,
        "special_tokens": tokens,
    })
}
