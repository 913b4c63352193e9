//! One transformer layer: attention and gated MLP, each behind an RMS norm and a residual.

use adapters::{Builder, GradSink, LinearGroup, LinearSpec, Norm, Pass};
use candle_core::Tensor;
use kernels::{
    AttentionSaved, AttentionShape, Direction, Indices, KvCache, RmsNormSaved, RopeTable, RowIds,
    Segments, SwigluSaved,
};

use crate::Result;
use crate::config::DecoderConfig;
use crate::recipe::Recompute;

/// A layer's weights. Shapes in comments: T tokens, D model, H heads, K key/value heads, hd head width.
pub(crate) struct Layer {
    input_norm: Norm,
    qkv: LinearGroup,
    q_norm: Option<Norm>,
    k_norm: Option<Norm>,
    o: LinearGroup,
    post_norm: Norm,
    gate_up: LinearGroup,
    down: LinearGroup,
    eps: f64,
    shape: AttentionShape,
}

/// The rows of a batch that something above the last layer reads: those that predict a target. In that layer every row
/// gives keys and values, but only these need the attention's projection, the residual and the MLP.
pub(crate) struct NeededRows {
    rows: Indices,
    /// Rows of the whole batch.
    total: usize,
    row_ids: RowIds,
}

impl NeededRows {
    /// Of the rows that are read, in any order and as often as they are; `None` where they are all rows. Answers also
    /// where each read row lies among the needed ones.
    pub(crate) fn of(read: &[usize], row_ids: &RowIds) -> (Option<Self>, Indices) {
        let total = row_ids.len();
        let mut place = vec![usize::MAX; total];
        for row in read {
            place[*row] = 0;
        }
        let rows: Vec<usize> = (0..total).filter(|row| place[*row] == 0).collect();
        if rows.len() == total {
            return (None, Indices::from(read));
        }
        for (i, row) in rows.iter().enumerate() {
            place[*row] = i;
        }
        let row_ids = row_ids.of_rows(&rows);
        let needed = Self {
            rows: Indices::from(&rows),
            total,
            row_ids,
        };
        let read: Vec<usize> = read.iter().map(|row| place[*row]).collect();
        (Some(needed), Indices::from(&read))
    }

    pub(crate) fn rows(&self) -> &Indices {
        &self.rows
    }

    fn pass<'a>(&'a self, whole: &Pass<'a>) -> Pass<'a> {
        Pass {
            rows: &self.row_ids,
            ..*whole
        }
    }

    /// (T, D) of a gradient (R, D): zero in the other rows.
    fn put_back(&self, gradient: &Tensor) -> Result<Tensor> {
        Ok(kernels::scatter_rows(gradient, &self.rows, self.total)?)
    }
}

/// What a layer's backward pass reads, in the order it was made.
pub(crate) struct LayerSaved {
    input_norm: RmsNormSaved,
    qkv: adapters::GroupSaved,
    q_norm: Option<RmsNormSaved>,
    k_norm: Option<RmsNormSaved>,
    attention: AttentionSaved,
    o: adapters::GroupSaved,
    post_norm: RmsNormSaved,
    gate_up: adapters::GroupSaved,
    swiglu: SwigluSaved,
    down: adapters::GroupSaved,
}

/// Where a token's keys come from when nothing will be differentiated.
pub(crate) enum Keys<'a, 'c> {
    /// The packed segments themselves.
    Segments(&'a Segments),
    /// Each sequence's cache, which the new tokens are appended to; one length a sequence.
    Caches(&'a mut [&'c mut KvCache], &'a [usize]),
}

impl Layer {
    pub(crate) fn build(b: &mut Builder, config: &DecoderConfig, index: usize) -> Result<Self> {
        let (d, q, kv, f) = (
            config.hidden_size,
            config.q_dim(),
            config.kv_dim(),
            config.intermediate_size,
        );
        let prefix = format!("model.layers.{index}");
        let linear = |name: &str, inputs, outputs, bias| LinearSpec {
            name: format!("{prefix}.{name}"),
            in_features: inputs,
            out_features: outputs,
            bias,
        };
        let input_norm = b.norm(&format!("{prefix}.input_layernorm.weight"), d)?;
        let qkv = b.linear_group(&[
            linear("self_attn.q_proj", d, q, config.qkv_bias),
            linear("self_attn.k_proj", d, kv, config.qkv_bias),
            linear("self_attn.v_proj", d, kv, config.qkv_bias),
        ])?;
        let mut head_norm = |name: &str| -> Result<Option<Norm>> {
            if !config.qk_norm {
                return Ok(None);
            }
            Ok(Some(b.norm(
                &format!("{prefix}.self_attn.{name}.weight"),
                config.head_dim,
            )?))
        };
        let (q_norm, k_norm) = (head_norm("q_norm")?, head_norm("k_norm")?);
        Ok(Self {
            input_norm,
            qkv,
            q_norm,
            k_norm,
            o: b.linear_group(&[linear("self_attn.o_proj", q, d, config.o_bias)])?,
            post_norm: b.norm(&format!("{prefix}.post_attention_layernorm.weight"), d)?,
            gate_up: b.linear_group(&[
                linear("mlp.gate_proj", d, f, config.mlp_bias),
                linear("mlp.up_proj", d, f, config.mlp_bias),
            ])?,
            down: b.linear_group(&[linear("mlp.down_proj", f, d, config.mlp_bias)])?,
            eps: config.rms_norm_eps,
            shape: AttentionShape {
                heads: config.num_attention_heads,
                kv_heads: config.num_key_value_heads,
                head_dim: config.head_dim,
                scale: 1.0 / (config.head_dim as f64).sqrt(),
                window: config.sliding_window,
            },
        })
    }

    /// x (T, D) -> (T, D), or (R, D) where only the `needed` rows go on, keeping what [`Layer::backward`] needs.
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        segments: &Segments,
        rope: &RopeTable,
        pass: &Pass,
        needed: Option<&NeededRows>,
        recompute: Recompute,
    ) -> Result<(Tensor, LayerSaved)> {
        let lean = recompute == Recompute::Selective;
        let (h, input_norm) = kernels::rms_norm(x, &self.input_norm.weight, self.eps)?;
        let (qkv, mut qkv_saved) = self.qkv.forward(&h, pass)?;
        if lean {
            qkv_saved.forget_input();
        }
        drop(h);
        let [q, k, v] = take(qkv);
        let (mut q, q_norm) = self.head_norm(q, &self.q_norm)?;
        let (mut k, k_norm) = self.head_norm(k, &self.k_norm)?;
        kernels::rope(&mut q, self.shape.heads, rope, Direction::Forward)?;
        kernels::rope(&mut k, self.shape.kv_heads, rope, Direction::Forward)?;
        let (mut a, attention) = kernels::attention(&q, &k, &v, segments, &self.shape)?;
        drop((q, k, v));
        let pass = &needed.map_or(*pass, |rows| rows.pass(pass));
        let mut x = x.clone();
        if let Some(rows) = needed {
            a = kernels::gather_rows(&a, &rows.rows)?;
            x = kernels::gather_rows(&x, &rows.rows)?;
        }
        let (o, o_saved) = self.o.forward(&a, pass)?;
        drop(a);
        let [mut x1] = take(o);
        let weight = &self.post_norm.weight;
        let (h, post_norm) = kernels::rms_norm_of_sum(&mut x1, &x, weight, self.eps)?;
        drop(x);

        let (gate_up, mut gate_up_saved) = self.gate_up.forward(&h, pass)?;
        if lean {
            gate_up_saved.forget_input();
        }
        drop(h);
        let [gate, up] = take(gate_up);
        let (m, swiglu) = kernels::swiglu(gate, up)?;
        let (down, mut down_saved) = self.down.forward(&m, pass)?;
        if lean {
            down_saved.forget_input();
        }
        drop(m);
        let [mut x2] = take(down);
        kernels::add_assign(&mut x2, &x1)?;
        let saved = LayerSaved {
            input_norm,
            qkv: qkv_saved,
            q_norm,
            k_norm,
            attention,
            o: o_saved,
            post_norm,
            gate_up: gate_up_saved,
            swiglu,
            down: down_saved,
        };
        Ok((x2, saved))
    }

    /// d(loss)/dx from d(loss)/dy, whose memory it takes; `None` where `need_dx` is false and nothing below is trained.
    /// `needed` is the forward pass's.
    pub(crate) fn backward(
        &self,
        mut saved: LayerSaved,
        dy: Tensor,
        rope: &RopeTable,
        pass: &Pass,
        needed_rows: Option<&NeededRows>,
        need_dx: bool,
        sink: &mut dyn GradSink,
    ) -> Result<Option<Tensor>> {
        let whole_pass = pass;
        let pass = &needed_rows.map_or(*pass, |rows| rows.pass(pass));
        saved.down.restore_input(|| saved.swiglu.output())?;
        let dm =
            needed(
                self.down
                    .backward(saved.down, std::slice::from_ref(&dy), pass, true, sink)?,
            );
        let (dgate, dup) = kernels::swiglu_backward(saved.swiglu, &dm)?;
        drop(dm);
        saved.gate_up.restore_input(|| saved.post_norm.output())?;
        let dh = needed(
            self.gate_up
                .backward(saved.gate_up, &[dgate, dup], pass, true, sink)?,
        );
        let mut dx1 = dy;
        norm_backward_onto(&self.post_norm, saved.post_norm, &dh, &mut dx1, sink)?;
        drop(dh);

        let da = needed(
            self.o
                .backward(saved.o, std::slice::from_ref(&dx1), pass, true, sink)?,
        );
        let (da, mut dx) = match needed_rows {
            Some(rows) => (rows.put_back(&da)?, rows.put_back(&dx1)?),
            None => (da, dx1),
        };
        let (mut dq, mut dk, dv) = kernels::attention_backward(saved.attention, &da)?;
        drop(da);
        kernels::rope(&mut dq, self.shape.heads, rope, Direction::Backward)?;
        kernels::rope(&mut dk, self.shape.kv_heads, rope, Direction::Backward)?;
        let dq = self.head_norm_backward(dq, &self.q_norm, saved.q_norm, sink)?;
        let dk = self.head_norm_backward(dk, &self.k_norm, saved.k_norm, sink)?;
        // The input norm's own weight may be trained where nothing below is.
        let need_dh = need_dx || self.input_norm.param.is_some();
        saved.qkv.restore_input(|| saved.input_norm.output())?;
        let Some(dh) = self
            .qkv
            .backward(saved.qkv, &[dq, dk, dv], whole_pass, need_dh, sink)?
        else {
            return Ok(None);
        };
        norm_backward_onto(&self.input_norm, saved.input_norm, &dh, &mut dx, sink)?;
        Ok(Some(dx))
    }

    /// The forward pass alone: nothing is kept, no dropout. Only the `needed` rows go on, where they are given.
    pub(crate) fn infer(
        &self,
        x: &Tensor,
        keys: Keys,
        rope: &RopeTable,
        needed: Option<&Indices>,
    ) -> Result<Tensor> {
        let (h, _) = kernels::rms_norm(x, &self.input_norm.weight, self.eps)?;
        let [q, k, v] = take(self.qkv.infer(&h)?);
        let (mut q, _) = self.head_norm(q, &self.q_norm)?;
        let (mut k, _) = self.head_norm(k, &self.k_norm)?;
        kernels::rope(&mut q, self.shape.heads, rope, Direction::Forward)?;
        kernels::rope(&mut k, self.shape.kv_heads, rope, Direction::Forward)?;
        let mut a = match keys {
            Keys::Segments(segments) => kernels::attention(&q, &k, &v, segments, &self.shape)?.0,
            Keys::Caches(caches, lens) => {
                kernels::attention_cached(&q, &k, &v, caches, lens, &self.shape)?
            }
        };
        let mut x = x.clone();
        if let Some(rows) = needed {
            a = kernels::gather_rows(&a, rows)?;
            x = kernels::gather_rows(&x, rows)?;
        }
        let [mut x1] = take(self.o.infer(&a)?);
        let (h, _) = kernels::rms_norm_of_sum(&mut x1, &x, &self.post_norm.weight, self.eps)?;
        let [gate, up] = take(self.gate_up.infer(&h)?);
        let (m, _) = kernels::swiglu(gate, up)?;
        let [mut x2] = take(self.down.infer(&m)?);
        kernels::add_assign(&mut x2, &x1)?;
        Ok(x2)
    }

    /// A KV cache of this layer's shape.
    pub(crate) fn cache(&self, compute: candle_core::DType) -> KvCache {
        KvCache::new(self.shape.kv_heads, self.shape.head_dim, compute)
    }

    /// Normalises each head of x (T, heads*hd) on its own, where the architecture does.
    fn head_norm(&self, x: Tensor, norm: &Option<Norm>) -> Result<(Tensor, Option<RmsNormSaved>)> {
        let Some(norm) = norm else {
            return Ok((x, None));
        };
        let (t, width) = x.dims2()?;
        let hd = self.shape.head_dim;
        let (y, saved) =
            kernels::rms_norm(&x.reshape((t * width / hd, hd))?, &norm.weight, self.eps)?;
        Ok((y.reshape((t, width))?, Some(saved)))
    }

    fn head_norm_backward(
        &self,
        dy: Tensor,
        norm: &Option<Norm>,
        saved: Option<RmsNormSaved>,
        sink: &mut dyn GradSink,
    ) -> Result<Tensor> {
        let (Some(norm), Some(saved)) = (norm, saved) else {
            return Ok(dy);
        };
        let (t, width) = dy.dims2()?;
        let hd = self.shape.head_dim;
        let dx = norm_backward(norm, saved, &dy.reshape((t * width / hd, hd))?, sink)?;
        Ok(dx.reshape((t, width))?)
    }
}

/// An RMS norm's backward pass, its weight's gradient handed on where the weight is trained.
pub(crate) fn norm_backward(
    norm: &Norm,
    saved: RmsNormSaved,
    dy: &Tensor,
    sink: &mut dyn GradSink,
) -> Result<Tensor> {
    let (dx, dweight) = kernels::rms_norm_backward(saved, dy, norm.param.is_some())?;
    if let (Some(param), Some(dweight)) = (norm.param, dweight) {
        sink.add(param, dweight)?;
    }
    Ok(dx)
}

/// As [`norm_backward`], the input's gradient added to `dx`: that of the residual around the norm.
fn norm_backward_onto(
    norm: &Norm,
    saved: RmsNormSaved,
    dy: &Tensor,
    dx: &mut Tensor,
    sink: &mut dyn GradSink,
) -> Result<()> {
    let dweight = kernels::rms_norm_backward_onto(saved, dy, dx, norm.param.is_some())?;
    if let (Some(param), Some(dweight)) = (norm.param, dweight) {
        sink.add(param, dweight)?;
    }
    Ok(())
}

/// A group's outputs by position. The group was built with N members in this file.
fn take<const N: usize>(tensors: Vec<Tensor>) -> [Tensor; N] {
    tensors
        .try_into()
        .unwrap_or_else(|v: Vec<Tensor>| panic!("a group of {N} answered {} tensors", v.len()))
}

fn needed(dx: Option<Tensor>) -> Tensor {
    dx.expect("a group asked for dx returns it")
}
