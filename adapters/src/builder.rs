//! Hands out a model's layers, and is the only place that knows what is frozen, adapted or trained.

mod adapted;
mod checks;
mod tied;

use crate::group::Member;
use crate::peft::{Key, PeftAdapter, module_of};
use crate::{
    Error, LinearGroup, LoraConfig, ParamId, Parameter, ParameterKind, Parameters, Result,
    WeightView, Weights,
};
use candle_core::{DType, Device, Tensor};
use kernels::{Matrix, accumulate_dtype};
use std::collections::BTreeSet;

/// What is trained.
#[derive(Clone, Debug)]
pub enum Method {
    /// Nothing: for evaluation, with or without an adapter.
    Frozen,
    /// Low-rank adapters on some linear layers, and full copies of the modules to save; everything else stays as it is.
    Lora(LoraConfig),
    /// Every weight, in the accumulate dtype.
    Full,
    /// Every weight, matrices in bf16; norms and biases, which are few, in the accumulate dtype.
    FullBf16 {
        /// Whether each matrix is beside an f32 copy that takes the updates and that it is rounded from.
        master: bool,
    },
}

impl Method {
    /// Whether every weight is trained.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full | Self::FullBf16 { .. })
    }
}

/// A linear layer to be built.
#[derive(Clone, Debug)]
pub struct LinearSpec {
    /// Module name, without `.weight`: `model.layers.0.self_attn.q_proj`.
    pub name: String,
    /// Columns of the weight.
    pub in_features: usize,
    /// Rows of the weight.
    pub out_features: usize,
    /// Whether the layer adds a bias.
    pub bias: bool,
}

/// The scale of an RMS norm.
#[derive(Clone, Debug)]
pub struct Norm {
    /// (D), in the accumulate dtype.
    pub weight: Tensor,
    /// Set if it is trained.
    pub param: Option<ParamId>,
}

/// A table of rows by token: an embedding, or an output head that is computed with its loss.
#[derive(Clone, Debug)]
pub struct Embedding {
    /// (V, D).
    pub matrix: Matrix,
    /// Set if it is trained.
    pub param: Option<ParamId>,
}

/// Builds layers over [`Weights`]. Parameters are registered in the order in which layers are asked for.
pub struct Builder<'w> {
    weights: &'w Weights,
    dtype: DType,
    device: Device,
    method: Method,
    seed: u64,
    adapter: Option<PeftAdapter>,
    parameters: Vec<Parameter>,
    taken: BTreeSet<String>,
    linears: Vec<String>,
    tables: Vec<String>,
    norms: Vec<String>,
    matched: BTreeSet<usize>,
    saved: BTreeSet<usize>,
}

impl<'w> Builder<'w> {
    /// `dtype` is that of the activations: F32, BF16 or F64. `seed` fills fresh adapters.
    pub fn new(weights: &'w Weights, dtype: DType, method: Method, seed: u64) -> Self {
        Self {
            weights,
            dtype,
            device: Device::Cpu,
            method,
            seed,
            adapter: None,
            parameters: Vec::new(),
            taken: BTreeSet::new(),
            linears: Vec::new(),
            tables: Vec::new(),
            norms: Vec::new(),
            matched: BTreeSet::new(),
            saved: BTreeSet::new(),
        }
    }

    /// Puts the layers into a device's memory: their frozen matrices as they are quantized, or in the dtype of the
    /// activations.
    pub fn on(mut self, device: &Device) -> Self {
        self.device = device.clone();
        self
    }

    /// Evaluates with these adapter matrices, or goes on training them.
    pub fn with_adapter(mut self, adapter: PeftAdapter) -> Result<Self> {
        match &self.method {
            Method::Full | Method::FullBf16 { .. } => return Err(Error::AdapterUnderFull),
            Method::Lora(config) => adapter.check_continues(config)?,
            Method::Frozen => {}
        }
        self.adapter = Some(adapter);
        Ok(self)
    }

    /// Linear layers that read the same input.
    pub fn linear_group(&mut self, specs: &[LinearSpec]) -> Result<LinearGroup> {
        let members = specs
            .iter()
            .map(|spec| self.member(spec))
            .collect::<Result<_>>()?;
        Ok(LinearGroup::new(members, self.dtype))
    }

    /// The norm whose weight has this checkpoint name: `model.norm.weight`.
    pub fn norm(&mut self, name: &str, dim: usize) -> Result<Norm> {
        self.norms.push(module_of(name).into());
        let (weight, param) = self.vector(name, dim, ParameterKind::Norm)?;
        Ok(Norm { weight, param })
    }

    /// The table whose weight has this checkpoint name: `model.embed_tokens.weight`, or `lm_head.weight`.
    pub fn embedding(&mut self, name: &str, vocab: usize, dim: usize) -> Result<Embedding> {
        self.tables.push(module_of(name).into());
        let (matrix, param) = self.weight(name, vocab, dim)?;
        Ok(Embedding { matrix, param })
    }

    /// The trained parameters, after checking that every target, every module to save and every tensor of the adapter
    /// found its layer.
    pub fn finish(self) -> Result<Parameters> {
        self.check_all()?;
        Ok(Parameters(self.parameters))
    }

    fn member(&mut self, spec: &LinearSpec) -> Result<Member> {
        let (out, inner) = (spec.out_features, spec.in_features);
        let (matrix, weight_param) = self.weight(&format!("{}.weight", spec.name), out, inner)?;
        let bias = match spec.bias {
            true => Some(self.vector(&format!("{}.bias", spec.name), out, ParameterKind::Bias)?),
            false => None,
        };
        let lora = self.lora(spec, &matrix)?;
        self.linears.push(spec.name.clone());
        Ok(Member {
            matrix,
            weight_param,
            bias,
            lora,
        })
    }

    /// A weight (out, in): where it lies if it is frozen, a tensor of its own if it is trained or the adapter's.
    fn weight(
        &mut self,
        name: &str,
        rows: usize,
        columns: usize,
    ) -> Result<(Matrix, Option<ParamId>)> {
        let view = self.weights.view_shaped(name, &[rows, columns])?;
        let (trained, saved) = self.whole(name, &[rows, columns])?;
        if !trained {
            return Ok((
                saved.map_or_else(|| self.frozen(&view), |t| Ok(Matrix::dense(t)))?,
                None,
            ));
        }
        let (value, param) = self.trained_matrix(&view, saved, ParameterKind::Weight)?;
        Ok((Matrix::dense(value), Some(param)))
    }

    /// A matrix that is not trained: where it lies, or in the device's memory.
    fn frozen(&self, view: &WeightView) -> Result<Matrix> {
        if let Some(drawn) = view.drawn_on(&self.device, self.dtype)? {
            return Ok(Matrix::dense(drawn));
        }
        let matrix = view.matrix()?;
        if self.device.is_cpu() {
            return Ok(matrix);
        }
        let there = matrix.to_device(&self.device, self.dtype)?;
        view.release();
        Ok(there)
    }

    /// A matrix of its own, held as the method says, from the adapter's copy where there is one.
    fn trained_matrix(
        &mut self,
        view: &WeightView,
        saved: Option<Tensor>,
        kind: ParameterKind,
    ) -> Result<(Tensor, ParamId)> {
        view.check_trainable()?;
        let own = |dtype| match view.drawn_on(&self.device, dtype)? {
            Some(drawn) => Ok::<_, Error>(drawn),
            None => Ok(view.tensor(dtype)?.to_device(&self.device)?),
        };
        let (value, master) = match (saved, &self.method) {
            (Some(value), _) => (value, None),
            (None, Method::FullBf16 { master: false }) => (own(DType::BF16)?, None),
            (None, Method::FullBf16 { master: true }) => {
                let master = own(DType::F32)?;
                (kernels::narrow(&master, DType::BF16)?, Some(master))
            }
            (None, _) => (own(accumulate_dtype(self.dtype))?, None),
        };
        view.release();
        let param = self.register(self.key(&view.name), &value, kind)?;
        self.parameters[param.0].master = master;
        Ok((value, param))
    }

    /// A norm's scale or a bias.
    fn vector(
        &mut self,
        name: &str,
        dim: usize,
        kind: ParameterKind,
    ) -> Result<(Tensor, Option<ParamId>)> {
        let view = self.weights.view_shaped(name, &[dim])?;
        let (trained, saved) = self.whole(name, &[dim])?;
        let value = match saved {
            Some(value) => value,
            None => {
                let value = view.tensor(accumulate_dtype(self.dtype))?;
                value.to_device(&self.device)?
            }
        };
        let param = match trained {
            true => Some(self.register(self.key(name), &value, kind)?),
            false => None,
        };
        Ok((value, param))
    }

    /// Whether the tensor of this checkpoint name is trained as a whole, and the adapter's copy of it.
    fn whole(&mut self, name: &str, shape: &[usize]) -> Result<(bool, Option<Tensor>)> {
        let modules = [module_of(name)];
        let trained = self.trains_any(&modules);
        self.check_same_saved(&modules, trained)?;
        Ok((trained, self.saved_tensor(name, shape)?))
    }

    /// Whether one of the modules is trained as a whole.
    fn trains_any(&mut self, modules: &[&str]) -> bool {
        let Method::Lora(config) = &self.method else {
            return self.method.is_full();
        };
        let found: Vec<usize> = modules.iter().flat_map(|m| config.saved_as(m)).collect();
        self.saved.extend(&found);
        !found.is_empty()
    }

    /// What a weight is called where it is trained.
    fn key(&self, name: &str) -> String {
        match self.method {
            Method::Lora(_) => Key::Saved(name).to_string(),
            _ => name.into(),
        }
    }

    fn register(&mut self, name: String, value: &Tensor, kind: ParameterKind) -> Result<ParamId> {
        if !self.taken.insert(name.clone()) {
            return Err(Error::DuplicateParameter { name });
        }
        self.parameters.push(Parameter {
            name,
            value: value.clone(),
            master: None,
            kind,
        });
        Ok(ParamId(self.parameters.len() - 1))
    }
}
