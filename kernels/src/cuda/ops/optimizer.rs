//! AdamW on a device.

use crate::cuda::launch::{self, Weights};
use crate::cuda::tensors::{float, run, upload};
use crate::{AdamW, Error, Keep, Moments, Result, access};
use candle_core::{DType, DeviceLocation, Tensor};
use std::sync::{Mutex, PoisonError};

/// The values of 8-bit codes on each device that has been used: read at every step of every parameter.
static TABLES: Mutex<Vec<(DeviceLocation, Tensor)>> = Mutex::new(Vec::new());

/// The values of 8-bit codes, where `like` lies: uploaded once a device.
fn eight_bit_tables(like: &Tensor) -> Result<Tensor> {
    let mut tables = TABLES.lock().unwrap_or_else(PoisonError::into_inner);
    let location = like.device().location();
    if let Some((_, there)) = tables.iter().find(|(found, _)| *found == location) {
        return Ok(there.clone());
    }
    let there = upload(&launch::eight_bit_tables(), like)?;
    tables.push((location, there.clone()));
    Ok(there)
}

/// One step of p by its gradient, in place; `scale` (1) f32 multiplies the gradient, or is NaN and leaves all as it is.
pub(crate) fn adamw_step(
    p: &Tensor,
    keep: &Keep,
    g: &Tensor,
    moments: &Moments,
    settings: &AdamW,
    step: u64,
    scale: Option<&Tensor>,
) -> Result<()> {
    const OP: &str = "adamw_step";
    let g = access::dense(g)?;
    let n = p.elem_count();
    let stored = |expected: DType, what: &'static str| match p.dtype() == expected {
        true => Ok(()),
        false => Err(Error::Type {
            op: OP,
            found: p.dtype(),
            expected: what,
        }),
    };
    let (weights, master) = match keep {
        Keep::Exact => {
            stored(DType::F32, "f32 weights on a GPU")?;
            (Weights::Exact, p)
        }
        Keep::Master(master) => {
            stored(DType::BF16, "bf16 weights beside a master copy")?;
            (Weights::Master, master)
        }
        Keep::Stochastic(key) => {
            stored(DType::BF16, "bf16 weights where they are rounded")?;
            (Weights::Stochastic(*key), p)
        }
    };
    let of_g = float(OP, &g)?;
    match moments {
        Moments::Plain { first, second } => {
            let launch = launch::adamw(weights, of_g, n, settings, step, scale.is_some());
            let mut tensors = vec![p, master, &g, first, second];
            tensors.extend(scale);
            run(OP, launch, &tensors)
        }
        Moments::Blockwise { first, second } => {
            let tables = eight_bit_tables(p)?;
            let launch = launch::adamw_8bit(weights, of_g, n, settings, step, scale.is_some());
            let (m, v) = (first, second);
            let mut tensors = vec![p, master, &g, &m.codes, &m.absmax, &v.codes, &v.absmax];
            tensors.push(&tables);
            tensors.extend(scale);
            run(OP, launch, &tensors)
        }
    }
}
