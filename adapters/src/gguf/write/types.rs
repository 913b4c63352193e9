//! Which type each tensor is stored in, by llama.cpp's rules.
//!
//! Source: `prepare_tensors` of llama.cpp's `convert_hf_to_gguf.py` for the plain types and Q8_0;
//! `llama_tensor_get_type_impl` and `tensor_type_fallback` of its `llama-quant.cpp` for Q4_K, which there means the
//! mixture Q4_K_M.

use super::super::names::Stored;
use super::architecture::Model;
use kernels::GgmlType;
use serde::Serialize;

/// What a GGUF file's matrices are stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GgufType {
    /// 32 bits.
    F32,
    /// 16-bit IEEE floats.
    F16,
    /// 16-bit brain floats.
    BF16,
    /// 8-bit blocks of 32: 8.5 bits a weight.
    Q8_0,
    /// 4-bit blocks of 256, with 6 bits where llama.cpp's Q4_K_M has them: about 4.9 bits a weight.
    Q4K,
}

/// A tensor whose rows are no whole blocks of the type it should have had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GgufFallback {
    /// The tensor, by its name in the file.
    pub tensor: String,
    /// Elements a row.
    pub columns: usize,
    /// The type it should have had.
    pub wanted: &'static str,
    /// The type it has.
    pub used: &'static str,
}

impl GgufType {
    /// `general.file_type`: `llama_ftype` in llama.h.
    pub(super) fn file_type(self) -> i128 {
        match self {
            GgufType::F32 => 0,
            GgufType::F16 => 1,
            GgufType::BF16 => 32,
            GgufType::Q8_0 => 7,
            GgufType::Q4K => 15,
        }
    }

    /// The type of a matrix by itself.
    pub(super) fn of_matrix(self) -> GgmlType {
        match self {
            GgufType::F32 => GgmlType::F32,
            GgufType::F16 => GgmlType::F16,
            GgufType::BF16 => GgmlType::BF16,
            GgufType::Q8_0 => GgmlType::Q8_0,
            GgufType::Q4K => GgmlType::Q4K,
        }
    }

    /// The type of a tensor of a model, and what it should have been where its rows do not allow that.
    pub(super) fn of_tensor(
        self,
        place: &Stored,
        shape: &[usize],
        model: &Model,
    ) -> (GgmlType, Option<GgufFallback>) {
        let [_, columns] = *shape else {
            return (GgmlType::F32, None);
        };
        fallback(&place.name, columns, self.wanted(place, model))
    }

    fn wanted(self, place: &Stored, model: &Model) -> GgmlType {
        if self != GgufType::Q4K {
            return self.of_matrix();
        }
        let table = if model.tied {
            "token_embd.weight"
        } else {
            "output.weight"
        };
        let module = place.name.trim_end_matches(".weight").rsplit('.').next();
        match (module, place.layer) {
            _ if place.name == table => GgmlType::Q6K,
            (Some("attn_v" | "ffn_down"), Some(layer)) if has_more_bits(layer, model.layers) => {
                GgmlType::Q6K
            }
            // Llama's 70B shares each value head among eight query heads.
            (Some("attn_v"), _) if model.layers == 80 && model.heads > model.kv_heads => {
                GgmlType::Q5K
            }
            _ => GgmlType::Q4K,
        }
    }
}

/// The layers that Q4_K_M stores better: the first and the last eighth, and every third between.
fn has_more_bits(layer: usize, layers: usize) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
}

/// The type nearest to `wanted` of which rows of `columns` are whole blocks.
pub(super) fn fallback(
    name: &str,
    columns: usize,
    wanted: GgmlType,
) -> (GgmlType, Option<GgufFallback>) {
    let fits = |kind: GgmlType| columns.is_multiple_of(kind.block_size());
    if fits(wanted) {
        return (wanted, None);
    }
    let nearest = match wanted {
        GgmlType::Q4K => GgmlType::Q5_0,
        GgmlType::Q5K => GgmlType::Q5_1,
        GgmlType::Q6K => GgmlType::Q8_0,
        _ => GgmlType::F16,
    };
    let used = if fits(nearest) {
        nearest
    } else {
        GgmlType::F16
    };
    let fallback = GgufFallback {
        tensor: name.into(),
        columns,
        wanted: wanted.name(),
        used: used.name(),
    };
    (used, Some(fallback))
}
