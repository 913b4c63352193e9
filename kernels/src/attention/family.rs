//! Which segments must be computed by one task: those that share a prefix.

use super::Segment;
use crate::cuda::launch::AttentionTiles;
use crate::cuda::ops::DeviceTiles;
use crate::{Error, Result};
use candle_core::Tensor;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// The segments of a pack, checked and grouped: made once a batch, read by every layer. A clone shares them.
#[derive(Clone, Debug)]
pub struct Segments(Arc<Grouped>);

#[derive(Debug)]
struct Grouped {
    segments: Vec<Segment>,
    rows: usize,
    families: Vec<Family>,
    device: OnceLock<DeviceTiles>,
}

impl Segments {
    /// Of a pack of `rows` rows. An error where they overlap, are out of order, leave the pack, or name a prefix that is
    /// not inside one earlier segment.
    pub fn new(segments: &[Segment], rows: usize) -> Result<Self> {
        let families = families(segments, rows)?;
        Ok(Self(Arc::new(Grouped {
            segments: segments.to_vec(),
            rows,
            families,
            device: OnceLock::new(),
        })))
    }

    /// Rows of the pack.
    pub fn rows(&self) -> usize {
        self.0.rows
    }

    pub(super) fn families(&self) -> &[Family] {
        &self.0.families
    }

    /// What kernels read about them, on the device of `like`: uploaded the first time.
    pub(super) fn on_device(&self, like: &Tensor) -> Result<&DeviceTiles> {
        if let Some(tiles) = self.0.device.get() {
            return Ok(tiles);
        }
        let tiles = AttentionTiles::of(&self.0.segments, self.0.rows)?;
        let tiles = DeviceTiles::upload(tiles, like)?;
        Ok(self.0.device.get_or_init(|| tiles))
    }

    /// Fails unless they are of a pack of T rows.
    pub(super) fn check(&self, op: &'static str, t: usize) -> Result<()> {
        if self.0.rows == t {
            return Ok(());
        }
        Err(Error::Length {
            op,
            what: "the segments' rows",
            expected: t,
            found: self.0.rows,
        })
    }
}

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
