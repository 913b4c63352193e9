//! Which files of a repository are downloaded.

use adapters::hub::{HubName, is_model_file, shards_of};
use anyhow::Result;

use crate::failure::Failure;

/// The name of a sharded model's index, and that of weights in one file.
pub const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";
const ADAPTER: &str = "adapter_model.safetensors";

/// Endings of files that hold pickled weights, or weights that no one here reads.
const PICKLED: &[&str] = &[".bin", ".pth", ".pt", ".ckpt", ".pkl", ".h5", ".msgpack"];

/// What of a repository is wanted.
#[derive(Debug, Clone)]
pub enum Choice {
    /// What the model needs: weights, configuration, tokenizer, template, licence.
    Model,
    /// The files that one of these patterns fits; `*` is any text, `?` any character.
    Matching(Vec<String>),
    /// Every file that is not pickled.
    All,
}

impl Choice {
    /// The files of a repository that are wanted, in its order, without the shards that an index names.
    ///
    /// # Errors
    /// Where a repository has no weights that are read, or no file that a pattern fits.
    pub fn files(&self, name: &HubName, all: &[String]) -> Result<Vec<String>> {
        let chosen: Vec<String> = match self {
            Self::Model => {
                refuse_without_weights(name, all)?;
                let index_is_read = !all.iter().any(|file| file == SINGLE);
                let needed =
                    |file: &&String| is_model_file(file) && (index_is_read || *file != INDEX);
                all.iter().filter(needed).cloned().collect()
            }
            Self::Matching(patterns) => {
                for pattern in patterns {
                    if !all.iter().any(|file| fits(pattern, file)) {
                        return Err(no_such_file(name, pattern, all));
                    }
                }
                let fits = |file: &&String| patterns.iter().any(|pattern| fits(pattern, file));
                all.iter().filter(fits).cloned().collect()
            }
            Self::All => all
                .iter()
                .filter(|file| !is_pickled(file))
                .cloned()
                .collect(),
        };
        Ok(chosen)
    }

    /// The shards that the index of a model names, which the repository must have.
    pub fn shards(&self, index: &std::path::Path, all: &[String]) -> Result<Vec<String>> {
        let shards = match self {
            Self::Model => shards_of(index)?,
            Self::Matching(_) | Self::All => Vec::new(),
        };
        for shard in &shards {
            if !all.contains(shard) {
                return Err(adapters::Error::ShardMissing {
                    index: index.into(),
                    shard: shard.clone(),
                }
                .into());
            }
        }
        Ok(shards)
    }
}

fn is_pickled(file: &str) -> bool {
    PICKLED.iter().any(|ending| file.ends_with(ending))
}

fn refuse_without_weights(name: &HubName, all: &[String]) -> Result<()> {
    let has = |wanted: &str| all.iter().any(|file| file == wanted);
    if [SINGLE, INDEX, ADAPTER].into_iter().any(has) {
        return Ok(());
    }
    if let Some(file) = all.iter().find(|file| is_pickled(file)) {
        return Err(adapters::Error::OnlyBinWeights {
            path: name.id().into(),
            file: file.clone(),
        }
        .into());
    }
    let failure = Failure::user(format!("`{name}` holds no weights in safetensors files"));
    let gguf = all.iter().find(|file| file.ends_with(".gguf"));
    Err(match gguf {
        Some(file) => failure.hint(format!(
            "it has GGUF files; choose one with --include, such as {file}"
        )),
        None => failure.hint("--include PATTERN downloads files of your choice"),
    }
    .into())
}

fn no_such_file(name: &HubName, pattern: &str, all: &[String]) -> anyhow::Error {
    let shown: Vec<&str> = all.iter().take(8).map(String::as_str).collect();
    let more = if all.len() > shown.len() { ", ..." } else { "" };
    Failure::user(format!("no file of `{name}` fits `{pattern}`"))
        .hint(format!("its files are: {}{more}", shown.join(", ")))
        .into()
}

/// Whether a pattern fits a whole name. Goes back to the last `*` only, so that no pattern takes long.
fn fits(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => (p, n) = (p + 1, n + 1),
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    (p, n) = (at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(choice: &Choice, all: &[&str]) -> Result<Vec<String>> {
        let all: Vec<String> = all.iter().map(|file| (*file).to_owned()).collect();
        choice.files(&HubName::parse("org/base").unwrap(), &all)
    }

    #[test]
    fn patterns_fit_whole_names() {
        for (pattern, name) in [
            ("*", ""),
            ("*.gguf", "a/b.gguf"),
            ("a?c", "abc"),
            ("*a*b*", "xaxxbx"),
            ("model-*-of-*.safetensors", "model-1-of-2.safetensors"),
        ] {
            assert!(fits(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("", "a"), ("*.gguf", "a.gguf2"), ("a?c", "ac"), ("a", "ab")] {
            assert!(!fits(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn a_model_is_its_safetensors_and_what_they_need() {
        let all = [
            ".gitattributes",
            "LICENSE",
            "README.md",
            "config.json",
            "model.safetensors",
            "model.safetensors.index.json",
            "consolidated.safetensors",
            "onnx/model.onnx",
            "original/tokenizer.model",
            "pytorch_model.bin",
            "tokenizer.json",
            "tokenizer_config.json",
        ];
        let needed =
            "LICENSE README.md config.json model.safetensors tokenizer.json tokenizer_config.json";
        assert_eq!(files(&Choice::Model, &all).unwrap().join(" "), needed);
        assert_eq!(files(&Choice::All, &all).unwrap().len(), all.len() - 1);
        let one = Choice::Matching(vec!["*.onnx".into(), "LIC*".into()]);
        assert_eq!(files(&one, &all).unwrap(), ["LICENSE", "onnx/model.onnx"]);
    }

    #[test]
    fn repositories_without_weights_say_what_they_have() {
        let says = |all: &[&str], choice: &Choice| {
            crate::failure::describe(&files(choice, all).unwrap_err())
        };
        insta::assert_snapshot!(says(&["config.json", "pytorch_model.bin"], &Choice::Model), @"
        error: org/base holds only pickled weights (pytorch_model.bin), which medtune does not read
        hint: pickled files can run code when they are opened: convert them to safetensors with transformers' save_pretrained(safe_serialization=True)
        ");
        insta::assert_snapshot!(says(&["m.Q4_K.gguf", "README.md"], &Choice::Model), @"
        error: `org/base` holds no weights in safetensors files
        hint: it has GGUF files; choose one with --include, such as m.Q4_K.gguf
        ");
        insta::assert_snapshot!(says(&["tokenizer.json"], &Choice::Model), @"
        error: `org/base` holds no weights in safetensors files
        hint: --include PATTERN downloads files of your choice
        ");
        insta::assert_snapshot!(says(&["a", "b"], &Choice::Matching(vec!["*.gguf".into()])), @"
        error: no file of `org/base` fits `*.gguf`
        hint: its files are: a, b
        ");
    }
}
