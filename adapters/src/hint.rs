//! What the person who reads an error can do about it.

use crate::Error;

impl Error {
    /// What the person who reads the message can do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Error::NotFound { path } => match path.file_name().and_then(|n| n.to_str()) {
                Some("adapter_config.json" | "adapter_model.safetensors") => {
                    "an adapter is a folder with adapter_config.json and adapter_model.safetensors".into()
                }
                Some(name) if name.ends_with(".json") || name.ends_with(".safetensors") => {
                    "the folder is incomplete: copy or download it again".into()
                }
                Some(name) if name.ends_with(".gguf") => "check the spelling of the file's path".into(),
                _ => "give a Hugging Face folder or a .gguf file that is on this machine".into(),
            },
            Error::NotCached { name, partly: true, .. } => format!("download the rest with `medtune fetch {name}`"),
            Error::NotCached { name, .. } => format!(
                "download it with `medtune fetch {name}`, or give a Hugging Face folder or a .gguf file that is on this machine"
            ),
            Error::NotAModel { .. } => {
                "a model is a folder with config.json and model.safetensors (or its index and shards), or a .gguf file".into()
            }
            Error::OnlyBinWeights { .. } => {
                "pickled files can run code when they are opened: convert them to safetensors with \
                 transformers' save_pretrained(safe_serialization=True)".into()
            }
            Error::Truncated { .. } => "copy or download the file again".into(),
            Error::Json { .. } | Error::Damaged { .. } | Error::DuplicateTensor { .. } => {
                "the file is not as its writer left it: copy or download it again".into()
            }
            Error::ShardMissing { .. } => "copy or download the missing shard, or the whole folder again".into(),
            Error::ShardLacks { .. } => "the index and the shards belong to different versions: download the folder again".into(),
            Error::MissingTensor { nearest, .. } => match nearest {
                Some(name) => {
                    format!("the nearest name is `{name}`; do config.json and the weights belong together?")
                }
                None => "do config.json and the weights belong together?".into(),
            },
            Error::AdapterModule { nearest, .. } => match nearest {
                Some(name) => format!("the adapter belongs to another base model; the nearest name in this one is `{name}`"),
                None => "the adapter belongs to another base model".into(),
            },
            Error::Shape { .. } => "config.json and the weights do not belong together".into(),
            Error::UnsupportedDtype { .. } => {
                "use a version of the model in F64, F32, F16 or BF16, or a GGUF file in one of the types that are read".into()
            }
            Error::Bitsandbytes { .. } => {
                "NF4 in blocks of 64 is read, with double quantization or without: load_in_4bit with bnb_4bit_quant_type \
                 \"nf4\"; or use the model before it was quantized".into()
            }
            Error::AlreadyQuantized { .. } => {
                "leave `quantization` out: the weights are computed with as they are stored".into()
            }
            Error::QuantizedUnderFull { .. } => {
                "train an adapter on the quantized base (QLoRA), or leave `quantization` out".into()
            }
            Error::GgufVersion { .. } => "write the file anew with a current llama.cpp".into(),
            Error::GgufArchitecture { .. } => "llama (also Mistral), qwen2 and qwen3 are read".into(),
            Error::GgufModelType { .. } => "llama, mistral, qwen2 and qwen3 are written".into(),
            Error::GgufNoPlace { .. } => "config.json and the weights do not belong together, or the model is of another family".into(),
            Error::GgufLora { .. } => "merge the adapter into its base with `medtune merge`, and export the merged model".into(),
            Error::ConfigKey { .. } => "config.json is not as its publisher left it, or the model is of another family".into(),
            Error::GgufType { .. } => {
                "these are read: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K".into()
            }
            Error::GgufTensor { .. } => "mixtures of experts, and models of which only some layers have biases, are not read".into(),
            Error::TargetMatchesNothing { nearest, available, .. } => match nearest {
                Some(name) => format!("did you mean `{name}`? There are: {}", available.join(", ")),
                None => format!("there are: {}", available.join(", ")),
            },
            Error::SavedMatchesNothing { nearest, available, .. } => match nearest {
                Some(name) => format!("did you mean `{name}`? There are: {}", available.join(", ")),
                None => format!("there are: {}", available.join(", ")),
            },
            Error::ZeroRow { .. } => "leave the layer out of target_modules, or turn use_dora off".into(),
            Error::AdapterUnties => {
                "it can be evaluated; to train or merge it, merge it with PEFT, which unties the base".into()
            }
            Error::TargetUnsupported { .. } => "leave it out of target_modules, or tune all weights".into(),
            Error::AdapterSetting { .. } | Error::AdapterKey { .. } => {
                "LoRA (also rank-stabilised) and DoRA on linear layers are read, with modules_to_save; merge the adapter with PEFT instead".into()
            }
            Error::AdapterPair { .. } | Error::AdapterRank { .. } | Error::AdapterSwapped { .. } | Error::AdapterEmpty { .. } => {
                "adapter_config.json and adapter_model.safetensors do not belong together, or a program wrote them wrongly".into()
            }
            Error::NotFinite { .. } => "the training run that wrote it diverged: use an earlier checkpoint".into(),
            Error::WrongBase { made_for, .. } => {
                let base = made_for.as_ref().map_or("the base that it was trained on".into(), |name| format!("`{name}`"));
                format!("use {base}; `medtune merge --base BASE --adapter ADAPTER --into DIR --force` merges all the same, and records what differs")
            }
            Error::AdapterShape { key, expected, found } if is_resized(key, expected, found) => format!(
                "the adapter was trained with {} tokens and this base has {} rows: its embedding was resized before \
                 training, so resize this one in the same way, or use the base that the adapter was trained on",
                found[0], expected[0]
            ),
            Error::AdapterShape { .. } => "the adapter belongs to another base model".into(),
            Error::AdapterDiffers { key, .. } => format!("set {key} as the adapter has it, or start a new adapter"),
            Error::AdapterUnderFull => "merge the adapter into its base first, and tune the merged model".into(),
            Error::OutputIsBase { .. } => "choose another folder for the result".into(),
            Error::Overflow { .. } => "write bf16 or f32 instead".into(),
            Error::NotSubtractable { .. } => "keep the base: it is what is left without the adapter".into(),
            Error::ProofFailed { .. } => "do not use this folder; merge again, and report it if it happens twice".into(),
            Error::Algebra(e) => return Some(e.hint()),
            Error::Kernel(e) => return e.hint(),
            Error::Ledger(e) => return e.hint(),
            Error::GgufKey { .. } | Error::RopeDivisors { .. } => {
                "use the model's Hugging Face folder, or a GGUF file made from it by a current llama.cpp".into()
            }
            Error::Io { .. }
            | Error::Dtype { .. }
            | Error::LoraSetting { .. }
            | Error::DuplicateParameter { .. }
            | Error::ParameterWithoutTensor { .. }
            | Error::Candle(_) => return None,
        })
    }
}

/// Whether an adapter's table differs from its base's in its number of rows alone, as after `resize_token_embeddings`.
fn is_resized(key: &str, expected: &[usize], found: &[usize]) -> bool {
    let table = key.contains("embed_tokens") || key.contains("lm_head");
    matches!((expected, found), ([_, expected], [_, found]) if table && expected == found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Those that only a fault of the machine or of ours brings about.
    #[test]
    fn the_rest_of_the_messages() {
        let shown = |e: Error| format!("{e}\nhint: {}", e.hint().unwrap_or("none".into()));
        let problems = vec![
            "`a.weight` is missing".into(),
            "`b.weight` is not in the base".into(),
        ];
        insta::assert_snapshot!(shown(Error::ProofFailed { problems }), @r"
        the merged weights are not base + adapter: `a.weight` is missing; `b.weight` is not in the base
        hint: do not use this folder; merge again, and report it if it happens twice
        ");
        let dtype = "u8".into();
        insta::assert_snapshot!(shown(Error::Dtype { dtype, choices: crate::encode::FLOATS }), @r"
        dtype u8 is not one of f32, bf16, f16, f64
        hint: none
        ");
        let source = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        insta::assert_snapshot!(shown(Error::Io { path: "model".into(), source }), @r"
        model: permission denied
        hint: none
        ");
    }
}
