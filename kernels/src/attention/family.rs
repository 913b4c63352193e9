//! Which segments must be computed by one task: those that share a prefix.

use super::Segment;
use crate::{Error, Result};
use std::ops::Range;

/// Segments linked by prefixes; their rows lie one after another in the task's own lists.
#[derive(Debug)]
pub(crate) struct Family {
    pub(super) members: Vec<Member>,
}

/// A segment as its task sees it.
#[derive(Debug)]
pub(super) struct Member {
    /// Its rows in the pack.
    pub(super) rows: Range<usize>,
    /// Its rows in the family's lists.
    pub(super) local: Range<usize>,
    /// Its prefix's rows in the family's lists; may be empty.
    pub(super) prefix: Range<usize>,
}

impl Member {
    /// The position of its first row.
    pub(super) fn offset(&self) -> usize {
        self.prefix.len()
    }

    /// The rows it sees, in the family's lists, with the position of their first.
    pub(super) fn runs(&self) -> impl Iterator<Item = (Range<usize>, usize)> {
        [
            (self.prefix.clone(), 0),
            (self.local.clone(), self.prefix.len()),
        ]
        .into_iter()
        .filter(|(rows, _)| !rows.is_empty())
    }
}

/// Checks the segments of T rows and groups them, in their order.
pub(crate) fn families(segments: &[Segment], t: usize) -> Result<Vec<Family>> {
    let mut families: Vec<Family> = Vec::new();
    // For each segment: its family and its place there.
    let mut place: Vec<(usize, usize)> = Vec::with_capacity(segments.len());
    let mut end = 0;
    for (index, segment) in segments.iter().enumerate() {
        let refuse = |problem| {
            Err(Error::Segment {
                index,
                start: segment.start,
                len: segment.len,
                problem,
            })
        };
        let Some(segment_end) = segment
            .start
            .checked_add(segment.len)
            .filter(|end| *end <= t)
        else {
            return refuse("leaves the pack");
        };
        if segment.start < end {
            return refuse("overlaps the segment before it, or is out of order");
        }
        end = segment_end;
        let prefix = segment.prefix.clone().filter(|p| !p.is_empty());
        let (family, prefix) = match prefix {
            None => {
                families.push(Family {
                    members: Vec::new(),
                });
                (families.len() - 1, 0..0)
            }
            Some(prefix) => {
                let holds = |s: &Segment| s.start <= prefix.start && prefix.end <= s.start + s.len;
                let Some(parent) = segments[..index].iter().position(holds) else {
                    return refuse("has a prefix that is not inside one earlier segment");
                };
                let (family, member) = place[parent];
                let shift = families[family].members[member].local.start;
                let first = prefix.start - segments[parent].start + shift;
                (family, first..first + prefix.len())
            }
        };
        let members = &mut families[family].members;
        let local = members.last().map_or(0, |m| m.local.end);
        place.push((family, members.len()));
        members.push(Member {
            rows: segment.start..segment_end,
            local: local..local + segment.len,
            prefix,
        });
    }
    Ok(families)
}
