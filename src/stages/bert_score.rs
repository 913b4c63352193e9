//! The encoder of `[eval.bert_score]`: opened before anything runs, hashed as an input of the evaluation.

use std::path::Path;

use anyhow::Result;
use eval::{Baseline, BertScorer, Embedder};
use finetune::bert::BertEncoder;
use ledger::FileHash;

use crate::plan::Plan;

/// Files of an encoder's folder that decide its tokens.
const TOKENIZER_FILES: &[&str] = &[
    "tokenizer.json",
    "vocab.txt",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
];

/// What BERTScore is computed by.
pub(super) struct Encoder {
    bert: BertEncoder,
    idf: bool,
    baseline: Option<Baseline>,
    /// Its files by their content.
    pub inputs: Vec<FileHash>,
}

impl Encoder {
    /// Opens what a recipe names; `None` where it names nothing.
    ///
    /// # Errors
    /// A folder that is no encoder, a layer that it or the baseline does not have.
    pub(super) fn open(plan: &Plan) -> Result<Option<Self>> {
        let section = plan.recipe().eval.as_ref();
        let Some(section) = section.and_then(|eval| eval.bert_score.as_ref()) else {
            return Ok(None);
        };
        let base = plan.document.folder_of("eval.bert_score.model");
        let folder = adapters::hub::locate(Path::new(&section.model), &base)?;
        let bert = BertEncoder::open(&folder, &name_of(&section.model, &folder), section.layer)?;
        let mut inputs = vec![FileHash {
            path: "bert_score/weights".into(),
            sha256: bert.sha256().to_owned(),
            bytes: 0,
        }];
        for name in TOKENIZER_FILES {
            if folder.join(name).is_file() {
                inputs.push(FileHash::of(
                    &folder.join(name),
                    format!("bert_score/{name}"),
                )?);
            }
        }
        let baseline = match section.baseline.as_deref() {
            Some(path) => {
                let path = plan
                    .document
                    .folder_of("eval.bert_score.baseline")
                    .join(path);
                inputs.push(FileHash::of(&path, "bert_score/baseline")?);
                Some(Baseline::read(&path, bert.layer())?)
            }
            None => None,
        };
        Ok(Some(Self {
            bert,
            idf: section.idf,
            baseline,
            inputs,
        }))
    }

    pub(super) fn scorer(&mut self) -> BertScorer<'_> {
        BertScorer {
            embedder: &mut self.bert,
            idf: self.idf,
            baseline: self.baseline,
        }
    }
}

/// What the encoder is called: by the recipe, or, where that says `.` or `..`, by its folder.
fn name_of(model: &str, folder: &Path) -> String {
    let named = Path::new(model).file_name();
    let canonical = folder.canonicalize().ok();
    let name = named.or_else(|| canonical.as_deref()?.file_name());
    name.map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}
