//! AdamW and the norms it clips by, on a device.

use crate::cuda::launch::{self, Addresses, Squared, Stepped, Weights};
use crate::cuda::tensors::{address, float, run, uninit, upload, upload_table};
use crate::{Error, GradientScale, Keep, Moments, ParameterStep, Result, access};
use candle_core::{DType, DeviceLocation, Tensor};
use std::sync::{Mutex, PoisonError};

/// The values of 8-bit codes on each device that has been used: read at every step.
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

/// One step of every parameter by its gradient, in place: a launch for all with plain moments, one for all others.
pub(crate) fn adamw_steps(parameters: &[ParameterStep], step: u64) -> Result<()> {
    const OP: &str = "adamw_step";
    // Copies of gradients that are not dense live until the launch.
    let gradients = parameters.iter().map(|of| access::dense(&of.g));
    let gradients = gradients.collect::<Result<Vec<_>>>()?;
    let (mut plain, mut eight_bits) = (Vec::new(), Vec::new());
    for (of, g) in parameters.iter().zip(&gradients) {
        let stepped = stepped(OP, of, g)?;
        match &*of.moments {
            Moments::Plain { .. } => plain.push(stepped),
            Moments::Blockwise { .. } => eight_bits.push(stepped),
        }
    }
    let Some(like) = parameters.first().map(|of| &*of.p) else {
        return Ok(());
    };
    if !plain.is_empty() {
        let (table, launch) = launch::adamw(&plain, step);
        run(OP, launch, &[&upload_table(OP, &table, like)?])?;
    }
    if !eight_bits.is_empty() {
        let (table, launch) = launch::adamw_8bit(&eight_bits, step);
        let table = upload_table(OP, &table, like)?;
        run(OP, launch, &[&table, &eight_bit_tables(like)?])?;
    }
    Ok(())
}

fn stepped(op: &'static str, of: &ParameterStep, g: &Tensor) -> Result<Stepped> {
    let stored = |expected: DType, what: &'static str| match of.p.dtype() == expected {
        true => Ok(()),
        false => Err(Error::Type {
            op,
            found: of.p.dtype(),
            expected: what,
        }),
    };
    let of_tensor = |what: &'static str, t: &Tensor| address(op, what, t);
    let mut at = Addresses {
        p: of_tensor("p", of.p)?,
        g: of_tensor("g", g)?,
        ..Default::default()
    };
    let weights = match &of.keep {
        Keep::Exact => {
            stored(DType::F32, "f32 weights on a GPU")?;
            Weights::Exact
        }
        Keep::Master(master) => {
            stored(DType::BF16, "bf16 weights beside a master copy")?;
            at.master = of_tensor("the master copy", master)?;
            Weights::Master
        }
        Keep::Stochastic(key) => {
            stored(DType::BF16, "bf16 weights where they are rounded")?;
            Weights::Stochastic(*key)
        }
    };
    match &*of.moments {
        Moments::Plain { first, second } => {
            (at.m, at.v) = (of_tensor("m", first)?, of_tensor("v", second)?);
        }
        Moments::Blockwise { first, second } => {
            (at.m, at.v) = (
                of_tensor("m", &first.codes)?,
                of_tensor("v", &second.codes)?,
            );
            at.m_absmax = of_tensor("m", &first.absmax)?;
            at.v_absmax = of_tensor("v", &second.absmax)?;
        }
    }
    let mut settings = of.settings;
    match &of.scale {
        GradientScale::Here(scale) => settings.gradient_scale *= scale,
        GradientScale::There(scale) => at.scale = of_tensor("the scale", scale)?,
    }
    Ok(Stepped {
        weights,
        g: float(op, g)?,
        n: of.p.elem_count(),
        settings,
        at,
    })
}

/// Σ x² of each of these tensors of one device, in f64, into `sums` (tensors) f64. Does not wait.
pub(crate) fn square_into(tensors: &[&Tensor], sums: &Tensor) -> Result<()> {
    const OP: &str = "sum_of_squares";
    if tensors.is_empty() {
        return Ok(());
    }
    let dense = tensors.iter().map(|x| access::dense(x));
    let dense = dense.collect::<Result<Vec<_>>>()?;
    let rows = dense.iter().map(|x| {
        Ok(Squared {
            address: address(OP, "x", x)?,
            n: x.elem_count(),
            float: float(OP, x)?,
        })
    });
    let (table, parts, launches) = launch::sums_of_squares(&rows.collect::<Result<Vec<_>>>()?);
    let table = upload_table(OP, &table, sums)?;
    let parts = uninit(OP, parts.max(1), DType::F64, sums)?;
    run(OP, launches, &[&table, &parts, sums])
}

/// Σ x² of each of these tensors of one device, in f64. Waits for the device, once.
pub(crate) fn sums_of_squares(tensors: &[&Tensor]) -> Result<Vec<f64>> {
    let Some(like) = tensors.first() else {
        return Ok(Vec::new());
    };
    let sums = uninit("sum_of_squares", tensors.len(), DType::F64, like)?;
    square_into(tensors, &sums)?;
    Ok(sums.to_vec1()?)
}

/// (count, or 1) f32: what clips tensors with these sums of squares, the first `count` numbers of `sums` f64, to a norm of
/// `limit`, each its own or all together; NaN where one of all the numbers is not finite.
pub(crate) fn clip_scales(sums: &Tensor, count: usize, limit: f64, own: bool) -> Result<Tensor> {
    const OP: &str = "clip_scale";
    let scales = uninit(OP, if own { count } else { 1 }, DType::F32, sums)?;
    let launch = launch::clip_scales(count, sums.elem_count() - count, limit, own);
    run(OP, launch, &[sums, &scales])?;
    Ok(scales)
}
