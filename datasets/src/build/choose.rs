//! Which candidates become samples, and on which side of the split: after all
//! cleaning, so that totals come out whole.

use std::collections::{BTreeMap, HashSet};

use super::Side;
use super::scan::{Candidate, Fate, Scan};
use crate::recipe::{DataSection, SourceSection};
use crate::{Error, Result};

/// What becomes of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// Its source's quota was full.
    OverQuota,
    Taken(Side),
}

/// The choice of each candidate, and what each source was asked for.
pub(super) struct Chosen {
    pub choices: Vec<Choice>,
    /// By source: the quota that it came to have, if it has one.
    pub quotas: Vec<Option<usize>>,
    /// Groups of which something was missing: name, quota, what there was.
    pub short_groups: Vec<(String, usize, usize)>,
}

/// Chooses among a scan's candidates.
///
/// # Errors
/// A split group on both sides, a group that is named and not there or asks for
/// nothing, or nothing left to train on.
pub(super) fn choose(
    section: &DataSection,
    sources: &[(Side, &SourceSection)],
    scan: &Scan,
) -> Result<Chosen> {
    let mut eligible: Vec<Vec<u32>> = scan.sources.iter().map(|_| Vec::new()).collect();
    for (source, scanned) in scan.sources.iter().enumerate() {
        eligible[source].extend(scanned.fates.iter().filter_map(|fate| match fate {
            Fate::Candidate(number) => Some(*number),
            _ => None,
        }));
    }
    let held_out = hold_out(section.validation_fraction, sources, scan, &eligible);
    no_group_on_both_sides(sources, scan, &eligible)?;
    let available: Vec<usize> = eligible.iter().map(Vec::len).collect();
    let mut chosen = Chosen {
        choices: vec![Choice::OverQuota; scan.candidates.len()],
        quotas: own_quotas(section, sources, &available),
        short_groups: Vec::new(),
    };
    let mut by_tokens = Vec::new();
    for group in &section.group {
        let members: Vec<usize> = (0..sources.len())
            .filter(|&i| sources[i].1.group.as_deref() == Some(&group.name))
            .collect();
        match (group.quota, group.token_share) {
            (Some(quota), None) => {
                let quota = section.sampled(quota);
                let shares = share_quota(quota, &members, &chosen.quotas, &available);
                let total: usize = shares.iter().map(|&(_, share)| share).sum();
                if total < quota {
                    chosen.short_groups.push((group.name.clone(), quota, total));
                }
                for (member, share) in shares {
                    chosen.quotas[member] = Some(share);
                }
            }
            (None, Some(share)) => by_tokens.push((share, members)),
            _ => {
                return Err(Error::Group {
                    name: group.name.clone(),
                });
            }
        }
    }
    if !by_tokens.is_empty() {
        let budget = (section.token_budget, section.sample);
        mix_by_tokens(budget, &by_tokens, scan, &mut eligible);
    }
    for (source, candidates) in eligible.iter_mut().enumerate() {
        if let Some(quota) = chosen.quotas[source] {
            keep_smallest(candidates, quota, &scan.candidates);
        }
        for &number in candidates.iter() {
            let group = scan.candidates[number as usize].group;
            let side = match sources[source].0 {
                Side::Train if !held_out.contains(&group) => Side::Train,
                _ => Side::Validation,
            };
            chosen.choices[number as usize] = Choice::Taken(side);
        }
    }
    let taken = |side| {
        chosen
            .choices
            .iter()
            .filter(|&&c| c == Choice::Taken(side))
            .count()
    };
    if taken(Side::Train) == 0 {
        return Err(Error::NoSamples {
            read: scan.sources.iter().map(|source| source.fates.len()).sum(),
            held_out: taken(Side::Validation),
        });
    }
    Ok(chosen)
}

/// By source: its own quota. Without one, a source of a group takes what the group gives it, and any other everything,
/// of which `sample` builds a share.
fn own_quotas(
    section: &DataSection,
    sources: &[(Side, &SourceSection)],
    available: &[usize],
) -> Vec<Option<usize>> {
    let quota = |(&(side, source), &available): (&(Side, &SourceSection), &usize)| {
        let whole = section.sample == 1.0 || side == Side::Validation || source.group.is_some();
        let share = (!whole).then(|| section.sampled(available));
        section.quota_of(source).or(share)
    };
    sources.iter().zip(available).map(quota).collect()
}

fn keep_smallest(numbers: &mut Vec<u32>, quota: usize, candidates: &[Candidate]) {
    numbers.sort_by_key(|&number| (candidates[number as usize].draw, number));
    numbers.truncate(quota);
    numbers.sort_unstable();
}

/// The split groups that are held out: those that draw the smallest numbers, up
/// to `fraction` of the samples that could be trained on.
fn hold_out(
    fraction: f64,
    sources: &[(Side, &SourceSection)],
    scan: &Scan,
    eligible: &[Vec<u32>],
) -> HashSet<u64> {
    let mut sizes: BTreeMap<u64, usize> = BTreeMap::new();
    for (source, candidates) in eligible.iter().enumerate() {
        if sources[source].0 == Side::Train {
            for &number in candidates {
                *sizes
                    .entry(scan.candidates[number as usize].group)
                    .or_insert(0) += 1;
            }
        }
    }
    let total: usize = sizes.values().sum();
    if fraction == 0.0 || total == 0 {
        return HashSet::new();
    }
    // A share that rounds to nothing still means that some is wanted.
    let wanted = ((total as f64 * fraction).round() as usize).max(1);
    let mut held = 0;
    // A group's number is its draw: the map lists the smallest first.
    let groups = sizes.into_iter().take_while(|&(_, size)| {
        let more = held < wanted;
        held += size;
        more
    });
    groups.map(|(group, _)| group).collect()
}

/// Refuses a patient or document that is both trained on and measured on.
fn no_group_on_both_sides(
    sources: &[(Side, &SourceSection)],
    scan: &Scan,
    eligible: &[Vec<u32>],
) -> Result<()> {
    let groups = |side| {
        let of_side = (0..sources.len()).filter(move |&i| sources[i].0 == side);
        of_side.flat_map(move |i| {
            let group = move |&n: &u32| (scan.candidates[n as usize].group, i);
            eligible[i].iter().map(group)
        })
    };
    let validation: BTreeMap<u64, usize> = groups(Side::Validation).collect();
    let mut shared: BTreeMap<u64, (usize, usize)> = BTreeMap::new();
    for (group, source) in groups(Side::Train) {
        if let Some(&other) = validation.get(&group) {
            shared.entry(group).or_insert((source, other));
        }
    }
    match shared.values().next() {
        None => Ok(()),
        Some(&(source, other)) => Err(Error::SplitLeak {
            groups: shared.len(),
            source_name: sources[source].1.name.clone(),
            other: sources[other].1.name.clone(),
        }),
    }
}

/// What each member of a group gives to its quota: its own quota where it has
/// one, and of the rest a share in proportion to what is available.
fn share_quota(
    quota: usize,
    members: &[usize],
    own: &[Option<usize>],
    available: &[usize],
) -> Vec<(usize, usize)> {
    let fixed = |&i: &usize| own[i].map(|quota| (i, quota.min(available[i])));
    let mut shares: Vec<(usize, usize)> = members.iter().filter_map(fixed).collect();
    let taken: usize = shares.iter().map(|&(_, share)| share).sum();
    let open: Vec<usize> = members
        .iter()
        .copied()
        .filter(|&i| own[i].is_none())
        .collect();
    let total: usize = open.iter().map(|&i| available[i]).sum();
    let rest = quota.saturating_sub(taken).min(total);
    // Largest remainders, earlier sources first where they are equal.
    let exact = |i: usize| rest as u128 * available[i] as u128;
    let mut parts: Vec<(usize, usize, u128)> = open
        .iter()
        .map(|&i| {
            let total = (total as u128).max(1);
            (i, (exact(i) / total) as usize, exact(i) % total)
        })
        .collect();
    let given: usize = parts.iter().map(|part| part.1).sum();
    let mut order: Vec<usize> = (0..parts.len()).collect();
    order.sort_by_key(|&k| (std::cmp::Reverse(parts[k].2), k));
    for &k in order.iter().take(rest - given) {
        parts[k].1 += 1;
    }
    shares.extend(parts.into_iter().map(|(i, share, _)| (i, share)));
    shares.sort_unstable();
    shares
}

/// Keeps of each group the candidates that draw the smallest numbers, until the
/// groups' tokens are to each other as their shares: of a budget of tokens
/// altogether, or as many as the group that runs out first allows; and of those
/// the share that is built.
fn mix_by_tokens(
    (budget, sample): (Option<u64>, f64),
    groups: &[(f64, Vec<usize>)],
    scan: &Scan,
    eligible: &mut [Vec<u32>],
) {
    let tokens = |number: u32| u64::from(scan.candidates[number as usize].tokens);
    let total_share: f64 = groups.iter().map(|(share, _)| share).sum();
    let has = |members: &[usize]| -> u64 {
        let of = |&i: &usize| eligible[i].iter().map(|&n| tokens(n)).sum::<u64>();
        members.iter().map(of).sum()
    };
    let most = groups
        .iter()
        .map(|(share, members)| has(members) as f64 * total_share / share)
        .fold(f64::INFINITY, f64::min);
    let budget = sample * budget.map_or(most, |budget| (budget as f64).min(most));
    for (share, members) in groups {
        let wanted = (budget * share / total_share) as u64;
        let mut pool: Vec<u32> = members.iter().flat_map(|&i| eligible[i].clone()).collect();
        pool.sort_by_key(|&n| (scan.candidates[n as usize].draw, n));
        let mut sum = 0;
        // The one that crosses the line is taken if that comes nearer to it.
        let kept: HashSet<u32> = pool
            .into_iter()
            .take_while(|&n| {
                sum += tokens(n);
                sum <= wanted + tokens(n) / 2
            })
            .collect();
        for &i in members {
            eligible[i].retain(|number| kept.contains(number));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_quota_is_shared_in_proportion_to_what_there_is() {
        let none = [None, None, None];
        let shares = |quota, own: &[Option<usize>], available: &[usize]| -> Vec<usize> {
            let shares = share_quota(quota, &[0, 1, 2], own, available);
            shares.into_iter().map(|(_, share)| share).collect()
        };
        // Alpaca, Dolly and ShareGPT: 52,002 : 15,011 : 90,665 to 20,000.
        assert_eq!(
            shares(20_000, &none, &[52_002, 15_011, 90_665]),
            [6_596, 1_904, 11_500]
        );
        assert_eq!(shares(10, &none, &[1, 1, 1]), [1, 1, 1]);
        assert_eq!(shares(2, &none, &[5, 5, 5]), [1, 1, 0]);
        assert_eq!(
            shares(10, &[Some(4), None, None], &[100, 30, 60]),
            [4, 2, 4]
        );
        assert_eq!(shares(10, &[Some(4), None, None], &[3, 30, 60]), [3, 2, 5]);
        assert_eq!(shares(10, &none, &[0, 0, 0]), [0, 0, 0]);
    }
}
