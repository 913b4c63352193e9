//! Causal attention over packed sequences, in blocks: o = softmax(scale · q kᵀ + mask) v.
//!
//! The scores (S, S) never exist: a block of queries meets a block of keys at a time, with a
//! running maximum and sum (Dao et al. 2022, arXiv 2205.14135). Of the forward pass only the
//! logarithm of each row's sum is kept, from which the backward pass makes the blocks again:
//! with p = exp(scale · q kᵀ - lse) and δ = rowsum(do · o),
//! dv = pᵀ do, dp = do vᵀ, ds = p · (dp - δ) · scale, dq = ds k, dk = dsᵀ q.
//!
//! Rows of different segments never meet, not even under a mask: another segment's NaN stays there.
//! Segments that share a prefix form a family, and one task does one family and one key/value
//! head (or a fixed part of its query heads), so every sum has one order, whatever the number of
//! threads.

mod block;
mod cached;
mod case;
mod family;
mod packed;

pub use cached::{KvCache, attention_cached};
pub(crate) use case::{PACKED, PREFIXED, SHORT, WINDOWED};

use crate::access::{self, dense, dense_as, dims2, read, same_shape};
use crate::real::{Stored, with_stored};
use crate::{Error, Result};
use block::Geometry;
use candle_core::Tensor;
use family::Family;
pub(crate) use family::families;
use packed::{backward, forward};
use std::ops::Range;

/// Rows of one sequence in a pack; each sees itself and the rows before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First row.
    pub start: usize,
    /// Rows.
    pub len: usize,
    /// Rows of one earlier segment that every row of this one sees, as if they came before it.
    pub prefix: Option<Range<usize>>,
}

/// Heads and scale.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; each serves heads / kv_heads query heads.
    pub kv_heads: usize,
    /// Numbers a head.
    pub head_dim: usize,
    /// Factor of the scores, usually 1/sqrt(head_dim).
    pub scale: f64,
    /// Key j is visible to query i only if i - j < window (Mistral), counted in positions with the
    /// prefix.
    pub window: Option<usize>,
}

impl AttentionShape {
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    fn check(&self, op: &'static str, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<usize> {
        let refuse = |problem| {
            let window = self.window.map_or("any length".into(), |w| w.to_string());
            Err(Error::Heads {
                heads: self.heads,
                kv_heads: self.kv_heads,
                window,
                problem,
            })
        };
        if self.heads == 0 || self.kv_heads == 0 || !self.heads.is_multiple_of(self.kv_heads) {
            return refuse("every key/value head must serve the same number of query heads");
        }
        if self.window == Some(0) {
            return refuse("a token must at least see itself");
        }
        let (t, width) = dims2(op, "q", q)?;
        let expected = [t, self.heads * self.head_dim];
        if width != expected[1] || self.head_dim == 0 {
            return Err(access::shape(op, "q", q.dims(), "its heads", &expected));
        }
        let expected = [t, self.kv_heads * self.head_dim];
        for (what, tensor) in [("k", k), ("v", v)] {
            if tensor.dims() != expected {
                return Err(access::shape(
                    op,
                    what,
                    tensor.dims(),
                    "its heads",
                    &expected,
                ));
            }
            if tensor.dtype() != q.dtype() {
                let expected = "q, k and v of one type";
                return Err(Error::Type {
                    op,
                    found: tensor.dtype(),
                    expected,
                });
            }
        }
        Ok(t)
    }

    /// Rows of `group` query heads that share keys, the first token at position `offset`.
    fn geometry(&self, group: usize, offset: usize) -> Geometry {
        Geometry {
            group,
            head_dim: self.head_dim,
            scale: self.scale,
            window: self.window.unwrap_or(usize::MAX),
            offset,
        }
    }
}

/// What the backward pass needs: the inputs, the output, and the log-sum-exp of each row and head.
#[must_use]
#[derive(Debug)]
pub struct AttentionSaved {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    o: Tensor,
    /// (T, H), accumulate type.
    log_sums: Tensor,
    families: Vec<Family>,
    shape: AttentionShape,
}

impl AttentionSaved {
    /// Bytes held until the backward pass: q, k, v, the output, and the row sums.
    pub fn size_bytes(&self) -> usize {
        let bytes = |t: &Tensor| t.elem_count() * t.dtype().size_in_bytes();
        [&self.q, &self.k, &self.v, &self.o, &self.log_sums]
            .into_iter()
            .map(bytes)
            .sum()
    }
}

/// o (T, H·hd) of q (T, H·hd) and k, v (T, KV·hd), in their type. Rows of no segment give zeros.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    segments: &[Segment],
    shape: &AttentionShape,
) -> Result<(Tensor, AttentionSaved)> {
    const OP: &str = "attention";
    let t = shape.check(OP, q, k, v)?;
    let families = families(segments, t)?;
    let (q, k, v) = (dense(OP, q)?, dense(OP, k)?, dense(OP, v)?);
    let (o, log_sums) = with_stored!(OP, q.dtype(), S => {
        let inputs = [&*read::<S>(OP, &q)?, &*read::<S>(OP, &k)?, &*read::<S>(OP, &v)?];
        let (o, log_sums) = forward(inputs, &families, shape, t);
        Ok((access::tensor(o, q.shape())?, access::tensor(log_sums, (t, shape.heads))?))
    })?;
    let saved = AttentionSaved {
        q,
        k,
        v,
        o: o.clone(),
        log_sums,
        families,
        shape: *shape,
    };
    Ok((o, saved))
}

/// (dq, dk, dv), in the type of d_o.
pub fn attention_backward(saved: AttentionSaved, d_o: &Tensor) -> Result<(Tensor, Tensor, Tensor)> {
    const OP: &str = "attention_backward";
    same_shape(OP, "d_o", d_o, "o", &saved.o)?;
    with_stored!(OP, saved.q.dtype(), S => {
        let d_wide = dense_as::<<S as Stored>::Acc>(OP, d_o)?;
        let d_read = read::<<S as Stored>::Acc>(OP, &d_wide)?;
        let log_sums = read::<<S as Stored>::Acc>(OP, &saved.log_sums)?;
        let inputs = [&*read::<S>(OP, &saved.q)?, &*read(OP, &saved.k)?, &*read(OP, &saved.v)?, &*read(OP, &saved.o)?];
        let [dq, dk, dv] = backward(inputs, &log_sums, &d_read, &saved.families, &saved.shape);
        let give = |data: Vec<_>, like: &Tensor| access::narrow(&access::tensor(data, like.shape())?, d_o.dtype());
        Ok((give(dq, &saved.q)?, give(dk, &saved.k)?, give(dv, &saved.v)?))
    })
}

/// Columns `[at, at + width)` of some rows of a (T, stride) list.
#[derive(Clone, Copy)]
struct Columns {
    stride: usize,
    at: usize,
    width: usize,
}

impl Columns {
    /// The columns of key/value head `head` when each such head has `width` columns of (T, stride).
    fn of_head(head: usize, heads: usize, width: usize) -> Self {
        Self {
            stride: heads * width,
            at: head * width,
            width,
        }
    }

    /// Copies them, widened, into a dense list.
    fn gather<S: Stored>(self, from: &[S], rows: Range<usize>) -> Vec<S::Acc> {
        let mut to = Vec::with_capacity(rows.len() * self.width);
        for row in rows {
            let columns = &from[row * self.stride + self.at..][..self.width];
            to.extend(columns.iter().map(|x| x.widen()));
        }
        to
    }
}

/// A list that tasks write to at once, each its own rows and columns.
struct Shared<S> {
    start: *mut S,
    len: usize,
}

// SAFETY: `scatter`'s contract keeps the writes of different threads apart.
unsafe impl<S: Send> Sync for Shared<S> {}

impl<S: Stored> Shared<S> {
    fn new(list: &mut [S]) -> Self {
        Self {
            start: list.as_mut_ptr(),
            len: list.len(),
        }
    }

    /// Writes a dense list, narrowed, to columns of some rows.
    ///
    /// # Safety
    /// The list given to `new` is alive and not otherwise used, and no other thread writes these
    /// rows and columns.
    unsafe fn scatter(&self, from: &[S::Acc], columns: Columns, rows: Range<usize>) {
        for (row, from) in rows.zip(from.chunks_exact(columns.width)) {
            let at = row * columns.stride + columns.at;
            assert!(
                at + columns.width <= self.len,
                "row {row} lies outside the list"
            );
            for (i, x) in from.iter().enumerate() {
                // SAFETY: in bounds by the assertion, and ours alone by the contract.
                unsafe { self.start.add(at + i).write(S::narrow(*x)) };
            }
        }
    }
}
