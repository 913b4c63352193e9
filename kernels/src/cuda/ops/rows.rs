//! Norms, rotary embedding, SwiGLU, sums, dropout, and rows picked out or put back.

use crate::cuda::launch;
use crate::cuda::tensors::{dense_as, float, run, uninit};
use crate::dropout::DeviceRows;
use crate::indices::DeviceGroups;
use crate::{Direction, DropoutKey, Indices, Result, access};
use candle_core::{DType, Tensor};

/// y and 1/rms of each row (rows) f32.
pub(crate) fn rms_norm(
    x: &Tensor,
    weight: &Tensor,
    d: usize,
    eps: f64,
) -> Result<(Tensor, Tensor)> {
    const OP: &str = "rms_norm";
    let rows = x.elem_count() / d;
    let y = uninit(OP, x.shape(), x.dtype(), x)?;
    let reciprocal = uninit(OP, rows, DType::F32, x)?;
    let launch = launch::rms_norm(float(OP, x)?, float(OP, weight)?, rows, d, eps, false);
    run(OP, launch, &[x, weight, &y, &reciprocal])?;
    Ok((y, reciprocal))
}

/// sum ← sum + x, both dense and of one type; y and 1/rms of each row of the sum.
pub(crate) fn rms_norm_of_sum(
    sum: &Tensor,
    x: &Tensor,
    weight: &Tensor,
    d: usize,
    eps: f64,
) -> Result<(Tensor, Tensor)> {
    const OP: &str = "rms_norm_of_sum";
    let rows = x.elem_count() / d;
    let y = uninit(OP, x.shape(), x.dtype(), x)?;
    let reciprocal = uninit(OP, rows, DType::F32, x)?;
    let launch = launch::rms_norm(float(OP, x)?, float(OP, weight)?, rows, d, eps, true);
    run(OP, launch, &[x, weight, &y, &reciprocal, sum])?;
    Ok((y, reciprocal))
}

/// dx, in dy's type and added to what `onto` holds if that is given, and dweight (d) f32 if it is wanted.
pub(crate) fn rms_norm_backward(
    [x, weight, reciprocal]: [&Tensor; 3],
    dy: &Tensor,
    d: usize,
    want_weight: bool,
    onto: Option<&Tensor>,
) -> Result<(Tensor, Option<Tensor>)> {
    const OP: &str = "rms_norm_backward";
    let dy = access::dense(dy)?;
    let rows = x.elem_count() / d;
    let (of_x, of_dy) = (float(OP, x)?, float(OP, &dy)?);
    let dx = match onto {
        Some(dx) => dx.clone(),
        None => uninit(OP, dy.shape(), dy.dtype(), x)?,
    };
    let of_weight = float(OP, weight)?;
    let launch = launch::rms_norm_backward(of_x, of_weight, of_dy, rows, d, onto.is_some());
    run(OP, launch, &[x, weight, reciprocal, &dy, &dx])?;
    if !want_weight {
        return Ok((dx, None));
    }
    let dweight = uninit(OP, d, DType::F32, x)?;
    let launches = launch::rms_norm_backward_weight(of_x, of_dy, rows, d);
    run(OP, launches, &[x, reciprocal, &dy, &dweight])?;
    Ok((dx, Some(dweight)))
}

/// Turns the heads of x (T, heads · head_dim) in place.
pub(crate) fn rope(
    x: &Tensor,
    heads: usize,
    [cos, sin]: [&Tensor; 2],
    direction: Direction,
) -> Result<()> {
    const OP: &str = "rope";
    let (t, width) = access::dims2(OP, "x", x)?;
    let (of_x, strides) = (float(OP, x)?, [width, 0]);
    let launch = launch::rope(of_x, t, heads, 0, width / heads, strides, direction);
    // There is no k: the second buffer is not read.
    run(OP, launch, &[x, x, cos, sin])
}

/// silu(gate) · up.
pub(crate) fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    const OP: &str = "swiglu";
    let y = uninit(OP, gate.shape(), gate.dtype(), gate)?;
    let (rows, width) = rows_of(gate);
    run(
        OP,
        launch::swiglu(float(OP, gate)?, rows, width, width),
        &[gate, up, &y],
    )?;
    Ok(y)
}

/// dgate and dup, in dy's type.
pub(crate) fn swiglu_backward(gate: &Tensor, up: &Tensor, dy: &Tensor) -> Result<(Tensor, Tensor)> {
    const OP: &str = "swiglu_backward";
    let dy = access::dense(dy)?;
    let like = || uninit(OP, dy.shape(), dy.dtype(), &dy);
    let (dgate, dup) = (like()?, like()?);
    let (rows, width) = rows_of(gate);
    let (of_gate, of_dy) = (float(OP, gate)?, float(OP, &dy)?);
    let launch = launch::swiglu_backward(of_gate, of_dy, rows, width, width, width);
    run(OP, launch, &[gate, up, &dy, &dgate, &dup])?;
    Ok((dgate, dup))
}

/// Rows, and numbers a row.
fn rows_of(x: &Tensor) -> (usize, usize) {
    let width = x.dims().last().copied().unwrap_or(1).max(1);
    (x.elem_count() / width, width)
}

/// a ← a + b, both dense.
pub(crate) fn add_assign(a: &Tensor, b: &Tensor) -> Result<()> {
    const OP: &str = "add_assign";
    let b = access::dense(b)?;
    let launch = launch::add_assign(float(OP, a)?, float(OP, &b)?, a.elem_count());
    run(OP, launch, &[a, &b])
}

/// a ← factor · a.
pub(crate) fn scale_assign(a: &Tensor, factor: f64) -> Result<()> {
    const OP: &str = "scale_assign";
    let launch = launch::scale_assign(float(OP, a)?, a.elem_count(), factor, false);
    run(OP, launch, &[a])
}

/// a / b, in f32.
pub(crate) fn divide(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    const OP: &str = "divide";
    let (a, b) = (dense_as(OP, a, DType::F32)?, dense_as(OP, b, DType::F32)?);
    let y = uninit(OP, a.shape(), DType::F32, &a)?;
    run(OP, launch::divide(a.elem_count()), &[&a, &b, &y])?;
    Ok(y)
}

/// y (T, N) ← y + bias (N).
pub(crate) fn add_bias(y: &Tensor, bias: &Tensor, (t, n): (usize, usize)) -> Result<()> {
    const OP: &str = "add_bias";
    let bias = access::dense(bias)?;
    let launch = launch::add_bias(float(OP, y)?, float(OP, &bias)?, t, n);
    run(OP, launch, &[y, &bias])
}

/// (N) f32: the sum of x's rows.
pub(crate) fn sum_rows(x: &Tensor, (t, n): (usize, usize)) -> Result<Tensor> {
    const OP: &str = "sum_rows";
    let x = access::dense(x)?;
    let sums = uninit(OP, n, DType::F32, &x)?;
    run(OP, launch::sum_rows(float(OP, &x)?, t, n), &[&x, &sums])?;
    Ok(sums)
}

/// Those rows of x (T, D).
pub(crate) fn gather_rows(x: &Tensor, indices: &Indices, d: usize) -> Result<Tensor> {
    const OP: &str = "gather_rows";
    let y = uninit(OP, (indices.len(), d), x.dtype(), x)?;
    let launch = launch::gather_rows(float(OP, x)?, indices.len(), d);
    run(OP, launch, &[x, indices.on_device(x)?, &y])?;
    Ok(y)
}

/// (rows, D): each row of x (N, D) added to its row of zeros.
pub(crate) fn scatter_rows(x: &Tensor, indices: &Indices, rows: usize, d: usize) -> Result<Tensor> {
    const OP: &str = "scatter_rows";
    let y = uninit(OP, (rows, d), x.dtype(), x)?;
    let DeviceGroups {
        count,
        order,
        starts,
        targets,
    } = indices.groups_on_device(x)?;
    let launch = launch::scatter_rows(float(OP, x)?, *count, rows, d);
    run(OP, launch, &[x, order, starts, targets, &y])?;
    Ok(y)
}

/// (rows, D) f32: row r is the sum of dy's rows whose id is r.
pub(crate) fn embedding_backward(
    ids: &Indices,
    dy: &Tensor,
    rows: usize,
    d: usize,
) -> Result<Tensor> {
    const OP: &str = "embedding_backward";
    let dy = access::dense(dy)?;
    let sums = uninit(OP, (rows, d), DType::F32, &dy)?;
    let DeviceGroups {
        count,
        order,
        starts,
        targets,
    } = ids.groups_on_device(&dy)?;
    let launch = launch::embedding_backward(float(OP, &dy)?, *count, rows, d);
    run(OP, launch, &[&dy, order, starts, targets, &sums])?;
    Ok(sums)
}

/// x (T, D) under the mask of its rows.
pub(crate) fn dropout(x: &Tensor, p: f64, key: DropoutKey, rows: &DeviceRows) -> Result<Tensor> {
    const OP: &str = "dropout";
    let (t, d) = access::dims2(OP, "x", x)?;
    let y = uninit(OP, x.shape(), x.dtype(), x)?;
    let launch = launch::dropout(float(OP, x)?, t, d, p, key);
    run(OP, launch, &[x, &rows.sample, &rows.position, &y])?;
    Ok(y)
}

/// x (T, N) ∘ (factors (N) − less), in x's type.
pub(crate) fn scale_columns(
    x: &Tensor,
    factors: &Tensor,
    (t, n): (usize, usize),
    less: f64,
) -> Result<Tensor> {
    const OP: &str = "scale_columns";
    let factors = dense_as(OP, factors, DType::F32)?;
    let y = uninit(OP, (t, n), x.dtype(), x)?;
    run(
        OP,
        launch::scale_columns(float(OP, x)?, t, n, less),
        &[x, &factors, &y],
    )?;
    Ok(y)
}

/// (N) f32: Σ over rows of a ∘ b.
pub(crate) fn column_products(a: &Tensor, b: &Tensor, (t, n): (usize, usize)) -> Result<Tensor> {
    const OP: &str = "column_products";
    let (a, b) = (access::dense(a)?, access::dense(b)?);
    let sums = uninit(OP, n, DType::F32, &a)?;
    let launch = launch::column_products(float(OP, &a)?, float(OP, &b)?, t, n);
    run(OP, launch, &[&a, &b, &sums])?;
    Ok(sums)
}
