//! Hugging Face folders of models that bitsandbytes has quantized to NF4.
//!
//! Beside a quantized `X.weight` (packed codes) lie `X.weight.absmax`, `X.weight.quant_map`, with double quantization
//! also `X.weight.nested_absmax` and `X.weight.nested_quant_map`, and `X.weight.quant_state.bitsandbytes__nf4`, a JSON
//! text in a U8 tensor. Source: `QuantState.as_dict(packed=True)` in bitsandbytes' `functional.py`.

use crate::safetensors_file::Stored;
use crate::weights::Source;
use crate::{Error, Result, WeightView};
use candle_core::DType;
use kernels::{Absmax, NF4_CODE, Nf4, dynamic_map};
use safetensors::tensor::Dtype;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

const STATE: &str = ".quant_state.bitsandbytes__";
/// No quant_state is longer; its longest part is a shape.
const LONGEST_STATE: usize = 4096;

/// The JSON text. What is not named here (`nested_dtype`) says nothing that the tensors do not.
#[derive(Deserialize)]
struct QuantState {
    quant_type: String,
    blocksize: u64,
    dtype: String,
    shape: Option<Vec<usize>>,
    nested_blocksize: Option<u64>,
    nested_offset: Option<f64>,
}

/// Takes the parts of quantized tensors out of `stored` and puts them together. What `config` says of quantization is
/// taken out too: it tells how the folder is stored, and what is written from it will not be stored so.
pub(crate) fn take_quantized(
    folder: &Path,
    config: &mut Value,
    stored: &mut BTreeMap<String, Stored>,
) -> Result<Vec<WeightView>> {
    let refuse = |tensor: &str, problem: String| Error::Bitsandbytes {
        path: folder.into(),
        tensor: tensor.into(),
        problem,
    };
    if let Some(name) = stored.keys().find_map(|name| name.strip_suffix(".SCB")) {
        let problem = "is quantized to 8 bits (LLM.int8), which medtune does not read";
        return Err(refuse(&format!("{name}.weight"), problem.into()));
    }
    let mut states = Vec::new();
    for name in stored.keys() {
        match name.split_once(STATE) {
            None => {}
            Some((tensor, "nf4")) => states.push(tensor.to_owned()),
            Some((tensor, other)) => {
                let kind = other.to_uppercase();
                let problem = format!("is quantized to {kind}, which medtune does not read");
                return Err(refuse(tensor, problem));
            }
        }
    }
    let views = states
        .into_iter()
        .map(|name| {
            Parts { name, stored }
                .view()
                .map_err(|(n, p)| refuse(&n, p))
        })
        .collect::<Result<_>>()?;
    if config["quantization_config"]["quant_method"] == "bitsandbytes"
        && let Some(map) = config.as_object_mut()
    {
        map.remove("quantization_config");
    }
    Ok(views)
}

/// The parts of one tensor.
struct Parts<'a> {
    name: String,
    stored: &'a mut BTreeMap<String, Stored>,
}

impl Parts<'_> {
    /// The tensor; or its name and what is wrong with it.
    fn view(mut self) -> std::result::Result<WeightView, (String, String)> {
        match self.read() {
            Ok((shape, source)) => Ok(WeightView {
                name: self.name,
                shape,
                source,
            }),
            Err(problem) => Err((self.name, problem)),
        }
    }

    fn read(&mut self) -> std::result::Result<(Vec<usize>, Source), String> {
        let state = self.state()?;
        let shape = state.shape.unwrap_or_default();
        let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let (Some(elements), [_, _]) = (elements, &shape[..]) else {
            return Err(format!("has the shape {shape:?}, not that of a matrix"));
        };
        let dtype = match state.dtype.as_str() {
            "float32" => DType::F32,
            "bfloat16" => DType::BF16,
            "float16" => DType::F16,
            other => return Err(format!("was {other} before it was quantized")),
        };
        let table = self.floats("quant_map")?;
        if table
            .iter()
            .map(|x| x.to_bits())
            .ne(NF4_CODE.map(f32::to_bits))
        {
            return Err("has a `quant_map` that is not NF4's".into());
        }
        let absmax = match (state.nested_blocksize, state.nested_offset) {
            (None, None) => Absmax::Plain(self.part("absmax", Dtype::F32)?.bytes),
            (Some(256), Some(offset)) => self.nested(offset as f32)?,
            (Some(256), None) => return Err("has no `nested_offset` in its quant_state".into()),
            (size, _) => {
                let size = size.map_or("no size".into(), |n| n.to_string());
                return Err(format!("has nested blocks of {size}, and 256 are read"));
            }
        };
        // Codes may be stored as any type (`bnb_4bit_quant_storage`): the bytes are the same.
        let Some(codes) = self.stored.remove(&self.name) else {
            return Err("has a quant_state and no codes".into());
        };
        let nf4 =
            Nf4::new(codes.bytes, absmax, elements).map_err(|e| format!("is damaged: {e}"))?;
        Ok((shape, Source::Nf4 { nf4, dtype }))
    }

    fn state(&mut self) -> std::result::Result<QuantState, String> {
        let part = self.part("quant_state.bitsandbytes__nf4", Dtype::U8)?;
        let text = part.bytes.as_slice();
        if text.len() > LONGEST_STATE {
            return Err(format!("has a quant_state of {} bytes", text.len()));
        }
        let state: QuantState = serde_json::from_slice(text)
            .map_err(|e| format!("has a quant_state that does not parse: {e}"))?;
        if state.quant_type != "nf4" {
            return Err(format!(
                "has the quant_type {:?}, and is stored as NF4",
                state.quant_type
            ));
        }
        if state.blocksize != 64 {
            return Err(format!(
                "has blocks of {}, and 64 are read",
                state.blocksize
            ));
        }
        Ok(state)
    }

    fn nested(&mut self, offset: f32) -> std::result::Result<Absmax, String> {
        let map = self.floats("nested_quant_map")?;
        let map: [f32; 256] = map
            .try_into()
            .map_err(|map: Vec<f32>| format!("has a `nested_quant_map` of {} values", map.len()))?;
        let shared = dynamic_map();
        let absmax = self.floats("nested_absmax")?;
        if !map
            .iter()
            .chain(&absmax)
            .chain([&offset])
            .all(|x| x.is_finite())
        {
            return Err("has scales that are not finite".into());
        }
        Ok(Absmax::Nested {
            codes: self.part("absmax", Dtype::U8)?.bytes,
            map: if map == *shared {
                shared
            } else {
                Arc::new(map)
            },
            absmax: absmax.into(),
            offset,
        })
    }

    fn floats(&mut self, part: &str) -> std::result::Result<Vec<f32>, String> {
        let bytes = self.part(part, Dtype::F32)?.bytes;
        let (numbers, _) = bytes.as_slice().as_chunks::<4>();
        Ok(numbers.iter().map(|b| f32::from_le_bytes(*b)).collect())
    }

    fn part(&mut self, part: &str, dtype: Dtype) -> std::result::Result<Stored, String> {
        let stored = self.stored.remove(&format!("{}.{part}", self.name));
        let stored = stored.ok_or_else(|| format!("lacks `{part}`"))?;
        match stored.dtype == dtype {
            true => Ok(stored),
            false => Err(format!(
                "has `{part}` in {:?}, and {dtype:?} is read",
                stored.dtype
            )),
        }
    }
}
