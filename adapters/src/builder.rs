//! Hands out a model's layers, and is the only place that knows what is frozen, adapted or trained.

use crate::error::nearest;
use crate::group::{Lora, Member};
use crate::peft::{PeftAdapter, tensor_key};
use crate::random::{Stream, module_number};
use crate::{
    Error, LinearGroup, LoraConfig, ParamId, Parameter, Parameters, Result, TargetModules, Weights,
};
use candle_core::{DType, Device, Tensor};
use kernels::{Matrix, accumulate_dtype};
use std::collections::BTreeSet;

/// What is trained.
#[derive(Clone, Debug)]
pub enum Method {
    /// Nothing: for evaluation, with or without an adapter.
    Frozen,
    /// Low-rank adapters on some linear layers; everything else stays as it is.
    Lora(LoraConfig),
    /// Every weight.
    Full,
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
    method: Method,
    seed: u64,
    adapter: Option<PeftAdapter>,
    parameters: Vec<Parameter>,
    taken: BTreeSet<String>,
    linears: Vec<String>,
    tables: Vec<String>,
    matched: BTreeSet<usize>,
}

impl<'w> Builder<'w> {
    /// `dtype` is that of the activations: F32, BF16 or F64. `seed` fills fresh adapters.
    pub fn new(weights: &'w Weights, dtype: DType, method: Method, seed: u64) -> Self {
        Self {
            weights,
            dtype,
            method,
            seed,
            adapter: None,
            parameters: Vec::new(),
            taken: BTreeSet::new(),
            linears: Vec::new(),
            tables: Vec::new(),
            matched: BTreeSet::new(),
        }
    }

    /// Evaluates with these adapter matrices, or goes on training them.
    pub fn with_adapter(mut self, adapter: PeftAdapter) -> Result<Self> {
        match &self.method {
            Method::Full => return Err(Error::AdapterUnderFull),
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
        let (weight, param) = self.vector(name, dim)?;
        Ok(Norm { weight, param })
    }

    /// The table whose weight has this checkpoint name: `model.embed_tokens.weight`, or `lm_head.weight`.
    pub fn embedding(&mut self, name: &str, vocab: usize, dim: usize) -> Result<Embedding> {
        self.tables
            .push(name.strip_suffix(".weight").unwrap_or(name).into());
        let (matrix, param) = self.weight(name, vocab, dim)?;
        Ok(Embedding { matrix, param })
    }

    /// The trained parameters, after checking that every target and every adapter matrix found its layer.
    pub fn finish(self) -> Result<Parameters> {
        if let Method::Lora(config) = &self.method {
            self.check_targets(&config.target_modules)?;
        }
        if let Some(adapter) = &self.adapter
            && let Some(module) = adapter
                .modules()
                .find(|m| !self.linears.iter().any(|l| l == m))
        {
            let nearest = nearest(module, self.linears.iter().map(String::as_str));
            return Err(Error::AdapterModule {
                module: module.into(),
                nearest,
            });
        }
        Ok(Parameters(self.parameters))
    }

    fn check_targets(&self, targets: &TargetModules) -> Result<()> {
        let TargetModules::Named(names) = targets else {
            return Ok(());
        };
        for (i, target) in names.iter().enumerate() {
            if self.matched.contains(&i)
                || self
                    .linears
                    .iter()
                    .any(|l| crate::lora::answers_to(l, target))
            {
                continue;
            }
            if self
                .tables
                .iter()
                .chain([&"lm_head".to_owned()])
                .any(|t| crate::lora::answers_to(t, target))
            {
                let why =
                    "embeddings and the output head are not linear layers of the decoder's blocks";
                return Err(Error::TargetUnsupported {
                    target: target.clone(),
                    why,
                });
            }
            let mut available: Vec<String> = Vec::new();
            for linear in &self.linears {
                let leaf = linear.rsplit('.').next().unwrap_or(linear);
                if !available.iter().any(|a| a == leaf) {
                    available.push(leaf.into());
                }
            }
            let candidates = available.iter().chain(&self.linears).map(String::as_str);
            let nearest = nearest(target, candidates);
            return Err(Error::TargetMatchesNothing {
                target: target.clone(),
                nearest,
                available,
            });
        }
        Ok(())
    }

    fn member(&mut self, spec: &LinearSpec) -> Result<Member> {
        let (out, inner) = (spec.out_features, spec.in_features);
        let (matrix, weight_param) = self.weight(&format!("{}.weight", spec.name), out, inner)?;
        let bias = match spec.bias {
            true => Some(self.vector(&format!("{}.bias", spec.name), out)?),
            false => None,
        };
        let lora = self.lora(spec)?;
        self.linears.push(spec.name.clone());
        Ok(Member {
            matrix,
            weight_param,
            bias,
            lora,
        })
    }

    /// A weight (out, in): where it lies if it is frozen, a tensor of its own if it is trained.
    fn weight(
        &mut self,
        name: &str,
        rows: usize,
        columns: usize,
    ) -> Result<(Matrix, Option<ParamId>)> {
        let view = self.weights.view_shaped(name, &[rows, columns])?;
        if !matches!(self.method, Method::Full) {
            return Ok((view.matrix()?, None));
        }
        view.check_trainable()?;
        let value = view.tensor(accumulate_dtype(self.dtype))?;
        let param = self.register(name.into(), &value, true)?;
        Ok((Matrix::dense(value), Some(param)))
    }

    /// A norm's scale or a bias.
    fn vector(&mut self, name: &str, dim: usize) -> Result<(Tensor, Option<ParamId>)> {
        let value = self
            .weights
            .view_shaped(name, &[dim])?
            .tensor(accumulate_dtype(self.dtype))?;
        let param = match self.method {
            Method::Full => Some(self.register(name.into(), &value, false)?),
            Method::Frozen | Method::Lora(_) => None,
        };
        Ok((value, param))
    }

    /// The adapter of a linear layer, if it carries one.
    fn lora(&mut self, spec: &LinearSpec) -> Result<Option<Lora>> {
        let config = match (&self.method, &self.adapter) {
            (Method::Full, _) | (Method::Frozen, None) => return Ok(None),
            (Method::Frozen, Some(adapter)) => match adapter.pair(&spec.name) {
                Some(_) => adapter.config.lora.clone(),
                None => return Ok(None),
            },
            (Method::Lora(config), adapter) => {
                config.check()?;
                let target = config.target_modules.position(&spec.name);
                if let Some(adapter) = adapter {
                    adapter.check_same_target(&spec.name, target.is_some())?;
                }
                let Some(target) = target else {
                    return Ok(None);
                };
                self.matched.insert(target);
                config.clone()
            }
        };
        let (a, b) = self.lora_matrices(spec, config.rank)?;
        let (mut a_param, mut b_param) = (None, None);
        if matches!(self.method, Method::Lora(_)) {
            a_param = Some(self.register(tensor_key(&spec.name, "lora_A"), &a, true)?);
            b_param = Some(self.register(tensor_key(&spec.name, "lora_B"), &b, true)?);
        }
        Ok(Some(Lora {
            a,
            b,
            a_param,
            b_param,
            scaling: config.scaling(),
            dropout: config.dropout,
            module: module_number(&spec.name),
        }))
    }

    /// A (r, in) and B (out, r): the given adapter's, or fresh ones as PEFT makes them. A is kaiming-uniform with
    /// a = √5, that is uniform in ±1/√in, and B zero, so that training starts from the base model.
    fn lora_matrices(&self, spec: &LinearSpec, rank: usize) -> Result<(Tensor, Tensor)> {
        let dtype = accumulate_dtype(self.dtype);
        let (out, inner) = (spec.out_features, spec.in_features);
        if let Some((a, b)) = self
            .adapter
            .as_ref()
            .and_then(|adapter| adapter.pair(&spec.name))
        {
            for (which, tensor, expected) in
                [("lora_A", a, [rank, inner]), ("lora_B", b, [out, rank])]
            {
                if tensor.dims() != expected {
                    let key = tensor_key(&spec.name, which);
                    return Err(Error::AdapterShape {
                        key,
                        expected: expected.into(),
                        found: tensor.dims().into(),
                    });
                }
            }
            // A copy: training must not reach into the adapter that was given.
            return Ok((a.to_dtype(dtype)?.copy()?, b.to_dtype(dtype)?.copy()?));
        }
        let bound = 1.0 / (inner as f64).sqrt();
        let key = tensor_key(&spec.name, "lora_A");
        let numbers = Stream::new(self.seed, &key).uniforms(rank * inner, bound);
        let a = Tensor::from_vec(numbers, (rank, inner), &Device::Cpu)?.to_dtype(dtype)?;
        let b = Tensor::zeros((out, rank), dtype, &Device::Cpu)?;
        Ok((a, b))
    }

    fn register(&mut self, name: String, value: &Tensor, decay: bool) -> Result<ParamId> {
        if !self.taken.insert(name.clone()) {
            return Err(Error::DuplicateParameter { name });
        }
        self.parameters.push(Parameter {
            name,
            value: value.clone(),
            decay,
        });
        Ok(ParamId(self.parameters.len() - 1))
    }
}
