//! Rows of a table by token id, and the sum of gradients by token id.

use crate::access::{self, dense_as, dims2, read};
use crate::cuda::ops;
use crate::real::{Real, Stored, accumulate_dtype, with_real, with_stored};
use crate::{Error, Indices, Matrix, OpCase, Result};
use candle_core::{DType, Tensor};
use rayon::prelude::*;

/// Rows a task takes.
const ROWS: usize = 16;

/// (T, D): the table's rows for T ids, read straight from where the table is stored.
pub fn embedding(table: &Matrix, ids: impl Into<Indices>, dtype: DType) -> Result<Tensor> {
    const OP: &str = "embedding";
    let ids = ids.into();
    check_ids(ids.as_slice(), table.rows())?;
    let d = table.cols();
    if let Some(table) = table.on_device() {
        return table.rows(&ids, dtype);
    }
    let ids = ids.as_slice();
    with_stored!(OP, dtype, S => {
        let hold = table.hold(OP)?;
        let rows = hold.rows();
        let mut out = vec![<S as candle_core::WithDType>::from_f64(0.0); ids.len() * d];
        if d > 0 {
            out.par_chunks_mut(ROWS * d).zip(ids.par_chunks(ROWS)).for_each(|(out, ids)| {
                let mut row = vec![<S as Stored>::Acc::ZERO; d];
                for (out, id) in out.chunks_exact_mut(d).zip(ids) {
                    let id = *id as usize;
                    rows.read(id..id + 1, &mut row);
                    for (out, value) in out.iter_mut().zip(&row) {
                        *out = <S as Stored>::narrow(*value);
                    }
                }
            });
        }
        access::tensor(out, (ids.len(), d))
    })
}

/// (rows, D), in the accumulate type: row r is the sum of dy's rows whose id is r.
pub fn embedding_backward(ids: impl Into<Indices>, dy: &Tensor, rows: usize) -> Result<Tensor> {
    const OP: &str = "embedding_backward";
    let ids = ids.into();
    let (t, d) = dims2(OP, "dy", dy)?;
    if t != ids.len() {
        return Err(Error::Length {
            op: OP,
            what: "ids",
            expected: t,
            found: ids.len(),
        });
    }
    check_ids(ids.as_slice(), rows)?;
    if dy.device().is_cuda() {
        return ops::embedding_backward(&ids, dy, rows, d);
    }
    with_real!(OP, accumulate_dtype(dy.dtype()), T => {
        let dy = dense_as::<T>(dy)?;
        let dy = read::<T>(OP, &dy)?;
        let mut out = vec![T::ZERO; rows * d];
        for (id, dy) in ids.as_slice().iter().zip(dy.chunks_exact(d.max(1))) {
            let row = &mut out[*id as usize * d..][..d];
            for (sum, x) in row.iter_mut().zip(dy) {
                *sum += *x;
            }
        }
        access::tensor(out, (rows, d))
    })
}

fn check_ids(ids: &[u32], rows: usize) -> Result<()> {
    match ids.iter().position(|id| *id as usize >= rows) {
        Some(position) => Err(Error::TokenId {
            id: ids[position],
            rows,
            position,
        }),
        None => Ok(()),
    }
}

fn case_ids(rows: usize) -> Vec<u32> {
    (0..37).map(|i| (i * i + 3 * i) % rows as u32).collect()
}

/// 37 ids, some more than once.
pub(crate) const CASE: OpCase = OpCase {
    name: "embedding",
    shapes: &[&[&[11, 7]], &[&[210, 123]]],
    run: |inputs, dy| {
        let table = Matrix::dense(inputs[0].contiguous()?);
        let ids = case_ids(table.rows());
        let y = embedding(&table, &ids, inputs[0].dtype())?;
        let Some(dy) = dy else { return Ok((y, vec![])) };
        Ok((y, vec![embedding_backward(&ids, dy, table.rows())?]))
    },
    reference: |inputs| {
        let ids = case_ids(inputs[0].dim(0)?);
        inputs[0].index_select(&Tensor::new(ids, inputs[0].device())?, 0)
    },
};
