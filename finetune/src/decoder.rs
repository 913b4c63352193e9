//! The one transformer: embedding, layers, final norm and head, forward and backward.
//!
//! The backward pass is written out (the crate docs say why): each layer keeps a `Saved` struct by value
//! and gives gradients to a [`GradSink`] as they appear.

use adapters::{Builder, Embedding, GradSink, Norm, ParamId, Pass};
use candle_core::{DType, Device, Tensor};
use datasets::Batch;
use kernels::{
    Indices, KvCache, LossSum, Matrix, Offload, RmsNormSaved, RopeTable, RowIds, Segment, Segments,
    TokenScore,
};

use crate::config::DecoderConfig;
use crate::layer::{Keys, Layer, LayerSaved, NeededRows, norm_backward};
use crate::recipe::Recompute;
use crate::{Error, Result};

/// A Llama-family decoder with its weights where the [`Builder`] put them.
pub struct Decoder {
    config: DecoderConfig,
    compute: DType,
    embedding: Embedding,
    layers: Vec<Layer>,
    norm: Norm,
    head: Matrix,
    head_param: Option<ParamId>,
    inv_freq: Vec<f64>,
    recompute: Recompute,
}

/// One sequence's keys and values, a cache a layer.
pub struct SequenceCache {
    layers: Vec<KvCache>,
}

impl SequenceCache {
    /// Tokens cached so far.
    pub fn len(&self) -> usize {
        self.layers.first().map_or(0, KvCache::len)
    }

    /// True before the first token.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What one batch contributed to a step.
#[derive(Debug, Clone, Copy, Default)]
pub struct BatchLoss {
    /// Sum of the targets' negative log-likelihoods, in nats, before any scaling.
    pub loss_sum: f64,
    /// Number of targets.
    pub target_tokens: usize,
}

impl BatchLoss {
    /// The loss a target token.
    pub fn mean(&self) -> f64 {
        self.loss_sum / self.target_tokens as f64
    }
}

/// A batch's loss while a GPU may still be computing it.
#[derive(Debug, Clone)]
pub struct PendingLoss {
    /// As [`BatchLoss::loss_sum`].
    pub loss_sum: LossSum,
    /// Number of targets.
    pub target_tokens: usize,
}

impl PendingLoss {
    /// Waits for it.
    pub fn value(&self) -> Result<BatchLoss> {
        Ok(BatchLoss {
            loss_sum: self.loss_sum.value()?,
            target_tokens: self.target_tokens,
        })
    }
}

/// What the backward pass of one layer starts from.
enum Kept {
    /// Everything the forward pass saved.
    Saved(Box<LayerSaved>),
    /// Only the layer's input (T, D): the forward pass is run again.
    Input(Tensor),
    /// The same, put away last of those that were.
    Away,
}

impl Decoder {
    /// Builds the decoder from the builder's weights; shapes that disagree with `config` are errors.
    pub fn build(b: &mut Builder, config: DecoderConfig, compute: DType) -> Result<Self> {
        let (v, d) = (config.vocab_size, config.hidden_size);
        let (embedding_name, head_name) = ("model.embed_tokens.weight", "lm_head.weight");
        let (embedding, tied_head) = if config.tie_word_embeddings {
            let (embedding, head) = b.tied_embedding(embedding_name, head_name, v, d)?;
            (embedding, Some(head))
        } else {
            (b.embedding(embedding_name, v, d)?, None)
        };
        let layers = (0..config.num_hidden_layers)
            .map(|i| Layer::build(b, &config, i))
            .collect::<Result<Vec<_>>>()?;
        let norm = b.norm("model.norm.weight", d)?;
        let head = match tied_head {
            Some(head) => head,
            None => b.embedding(head_name, v, d)?,
        };
        let inv_freq = config.inv_freq();
        Ok(Self {
            config,
            compute,
            embedding,
            layers,
            norm,
            head: head.matrix,
            head_param: head.param,
            inv_freq,
            recompute: Recompute::None,
        })
    }

    /// What this decoder is made of.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// The trained parameter that a backward pass hands over twice, first by the head and at the end by the embedding:
    /// a tied table.
    pub fn tied_parameter(&self) -> Option<ParamId> {
        self.head_param
            .filter(|head| self.embedding.param == Some(*head))
    }

    /// Where it computes.
    pub fn device(&self) -> Device {
        self.embedding.matrix.device()
    }

    /// Dtype of the activations.
    pub fn compute(&self) -> DType {
        self.compute
    }

    /// Chooses what the backward pass keeps and what it computes again.
    pub fn set_recompute(&mut self, recompute: Recompute) {
        self.recompute = recompute;
    }

    /// Adds the gradients of `grad_scale * loss_sum` to `sink`.
    ///
    /// `grad_scale` is one over the target tokens of the whole optimizer step, so that batches of any size and
    /// number give the same gradient. Errors where the batch holds no target.
    pub fn loss_and_gradients(
        &self,
        batch: &Batch,
        dropout: DropoutState,
        grad_scale: f64,
        sink: &mut dyn GradSink,
    ) -> Result<BatchLoss> {
        self.pending_loss_and_gradients(batch, dropout, grad_scale, sink)?
            .value()
    }

    /// As [`Self::loss_and_gradients`], and does not wait for a GPU.
    pub fn pending_loss_and_gradients(
        &self,
        batch: &Batch,
        dropout: DropoutState,
        grad_scale: f64,
        sink: &mut dyn GradSink,
    ) -> Result<PendingLoss> {
        let batch = self.prepare(batch.clone())?;
        self.gradients(&batch, dropout, grad_scale, sink)
    }

    /// Makes a batch ready for its passes. Errors where it holds no target.
    pub(crate) fn prepare(&self, batch: Batch) -> Result<Prepared> {
        let run = Forward::prepare(self, &batch)?;
        let (rows, targets) = batch.rows_with_targets();
        if targets.is_empty() {
            return Err(Error::NoTargets);
        }
        let (needed, rows) = NeededRows::of(&rows, &run.row_ids);
        let (ids, targets) = (Indices::from(&batch.input_ids), Indices::new(targets));
        let mut gathered = vec![&ids, &rows, &targets];
        let mut scattered = vec![&rows];
        if let Some(needed) = &needed {
            gathered.push(needed.rows());
            scattered.push(needed.rows());
        }
        if self.embedding.param.is_some() {
            scattered.push(&ids);
        }
        Indices::upload(&gathered, &scattered, &self.device())?;
        Ok(Prepared {
            batch,
            run,
            ids,
            needed,
            rows,
            targets,
        })
    }

    /// As [`Self::pending_loss_and_gradients`], of a batch that was made ready.
    pub(crate) fn gradients(
        &self,
        prepared: &Prepared,
        dropout: DropoutState,
        grad_scale: f64,
        sink: &mut dyn GradSink,
    ) -> Result<PendingLoss> {
        let Prepared {
            run,
            ids,
            needed,
            rows,
            targets,
            ..
        } = prepared;
        let pass = Pass {
            training: true,
            seed: dropout.seed,
            step: dropout.step,
            rows: &run.row_ids,
        };
        let forward = |index: usize, x: &Tensor| {
            let needed = needed.as_ref().filter(|_| index + 1 == self.layers.len());
            self.layers[index].forward(x, &run.segments, &run.rope, &pass, needed, self.recompute)
        };
        let mut x = kernels::embedding(&self.embedding.matrix, ids, self.compute)?;
        let mut kept = Vec::with_capacity(self.layers.len());
        let mut away = Offload::new(self.layers.len());
        for index in 0..self.layers.len() {
            let (y, saved) = forward(index, &x)?;
            kept.push(match self.recompute {
                Recompute::Full => Kept::Input(x),
                Recompute::Offload => {
                    away.put(x)?;
                    Kept::Away
                }
                _ => Kept::Saved(Box::new(saved)),
            });
            x = y;
        }

        let rows_out = x.dim(0)?;
        let (h, norm_saved) = self.normed_rows(&x, rows)?;
        drop(x);
        let want_dweight = self.head_param.is_some();
        let head =
            kernels::linear_cross_entropy(&h, &self.head, targets, grad_scale, true, want_dweight)?;
        drop(h);
        let loss = PendingLoss {
            loss_sum: head.loss_sum,
            target_tokens: targets.len(),
        };
        if let (Some(param), Some(dweight)) = (self.head_param, head.dweight) {
            sink.add(param, dweight)?;
        }
        let dh = head.dx.expect("dx was asked for");
        let dx_rows = norm_backward(&self.norm, norm_saved, &dh, sink)?;
        let mut dx = kernels::scatter_rows(&dx_rows, rows, rows_out)?;
        drop((dh, dx_rows));

        for (i, (layer, kept)) in self.layers.iter().zip(kept).enumerate().rev() {
            let saved = match kept {
                Kept::Saved(saved) => *saved,
                Kept::Input(x) => forward(i, &x)?.1,
                Kept::Away => {
                    let x = away.take()?.expect("as many come back as were put away");
                    forward(i, &x)?.1
                }
            };
            let need_dx = i > 0 || self.embedding.param.is_some();
            let needed = needed.as_ref().filter(|_| i + 1 == self.layers.len());
            match layer.backward(saved, dx, &run.rope, &pass, needed, need_dx, sink)? {
                Some(below) => dx = below,
                None => return Ok(loss),
            }
        }
        if let Some(param) = self.embedding.param {
            sink.add(
                param,
                kernels::embedding_backward(ids, &dx, self.config.vocab_size)?,
            )?;
        }
        Ok(loss)
    }

    /// The targets' log-likelihoods, in the order of [`Batch::rows_with_targets`].
    pub fn token_scores(&self, batch: &Batch) -> Result<Vec<TokenScore>> {
        let (rows, targets) = batch.rows_with_targets();
        self.scores_after(batch, &rows, &targets)
    }

    /// The log-likelihood of each of `targets` as the token after the row of the batch that `rows` has in its place. A row may
    /// have several targets.
    pub fn scores_after(
        &self,
        batch: &Batch,
        rows: &[usize],
        targets: &[u32],
    ) -> Result<Vec<TokenScore>> {
        if targets.is_empty() {
            return Err(Error::NoTargets);
        }
        let run = Forward::prepare(self, batch)?;
        let (needed, rows) = NeededRows::of(rows, &run.row_ids);
        let rows_needed = needed.as_ref().map(NeededRows::rows);
        let x = self.hidden(batch, &run, rows_needed, &mut |_| {})?;
        let (h, _) = self.normed_rows(&x, &rows)?;
        Ok(kernels::linear_token_scores(&h, &self.head, targets)?)
    }

    /// Logits (T, V) of every position of a batch, in the accumulate dtype. For tests and small inputs.
    pub fn logits(&self, batch: &Batch) -> Result<Tensor> {
        self.logits_by_layer(batch, &mut |_| {})
    }

    /// As [`Self::logits`]; `after` is called with the number of each layer that is done and not needed again.
    pub fn logits_by_layer(&self, batch: &Batch, after: &mut dyn FnMut(usize)) -> Result<Tensor> {
        let x = self.hidden(batch, &Forward::prepare(self, batch)?, None, after)?;
        let (h, _) = kernels::rms_norm(&x, &self.norm.weight, self.config.rms_norm_eps)?;
        Ok(kernels::linear(&h, &self.head)?)
    }

    /// Empty caches for one sequence.
    pub fn new_cache(&self) -> SequenceCache {
        SequenceCache {
            layers: self.layers.iter().map(|l| l.cache(self.compute)).collect(),
        }
    }

    /// Appends `tokens[i]` to sequence i and answers the logits (B, V) of each sequence's last token.
    pub fn extend(&self, tokens: &[&[u32]], caches: &mut [&mut SequenceCache]) -> Result<Tensor> {
        let lens: Vec<usize> = tokens.iter().map(|t| t.len()).collect();
        let ids = tokens.concat();
        let positions: Vec<u32> = tokens
            .iter()
            .zip(caches.iter())
            .flat_map(|(t, c)| (c.len()..c.len() + t.len()).map(|p| p as u32))
            .collect();
        let rope = RopeTable::new(&positions, &self.inv_freq, 1.0, self.compute)?
            .to_device(&self.device())?;
        let mut end = 0;
        let last: Vec<u32> = lens
            .iter()
            .map(|n| {
                end += n;
                (end - 1) as u32
            })
            .collect();
        let last = Indices::new(last);
        let mut x = kernels::embedding(&self.embedding.matrix, &ids, self.compute)?;
        for (i, layer) in self.layers.iter().enumerate() {
            let mut of_layer: Vec<&mut KvCache> =
                caches.iter_mut().map(|c| &mut c.layers[i]).collect();
            let needed = (i + 1 == self.layers.len()).then_some(&last);
            x = layer.infer(&x, Keys::Caches(&mut of_layer, &lens), &rope, needed)?;
        }
        let (h, _) = kernels::rms_norm(&x, &self.norm.weight, self.config.rms_norm_eps)?;
        Ok(kernels::linear(&h, &self.head)?)
    }

    /// The last layer's output (T, D), or its `needed` rows, before the final norm.
    fn hidden(
        &self,
        batch: &Batch,
        run: &Forward,
        needed: Option<&Indices>,
        after: &mut dyn FnMut(usize),
    ) -> Result<Tensor> {
        let mut x = kernels::embedding(&self.embedding.matrix, &batch.input_ids, self.compute)?;
        for (i, layer) in self.layers.iter().enumerate() {
            let needed = needed.filter(|_| i + 1 == self.layers.len());
            x = layer.infer(&x, Keys::Segments(&run.segments), &run.rope, needed)?;
            after(i);
        }
        Ok(x)
    }

    /// Only rows that are scored go through the final norm and the head: the head is V wide.
    fn normed_rows(&self, x: &Tensor, rows: &Indices) -> Result<(Tensor, RmsNormSaved)> {
        let x = kernels::gather_rows(x, rows)?;
        Ok(kernels::rms_norm(
            &x,
            &self.norm.weight,
            self.config.rms_norm_eps,
        )?)
    }
}

/// What dropout masks are drawn from, besides sample, position and module.
#[derive(Debug, Clone, Copy)]
pub struct DropoutState {
    /// The run's seed.
    pub seed: u64,
    /// The optimizer step.
    pub step: u64,
}

/// A batch that is ready for its passes.
pub(crate) struct Prepared {
    batch: Batch,
    run: Forward,
    ids: Indices,
    needed: Option<NeededRows>,
    /// Where the rows that predict lie among the needed ones.
    rows: Indices,
    targets: Indices,
}

impl Prepared {
    pub(crate) fn batch(&self) -> &Batch {
        &self.batch
    }
}

/// What every layer of one pass reads: built once a batch.
struct Forward {
    segments: Segments,
    rope: RopeTable,
    row_ids: RowIds,
}

impl Forward {
    fn prepare(decoder: &Decoder, batch: &Batch) -> Result<Self> {
        let segments: Vec<Segment> = batch
            .segments
            .iter()
            .map(|s| Segment {
                start: s.start,
                len: s.len,
                prefix: s.prefix.map(|i| {
                    let p = &batch.segments[i];
                    p.start..p.start + p.len
                }),
            })
            .collect();
        let mut sample = vec![0u64; batch.input_ids.len()];
        for s in &batch.segments {
            sample[s.start..s.start + s.len].fill(s.sample);
        }
        Ok(Self {
            segments: Segments::new(&segments, batch.input_ids.len())?,
            rope: RopeTable::new(&batch.positions, &decoder.inv_freq, 1.0, decoder.compute)?
                .to_device(&decoder.device())?,
            row_ids: RowIds::new(sample.into_iter().zip(batch.positions.iter().copied())),
        })
    }
}
