//! Numbers of rows and ids of tokens, which a GPU is given once.

use crate::Result;
use crate::cuda::launch::RowGroups;
use crate::cuda::tensors::upload;
use candle_core::{DType, Device, Tensor};
use std::sync::{Arc, OnceLock};

/// A list of row numbers or token ids.
///
/// A clone shares the list, and what a GPU holds of it: a list that is used again is uploaded the first time. Operations
/// take a plain list too, which is uploaded at each call.
#[derive(Clone, Debug)]
pub struct Indices(Arc<Lists>);

#[derive(Debug)]
struct Lists {
    here: Vec<u32>,
    /// (n) u32.
    there: OnceLock<Tensor>,
    groups: OnceLock<DeviceGroups>,
}

/// A list by what it names, as sums over equal entries read it: [`RowGroups`] on a device.
#[derive(Clone, Debug)]
pub(crate) struct DeviceGroups {
    /// Different entries.
    pub(crate) count: usize,
    pub(crate) order: Tensor,
    pub(crate) starts: Tensor,
    pub(crate) targets: Tensor,
}

impl Indices {
    /// Of a list.
    pub fn new(list: Vec<u32>) -> Self {
        Self(Arc::new(Lists {
            here: list,
            there: OnceLock::new(),
            groups: OnceLock::new(),
        }))
    }

    /// The list.
    pub fn as_slice(&self) -> &[u32] {
        &self.0.here
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.0.here.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.here.is_empty()
    }

    /// Brings lists to a GPU in one copy, those to `scatter` by with what a sum over equal entries reads of them. Nothing
    /// elsewhere.
    pub fn upload(lists: &[&Self], scatter: &[&Self], device: &Device) -> Result<()> {
        if !device.is_cuda() {
            return Ok(());
        }
        let groups = scatter.iter().map(|list| RowGroups::of(list.as_slice()));
        let groups: Vec<RowGroups> = groups.collect();
        let mut all: Vec<u32> = Vec::new();
        for list in lists {
            all.extend(list.as_slice());
        }
        for part in groups.iter().flat_map(parts) {
            all.extend(part);
        }
        if all.is_empty() {
            return Ok(());
        }
        let there = upload(&all, &Tensor::zeros(0, DType::U32, device)?)?;
        let mut at = 0;
        let mut next = |len: usize| {
            at += len;
            there.narrow(0, at - len, len)
        };
        for list in lists {
            let there = next(list.len())?;
            list.0.there.get_or_init(|| there);
        }
        for (list, groups) in scatter.iter().zip(&groups) {
            let [order, starts, targets] = parts(groups).map(|part| next(part.len()));
            let there = DeviceGroups {
                count: groups.targets.len(),
                order: order?,
                starts: starts?,
                targets: targets?,
            };
            list.0.groups.get_or_init(|| there);
        }
        Ok(())
    }

    /// (n) u32 on the device of `like`.
    pub(crate) fn on_device(&self, like: &Tensor) -> Result<&Tensor> {
        if self.0.there.get().is_none() {
            let there = upload(self.as_slice(), like)?;
            self.0.there.get_or_init(|| there);
        }
        let there = self.0.there.get();
        of_device(there.filter(|there| on_one(there, like)), like)
    }

    /// By what the entries name, on the device of `like`.
    pub(crate) fn groups_on_device(&self, like: &Tensor) -> Result<&DeviceGroups> {
        if self.0.groups.get().is_none() {
            Self::upload(&[], &[self], like.device())?;
        }
        let groups = self.0.groups.get();
        of_device(groups.filter(|groups| on_one(&groups.order, like)), like)
    }
}

fn on_one(there: &Tensor, like: &Tensor) -> bool {
    there.device().location() == like.device().location()
}

/// A list is brought to one device.
fn of_device<'a, T>(found: Option<&'a T>, like: &Tensor) -> Result<&'a T> {
    found.ok_or_else(|| crate::access::off_device("a list of another device", like))
}

/// What a device reads of groups, in the order in which it is uploaded.
fn parts(groups: &RowGroups) -> [&[u32]; 3] {
    [&groups.order, &groups.starts, &groups.targets]
}

impl From<&Indices> for Indices {
    fn from(list: &Indices) -> Self {
        list.clone()
    }
}

impl From<&[u32]> for Indices {
    fn from(list: &[u32]) -> Self {
        Self::new(list.to_vec())
    }
}

impl From<&Vec<u32>> for Indices {
    fn from(list: &Vec<u32>) -> Self {
        Self::new(list.clone())
    }
}

impl<const N: usize> From<&[u32; N]> for Indices {
    fn from(list: &[u32; N]) -> Self {
        Self::new(list.to_vec())
    }
}

/// A number beyond 32 bits becomes the largest of those: no tensor has that row.
impl From<&[usize]> for Indices {
    fn from(list: &[usize]) -> Self {
        let row = |i: &usize| u32::try_from(*i).unwrap_or(u32::MAX);
        Self::new(list.iter().map(row).collect())
    }
}

impl From<&Vec<usize>> for Indices {
    fn from(list: &Vec<usize>) -> Self {
        Self::from(list.as_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_beyond_32_bits_is_no_row() {
        let list = Indices::from(&[3usize, usize::MAX][..]);
        assert_eq!(list.as_slice(), [3, u32::MAX]);
        assert_eq!((list.len(), list.is_empty()), (2, false));
    }
}
