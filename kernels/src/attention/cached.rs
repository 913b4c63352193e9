//! Attention for generation: new rows of several sequences against what each has seen so far.

use super::block::{self, Run};
use super::{AttentionShape, Columns, Shared};
use crate::access::{self, dense, dense_as, read};
use crate::cuda::ops::DeviceCache;
use crate::real::{Real, Stored, with_stored};
use crate::{Error, Result};
use candle_core::{DType, Tensor};
use half::bf16;
use rayon::prelude::*;

/// The keys and values of one sequence in one layer.
#[derive(Clone, Debug)]
pub struct KvCache {
    kv_heads: usize,
    head_dim: usize,
    len: usize,
    lists: Lists,
}

/// For each head, keys and values (len, head_dim).
type HeadLists<S> = Vec<(Vec<S>, Vec<S>)>;

#[derive(Clone, Debug)]
enum Lists {
    F32(HeadLists<f32>),
    Bf16(HeadLists<bf16>),
    F64(HeadLists<f64>),
    Device(DType, DeviceCache),
}

impl KvCache {
    /// An empty cache that stores f32, bf16 or f64 (anything else is stored as f32).
    pub fn new(kv_heads: usize, head_dim: usize, dtype: DType) -> Self {
        let lists = match dtype {
            DType::BF16 => Lists::Bf16(vec![Default::default(); kv_heads]),
            DType::F64 => Lists::F64(vec![Default::default(); kv_heads]),
            _ => Lists::F32(vec![Default::default(); kv_heads]),
        };
        Self {
            kv_heads,
            head_dim,
            len: 0,
            lists,
        }
    }

    /// Tokens held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets all but the first `len` tokens.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        let numbers = self.len * self.head_dim;
        match &mut self.lists {
            Lists::F32(lists) => truncate(lists, numbers),
            Lists::Bf16(lists) => truncate(lists, numbers),
            Lists::F64(lists) => truncate(lists, numbers),
            // What lies after the length is not read, and the next token is put over it.
            Lists::Device(..) => {}
        }
    }

    /// Bytes held.
    pub fn size_bytes(&self) -> usize {
        2 * self.len * self.kv_heads * self.head_dim * self.dtype().size_in_bytes()
    }

    /// The lists in a device's memory, where an empty cache's are put.
    fn on_device(
        &mut self,
        shape: &AttentionShape,
        capacity: usize,
        dtype: DType,
        like: &Tensor,
    ) -> Result<&mut DeviceCache> {
        if self.len == 0 && !matches!(self.lists, Lists::Device(..)) {
            let lists = DeviceCache::new(shape, capacity, dtype, like)?;
            self.lists = Lists::Device(dtype, lists);
        }
        match &mut self.lists {
            Lists::Device(_, lists) => Ok(lists),
            _ => Err(access::off_device("attention_cached", like)),
        }
    }

    fn dtype(&self) -> DType {
        match &self.lists {
            Lists::F32(_) => DType::F32,
            Lists::Bf16(_) => DType::BF16,
            Lists::F64(_) => DType::F64,
            Lists::Device(dtype, _) => *dtype,
        }
    }
}

fn truncate<S>(lists: &mut HeadLists<S>, numbers: usize) {
    for (keys, values) in lists {
        keys.truncate(numbers);
        values.truncate(numbers);
    }
}

/// Types a cache stores.
trait Cached: Stored {
    fn lists(lists: &Lists) -> Option<&HeadLists<Self>>;
    fn lists_mut(lists: &mut Lists) -> Option<&mut HeadLists<Self>>;
}

macro_rules! cached {
    ($($type:ty => $variant:ident),*) => {$(
        impl Cached for $type {
            fn lists(lists: &Lists) -> Option<&HeadLists<Self>> {
                if let Lists::$variant(lists) = lists { Some(lists) } else { None }
            }
            fn lists_mut(lists: &mut Lists) -> Option<&mut HeadLists<Self>> {
                if let Lists::$variant(lists) = lists { Some(lists) } else { None }
            }
        }
    )*};
}
cached!(f32 => F32, bf16 => Bf16, f64 => F64);

/// Query tokens a task takes.
const QUERY_TOKENS: usize = 256;

/// Appends `lens[i]` new tokens to cache i and attends causally from them to all it holds.
///
/// q (T, H·hd) and k, v (T, KV·hd) hold the sequences' new rows one after another; the result is
/// like q. On an error no cache has changed.
pub fn attention_cached(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    caches: &mut [&mut KvCache],
    lens: &[usize],
    shape: &AttentionShape,
) -> Result<Tensor> {
    const OP: &str = "attention_cached";
    let t = shape.check(OP, q, k, v)?;
    if caches.len() != lens.len() {
        return Err(Error::Length {
            op: OP,
            what: "lens",
            expected: caches.len(),
            found: lens.len(),
        });
    }
    let total = lens.iter().sum();
    if total != t {
        return Err(Error::Length {
            op: OP,
            what: "the rows of q",
            expected: total,
            found: t,
        });
    }
    let Some(first) = caches.first().map(|c| c.dtype()) else {
        return Ok(q.clone());
    };
    for cache in caches.iter() {
        let (cached, asked) = (
            [cache.kv_heads, cache.head_dim],
            [shape.kv_heads, shape.head_dim],
        );
        if cached != asked {
            return Err(access::shape(OP, "a cache", &cached, "the heads", &asked));
        }
        if cache.dtype() != first {
            return Err(Error::Type {
                op: OP,
                found: cache.dtype(),
                expected: "caches of one type",
            });
        }
    }
    if q.device().is_cuda() {
        return extend_on_device(
            [&dense(q)?, &dense(k)?, &dense(v)?],
            first,
            caches,
            lens,
            shape,
        );
    }
    with_stored!(OP, first, S => {
        let [wide_q, wide_k, wide_v] = [q, k, v].map(dense_as::<<S as Stored>::Acc>);
        let (wide_q, wide_k, wide_v) = (wide_q?, wide_k?, wide_v?);
        append::<S>(&read(OP, &wide_k)?, &read(OP, &wide_v)?, caches, lens)?;
        let out = attend::<S>(&read(OP, &wide_q)?, caches, lens, shape)?;
        access::narrow(&access::tensor(out, q.shape())?, q.dtype())
    })
}

/// As [`attention_cached`], of checked dense tensors on a device.
fn extend_on_device(
    [q, k, v]: [&Tensor; 3],
    dtype: DType,
    caches: &mut [&mut KvCache],
    lens: &[usize],
    shape: &AttentionShape,
) -> Result<Tensor> {
    let mut parts = Vec::with_capacity(lens.len());
    let mut first = 0;
    for (cache, len) in caches.iter_mut().zip(lens).filter(|(_, len)| **len > 0) {
        let rows = |x: &Tensor| x.narrow(0, first, *len);
        let rows = [&rows(q)?, &rows(k)?, &rows(v)?];
        let held = cache.len;
        let lists = cache.on_device(shape, held + len, dtype, q)?;
        parts.push(lists.extend(rows, held, shape)?);
        first += len;
    }
    let out = match parts.as_slice() {
        [] => q.clone(),
        [one] => one.clone(),
        parts => Tensor::cat(parts, 0)?,
    };
    for (cache, len) in caches.iter_mut().zip(lens) {
        cache.len += len;
    }
    Ok(out)
}

fn append<S: Cached>(
    k: &[S::Acc],
    v: &[S::Acc],
    caches: &mut [&mut KvCache],
    lens: &[usize],
) -> Result<()> {
    let mut first = 0;
    for (cache, len) in caches.iter_mut().zip(lens) {
        let (heads, d) = (cache.kv_heads, cache.head_dim);
        if let Some(lists) = S::lists_mut(&mut cache.lists) {
            for (head, (keys, values)) in lists.iter_mut().enumerate() {
                for row in first..first + len {
                    let at = (row * heads + head) * d;
                    keys.extend(k[at..at + d].iter().map(|x| S::narrow(*x)));
                    values.extend(v[at..at + d].iter().map(|x| S::narrow(*x)));
                }
            }
        }
        cache.len += len;
        first += len;
    }
    Ok(())
}

/// Some query tokens of one sequence under one key/value head.
struct Task<'a, S> {
    keys: &'a [S],
    values: &'a [S],
    head: usize,
    first_row: usize,
    tokens: usize,
    position: usize,
}

fn attend<S: Cached>(
    q: &[S::Acc],
    caches: &[&mut KvCache],
    lens: &[usize],
    shape: &AttentionShape,
) -> Result<Vec<S::Acc>> {
    let d = shape.head_dim;
    let mut tasks: Vec<Task<S>> = Vec::new();
    let mut row = 0;
    for (cache, len) in caches.iter().zip(lens) {
        let before = cache.len - len;
        for (head, (keys, values)) in S::lists(&cache.lists).into_iter().flatten().enumerate() {
            for from in (0..*len).step_by(QUERY_TOKENS) {
                let tokens = QUERY_TOKENS.min(len - from);
                let seen = (before + from + tokens) * d;
                tasks.push(Task {
                    keys: &keys[..seen],
                    values: &values[..seen],
                    head,
                    first_row: row + from,
                    tokens,
                    position: before + from,
                });
            }
        }
        row += len;
    }
    let mut out = vec![S::Acc::ZERO; q.len()];
    let shared = Shared::new(&mut out);
    tasks.into_par_iter().with_max_len(1).for_each(|task| {
        let columns = Columns::of_head(task.head, shape.kv_heads, shape.group() * d);
        let rows = task.first_row..task.first_row + task.tokens;
        let queries = columns.gather(q, rows.clone());
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        let run = Run {
            keys: wide(task.keys, &mut keys),
            values: wide(task.values, &mut values),
            position: 0,
        };
        let mut out = vec![S::Acc::ZERO; queries.len()];
        let mut sums = vec![S::Acc::ZERO; queries.len() / d];
        block::forward(
            &shape.geometry(shape.group(), task.position),
            &queries,
            &[run],
            &mut out,
            &mut sums,
        );
        // SAFETY: the list outlives the loop, and each task has its own rows and columns.
        unsafe { shared.scatter(&out, columns, rows) };
    });
    Ok(out)
}

/// The list itself if it needs no widening, else its copy in `buffer`.
fn wide<'a, S: Stored>(list: &'a [S], buffer: &'a mut Vec<S::Acc>) -> &'a [S::Acc] {
    match S::as_wide(list) {
        Some(list) => list,
        None => {
            buffer.extend(list.iter().map(|x| x.widen()));
            buffer
        }
    }
}
