//! The low-rank update of a linear layer, forward and backward: LoRA, and DoRA around it.

use crate::dora::{Dora, Factors};
use crate::group::{Incoming, InputGradient, Pass};
use crate::{GradSink, ParamId, Result};
use candle_core::{DType, Tensor};
use kernels::{DropoutKey, LowRankUpdate, Matrix, Op, accumulate_dtype, gemm, unwritten};

/// A (r, in) and B (out, r), and how they apply.
pub(crate) struct Lora {
    pub a: Tensor,
    pub b: Tensor,
    pub a_param: Option<ParamId>,
    pub b_param: Option<ParamId>,
    pub scaling: f64,
    pub dropout: f64,
    pub module: u64,
    pub dora: Option<Dora>,
}

/// What the backward pass needs of the forward pass. The tokens' parts are there if the adapter is trained.
pub(crate) struct LoraSaved {
    /// d(x) Aᵀ (T, r), in the accumulate dtype.
    h: Option<Tensor>,
    /// DoRA: f and n (N).
    factors: Option<Factors>,
    /// DoRA: z (T, N), in the compute dtype.
    z: Option<Tensor>,
}

impl Lora {
    /// Whether A and B are trained.
    pub(crate) fn is_trained(&self) -> bool {
        self.a_param.is_some()
    }

    /// Whether d is anything but the identity.
    fn drops(&self, pass: Option<&Pass>) -> bool {
        pass.is_some_and(|p| p.training) && self.dropout > 0.0
    }

    /// d(x), of x or of a gradient.
    fn drop(&self, x: &Tensor, pass: Option<&Pass>) -> Result<Tensor> {
        let Some(pass) = pass.filter(|_| self.drops(pass)) else {
            return Ok(x.clone());
        };
        let key = DropoutKey {
            seed: pass.seed,
            step: pass.step,
            module: self.module,
        };
        Ok(kernels::dropout(x, self.dropout, key, pass.rows)?)
    }

    /// y (T, N) before it is rounded, from x (T, K) in the accumulate dtype and `base` = x Wᵀ.
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        mut base: Tensor,
        (matrix, bias): (&Matrix, Option<&Tensor>),
        pass: Option<&Pass>,
        dtype: DType,
    ) -> Result<(Tensor, LoraSaved)> {
        let x = self.drop(x, pass)?;
        let h = product(&x, Op::Plain, &self.a, Op::Transposed)?;
        let mut saved = LoraSaved {
            h: None,
            factors: None,
            z: None,
        };
        let y = if let Some(dora) = &self.dora {
            let factors = dora.factors(matrix, self.update())?;
            let dropped = self.drops(pass).then_some(&x);
            let (mut y, z) = self.scaled(base, dropped, &h, &factors.factor, matrix)?;
            if let Some(bias) = bias {
                kernels::add_bias(&mut y, bias)?;
            }
            saved.factors = Some(factors);
            if self.is_trained() {
                saved.z = Some(kernels::narrow(&z, dtype)?);
            }
            y
        } else {
            if let Some(bias) = bias {
                kernels::add_bias(&mut base, bias)?;
            }
            self.add_update(&mut base, &h)?;
            base
        };
        saved.h = Some(h).filter(|_| self.is_trained());
        Ok((y, saved))
    }

    /// DoRA's y without its bias, and z; `dropped` is d(x) where d is not the identity.
    fn scaled(
        &self,
        mut base: Tensor,
        dropped: Option<&Tensor>,
        h: &Tensor,
        factor: &Tensor,
        matrix: &Matrix,
    ) -> Result<(Tensor, Tensor)> {
        let Some(dropped) = dropped else {
            self.add_update(&mut base, h)?;
            return Ok((kernels::scale_columns(&base, factor)?, base));
        };
        let mut z = kernels::linear(dropped, matrix)?;
        self.add_update(&mut z, h)?;
        self.add_update(&mut base, h)?;
        let beyond = kernels::scale_columns_beyond_one(&z, factor)?;
        kernels::add_assign(&mut base, &beyond)?;
        Ok((base, z))
    }

    /// to += s h Bᵀ.
    fn add_update(&self, to: &mut Tensor, h: &Tensor) -> Result<()> {
        let (s, b) = (self.scaling, &self.b);
        Ok(gemm(to, 1.0, s, h, Op::Plain, b, Op::Transposed)?)
    }

    /// The gradients of A, B and m. `dx` gets the whole input gradient, W's part too, before the first of them is handed
    /// over.
    pub(crate) fn backward(
        &self,
        saved: LoraSaved,
        incoming: &Incoming,
        matrix: &Matrix,
        dx: &mut InputGradient,
        sink: &mut dyn GradSink,
    ) -> Result<()> {
        let (dy, pass) = (incoming.wide_dy, Some(incoming.pass));
        let factor = saved.factors.as_ref().map(|f| &f.factor);
        // The gradient of the low-rank product.
        let scaled = factor.map(|f| kernels::scale_columns(dy, f)).transpose()?;
        let du = scaled.as_ref().unwrap_or(dy);
        let mut g = unwritten((dy.dim(0)?, self.b.dim(1)?), dy.dtype(), dy)?;
        gemm(&mut g, 0.0, self.scaling, du, Op::Plain, &self.b, Op::Plain)?;
        if dx.needed && self.drops(pass) {
            dx.add(incoming.through(incoming.dy, matrix)?)?;
            let mut through = product(&g, Op::Plain, &self.a, Op::Plain)?;
            if let Some(factor) = factor {
                let beyond = kernels::scale_columns_beyond_one(dy, factor)?;
                kernels::add_assign(&mut through, &incoming.through(&beyond, matrix)?)?;
            }
            dx.add(self.drop(&through, pass)?)?;
        } else if dx.needed {
            let through_weight = scaled.as_ref().unwrap_or(incoming.dy);
            let sum = dx.add(incoming.through(through_weight, matrix)?)?;
            gemm(sum, 1.0, 1.0, &g, Op::Plain, &self.a, Op::Plain)?;
        }
        let params = self.a_param.zip(self.b_param);
        let Some(((a_param, b_param), (x, h))) = params.zip(incoming.x.zip(saved.h)) else {
            return Ok(());
        };
        let da = product(&g, Op::Transposed, &self.drop(x, pass)?, Op::Plain)?;
        let mut db = unwritten(self.b.dims2()?, dy.dtype(), dy)?;
        gemm(
            &mut db,
            0.0,
            self.scaling,
            du,
            Op::Transposed,
            &h,
            Op::Plain,
        )?;
        sink.add(a_param, da)?;
        sink.add(b_param, db)?;
        let norm = saved.factors.and_then(|f| f.norm);
        let param = self.dora.as_ref().and_then(|d| d.param);
        if let Some((param, (z, norm))) = param.zip(saved.z.zip(norm)) {
            let sums = kernels::column_products(dy, &z)?;
            sink.add(param, kernels::divide(&sums, &norm)?)?;
        }
        Ok(())
    }

    fn update(&self) -> LowRankUpdate<'_> {
        LowRankUpdate {
            a: &self.a,
            b: &self.b,
            scaling: self.scaling,
        }
    }
}

/// op(a) op(b), of matrices in an accumulate dtype.
pub(crate) fn product(a: &Tensor, ta: Op, b: &Tensor, tb: Op) -> Result<Tensor> {
    let rows = if matches!(ta, Op::Plain) {
        a.dim(0)?
    } else {
        a.dim(1)?
    };
    let columns = if matches!(tb, Op::Plain) {
        b.dim(1)?
    } else {
        b.dim(0)?
    };
    let mut out = unwritten((rows, columns), accumulate_dtype(a.dtype()), a)?;
    gemm(&mut out, 0.0, 1.0, a, ta, b, tb)?;
    Ok(out)
}
