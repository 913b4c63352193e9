//! `DATACARD.md`: what a data set is made of and under which terms, for people.
//! After "Datasheets for Datasets" (Gebru et al. 2021) and Hugging Face's
//! dataset cards, as far as a build can know the answers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use ledger::AccessClass;

use super::report::{BuildReport, SourceReport};
use crate::recipe::DataSection;

pub(super) fn card(
    name: &str,
    section: &DataSection,
    access: AccessClass,
    report: &BuildReport,
) -> String {
    let mut text = String::new();
    let total = report.total;
    let _ = writeln!(text, "# Data: {name}\n");
    let _ = writeln!(
        text,
        "{} samples ({} to train on, {} held out){}, from {} sources. Strictest access class: **{access}**.\n",
        total.train + total.validation,
        total.train,
        total.validation,
        if total.tokens > 0 {
            format!(
                ", {} tokens, of which {} teach",
                total.tokens, total.target_tokens
            )
        } else {
            String::new()
        },
        report
            .sources
            .iter()
            .filter(|source| !source.missing)
            .count(),
    );
    if section.sample < 1.0 {
        let _ = writeln!(text, "A sample: {} of every quota.\n", section.sample);
    }
    text.push_str("![Composition](composition.svg)\n\n## Composition\n\n");
    text.push_str("| source | kind | samples | share | tokens | quota | access | licence |\n");
    text.push_str("|---|---|---:|---:|---:|---:|---|---|\n");
    let all = (total.train + total.validation).max(1) as f64;
    for source in &report.sources {
        let quota = source
            .quota
            .map_or(String::new(), |quota| quota.to_string());
        let tokens = if source.tokens > 0 {
            source.tokens.to_string()
        } else {
            "not counted".into()
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {:.1} % | {tokens} | {quota} | {} | {} |",
            cell(&source.name),
            cell(&source.kind),
            source.samples(),
            100.0 * source.samples() as f64 / all,
            source.access,
            cell(&source.licence),
        );
    }
    shortfalls(&mut text, report);
    cleaning(&mut text, section, report);
    terms(&mut text, access, report);
    text
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

fn shortfalls(text: &mut String, report: &BuildReport) {
    let short: Vec<&SourceReport> = report
        .sources
        .iter()
        .filter(|s| s.short_of > 0 || s.missing)
        .collect();
    let unexpected: Vec<(&SourceReport, u64)> = report
        .sources
        .iter()
        .filter_map(|source| Some((source, source.expected_records?)))
        .collect();
    if short.is_empty() && report.short_groups.is_empty() && unexpected.is_empty() {
        return;
    }
    text.push_str("\n## What it is short of\n\n");
    for source in short {
        let why = if source.missing {
            "its files were not there"
        } else {
            "there were no more after cleaning"
        };
        let _ = writeln!(
            text,
            "- {}: {} samples fewer than its quota; {why}.",
            source.name, source.short_of
        );
    }
    for group in &report.short_groups {
        let _ = writeln!(
            text,
            "- group {}: {} of {} samples.",
            group.name, group.available, group.quota
        );
    }
    for (source, expected) in unexpected {
        let _ = writeln!(
            text,
            "- {}: {} records were read; its publisher's files have {expected}.",
            source.name, source.read
        );
    }
}

fn cleaning(text: &mut String, section: &DataSection, report: &BuildReport) {
    let clean = &section.clean;
    text.push_str("\n## Cleaning\n\n");
    let mut reasons: BTreeSet<&str> = BTreeSet::new();
    for source in &report.sources {
        reasons.extend(source.dropped.keys().map(String::as_str));
    }
    let _ = writeln!(
        text,
        "Normalised: {}. Exact duplicates removed: {}. Near duplicates removed: {}. Compared with evaluation tasks: {}.\n",
        if clean.normalise { "yes" } else { "no" },
        if clean.exact_duplicates { "yes" } else { "no" },
        if clean.near_duplicates > 0.0 {
            format!(
                "from a Jaccard similarity of {} of {}-word shingles",
                clean.near_duplicates, clean.shingle_words
            )
        } else {
            "no".into()
        },
        if report.decontaminated.is_empty() {
            "none".into()
        } else {
            let tasks = report
                .decontaminated
                .iter()
                .map(|(task, n)| format!("{task} ({n} items)"));
            tasks.collect::<Vec<_>>().join(", ")
        },
    );
    let _ = write!(text, "| source | read | not selected |");
    for reason in &reasons {
        let _ = write!(text, " {reason} |");
    }
    text.push_str(" beyond the quota | samples |\n|---|---:|---:|");
    text.push_str(&"---:|".repeat(reasons.len() + 2));
    text.push('\n');
    for source in &report.sources {
        let _ = write!(
            text,
            "| {} | {} | {} |",
            cell(&source.name),
            source.read,
            source.not_selected
        );
        for reason in &reasons {
            let _ = write!(text, " {} |", source.dropped.get(*reason).unwrap_or(&0));
        }
        let _ = writeln!(text, " {} | {} |", source.over_quota, source.samples());
    }
    text.push_str("\n`dropped.jsonl` lists each record left out with its reason.\n");
    let searched: Vec<&SourceReport> = report
        .sources
        .iter()
        .filter(|s| s.phi != "not searched")
        .collect();
    if !searched.is_empty() {
        text.push_str("\nSearched for what may identify a patient (a safety net, not a proof of de-identification):\n\n");
        for source in searched {
            let found = source
                .phi_found
                .iter()
                .map(|(class, n)| format!("{class} {n}"));
            let found: Vec<String> = found.collect();
            let found = if found.is_empty() {
                "nothing found".into()
            } else {
                found.join(", ")
            };
            let _ = writeln!(text, "- {} ({}): {found}.", source.name, source.phi);
        }
    }
}

fn terms(text: &mut String, access: AccessClass, report: &BuildReport) {
    text.push_str("\n## Terms\n\n");
    let _ = writeln!(
        text,
        "Everything made from this data (adapters, merged models) is under the strictest of its sources' terms: **{access}**."
    );
    let mut licences: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for source in report.sources.iter().filter(|source| !source.missing) {
        licences
            .entry(&source.licence)
            .or_default()
            .push(&source.name);
    }
    text.push('\n');
    for (licence, names) in licences {
        let _ = writeln!(text, "- {licence}: {}", names.join(", "));
    }
    let cited: Vec<(&str, &str)> = report
        .sources
        .iter()
        .filter(|source| !source.missing)
        .filter_map(|source| Some((source.name.as_str(), source.citation.as_deref()?)))
        .collect();
    if !cited.is_empty() {
        text.push_str("\n## Citations\n\n");
        for (name, citation) in cited {
            let _ = writeln!(text, "- {name}: {citation}");
        }
    }
}
