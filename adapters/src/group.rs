//! Linear layers that read the same input, each with its own adapter.
//!
//! For each member, x being the group's input (T, K):
//!
//! ```text
//! forward    y  = round(x Wᵀ + b + s · d(x) Aᵀ Bᵀ)      d: the member's dropout, s: alpha/r
//! backward   g  = s · dy B                               (T, r)
//!            dA = gᵀ d(x)     dB = s · dyᵀ h             h = d(x) Aᵀ, saved
//!            dx = dy W + d(g A)                          d again: the same mask
//!            dW = dyᵀ x       db = Σ_T dy                where they are trained
//! ```
//!
//! The low-rank product is added before y is rounded to the compute dtype: added afterwards, in bf16, a small update
//! would be lost. The mask is a function of counters, so it is computed again and never stored.

use crate::{GradSink, ParamId, Result};
use candle_core::{DType, Device, Tensor};
use kernels::{DropoutKey, Matrix, Op, RowIds, accumulate_dtype, gemm, widen};

/// What a forward or backward pass belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Pass<'a> {
    /// Whether dropout applies.
    pub training: bool,
    /// The run's seed.
    pub seed: u64,
    /// The optimizer step.
    pub step: u64,
    /// Which sample and position each row is.
    pub rows: &'a RowIds,
}

/// One linear layer of a group.
pub(crate) struct Member {
    pub matrix: Matrix,
    pub weight_param: Option<ParamId>,
    pub bias: Option<(Tensor, Option<ParamId>)>,
    pub lora: Option<Lora>,
}

/// A (r, in) and B (out, r), and how they apply.
pub(crate) struct Lora {
    pub a: Tensor,
    pub b: Tensor,
    pub a_param: Option<ParamId>,
    pub b_param: Option<ParamId>,
    pub scaling: f64,
    pub dropout: f64,
    pub module: u64,
}

/// Linear layers that read the same input: q, k and v; gate and up; or one.
pub struct LinearGroup {
    members: Vec<Member>,
    dtype: DType,
}

/// What [`LinearGroup::backward`] needs of the forward pass.
#[must_use = "backward needs it"]
pub struct GroupSaved {
    /// The input (T, K), shared and not copied, if a gradient of a weight or an adapter will be computed.
    x: Option<Tensor>,
    /// d(x) Aᵀ (T, r) of each member that trains an adapter.
    h: Vec<Option<Tensor>>,
}

impl LinearGroup {
    pub(crate) fn new(members: Vec<Member>, dtype: DType) -> Self {
        Self { members, dtype }
    }

    /// Each member's output (T, N) in the compute dtype, from x (T, K).
    pub fn forward(&self, x: &Tensor, pass: &Pass) -> Result<(Vec<Tensor>, GroupSaved)> {
        let mut saved = GroupSaved {
            x: None,
            h: Vec::with_capacity(self.members.len()),
        };
        if self.members.iter().any(Member::needs_input) {
            saved.x = Some(x.clone());
        }
        let wide = self.widen_for_adapters(x)?;
        let mut outputs = Vec::with_capacity(self.members.len());
        for member in &self.members {
            let (y, h) = member.forward(x, wide.as_ref(), Some(pass), self.dtype)?;
            outputs.push(y);
            saved.h.push(h.filter(|_| member.trains_adapter()));
        }
        Ok((outputs, saved))
    }

    /// Each member's output, keeping nothing and dropping nothing.
    pub fn infer(&self, x: &Tensor) -> Result<Vec<Tensor>> {
        let wide = self.widen_for_adapters(x)?;
        let outputs = self
            .members
            .iter()
            .map(|m| Ok(m.forward(x, wide.as_ref(), None, self.dtype)?.0));
        outputs.collect()
    }

    /// x in the accumulate dtype, once for all members, if one of them has an adapter to read it.
    fn widen_for_adapters(&self, x: &Tensor) -> Result<Option<Tensor>> {
        let adapted = self.members.iter().any(|m| m.lora.is_some());
        Ok(if adapted { Some(widen(x)?) } else { None })
    }

    /// Hands the gradients of what is trained to `sink`, and returns that of x (T, K) in the accumulate dtype if it
    /// is needed. `dy` holds one gradient (T, N) a member, of the compute or the accumulate dtype; `pass` is the
    /// forward pass's.
    pub fn backward(
        &self,
        saved: GroupSaved,
        dy: &[Tensor],
        pass: &Pass,
        need_dx: bool,
        sink: &mut dyn GradSink,
    ) -> Result<Option<Tensor>> {
        if dy.len() != self.members.len() {
            return Err(kernels::Error::Length {
                op: "LinearGroup::backward",
                what: "dy",
                expected: self.members.len(),
                found: dy.len(),
            }
            .into());
        }
        let x = saved.x.as_ref().map(widen).transpose()?;
        let mut dx: Option<Tensor> = None;
        for ((member, dy), h) in self.members.iter().zip(dy).zip(saved.h) {
            if need_dx {
                let through_weight = kernels::linear_dx_in(dy, &member.matrix, self.dtype)?;
                match &mut dx {
                    None => dx = Some(through_weight),
                    Some(sum) => kernels::add_assign(sum, &through_weight)?,
                }
            }
            member.backward(x.as_ref(), h, &widen(dy)?, pass, dx.as_mut(), sink)?;
        }
        Ok(dx)
    }
}

impl Member {
    fn trains_adapter(&self) -> bool {
        self.lora.as_ref().is_some_and(|l| l.a_param.is_some())
    }

    fn needs_input(&self) -> bool {
        self.weight_param.is_some() || self.trains_adapter()
    }

    fn forward(
        &self,
        x: &Tensor,
        wide: Option<&Tensor>,
        pass: Option<&Pass>,
        dtype: DType,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let mut y = kernels::linear(x, &self.matrix)?;
        if let Some((bias, _)) = &self.bias {
            kernels::add_bias(&mut y, bias)?;
        }
        let mut h = None;
        if let (Some(lora), Some(wide)) = (&self.lora, wide) {
            let low = product(&lora.drop(wide, pass)?, Op::Plain, &lora.a, Op::Transposed)?;
            gemm(
                &mut y,
                1.0,
                lora.scaling,
                &low,
                Op::Plain,
                &lora.b,
                Op::Transposed,
            )?;
            h = Some(low);
        }
        Ok((kernels::narrow(&y, dtype)?, h))
    }

    /// `x` and `dy` in the accumulate dtype; `dx`, if it is wanted, already holds dy W and gets the adapter's part added.
    fn backward(
        &self,
        x: Option<&Tensor>,
        h: Option<Tensor>,
        dy: &Tensor,
        pass: &Pass,
        dx: Option<&mut Tensor>,
        sink: &mut dyn GradSink,
    ) -> Result<()> {
        if let (Some(param), Some(x)) = (self.weight_param, x) {
            sink.add(param, product(dy, Op::Transposed, x, Op::Plain)?)?;
        }
        if let Some((_, Some(param))) = &self.bias {
            sink.add(*param, kernels::sum_rows(dy)?)?;
        }
        match &self.lora {
            Some(lora) => lora.backward(x, h, dy, pass, dx, sink),
            None => Ok(()),
        }
    }
}

impl Lora {
    /// Whether d is anything but the identity.
    fn drops(&self, pass: &Pass) -> bool {
        pass.training && self.dropout > 0.0
    }

    /// d(x), of x or of a gradient.
    fn drop(&self, x: &Tensor, pass: Option<&Pass>) -> Result<Tensor> {
        let Some(pass) = pass.filter(|p| self.drops(p)) else {
            return Ok(x.clone());
        };
        let key = DropoutKey {
            seed: pass.seed,
            step: pass.step,
            module: self.module,
        };
        Ok(kernels::dropout(x, self.dropout, key, pass.rows)?)
    }

    fn backward(
        &self,
        x: Option<&Tensor>,
        h: Option<Tensor>,
        dy: &Tensor,
        pass: &Pass,
        dx: Option<&mut Tensor>,
        sink: &mut dyn GradSink,
    ) -> Result<()> {
        let trained = self.a_param.zip(self.b_param).zip(x.zip(h));
        if trained.is_none() && dx.is_none() {
            return Ok(());
        }
        let mut g = zeros((dy.dim(0)?, self.b.dim(1)?), dy.dtype())?;
        gemm(&mut g, 0.0, self.scaling, dy, Op::Plain, &self.b, Op::Plain)?;
        if let Some(((a_param, b_param), (x, h))) = trained {
            sink.add(
                a_param,
                product(&g, Op::Transposed, &self.drop(x, Some(pass))?, Op::Plain)?,
            )?;
            let mut db = zeros(self.b.dims2()?, dy.dtype())?;
            gemm(
                &mut db,
                0.0,
                self.scaling,
                dy,
                Op::Transposed,
                &h,
                Op::Plain,
            )?;
            sink.add(b_param, db)?;
        }
        let Some(dx) = dx else { return Ok(()) };
        if self.drops(pass) {
            let through_adapter = product(&g, Op::Plain, &self.a, Op::Plain)?;
            let through_adapter = self.drop(&through_adapter, Some(pass))?;
            kernels::add_assign(dx, &through_adapter)?;
        } else {
            gemm(dx, 1.0, 1.0, &g, Op::Plain, &self.a, Op::Plain)?;
        }
        Ok(())
    }
}

/// op(a) op(b), of matrices in an accumulate dtype.
fn product(a: &Tensor, ta: Op, b: &Tensor, tb: Op) -> Result<Tensor> {
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
    let mut out = zeros((rows, columns), accumulate_dtype(a.dtype()))?;
    gemm(&mut out, 0.0, 1.0, a, ta, b, tb)?;
    Ok(out)
}

fn zeros(shape: (usize, usize), dtype: DType) -> Result<Tensor> {
    Ok(Tensor::zeros(shape, dtype, &Device::Cpu)?)
}
