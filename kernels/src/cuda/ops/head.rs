//! What follows the head's product, a chunk of rows at a time.

use super::weights::DeviceMatrix;
use crate::cross_entropy::LossSum;
use crate::cuda::launch;
use crate::cuda::tensors::{dense_as, float, gemm, run, uninit};
use crate::{HeadLoss, Indices, Op, Result, TokenScore};
use candle_core::{DType, Tensor};

/// What the rows of a chunk go through.
struct Chunks<'a> {
    op: &'static str,
    x: &'a Tensor,
    w: Tensor,
    targets: Tensor,
    /// Rows whose logits exist at a time.
    rows: usize,
}

impl<'a> Chunks<'a> {
    fn new(
        op: &'static str,
        x: &'a Tensor,
        w: &DeviceMatrix,
        targets: &Indices,
        logits_bytes: usize,
    ) -> Result<Self> {
        let w = w.dense_in(op, x.dtype())?;
        let v = w.dim(0)?;
        Ok(Self {
            op,
            x,
            targets: targets.on_device(x)?.clone(),
            rows: (logits_bytes / (4 * v.max(1))).clamp(1, targets.len().max(1)),
            w,
        })
    }

    /// Calls `each` with the first row, x, targets and f32 logits of one chunk after another.
    fn for_each(
        &self,
        mut each: impl FnMut(usize, &Tensor, &Tensor, &mut Tensor) -> Result<()>,
    ) -> Result<()> {
        let (n, v) = (self.x.dim(0)?, self.w.dim(0)?);
        for at in (0..n).step_by(self.rows) {
            let rows = self.rows.min(n - at);
            let (x, targets) = (
                self.x.narrow(0, at, rows)?,
                self.targets.narrow(0, at, rows)?,
            );
            let mut z = uninit(self.op, (rows, v), DType::F32, &x)?;
            gemm(&mut z, 0.0, 1.0, &x, Op::Plain, &self.w, Op::Transposed)?;
            each(at, &x, &targets, &mut z)?;
        }
        Ok(())
    }
}

/// The loss of dense x (N, D) through the head against N targets, and the gradients of `grad_scale` · loss. Waits for nothing.
pub(crate) fn cross_entropy(
    x: &Tensor,
    w: &DeviceMatrix,
    targets: &Indices,
    grad_scale: f64,
    [want_dx, want_dweight]: [bool; 2],
    logits_bytes: usize,
) -> Result<HeadLoss> {
    const OP: &str = "linear_cross_entropy";
    let chunks = Chunks::new(OP, x, w, targets, logits_bytes)?;
    let new = |shape| match targets.is_empty() {
        true => Ok(Tensor::zeros(shape, DType::F32, x.device())?),
        false => uninit(OP, shape, DType::F32, x),
    };
    let mut dx = want_dx.then(|| new(x.dims2()?)).transpose()?;
    let mut dweight = want_dweight.then(|| new(chunks.w.dims2()?)).transpose()?;
    let sum = Tensor::zeros(1, DType::F64, x.device())?;
    let scale = (want_dx || want_dweight).then_some(grad_scale);
    chunks.for_each(|at, x, targets, z| {
        let (rows, v) = z.dims2()?;
        let losses = uninit(OP, rows, DType::F32, x)?;
        run(
            OP,
            launch::cross_entropy(float(OP, z)?, rows, v, scale),
            &[z, targets, &losses],
        )?;
        run(OP, launch::sum_losses(rows), &[&losses, &sum])?;
        if scale.is_none() {
            return Ok(());
        }
        // Products are of one type: the logits' gradient is rounded to x's.
        let dz = dense_as(OP, z, x.dtype())?;
        if let Some(dweight) = &mut dweight {
            // The first chunk writes all of it, the others add.
            let beta = if at == 0 { 0.0 } else { 1.0 };
            gemm(dweight, beta, 1.0, &dz, Op::Transposed, x, Op::Plain)?;
        }
        if let Some(dx) = &dx {
            let mut rows_of_dx = dx.narrow(0, at, rows)?;
            gemm(
                &mut rows_of_dx,
                0.0,
                1.0,
                &dz,
                Op::Plain,
                &chunks.w,
                Op::Plain,
            )?;
        }
        Ok(())
    })?;
    Ok(HeadLoss {
        loss_sum: LossSum::on_device(sum),
        dx: dx.take(),
        dweight,
    })
}

/// How the model rates each target. Waits for the device.
pub(crate) fn token_scores(
    x: &Tensor,
    w: &DeviceMatrix,
    targets: &Indices,
    logits_bytes: usize,
) -> Result<Vec<TokenScore>> {
    const OP: &str = "linear_token_scores";
    let chunks = Chunks::new(OP, x, w, targets, logits_bytes)?;
    let mut scores = Vec::with_capacity(targets.len());
    chunks.for_each(|_, x, targets, z| {
        let (rows, v) = z.dims2()?;
        let log_probs = uninit(OP, rows, DType::F32, x)?;
        let greedy = uninit(OP, rows, DType::U32, x)?;
        let launch = launch::token_scores(float(OP, z)?, rows, v);
        run(OP, launch, &[z, targets, &log_probs, &greedy])?;
        let answers = log_probs
            .to_vec1::<f32>()?
            .into_iter()
            .zip(greedy.to_vec1::<u32>()?);
        scores.extend(answers.map(|(log_prob, greedy)| TokenScore {
            log_prob: f64::from(log_prob),
            greedy: greedy != 0,
        }));
        Ok(())
    })?;
    Ok(scores)
}
