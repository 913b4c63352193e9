//! A card's text: front matter and sections, in Markdown.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use adapters::recipe::Quantization;
use adapters::{LoraConfig, TargetModules};
use ledger::{AccessClass, Manifest};
use serde_json::Value;

use super::ModelCard;
use super::metrics::{metric_rows, metric_table};
use crate::terminal::{bytes, count};

impl ModelCard {
    /// The whole card.
    pub fn text(&self) -> String {
        let mut text = self.front_matter();
        let _ = writeln!(text, "# {}\n", plain(&self.name));
        text.push_str(&self.summary());
        self.base_section(&mut text);
        self.data_section(&mut text);
        self.terms_section(&mut text);
        self.training_section(&mut text);
        self.evaluation_section(&mut text);
        self.proof_section(&mut text);
        self.validation_section(&mut text);
        self.provenance_section(&mut text);
        self.recipe_section(&mut text);
        text.push_str(
            "\n## Use\n\nThese weights are for research. They are not a medical device, they have not been evaluated for \
             clinical use, and their answers must not be used to diagnose or treat anyone. Language models state \
             falsehoods with confidence; have a clinician check what you rely on.\n",
        );
        text
    }

    fn front_matter(&self) -> String {
        let mut text = String::from("---\n");
        let mut line = |key: &str, value: &str| {
            let _ = writeln!(text, "{key}: {value}");
        };
        if let Some(name) = self.base.hub_name() {
            line("base_model", name.id());
            line("base_model_relation", "finetune");
        }
        line("library_name", "transformers");
        line("pipeline_tag", "text-generation");
        let stated = &self.base.stated;
        match (self.access, &stated.licence) {
            (Some(AccessClass::Open), Some(licence)) if is_listed(licence) => {
                line("license", licence)
            }
            (Some(AccessClass::Open), Some(licence)) => {
                line("license", "other");
                line("license_name", licence);
            }
            (Some(AccessClass::Open) | None, _) => line("license", "unknown"),
            (Some(access), _) => {
                line("license", "other");
                line("license_name", &format!("{access}-training-data"));
            }
        }
        if !stated.languages.is_empty() {
            line("language", "");
            for language in &stated.languages {
                let _ = writeln!(text, "- {language}");
            }
        }
        text.push_str("tags:\n- medtune\n- medical\n");
        for tag in self.method_tags() {
            let _ = writeln!(text, "- {tag}");
        }
        text.push_str("---\n\n");
        text.replace(": \n", ":\n")
    }

    fn method_tags(&self) -> Vec<&'static str> {
        let Some(lora) = &self.adapter else {
            return vec!["full-fine-tuning"];
        };
        let mut tags = vec![match self.base.quantization {
            Some(Quantization::Nf4) => "qlora",
            None => "lora",
        }];
        tags.extend(lora.use_dora.then_some("dora"));
        tags.extend(lora.use_rslora.then_some("rslora"));
        tags
    }

    fn summary(&self) -> String {
        let base = self.base.name.as_deref();
        let base = base.map_or("an unnamed base".into(), |name| format!("`{}`", code(name)));
        let how = match (&self.adapter, &self.merge) {
            (Some(lora), _) => format!("{base} with a {} merged into its weights", method(lora)),
            (None, Some(_)) => format!("{base} with an adapter merged into its weights"),
            (None, None) => format!("{base} with every weight trained"),
        };
        format!("{how}. Access class: **{}**.\n", known(self.access))
    }

    fn base_section(&self, text: &mut String) {
        let base = &self.base;
        let name = base.name.as_deref().map(|name| format!("`{}`", code(name)));
        let fingerprint = base
            .fingerprint
            .as_deref()
            .map(|hash| format!("`{}`", code(hash)));
        let mut rows = vec![
            ("model", known(name)),
            (
                "fingerprint (SHA-256 of configuration and weights)",
                known(fingerprint),
            ),
            ("licence", known(base.stated.licence.as_deref())),
        ];
        if let Some(Quantization::Nf4) = base.quantization {
            let how = "its linear layers quantized to 4-bit NormalFloat (QLoRA)";
            rows.push(("in training", how.into()));
        }
        text.push_str("\n## Base\n\n");
        table(text, &rows);
        if !self.forced.is_empty() {
            text.push_str(
                "\nThe adapter was trained on another base, and merged all the same:\n\n",
            );
            for difference in &self.forced {
                let _ = writeln!(text, "- {}", plain(difference));
            }
        }
    }

    fn data_section(&self, text: &mut String) {
        text.push_str("\n## Data\n\n");
        let sources = self.sources();
        if sources.is_empty() {
            text.push_str("Unknown: what it was trained on is not recorded with it.\n");
            return;
        }
        text.push_str("| source | samples | tokens | access | licence | searched for identifiers |\n|---|---:|---:|---|---|---|\n");
        for source in &sources {
            let number = |key: &str| source[key].as_u64().unwrap_or(0);
            let tokens = match number("tokens") {
                0 => "not counted".into(),
                tokens => count(tokens),
            };
            let word = |key: &str| plain(source[key].as_str().unwrap_or("unknown"));
            let _ = writeln!(
                text,
                "| {} | {} | {tokens} | {} | {} | {} |",
                word("name"),
                count(number("train") + number("validation")),
                word("access"),
                word("licence"),
                word("phi"),
            );
        }
        let goes_on = self.train.as_ref().is_some_and(|train| {
            train
                .inputs
                .iter()
                .any(|file| file.path.starts_with("start/"))
        });
        if goes_on {
            text.push_str("\nTraining went on from an adapter; what that one was trained on is not listed here.\n");
        }
        let total = self.data.as_ref().map(|data| &data.details["total"]);
        let number = |key: &str| total.and_then(|total| total[key].as_u64()).unwrap_or(0);
        let _ = writeln!(
            text,
            "\n{} samples to train on and {} held out. Samples are not part of this folder.",
            count(number("train")),
            count(number("validation"))
        );
    }

    /// The sources that were there, as the data's manifest has them.
    fn sources(&self) -> Vec<&Value> {
        let details = self.data.as_ref().map(|data| &data.details["sources"]);
        let sources = details.and_then(Value::as_array).into_iter().flatten();
        sources
            .filter(|source| source["missing"].as_bool() != Some(true))
            .collect()
    }

    fn terms_section(&self, text: &mut String) {
        text.push_str("\n## Terms\n\n");
        let what = match self.access {
            Some(AccessClass::Open) => {
                "everything that went in may be used by anyone, for what its licence allows. The licences below and that \
                 of the base apply to these weights"
            }
            Some(AccessClass::NonCommercial) => {
                "something that went in may not be used commercially, and neither may these weights. Say so wherever you \
                 share them"
            }
            Some(AccessClass::Registered) => {
                "something that went in is given only to people who have registered and accepted terms. Share these \
                 weights with such people only, unless the terms say that models may be shared"
            }
            Some(AccessClass::Credentialed) => {
                "something that went in is given only to people with credentials under a data use agreement (PhysioNet, \
                 n2c2). A model can give back what it was trained on: treat these weights as the data themselves. Do not \
                 put them on a public hub, do not serve them to people without the same credentials, and publish them, \
                 if at all, where the data are published"
            }
            None => {
                "whose terms the training data are under is not recorded. Ask whoever trained the adapter before you \
                 share these weights"
            }
        };
        let _ = writeln!(text, "Access class **{}**: {what}.\n", known(self.access));
        let mut licences: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let base = known(self.base.stated.licence.as_deref());
        licences
            .entry(plain(&base))
            .or_default()
            .insert("the base".into());
        for source in self.sources() {
            let word = |key: &str| plain(source[key].as_str().unwrap_or("unknown"));
            licences
                .entry(word("licence"))
                .or_default()
                .insert(word("name"));
        }
        if self.sources().is_empty() {
            licences
                .entry("unknown".into())
                .or_default()
                .insert("the training data".into());
        }
        for (licence, names) in licences {
            let names: Vec<String> = names.into_iter().collect();
            let _ = writeln!(text, "- {licence}: {}", names.join(", "));
        }
        let cited = self
            .sources()
            .into_iter()
            .filter_map(|source| Some((source["name"].as_str()?, source["citation"].as_str()?)));
        let cited: Vec<(&str, &str)> = cited.collect();
        if !cited.is_empty() {
            text.push_str("\nTo cite:\n\n");
            for (name, citation) in cited {
                let _ = writeln!(text, "- {}: {}", plain(name), plain(citation));
            }
        }
    }

    fn training_section(&self, text: &mut String) {
        text.push_str("\n## Training\n\n");
        let Some(train) = &self.train else {
            text.push_str("Unknown: no record of the training lies beside the adapter.\n");
            if let Some(lora) = &self.adapter {
                let _ = writeln!(text, "The adapter is a {}.", method(lora));
            }
            return;
        };
        let details = |key: &str| train.details[key].clone();
        let counted = |name: &str| train.counts.get(name).map(|n| count(*n));
        let number = |key: &str| details(key).as_u64().map(count);
        let loss = |key: &str| details(key).as_f64().map(|loss| format!("{loss:.4}"));
        let how = match &self.adapter {
            Some(lora) => method(lora),
            None => "every weight".into(),
        };
        let mut rows = vec![("method", how), ("steps", known(number("steps")))];
        if let Some(step) = number("best_step") {
            let by = train.details["chosen_by"]["metric"].as_str();
            let by = by.map_or(String::new(), |metric| {
                format!(", the best by {}", plain(metric))
            });
            rows.push(("weights of step", step + &by));
        }
        rows.extend([
            ("trained parameters", known(number("trained_parameters"))),
            ("training samples", known(counted("train.samples"))),
            ("tokens of an epoch", known(counted("train.tokens"))),
            (
                "of which target tokens",
                known(counted("train.target_tokens")),
            ),
            ("loss at the end", known(loss("loss"))),
        ]);
        if let Some(loss) = loss("eval_loss") {
            rows.push(("held-out loss", loss));
        }
        for (what, name) in [
            ("steps left out as not finite", "skipped_steps"),
            ("samples left out as too long", "train.dropped_too_long"),
            ("samples with a shortened prompt", "train.truncated"),
        ] {
            if train.counts.get(name).is_some_and(|n| *n > 0) {
                rows.push((what, known(counted(name))));
            }
        }
        table(text, &rows);
    }

    fn evaluation_section(&self, text: &mut String) {
        text.push_str("\n## Evaluation\n\n");
        let metrics = self
            .eval
            .as_ref()
            .and_then(|eval| eval.details["metrics"].as_object());
        let rows = metric_rows(metrics);
        if rows.is_empty() {
            text.push_str("Not evaluated.\n");
            return;
        }
        let chose = self
            .eval
            .as_ref()
            .map(|eval| &eval.details["chose_checkpoint"]);
        let chose = chose.and_then(Value::as_array).into_iter().flatten();
        for task in chose.filter_map(Value::as_str) {
            let _ = writeln!(
                text,
                "The checkpoint was chosen by items that {} asks: expect less on new ones.\n",
                plain(task)
            );
        }
        // The base, what was made of it, the difference.
        metric_table(text, &rows, &["base", "tuned", "change"]);
    }

    fn proof_section(&self, text: &mut String) {
        text.push_str("\n## Proof of the merge\n\n");
        let Some(merge) = &self.merge else {
            text.push_str("Nothing was merged: every weight was trained.\n");
            return;
        };
        let (tensors, logits) = (&merge["proof"], &merge["logits"]);
        if !tensors.is_object() && !logits.is_object() {
            text.push_str("Not proven: the merge was told not to verify itself.\n");
            return;
        }
        let number = |part: &Value, key: &str| part[key].as_f64();
        let mut rows: Vec<(&str, String)> = Vec::new();
        let mut add = |what, value: Option<String>| rows.extend(value.map(|value| (what, value)));
        let whole = |value: f64| count(value as u64);
        add(
            "tensors that the adapter changes",
            number(tensors, "targeted").map(whole),
        );
        add(
            "tensors that are the base's, byte for byte",
            number(tensors, "untouched").map(whole),
        );
        add(
            "largest deviation from base + adapter, in rounding steps",
            number(tensors, "max_steps").map(|steps| format!("{steps:.3}")),
        );
        add(
            "change relative to the weights",
            number(tensors, "relative_change").map(|change| format!("{change:.2e}")),
        );
        add(
            "share of the change that survives rounding",
            number(tensors, "surviving").map(|share| format!("{share:.4}")),
        );
        add(
            "largest difference of a logit",
            number(logits, "max_difference")
                .zip(number(logits, "largest_logit"))
                .map(|(difference, largest)| format!("{difference:.1e} of {largest:.1}")),
        );
        add(
            "same first choice",
            number(logits, "top1_agreement")
                .zip(number(logits, "positions"))
                .map(|(share, positions)| {
                    format!("{:.1} % of {} positions", 100.0 * share, whole(positions))
                }),
        );
        text.push_str("Each tensor was computed again from base and adapter and compared with what was written");
        text.push_str(match logits.is_object() {
            true => ", and the merged model was asked what base and adapter were asked.\n\n",
            false => ".\n\n",
        });
        table(text, &rows);
    }

    /// The look at a few items after the merge.
    fn validation_section(&self, text: &mut String) {
        let look = self.merge.as_ref().map(|merge| &merge["validation"]);
        let Some(look) = look.filter(|look| look.is_object()) else {
            return;
        };
        text.push_str("\n## Quick validation\n\n");
        let items = look["items"].as_object().into_iter().flatten();
        let asked: Vec<String> = items
            .filter_map(|(task, items)| {
                Some(format!(
                    "{} items of {}",
                    count(items.as_u64()?),
                    plain(task)
                ))
            })
            .collect();
        let _ = writeln!(
            text,
            "A look after the merge, at {}: too few to report, enough to see a model that came out wrong.\n",
            asked.join(", ")
        );
        let rows = metric_rows(look["metrics"].as_object());
        metric_table(text, &rows, &["base", "merged", "change"]);
    }

    fn provenance_section(&self, text: &mut String) {
        text.push_str("\n## Provenance\n\n");
        let version = |manifest: &Option<Manifest>| {
            manifest.as_ref().map(|made| made.program_version.clone())
        };
        let of = |manifest: &Option<Manifest>, name: &str| {
            let manifest = manifest.as_ref()?;
            let file = manifest
                .outputs
                .iter()
                .chain(&manifest.inputs)
                .find(|file| file.path == name)?;
            Some(format!("`{}`", code(&file.sha256)))
        };
        let trained = |name: &str| of(&self.train, &format!("data/{name}"));
        let rows = [
            ("trained by medtune", known(version(&self.train))),
            (
                "card written by medtune",
                env!("CARGO_PKG_VERSION").to_owned(),
            ),
            ("training samples (SHA-256)", known(trained("train.jsonl"))),
            (
                "held-out samples (SHA-256)",
                known(trained("validation.jsonl")),
            ),
            (
                "adapter (SHA-256)",
                known(of(&self.train, "adapter_model.safetensors")),
            ),
            ("tokenizer (SHA-256)", known(of(&self.train, "tokenizer"))),
        ];
        let merged = self.adapter.is_some();
        let shown: Vec<_> = rows
            .into_iter()
            .filter(|(what, _)| merged || !what.starts_with("adapter"))
            .collect();
        table(text, &shown);
        if let Some(size) = self
            .merge
            .as_ref()
            .and_then(|merge| merge["bytes"].as_u64())
        {
            let _ = writeln!(text, "\nThe weights take {}.", bytes(size));
        }
    }

    fn recipe_section(&self, text: &mut String) {
        text.push_str("\n## Recipe\n\n");
        match &self.recipe {
            Some(recipe) => {
                // A fence longer than any in it.
                let fence = "`".repeat(3.max(1 + longest_run(recipe, '`')));
                let _ = writeln!(
                    text,
                    "With every default:\n\n{fence}toml\n{}\n{fence}",
                    recipe.trim_end()
                );
            }
            None => text.push_str("Unknown: the merge was not a recipe's.\n"),
        }
    }
}

/// A licence that the hub has in its list, and not under `other`.
fn is_listed(licence: &str) -> bool {
    const LISTED: &[&str] = &[
        "apache-2.0",
        "mit",
        "openrail",
        "bigscience-openrail-m",
        "bsd-2-clause",
        "bsd-3-clause",
        "cc0-1.0",
        "cc-by-4.0",
        "cc-by-sa-4.0",
        "cc-by-nc-4.0",
        "cc-by-nc-sa-4.0",
        "cc-by-nc-nd-4.0",
        "gpl-3.0",
        "llama2",
        "llama3",
        "llama3.1",
        "llama3.2",
        "llama3.3",
        "gemma",
        "other",
        "unknown",
    ];
    LISTED.contains(&licence)
}

fn method(lora: &LoraConfig) -> String {
    let kind = match (lora.use_dora, lora.use_rslora) {
        (true, true) => "rank-stabilised DoRA",
        (true, false) => "DoRA",
        (false, true) => "rank-stabilised LoRA",
        (false, false) => "LoRA",
    };
    let on = match &lora.target_modules {
        TargetModules::AllLinear => "all linear layers".into(),
        TargetModules::Named(names) => {
            let mut leaves: Vec<&str> = names
                .iter()
                .filter_map(|name| name.rsplit('.').next())
                .collect();
            leaves.sort_unstable();
            leaves.dedup();
            plain(&leaves.join(", "))
        }
    };
    let mut text = format!(
        "{kind} of rank {}, alpha {}, on {on}",
        lora.rank, lora.alpha
    );
    if !lora.modules_to_save.is_empty() {
        let _ = write!(
            text,
            ", with {} trained whole",
            plain(&lora.modules_to_save.join(", "))
        );
    }
    text
}

/// A table of two columns without a heading.
fn table(text: &mut String, rows: &[(&str, String)]) {
    text.push_str("| | |\n|---|---|\n");
    for (what, value) in rows {
        let _ = writeln!(text, "| {what} | {value} |");
    }
}

fn known(value: Option<impl ToString>) -> String {
    value.map_or("unknown".into(), |value| value.to_string())
}

/// Counts as they are, everything else with four places.
pub(super) fn score(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() >= 2.0 {
        format!("{value}")
    } else {
        format!("{value:.4}")
    }
}

/// Text of a recipe or a file as a part of a line or a table's cell, in which nothing means anything.
pub(super) fn plain(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars() {
        match c {
            c if c.is_control() => shown.push(' '),
            '|' | '\\' | '`' | '*' | '[' | ']' | '#' => {
                shown.push('\\');
                shown.push(c);
            }
            '<' => shown.push_str("&lt;"),
            '&' => shown.push_str("&amp;"),
            c => shown.push(c),
        }
    }
    shown
}

/// Text between backticks, in a table too.
fn code(text: &str) -> String {
    let kept = |c: char| {
        if c == '`' || c == '|' || c.is_control() {
            '?'
        } else {
            c
        }
    };
    text.chars().map(kept).collect()
}

/// The longest row of one character.
fn longest_run(text: &str, wanted: char) -> usize {
    let (mut longest, mut run) = (0, 0);
    for c in text.chars() {
        run = if c == wanted { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    longest
}
