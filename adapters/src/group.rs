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
//! would be lost. The mask is a function of counters, so it is computed again and never stored. DoRA puts a factor on
//! each output: `dora.rs`.

use crate::low_rank::{Lora, LoraSaved, product};
use crate::{GradSink, ParamId, Result};
use candle_core::{DType, Tensor};
use kernels::{Matrix, Op, RowIds, widen};

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

/// Linear layers that read the same input: q, k and v; gate and up; or one.
pub struct LinearGroup {
    members: Vec<Member>,
    dtype: DType,
}

/// What [`LinearGroup::backward`] needs of the forward pass. For each token:
///
/// - the input (K), in the compute dtype and shared with the layer before, if a member trains anything;
/// - r numbers of the accumulate dtype for each member that trains an adapter;
/// - under DoRA the member's output before its factors (N), in the compute dtype, and once for all tokens twice N
///   numbers of the accumulate dtype.
#[must_use = "backward needs it"]
pub struct GroupSaved {
    /// (T, K), if a gradient of a weight or an adapter will be computed.
    x: Option<Tensor>,
    members: Vec<Option<LoraSaved>>,
    /// Whether the input was there, and will be given back before the backward pass.
    forgotten: bool,
}

impl GroupSaved {
    /// Lets go of the input, which can be made again from something else that is kept.
    pub fn forget_input(&mut self) {
        self.forgotten = self.x.take().is_some();
    }

    /// Gives the input back, if it was there.
    pub fn restore_input<E>(
        &mut self,
        again: impl FnOnce() -> std::result::Result<Tensor, E>,
    ) -> std::result::Result<(), E> {
        if std::mem::take(&mut self.forgotten) {
            self.x = Some(again()?);
        }
        Ok(())
    }
}

/// What a member's backward pass starts from.
pub(crate) struct Incoming<'a> {
    /// The input (T, K), in the accumulate dtype.
    pub x: Option<&'a Tensor>,
    /// The output's gradient (T, N), as it came and in the accumulate dtype.
    pub dy: &'a Tensor,
    pub wide_dy: &'a Tensor,
    pub pass: &'a Pass<'a>,
    /// The compute dtype.
    pub dtype: DType,
}

impl Incoming<'_> {
    /// What a gradient of the output gives the input through the weight.
    pub(crate) fn through(&self, dy: &Tensor, matrix: &Matrix) -> Result<Tensor> {
        Ok(kernels::linear_dx_in(dy, matrix, self.dtype)?)
    }
}

/// The gradient of a group's input, added up over its members.
pub(crate) struct InputGradient {
    pub needed: bool,
    sum: Option<Tensor>,
}

impl InputGradient {
    pub(crate) fn add(&mut self, part: Tensor) -> Result<&mut Tensor> {
        if let Some(sum) = &mut self.sum {
            kernels::add_assign(sum, &part)?;
        }
        Ok(self.sum.get_or_insert(part))
    }
}

impl LinearGroup {
    pub(crate) fn new(members: Vec<Member>, dtype: DType) -> Self {
        Self { members, dtype }
    }

    /// Each member's output (T, N) in the compute dtype, from x (T, K).
    pub fn forward(&self, x: &Tensor, pass: &Pass) -> Result<(Vec<Tensor>, GroupSaved)> {
        let mut saved = GroupSaved {
            x: None,
            members: Vec::with_capacity(self.members.len()),
            forgotten: false,
        };
        if self.members.iter().any(Member::needs_input) {
            saved.x = Some(x.clone());
        }
        let wide = self.widen_for_adapters(x)?;
        let mut outputs = Vec::with_capacity(self.members.len());
        for member in &self.members {
            let (y, of_adapter) = member.forward(x, wide.as_ref(), Some(pass), self.dtype)?;
            outputs.push(y);
            saved.members.push(of_adapter);
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
        let mut dx = InputGradient {
            needed: need_dx,
            sum: None,
        };
        for ((member, dy), saved) in self.members.iter().zip(dy).zip(saved.members) {
            let incoming = Incoming {
                x: x.as_ref(),
                dy,
                wide_dy: &widen(dy)?,
                pass,
                dtype: self.dtype,
            };
            member.backward(saved, &incoming, &mut dx, sink)?;
        }
        Ok(dx.sum)
    }
}

impl Member {
    fn needs_input(&self) -> bool {
        self.weight_param.is_some() || self.lora.as_ref().is_some_and(Lora::is_trained)
    }

    fn forward(
        &self,
        x: &Tensor,
        wide: Option<&Tensor>,
        pass: Option<&Pass>,
        dtype: DType,
    ) -> Result<(Tensor, Option<LoraSaved>)> {
        let mut y = kernels::linear(x, &self.matrix)?;
        let bias = self.bias.as_ref().map(|(bias, _)| bias);
        if let (Some(lora), Some(wide)) = (&self.lora, wide) {
            let (y, saved) = lora.forward(wide, y, (&self.matrix, bias), pass, dtype)?;
            return Ok((kernels::narrow(&y, dtype)?, Some(saved)));
        }
        if let Some(bias) = bias {
            kernels::add_bias(&mut y, bias)?;
        }
        Ok((kernels::narrow(&y, dtype)?, None))
    }

    /// The input gradient first: a sink may change the values that it is computed from.
    fn backward(
        &self,
        saved: Option<LoraSaved>,
        incoming: &Incoming,
        dx: &mut InputGradient,
        sink: &mut dyn GradSink,
    ) -> Result<()> {
        if let (Some(lora), Some(saved)) = (&self.lora, saved) {
            lora.backward(saved, incoming, &self.matrix, dx, sink)?;
        } else if dx.needed {
            dx.add(incoming.through(incoming.dy, &self.matrix)?)?;
        }
        let dy = incoming.wide_dy;
        if let (Some(param), Some(x)) = (self.weight_param, incoming.x) {
            sink.add(param, product(dy, Op::Transposed, x, Op::Plain)?)?;
        }
        if let Some((_, Some(param))) = &self.bias {
            sink.add(*param, kernels::sum_rows(dy)?)?;
        }
        Ok(())
    }
}
