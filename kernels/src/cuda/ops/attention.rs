//! Packed attention, and keys and values kept for generation.

use crate::cuda::launch::{self, AttentionTiles, CacheShape};
use crate::cuda::tensors::{dense_as, float, run, uninit, upload};
use crate::{AttentionShape, Result, Segment, access};
use candle_core::{DType, Tensor};
use std::sync::Arc;

/// A pack's tiles on the device: uploaded once a batch, read by every layer.
#[derive(Debug)]
pub(crate) struct DeviceTiles {
    tiles: AttentionTiles,
    queries: Tensor,
    keys: Tensor,
    edges: Tensor,
}

impl DeviceTiles {
    pub(crate) fn upload(tiles: AttentionTiles, like: &Tensor) -> Result<Self> {
        Ok(Self {
            queries: upload(&tiles.queries, like)?,
            keys: upload(&tiles.keys, like)?,
            edges: upload(&tiles.edges, like)?,
            tiles,
        })
    }
}

fn check_head(op: &'static str, shape: &AttentionShape) -> Result<()> {
    if launch::takes_head_dim(shape.head_dim) {
        return Ok(());
    }
    Err(access::shape(
        op,
        "q",
        &[shape.heads, shape.head_dim],
        "the largest head on a GPU",
        &[shape.heads, 256],
    ))
}

/// o (T, H·hd), and the log-sum-exp (T, H) f32 of each row, of dense q, k and v.
pub(crate) fn attention(
    [q, k, v]: [&Tensor; 3],
    tiles: &DeviceTiles,
    shape: &AttentionShape,
) -> Result<(Tensor, Tensor)> {
    const OP: &str = "attention";
    check_head(OP, shape)?;
    let (t, width) = access::dims2(OP, "q", q)?;
    let kv = shape.kv_heads * shape.head_dim;
    let o = uninit(OP, (t, width), q.dtype(), q)?;
    let log_sums = uninit(OP, (t, shape.heads), DType::F32, q)?;
    let launch = launch::attention(float(OP, q)?, shape, &tiles.tiles, [width, kv, kv]);
    run(OP, launch, &[q, k, v, &o, &log_sums, &tiles.queries])?;
    Ok((o, log_sums))
}

/// dq, dk and dv, in the type of d_o. `o` and `log_sums` are the forward pass's.
pub(crate) fn attention_backward(
    [q, k, v, o, log_sums]: [&Tensor; 5],
    d_o: &Tensor,
    tiles: &DeviceTiles,
    shape: &AttentionShape,
) -> Result<(Tensor, Tensor, Tensor)> {
    const OP: &str = "attention_backward";
    let (t, width) = access::dims2(OP, "q", q)?;
    let kv = shape.kv_heads * shape.head_dim;
    let wanted = d_o.dtype();
    let d_o = dense_as(OP, d_o, q.dtype())?;
    let like = |x: &Tensor| uninit(OP, x.shape(), x.dtype(), x);
    let (dq, dk, dv) = (like(q)?, like(k)?, like(v)?);
    let strides = [width, kv, kv, width, kv, kv];
    let launches = launch::attention_backward(float(OP, q)?, shape, &tiles.tiles, t, strides);
    let lists = [&tiles.queries, &tiles.keys, &tiles.edges];
    let [queries, keys, edges] = lists;
    run(
        OP,
        launches,
        &[
            q, k, v, o, log_sums, &d_o, &dq, &dk, &dv, queries, keys, edges,
        ],
    )?;
    let give = |x: &Tensor| dense_as(OP, x, wanted);
    Ok((give(&dq)?, give(&dk)?, give(&dv)?))
}

/// The keys and values of one sequence in one layer, (kv_heads, capacity, head_dim) each.
///
/// A copy shares them until one of the two takes in more.
#[derive(Clone, Debug)]
pub(crate) struct DeviceCache {
    lists: Arc<[Tensor; 2]>,
}

impl DeviceCache {
    /// Tokens that a cache has room for at first, and grows by at least.
    const ROOM: usize = 256;

    /// Room for `capacity` tokens.
    pub(crate) fn new(
        shape: &AttentionShape,
        capacity: usize,
        dtype: DType,
        like: &Tensor,
    ) -> Result<Self> {
        let capacity = capacity.next_multiple_of(Self::ROOM).max(Self::ROOM);
        let dims = (shape.kv_heads, capacity, shape.head_dim);
        let zeros = || Tensor::zeros(dims, dtype, like.device());
        Ok(Self {
            lists: Arc::new([zeros()?, zeros()?]),
        })
    }

    fn capacity(&self) -> Result<usize> {
        Ok(self.lists[0].dim(1)?)
    }

    /// Makes room for `tokens` in all, in lists of its own; the first `held` stay.
    fn make_room(&mut self, held: usize, tokens: usize) -> Result<()> {
        let capacity = self.capacity()?;
        if tokens <= capacity {
            if Arc::get_mut(&mut self.lists).is_none() {
                let [keys, values] = &*self.lists;
                self.lists = Arc::new([keys.copy()?, values.copy()?]);
            }
            return Ok(());
        }
        let (heads, _, d) = self.lists[0].dims3()?;
        // Doubled, so that a long answer is copied a few times and not at every step.
        let room = tokens.max(2 * capacity).next_multiple_of(Self::ROOM);
        let wider = |list: &Tensor| -> Result<Tensor> {
            let wider = Tensor::zeros((heads, room, d), list.dtype(), list.device())?;
            if held > 0 {
                wider.slice_set(&access::dense(&list.narrow(1, 0, held)?)?, 1, 0)?;
            }
            Ok(wider)
        };
        let [keys, values] = &*self.lists;
        self.lists = Arc::new([wider(keys)?, wider(values)?]);
        Ok(())
    }

    /// Appends the new rows of one sequence, of which `held` are there, and attends from them.
    ///
    /// q (n, H·hd), k and v (n, KV·hd) dense; the answer is like q.
    pub(crate) fn extend(
        &mut self,
        [q, k, v]: [&Tensor; 3],
        held: usize,
        shape: &AttentionShape,
    ) -> Result<Tensor> {
        check_head(OP_CACHED, shape)?;
        let n = q.dim(0)?;
        self.make_room(held, held + n)?;
        let mut parts = Vec::new();
        for row in 0..n {
            let [q, k, v] = [q, k, v].map(|x| x.narrow(0, row, 1));
            let len = held + row + 1;
            let lens = upload(&[len as u32], &q?)?;
            self.append([&k?, &v?], &lens, shape)?;
        }
        if held == 0 && n > 1 {
            // A prompt: what it attends to is all in the rows themselves.
            let whole = Segment {
                start: 0,
                len: n,
                prefix: None,
            };
            let tiles = AttentionTiles::of(&[whole], n)?;
            let tiles = DeviceTiles::upload(tiles, q)?;
            return Ok(attention([q, k, v], &tiles, shape)?.0);
        }
        for row in 0..n {
            let q = q.narrow(0, row, 1)?;
            parts.push(self.attend(&q, held + row + 1, shape)?);
        }
        match parts.as_slice() {
            [one] => Ok(one.clone()),
            parts => Ok(Tensor::cat(parts, 0)?),
        }
    }

    fn shape_of_lists(&self) -> Result<CacheShape> {
        Ok(CacheShape {
            sequences: 1,
            capacity: self.capacity()?,
            stored: float(OP_CACHED, &self.lists[0])?,
        })
    }

    /// Puts one token's keys and values at the end.
    fn append(&self, [k, v]: [&Tensor; 2], lens: &Tensor, shape: &AttentionShape) -> Result<()> {
        let append = launch::cache_append(float(OP_CACHED, k)?, shape, &self.shape_of_lists()?);
        let [keys, values] = &*self.lists;
        run(OP_CACHED, append, &[k, v, lens, keys, values])
    }

    /// What one token attends to among the first `len`.
    fn attend(&self, q: &Tensor, len: usize, shape: &AttentionShape) -> Result<Tensor> {
        let lens = upload(&[len as u32], q)?;
        let o = uninit(OP_CACHED, q.shape(), q.dtype(), q)?;
        let cache = self.shape_of_lists()?;
        let launches = launch::attention_decode(float(OP_CACHED, q)?, shape, &cache, len);
        let [keys, values] = &*self.lists;
        run(OP_CACHED, launches, &[q, keys, values, &lens, &o])?;
        Ok(o)
    }
}

const OP_CACHED: &str = "attention_cached";
