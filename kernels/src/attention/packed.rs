//! The tasks of a pack: which rows and heads each one computes.

use super::block::{self, Gradients, Run};
use super::family::Family;
use super::{AttentionShape, Columns, Shared};
use crate::access::CHUNK;
use crate::real::{Real, Stored};
use rayon::prelude::*;

/// Tasks that keep a machine busy. With fewer families and key/value heads, the query heads of a
/// group become tasks of their own. A constant, so that the order of sums follows from shapes.
const ENOUGH_TASKS: usize = 16;

/// How heads are cut into tasks.
#[derive(Clone, Copy)]
struct Cut {
    kv_heads: usize,
    /// Tasks a key/value head.
    parts: usize,
    /// Query heads a task.
    group: usize,
    head_dim: usize,
}

/// One family under some query heads of one key/value head.
struct Task<'a> {
    family: &'a Family,
    kv_head: usize,
    part: usize,
}

impl Cut {
    fn new(families: &[Family], shape: &AttentionShape) -> Self {
        let few = families.len() * shape.kv_heads < ENOUGH_TASKS;
        let parts = if few { shape.group() } else { 1 };
        Self {
            kv_heads: shape.kv_heads,
            parts,
            group: shape.group() / parts,
            head_dim: shape.head_dim,
        }
    }

    fn tasks(self, families: &[Family]) -> Vec<Task<'_>> {
        let of_family = |family| {
            let of_head = move |kv_head| {
                (0..self.parts).map(move |part| Task {
                    family,
                    kv_head,
                    part,
                })
            };
            (0..self.kv_heads).flat_map(of_head)
        };
        families.iter().flat_map(of_family).collect()
    }

    /// Columns of k and v.
    fn keys(self, task: &Task) -> Columns {
        Columns::of_head(task.kv_head, self.kv_heads, self.head_dim)
    }

    /// Columns of (T, heads · width) that are this task's alone.
    fn own(self, task: &Task, width: usize) -> Columns {
        let index = task.kv_head * self.parts + task.part;
        Columns::of_head(index, self.kv_heads * self.parts, width)
    }
}

/// The rows of a family's segments, one after another.
fn gather_family<S: Stored>(family: &Family, from: &[S], columns: Columns) -> Vec<S::Acc> {
    let mut to = Vec::new();
    for member in &family.members {
        to.extend(columns.gather(from, member.rows.clone()));
    }
    to
}

/// o (T, H·hd) and the log-sum-exp (T, H).
pub(super) fn forward<S: Stored>(
    [q, k, v]: [&[S]; 3],
    families: &[Family],
    shape: &AttentionShape,
    t: usize,
) -> (Vec<S>, Vec<S::Acc>) {
    let cut = Cut::new(families, shape);
    let d = shape.head_dim;
    let mut o = vec![S::zero(); q.len()];
    let mut log_sums = vec![S::Acc::ZERO; t * shape.heads];
    let (o_out, sums_out) = (Shared::new(&mut o), Shared::new(&mut log_sums));
    let tasks = cut.tasks(families).into_par_iter().with_max_len(1);
    tasks.for_each(|task| {
        let (of_queries, of_sums) = (cut.own(&task, cut.group * d), cut.own(&task, cut.group));
        let keys = gather_family(task.family, k, cut.keys(&task));
        let values = gather_family(task.family, v, cut.keys(&task));
        for member in &task.family.members {
            let queries = of_queries.gather(q, member.rows.clone());
            let run = |(rows, position): (std::ops::Range<usize>, usize)| Run {
                keys: &keys[rows.start * d..rows.end * d],
                values: &values[rows.start * d..rows.end * d],
                position,
            };
            let runs: Vec<Run<S::Acc>> = member.runs().map(run).collect();
            let mut out = vec![S::Acc::ZERO; queries.len()];
            let mut sums = vec![S::Acc::ZERO; queries.len() / d];
            let geometry = shape.geometry(cut.group, member.offset());
            block::forward(&geometry, &queries, &runs, &mut out, &mut sums);
            // SAFETY: both lists outlive the loop, and no other task has this family's rows in
            // these columns.
            unsafe {
                o_out.scatter(&out, of_queries, member.rows.clone());
                sums_out.scatter(&sums, of_sums, member.rows.clone());
            }
        }
    });
    (o, log_sums)
}

/// dq, dk and dv.
pub(super) fn backward<S: Stored>(
    [q, k, v, o]: [&[S]; 4],
    log_sums: &[S::Acc],
    d_o: &[S::Acc],
    families: &[Family],
    shape: &AttentionShape,
) -> [Vec<S::Acc>; 3] {
    let cut = Cut::new(families, shape);
    let d = shape.head_dim;
    // Each part of a head has dk and dv of its own; they are added up at the end.
    let lens = [q.len(), k.len() * cut.parts, v.len() * cut.parts];
    let mut grads = lens.map(|n| vec![S::Acc::ZERO; n]);
    let [dq_out, dk_out, dv_out] = grads.each_mut().map(|g| Shared::new(g));
    let tasks = cut.tasks(families).into_par_iter().with_max_len(1);
    tasks.for_each(|task| {
        let (of_queries, of_sums) = (cut.own(&task, cut.group * d), cut.own(&task, cut.group));
        let keys = gather_family(task.family, k, cut.keys(&task));
        let values = gather_family(task.family, v, cut.keys(&task));
        let mut dk = vec![S::Acc::ZERO; keys.len()];
        let mut dv = vec![S::Acc::ZERO; keys.len()];
        for member in &task.family.members {
            let rows = member.rows.clone();
            let queries = of_queries.gather(q, rows.clone());
            let outputs = of_queries.gather(o, rows.clone());
            let d_outputs = of_queries.gather(d_o, rows.clone());
            let sums = of_sums.gather(log_sums, rows.clone());
            let mut dq = vec![S::Acc::ZERO; queries.len()];
            let geometry = shape.geometry(cut.group, member.offset());
            let mut step =
                Gradients::new(&geometry, &queries, &outputs, &d_outputs, &sums, &mut dq);
            for (rows, position) in member.runs() {
                let rows = rows.start * d..rows.end * d;
                let (keys, values) = (&keys[rows.clone()], &values[rows.clone()]);
                let run = Run {
                    keys,
                    values,
                    position,
                };
                step.add(&run, &mut dk[rows.clone()], &mut dv[rows]);
            }
            // SAFETY: as in `forward`.
            unsafe { dq_out.scatter(&dq, of_queries, rows) };
        }
        for member in &task.family.members {
            let local = member.local.start * d..member.local.end * d;
            let (columns, rows) = (cut.own(&task, d), member.rows.clone());
            // SAFETY: as in `forward`.
            unsafe {
                dk_out.scatter(&dk[local.clone()], columns, rows.clone());
                dv_out.scatter(&dv[local], columns, rows);
            }
        }
    });
    let [dq, dk, dv] = grads;
    [dq, add_parts(dk, cut), add_parts(dv, cut)]
}

/// (T, KV·hd) of (T, KV·parts·hd), summed over the parts in their order.
fn add_parts<T: Real>(parts: Vec<T>, cut: Cut) -> Vec<T> {
    if cut.parts == 1 {
        return parts;
    }
    let d = cut.head_dim;
    let mut total = vec![T::ZERO; parts.len() / cut.parts];
    let some = (CHUNK / d).max(1);
    let chunks = total.par_chunks_mut(some * d);
    chunks
        .zip(parts.par_chunks(some * d * cut.parts))
        .for_each(|(total, parts)| {
            let heads = total
                .chunks_exact_mut(d)
                .zip(parts.chunks_exact(d * cut.parts));
            for (total, parts) in heads {
                for part in parts.chunks_exact(d) {
                    for (t, x) in total.iter_mut().zip(part) {
                        *t += *x;
                    }
                }
            }
        });
    total
}
