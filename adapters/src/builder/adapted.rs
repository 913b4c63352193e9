//! What a linear layer's adapter starts from: the tensors of a given one, or fresh ones.

use super::{Builder, LinearSpec, Method};
use crate::dora::Dora;
use crate::low_rank::Lora;
use crate::peft::Key;
use crate::random::{Stream, module_number};
use crate::{Error, ParameterKind, Result};
use candle_core::{Device, Tensor};
use kernels::{LowRankUpdate, Matrix, accumulate_dtype};

impl Builder<'_> {
    /// The adapter's copy of a tensor, in the accumulate dtype; one that may be trained.
    pub(super) fn saved_tensor(&self, name: &str, shape: &[usize]) -> Result<Option<Tensor>> {
        let Some(tensor) = self.adapter.as_ref().and_then(|a| a.saved_tensor(name)) else {
            return Ok(None);
        };
        if tensor.dims() != shape {
            return Err(Error::AdapterShape {
                key: Key::Saved(name).to_string(),
                expected: shape.into(),
                found: tensor.dims().into(),
            });
        }
        let tensor = tensor.to_dtype(accumulate_dtype(self.dtype))?;
        let tensor = match self.method {
            Method::Frozen => tensor,
            _ => tensor.copy()?,
        };
        Ok(Some(tensor.to_device(&self.device)?))
    }

    /// The adapter of a linear layer, if it carries one.
    pub(super) fn lora(&mut self, spec: &LinearSpec, matrix: &Matrix) -> Result<Option<Lora>> {
        let config = match (&self.method, &self.adapter) {
            (Method::Full | Method::FullBf16 { .. }, _) | (Method::Frozen, None) => {
                return Ok(None);
            }
            (Method::Frozen, Some(adapter)) => match adapter.pair(&spec.name) {
                Some(_) => adapter.config.lora.clone(),
                None => return Ok(None),
            },
            (Method::Lora(config), adapter) => {
                config.check()?;
                let target = config.target_modules.position(&spec.name);
                self.matched.extend(target);
                // As in PEFT: what is trained whole carries no adapter.
                let target = target.filter(|_| !config.saves(&spec.name));
                if let Some(adapter) = adapter {
                    adapter.check_same_target(&spec.name, target.is_some())?;
                }
                if target.is_none() {
                    return Ok(None);
                }
                config.clone()
            }
        };
        let module = spec.name.as_str();
        let trained = matches!(self.method, Method::Lora(_));
        let (a, b) = self.lora_matrices(spec, config.rank)?;
        let mut dora = match config.use_dora {
            true => Some(self.dora(spec, (matrix, &a, &b), config.scaling(), trained)?),
            false => None,
        };
        let (mut a_param, mut b_param) = (None, None);
        if trained {
            use ParameterKind::{LoraA, LoraB, Magnitude};
            a_param = Some(self.register(Key::A(module).to_string(), &a, LoraA)?);
            b_param = Some(self.register(Key::B(module).to_string(), &b, LoraB)?);
            if let Some(dora) = &mut dora {
                let key = Key::Magnitude(module).to_string();
                dora.param = Some(self.register(key, &dora.magnitude, Magnitude)?);
            }
        }
        Ok(Some(Lora {
            a,
            b,
            a_param,
            b_param,
            scaling: config.scaling(),
            dropout: config.dropout,
            module: module_number(&spec.name),
            dora,
        }))
    }

    /// The given adapter's magnitudes, or those that leave the layer as it is.
    fn dora(
        &self,
        spec: &LinearSpec,
        (matrix, a, b): (&Matrix, &Tensor, &Tensor),
        scaling: f64,
        trained: bool,
    ) -> Result<Dora> {
        let given = self.adapter.as_ref().and_then(|x| x.magnitude(&spec.name));
        if let Some(given) = given
            && given.dims() != [spec.out_features]
        {
            return Err(Error::AdapterShape {
                key: Key::Magnitude(&spec.name).to_string(),
                expected: vec![spec.out_features],
                found: given.dims().into(),
            });
        }
        let dtype = accumulate_dtype(self.dtype);
        let given = given
            .map(|m| m.to_dtype(dtype)?.copy()?.to_device(&self.device))
            .transpose()?;
        let update = LowRankUpdate { a, b, scaling };
        Dora::new(&spec.name, matrix, update, given, trained)
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
            for (key, tensor, expected) in [
                (Key::A(&spec.name), a, [rank, inner]),
                (Key::B(&spec.name), b, [out, rank]),
            ] {
                if tensor.dims() != expected {
                    return Err(Error::AdapterShape {
                        key: key.to_string(),
                        expected: expected.into(),
                        found: tensor.dims().into(),
                    });
                }
            }
            // A copy: training must not reach into the adapter that was given.
            let own = |x: &Tensor| x.to_dtype(dtype)?.copy()?.to_device(&self.device);
            return Ok((own(a)?, own(b)?));
        }
        let bound = 1.0 / (inner as f64).sqrt();
        let key = Key::A(&spec.name).to_string();
        let numbers = Stream::new(self.seed, &key).uniforms(rank * inner, bound);
        let a = Tensor::from_vec(numbers, (rank, inner), &Device::Cpu)?.to_dtype(dtype)?;
        let b = Tensor::zeros((out, rank), dtype, &self.device)?;
        Ok((a.to_device(&self.device)?, b))
    }
}
