//! `medtune export`: a model or an adapter as a GGUF file, as llama.cpp and what is built on it read them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use adapters::{GgufFallback, GgufReport, GgufType, PeftAdapter};
use anyhow::Result;
use finetune::{Base, Checkpoint};
use serde_json::json;

use crate::args::ExportArgs;
use crate::failure::{Exit, Failure};
use crate::terminal::{bytes, note, print_json};

pub fn export(args: ExportArgs, json: bool) -> Result<Exit> {
    let (model, out) = sources(&args)?;
    if out.exists() {
        let failure = Failure::user(format!("`{}` is there already", out.display()));
        return Err(failure.hint("give another file, or remove it first").into());
    }
    let kind = args.kind.map(GgufType::from);
    let checkpoint = Checkpoint::open(&Base::Path(model))?;
    let (report, warnings) = match &args.adapter {
        Some(folder) => {
            let adapter = PeftAdapter::load(folder)?;
            let kind = kind.unwrap_or(GgufType::F32);
            let report = adapters::export_gguf_lora(&adapter, &checkpoint.weights, &out, kind)?;
            (report, Vec::new())
        }
        None => {
            let (vocabulary, warnings) = checkpoint.gguf_vocabulary(args.pre.as_deref())?;
            let kind = kind.unwrap_or(GgufType::F16);
            let report = adapters::export_gguf(&checkpoint.weights, &vocabulary, &out, kind)?;
            (report, warnings)
        }
    };
    for warning in &warnings {
        note(&format!("warning: {warning}"));
    }
    if json {
        print_json(&json!({"file": out, "export": report, "warnings": warnings}))?;
        return Ok(Exit::Done);
    }
    for line in fallback_lines(&report.fallbacks) {
        note(&line);
    }
    for tensor in &report.left_out {
        note(&format!("left out: {tensor}"));
    }
    let (tensors, size) = (report.tensors, bytes(report.bytes));
    let file = out.display();
    note(&format!(
        "{tensors} tensors ({}), {size} in {file}",
        types(&report)
    ));
    Ok(Exit::Done)
}

/// The model, or the adapter's base, and the file to write.
fn sources(args: &ExportArgs) -> Result<(PathBuf, PathBuf)> {
    let missing = |what: &str, hint: &str| Err(Failure::user(what).hint(hint).into());
    match (&args.base, &args.paths[..]) {
        (Some(base), [out]) => Ok((base.clone(), out.clone())),
        (None, [model, out]) => Ok((model.clone(), out.clone())),
        (Some(_), _) => missing(
            "an adapter is exported to one file",
            "medtune export --adapter DIR --base MODEL OUT.gguf",
        ),
        (None, _) => missing(
            "a model and the file to write are needed",
            "medtune export MODEL OUT.gguf",
        ),
    }
}

/// `7 F32, 14 Q8_0`
fn types(report: &GgufReport) -> String {
    let counted = report.types.iter().map(|(kind, n)| format!("{n} {kind}"));
    counted.collect::<Vec<_>>().join(", ")
}

/// The tensors that could not have the type asked for, those of all layers in one line.
fn fallback_lines(fallbacks: &[GgufFallback]) -> Vec<String> {
    let mut groups: BTreeMap<(String, usize, &str, &str), usize> = BTreeMap::new();
    for fallback in fallbacks {
        let parts = fallback.tensor.split('.');
        let name = parts.map(|part| match part.parse::<usize>() {
            Ok(_) => "*",
            Err(_) => part,
        });
        let name = name.collect::<Vec<_>>().join(".");
        let key = (name, fallback.columns, fallback.wanted, fallback.used);
        *groups.entry(key).or_default() += 1;
    }
    let line = |((name, columns, wanted, used), count): ((String, usize, &str, &str), usize)| {
        let tensors = match count {
            1 => String::new(),
            n => format!(" ({n} tensors)"),
        };
        format!(
            "{name}{tensors}: {used} instead of {wanted}, whose blocks do not divide rows of {columns}"
        )
    };
    groups.into_iter().map(line).collect()
}
