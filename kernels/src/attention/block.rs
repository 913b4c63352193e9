//! Blocks of queries against blocks of keys.

use crate::gemm::{Mat, MatMut, ONE, matmul};
use crate::real::Real;
use crate::simd;
use crate::simd::wide;
use std::ops::Range;

/// Query rows of a block; the heads of a group are rows too.
const QUERIES: usize = 96;
/// Keys of a block.
const KEYS: usize = 128;

/// How query rows lie: row r is head r % group of the query at position offset + r / group.
pub(super) struct Geometry {
    pub(super) group: usize,
    pub(super) head_dim: usize,
    pub(super) scale: f64,
    pub(super) window: usize,
    pub(super) offset: usize,
}

/// Keys and values (n, head_dim) at positions that follow one another.
pub(super) struct Run<'a, T> {
    pub(super) keys: &'a [T],
    pub(super) values: &'a [T],
    pub(super) position: usize,
}

impl Geometry {
    fn position(&self, row: usize) -> usize {
        self.offset + row / self.group
    }

    /// Positions that a row sees.
    fn visible(&self, row: usize) -> Range<usize> {
        let position = self.position(row);
        (position + 1).saturating_sub(self.window)..position + 1
    }

    /// Blocks of a run's keys, as indices into the run, that some of these rows see.
    fn key_blocks(
        &self,
        rows: &Range<usize>,
        run_start: usize,
        run_len: usize,
    ) -> Vec<Range<usize>> {
        let from = self.visible(rows.start).start.saturating_sub(run_start);
        let to = self
            .visible(rows.end - 1)
            .end
            .saturating_sub(run_start)
            .min(run_len);
        (from..to.max(from))
            .step_by(KEYS)
            .map(|k| k..(k + KEYS).min(to))
            .collect()
    }

    /// Which of a block's keys a row sees, counted from the block's first.
    fn visible_in(&self, row: usize, block: &Range<usize>, run_start: usize) -> Range<usize> {
        let first = run_start + block.start;
        let seen = self.visible(row);
        let from = seen.start.saturating_sub(first).min(block.len());
        from..seen.end.saturating_sub(first).min(block.len()).max(from)
    }
}

fn query_blocks(rows: usize) -> impl Iterator<Item = Range<usize>> {
    (0..rows)
        .step_by(QUERIES)
        .map(move |r| r..(r + QUERIES).min(rows))
}

/// out (rows, head_dim) and the log-sum-exp of each row.
pub(super) fn forward<T: Real>(
    geometry: &Geometry,
    queries: &[T],
    runs: &[Run<T>],
    out: &mut [T],
    log_sums: &mut [T],
) {
    let d = geometry.head_dim;
    let mut scores = [T::ZERO; QUERIES * KEYS];
    for rows in query_blocks(log_sums.len()) {
        let q = &queries[rows.start * d..rows.end * d];
        let out = &mut out[rows.start * d..rows.end * d];
        let mut max = [T::NEG_INFINITY; QUERIES];
        let mut sum = [T::ZERO; QUERIES];
        let mut begun = false;
        for run in runs {
            for block in geometry.key_blocks(&rows, run.position, run.keys.len() / d) {
                let scores = &mut scores[..rows.len() * block.len()];
                multiply_scores(geometry, scores, q, run.keys, &block);
                for (i, row) in rows.clone().enumerate() {
                    let seen = geometry.visible_in(row, &block, run.position);
                    let scores = &mut scores[i * block.len()..][..block.len()];
                    let out = &mut out[i * d..][..d];
                    wide!(soften(scores, seen, &mut max[i], &mut sum[i], out));
                }
                let values = &run.values[block.start * d..block.end * d];
                let (p, v) = (
                    Mat::new(scores, rows.len(), block.len()),
                    Mat::new(values, block.len(), d),
                );
                let beta = if begun { T::ONE } else { T::ZERO };
                matmul(MatMut::new(out, rows.len(), d), beta, T::ONE, p, v, ONE);
                begun = true;
            }
        }
        for (i, out) in out.chunks_exact_mut(d).enumerate() {
            let factor = T::ONE / sum[i];
            out.iter_mut().for_each(|x| *x *= factor);
            log_sums[rows.start + i] = max[i] + sum[i].ln();
        }
    }
}

/// scores = scale · q kᵀ for one block.
fn multiply_scores<T: Real>(
    geometry: &Geometry,
    scores: &mut [T],
    q: &[T],
    keys: &[T],
    block: &Range<usize>,
) {
    let d = geometry.head_dim;
    let (rows, cols) = (q.len() / d, block.len());
    let k = Mat::new(&keys[block.start * d..block.end * d], cols, d);
    let out = MatMut::new(scores, rows, cols);
    matmul(
        out,
        T::ZERO,
        T::of(geometry.scale),
        Mat::new(q, rows, d),
        k.t(),
        ONE,
    );
}

/// Turns a row of scores into exp(score - max), zero where it is not seen; if the running maximum
/// grew, what was summed so far shrinks.
#[inline(always)]
fn soften<T: Real>(scores: &mut [T], seen: Range<usize>, max: &mut T, sum: &mut T, out: &mut [T]) {
    scores[..seen.start].fill(T::ZERO);
    scores[seen.end..].fill(T::ZERO);
    let scores = &mut scores[seen];
    if scores.is_empty() {
        return;
    }
    let larger = simd::largest(scores).larger(*max);
    if larger != *max && *sum != T::ZERO {
        let shrink = (*max - larger).exp();
        *sum *= shrink;
        out.iter_mut().for_each(|x| *x *= shrink);
    }
    *max = larger;
    for x in scores.iter_mut() {
        *x = (*x - larger).exp();
    }
    *sum += simd::sum(scores);
}

/// The backward pass of one segment's queries, one run of keys after another.
pub(super) struct Gradients<'a, T> {
    geometry: &'a Geometry,
    queries: &'a [T],
    d_outputs: &'a [T],
    log_sums: &'a [T],
    /// rowsum(do · o).
    delta: Vec<T>,
    dq: &'a mut [T],
    scores: Vec<T>,
    d_scores: Vec<T>,
}

impl<'a, T: Real> Gradients<'a, T> {
    /// `dq` holds zeros.
    pub(super) fn new(
        geometry: &'a Geometry,
        queries: &'a [T],
        outputs: &[T],
        d_outputs: &'a [T],
        log_sums: &'a [T],
        dq: &'a mut [T],
    ) -> Self {
        let d = geometry.head_dim;
        let rows = outputs.chunks_exact(d).zip(d_outputs.chunks_exact(d));
        let delta = rows.map(|(o, d_o)| wide!(simd::dot(o, d_o))).collect();
        let (scores, d_scores) = (vec![T::ZERO; QUERIES * KEYS], vec![T::ZERO; QUERIES * KEYS]);
        Self {
            geometry,
            queries,
            d_outputs,
            log_sums,
            delta,
            dq,
            scores,
            d_scores,
        }
    }

    /// Adds what a run of keys contributes to dq, and this segment's part to its dk and dv.
    pub(super) fn add(&mut self, run: &Run<T>, dk: &mut [T], dv: &mut [T]) {
        let d = self.geometry.head_dim;
        for rows in query_blocks(self.log_sums.len()) {
            for block in self
                .geometry
                .key_blocks(&rows, run.position, run.keys.len() / d)
            {
                self.add_block(run, &rows, &block, dk, dv);
            }
        }
    }

    fn add_block(
        &mut self,
        run: &Run<T>,
        rows: &Range<usize>,
        block: &Range<usize>,
        dk: &mut [T],
        dv: &mut [T],
    ) {
        let d = self.geometry.head_dim;
        let (n, m) = (rows.len(), block.len());
        let of_rows = rows.start * d..rows.end * d;
        let of_keys = block.start * d..block.end * d;
        let (q, d_out) = (
            &self.queries[of_rows.clone()],
            &self.d_outputs[of_rows.clone()],
        );
        let (p, dp) = (&mut self.scores[..n * m], &mut self.d_scores[..n * m]);
        multiply_scores(self.geometry, p, q, run.keys, block);
        let values = Mat::new(&run.values[of_keys.clone()], m, d);
        matmul(
            MatMut::new(dp, n, m),
            T::ZERO,
            T::ONE,
            Mat::new(d_out, n, d),
            values.t(),
            ONE,
        );
        let scale = T::of(self.geometry.scale);
        for (i, row) in rows.clone().enumerate() {
            let seen = self.geometry.visible_in(row, block, run.position);
            let (p, dp) = (&mut p[i * m..][..m], &mut dp[i * m..][..m]);
            wide!(differentiate(
                p,
                dp,
                seen,
                self.log_sums[row],
                self.delta[row],
                scale
            ));
        }
        let (p, ds) = (Mat::new(p, n, m), Mat::new(dp, n, m));
        let (q, d_out) = (Mat::new(q, n, d), Mat::new(d_out, n, d));
        let keys = Mat::new(&run.keys[of_keys.clone()], m, d);
        matmul(
            MatMut::new(&mut dv[of_keys.clone()], m, d),
            T::ONE,
            T::ONE,
            p.t(),
            d_out,
            ONE,
        );
        matmul(
            MatMut::new(&mut dk[of_keys], m, d),
            T::ONE,
            T::ONE,
            ds.t(),
            q,
            ONE,
        );
        matmul(
            MatMut::new(&mut self.dq[of_rows], n, d),
            T::ONE,
            T::ONE,
            ds,
            keys,
            ONE,
        );
    }
}

/// Turns scores into p and dp into ds, both zero where the row does not see.
#[inline(always)]
fn differentiate<T: Real>(
    p: &mut [T],
    dp: &mut [T],
    seen: Range<usize>,
    log_sum: T,
    delta: T,
    scale: T,
) {
    for list in [&mut *p, &mut *dp] {
        list[..seen.start].fill(T::ZERO);
        list[seen.end..].fill(T::ZERO);
    }
    for (p, dp) in p[seen.clone()].iter_mut().zip(&mut dp[seen]) {
        *p = (*p - log_sum).exp();
        *dp = *p * (*dp - delta) * scale;
    }
}
