//! What a build did, a source: for its manifest, its data card and its picture.

use std::collections::BTreeMap;

use ledger::AccessClass;
use serde::Serialize;

use super::Side;
use super::choose::{Choice, Chosen};
use super::prepare::phi_policy;
use super::scan::{Fate, Scan};
use super::write::Written;
use crate::recipe::{DataSection, PhiPolicy, SourceSection};

/// A build, in numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BuildReport {
    /// The sources in the recipe's order, those for validation last.
    pub sources: Vec<SourceReport>,
    /// Groups that were given less than their quota.
    pub short_groups: Vec<ShortGroup>,
    /// All sources together.
    pub total: Totals,
    /// Packs of `max_seq_len` tokens that the training samples fill; where
    /// tokens were counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packs: Option<u64>,
    /// Evaluation tasks that the records were compared with, and their items.
    pub decontaminated: BTreeMap<String, u64>,
}

/// A group whose sources did not have its quota.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShortGroup {
    /// Its name.
    pub name: String,
    /// What was asked for.
    pub quota: usize,
    /// What there was.
    pub available: usize,
}

/// Samples and tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Samples to train on.
    pub train: u64,
    /// Samples held out.
    pub validation: u64,
    /// Tokens of both; 0 where they were not counted.
    pub tokens: u64,
    /// Those that teach.
    pub target_tokens: u64,
}

/// One source.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SourceReport {
    /// Its name in the recipe.
    pub name: String,
    /// The kind of task.
    pub kind: String,
    /// Its licence.
    pub licence: String,
    /// Whose terms it is under.
    pub access: AccessClass,
    /// How to cite it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub citation: Option<String>,
    /// Its files were not there, and the build went on without them.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub missing: bool,
    /// Samples that were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota: Option<u64>,
    /// How many fewer there are.
    #[serde(skip_serializing_if = "is_zero")]
    pub short_of: u64,
    /// Records read.
    pub read: u64,
    /// Records that the publisher's files have, as the recipe says, where it
    /// is another number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_records: Option<u64>,
    /// Records beyond `limit` or outside `where`.
    pub not_selected: u64,
    /// Records left out, by reason; `dropped.jsonl` lists them.
    pub dropped: BTreeMap<String, u64>,
    /// Records that could be used, beyond the quota.
    pub over_quota: u64,
    /// Records changed by each kind of normalisation.
    pub normalised: BTreeMap<String, u64>,
    /// What was done about what may identify a patient.
    pub phi: &'static str,
    /// What was found of it, by class.
    pub phi_found: BTreeMap<String, u64>,
    /// Samples to train on.
    pub train: u64,
    /// Samples held out.
    pub validation: u64,
    /// Tokens of both; 0 where they were not counted.
    pub tokens: u64,
    /// Those that teach.
    pub target_tokens: u64,
    /// Samples longer than `max_seq_len`, which training deals with.
    pub too_long: u64,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl SourceReport {
    fn new(source: &SourceSection) -> Self {
        Self {
            name: source.name.clone(),
            kind: source.kind.clone().unwrap_or_else(|| "unstated".into()),
            licence: source.licence.clone(),
            access: source.access,
            citation: source.citation.clone(),
            missing: false,
            quota: source.quota.map(|quota| quota as u64),
            short_of: 0,
            read: 0,
            expected_records: None,
            not_selected: 0,
            dropped: BTreeMap::new(),
            over_quota: 0,
            normalised: BTreeMap::new(),
            phi: match phi_policy(source) {
                PhiPolicy::Block => "block",
                PhiPolicy::Redact => "redact",
                PhiPolicy::Allow => "not searched",
            },
            phi_found: BTreeMap::new(),
            train: 0,
            validation: 0,
            tokens: 0,
            target_tokens: 0,
            too_long: 0,
        }
    }

    /// Samples on both sides.
    pub fn samples(&self) -> u64 {
        self.train + self.validation
    }
}

/// Puts the two passes' numbers together. `sources` are in the passes' order,
/// validation first; `missing` were left out.
pub(super) fn report(
    section: &DataSection,
    sources: &[(Side, &SourceSection)],
    missing: &[&SourceSection],
    scan: &Scan,
    chosen: &Chosen,
    written: &[Written],
    packs: Option<u64>,
) -> BuildReport {
    let mut by_name: BTreeMap<&str, SourceReport> = BTreeMap::new();
    for (number, (_, source)) in sources.iter().enumerate() {
        let mut one = SourceReport::new(source);
        let scanned = &scan.sources[number];
        one.read = scanned.fates.len() as u64;
        one.expected_records = source.expected_records.filter(|&n| n != one.read);
        for fate in &scanned.fates {
            match *fate {
                Fate::NotSelected => one.not_selected += 1,
                Fate::Candidate(n) => {
                    one.over_quota += u64::from(chosen.choices[n as usize] == Choice::OverQuota);
                }
                _ => {}
            }
            if let Some(reason) = fate.reason(source) {
                *one.dropped.entry(reason).or_insert(0) += 1;
            }
        }
        let count = |(name, n): (&&str, &u64)| ((*name).to_owned(), *n);
        one.normalised = scanned.changes.iter().map(count).collect();
        one.phi_found = scanned
            .phi
            .iter()
            .map(|(class, n)| (class.name().to_owned(), *n))
            .collect();
        let quota = chosen.quotas[number].map(|quota| quota as u64);
        one.quota = quota;
        let Written {
            train,
            validation,
            tokens,
            target_tokens,
            too_long,
        } = written[number];
        (one.train, one.validation) = (train, validation);
        (one.tokens, one.target_tokens, one.too_long) = (tokens, target_tokens, too_long);
        one.short_of = quota.map_or(0, |quota| quota.saturating_sub(one.samples()));
        by_name.insert(&source.name, one);
    }
    for source in missing {
        let mut one = SourceReport::new(source);
        one.missing = true;
        one.quota = section.quota_of(source).map(|quota| quota as u64);
        one.short_of = one.quota.unwrap_or(0);
        by_name.insert(&source.name, one);
    }
    let order = section.sources();
    let sources: Vec<SourceReport> = order
        .filter_map(|s| by_name.remove(s.name.as_str()))
        .collect();
    let sum = |of: fn(&SourceReport) -> u64| sources.iter().map(of).sum();
    let total = Totals {
        train: sum(|s| s.train),
        validation: sum(|s| s.validation),
        tokens: sum(|s| s.tokens),
        target_tokens: sum(|s| s.target_tokens),
    };
    let short = |(name, quota, available): &(String, usize, usize)| ShortGroup {
        name: name.clone(),
        quota: *quota,
        available: *available,
    };
    BuildReport {
        sources,
        short_groups: chosen.short_groups.iter().map(short).collect(),
        total,
        packs,
        decontaminated: BTreeMap::new(),
    }
}
