//! Every operation on a device beside the same operation on the processor: the cases, and how they are judged.
//!
//! A case calls public operations on random numbers. The reference is the same call on the processor, in f64 over the
//! numbers as the device stores them, or, where an operation promises the same bits, in the same types. What is tolerated
//! counts roundings: one to the type of the result, and as many before it as the case states, each of a number as large as
//! the result's largest. Memory that an operation may be given for its results holds NaN before, and everything is
//! computed twice and must come out the same.
//!
//! On the processor's own "device" the same cases show that the judge works; on a GPU they are `medtune gpu-check ops`.

mod attention;
mod numbers;
mod optimizer;
mod products;
mod rows;

pub use numbers::Side;
pub use optimizer::ADAMW;

use crate::Result;
use candle_core::{DType, Device, Tensor};

/// How many shapes are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// A few small ones: through quickly, on a processor that stands in for a GPU too.
    Tiny,
    /// All of them, up to a thousand rows and 4,096 columns.
    Whole,
}

impl Size {
    /// The first `tiny` of a list, or all of it.
    fn of<T>(self, tiny: usize, list: &[T]) -> &[T] {
        match self {
            Self::Tiny => &list[..tiny.min(list.len())],
            Self::Whole => list,
        }
    }
}

/// One way to call an operation.
pub struct Case {
    /// The operation.
    pub op: &'static str,
    /// Types and shapes.
    pub label: String,
    /// Whether the processor promises the same bits in the same types.
    exact: bool,
    /// Whether only a GPU does this, as products of bf16 into bf16.
    gpu_only: bool,
    run: Box<Run>,
}

type Run = dyn Fn(&Side) -> Result<Vec<Output>> + Send + Sync;

/// One result of an operation.
pub struct Output {
    what: &'static str,
    tensor: Tensor,
    allowed: Allowed,
}

impl Output {
    fn new(what: &'static str, tensor: Tensor, allowed: Allowed) -> Self {
        Self {
            what,
            tensor,
            allowed,
        }
    }

    /// Numbers that the operation gives to the processor.
    fn list(what: &'static str, list: Vec<f64>, allowed: Allowed) -> Result<Self> {
        let n = list.len();
        let tensor = Tensor::from_vec(list, n, &Device::Cpu)?;
        Ok(Self::new(what, tensor, allowed))
    }
}

/// How far a number may be off before it is rounded to the type that it is stored in.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Allowed {
    /// Roundings to f32.
    pub steps: f64,
    /// Roundings to bf16, where numbers on the way are.
    pub narrow: f64,
    /// What is rounded; without it a number as large as the result's largest.
    pub scale: Option<f64>,
    /// What is rounded is at least this large: of results that come to nothing by cancelling.
    pub floor: f64,
}

impl Allowed {
    /// No rounding but the last.
    fn none() -> Self {
        Self::default()
    }

    fn steps(steps: f64) -> Self {
        Self {
            steps,
            ..Self::default()
        }
    }

    fn narrow(self, narrow: f64) -> Self {
        Self { narrow, ..self }
    }

    fn floor(self, floor: f64) -> Self {
        Self { floor, ..self }
    }

    /// A sum of so many terms below `largest`: the partial sums are as large as all of them at most, and random signs
    /// keep them far below.
    fn sum(terms: usize, largest: f64) -> Self {
        Self {
            steps: 4.0,
            scale: Some(terms.max(1) as f64 * largest),
            ..Self::default()
        }
    }

    /// A sum of so many terms below `largest`, a factor of each of which is rounded to bf16: by half of such a rounding at
    /// most. Random signs let such sums grow by the root of the terms' number; four times that is allowed.
    fn rounded_terms(terms: usize, largest: f64) -> Self {
        Self {
            steps: 4.0,
            narrow: 4.0 / 2.0,
            scale: Some((terms.max(1) as f64).sqrt() * largest),
            ..Self::default()
        }
    }

    fn bound(&self, expected: &[f64]) -> f64 {
        let largest = || expected.iter().fold(0f64, |m, x| m.max(x.abs()));
        let scale = self.scale.unwrap_or_else(largest).max(self.floor);
        scale * (self.steps * unit(DType::F32) + self.narrow * unit(DType::BF16))
    }
}

/// How one result compares.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Which of the operation's results.
    pub what: &'static str,
    /// The largest difference as a share of what is allowed there: above 1 the result is wrong, and so is infinity,
    /// which a NaN or a wrong shape gives.
    pub worst: f64,
    /// Which number that is.
    pub at: usize,
    /// What the device has there.
    pub found: f64,
    /// What the reference has there.
    pub expected: f64,
}

impl Verdict {
    /// Whether the result is right.
    pub fn holds(&self) -> bool {
        self.worst <= 1.0
    }

    fn wrong(what: &'static str) -> Self {
        Self {
            what,
            worst: f64::INFINITY,
            at: 0,
            found: f64::NAN,
            expected: f64::NAN,
        }
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            what,
            worst,
            at,
            found,
            expected,
        } = self;
        write!(
            f,
            "{what}: number {at} is {found:e}, not {expected:e}: {worst:.2} of what is allowed"
        )
    }
}

/// Largest share of a number that rounding to a type takes or adds: bf16 has 8 digits, f32 24.
fn unit(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 2f64.powi(-24),
        DType::BF16 => 2f64.powi(-8),
        DType::F64 => 2f64.powi(-52),
        _ => 0.0,
    }
}

/// A result as plain numbers, with the type it was stored in.
struct Stored {
    what: &'static str,
    list: Vec<f64>,
    dims: Vec<usize>,
    dtype: DType,
    allowed: Allowed,
}

impl Stored {
    fn of(outputs: Vec<Output>) -> Result<Vec<Self>> {
        outputs
            .into_iter()
            .map(|output| {
                let there = output.tensor.to_device(&Device::Cpu)?;
                Ok(Self {
                    what: output.what,
                    dims: there.dims().to_vec(),
                    dtype: there.dtype(),
                    list: there.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?,
                    allowed: output.allowed,
                })
            })
            .collect()
    }

    /// Bytes of the result where it was.
    fn bytes(&self) -> usize {
        self.list.len() * self.dtype.size_in_bytes()
    }

    fn judge(&self, expected: &Stored, exact: bool) -> Verdict {
        if self.dims != expected.dims || (exact && self.dtype != expected.dtype) {
            return Verdict::wrong(self.what);
        }
        let bound = match exact {
            true => 0.0,
            false => expected.allowed.bound(&expected.list),
        };
        let unit = if exact { 0.0 } else { unit(self.dtype) };
        let mut worst = Verdict {
            worst: 0.0,
            ..Verdict::wrong(self.what)
        };
        for (at, (found, expected)) in self.list.iter().zip(&expected.list).enumerate() {
            let off = (found - expected).abs();
            let most = bound + unit * (expected.abs() + bound);
            let share = match off {
                0.0 => 0.0,
                off if off.is_nan() || !found.is_finite() => f64::INFINITY,
                off => off / most,
            };
            if share > worst.worst || worst.expected.is_nan() {
                worst = Verdict {
                    what: self.what,
                    worst: share,
                    at,
                    found: *found,
                    expected: *expected,
                };
            }
        }
        worst
    }
}

impl Case {
    fn new(
        op: &'static str,
        label: String,
        run: impl Fn(&Side) -> Result<Vec<Output>> + Send + Sync + 'static,
    ) -> Self {
        Self {
            op,
            label,
            exact: false,
            gpu_only: false,
            run: Box::new(run),
        }
    }

    fn exact(self) -> Self {
        Self {
            exact: true,
            ..self
        }
    }

    fn gpu_only(self) -> Self {
        Self {
            gpu_only: true,
            ..self
        }
    }

    /// Whether that device does this at all.
    pub fn runs_on(&self, device: &Device) -> bool {
        !(self.gpu_only && device.is_cpu())
    }

    /// Computes on the device and on the processor, and compares. The numbers follow from the seed and the case.
    pub fn check(&self, device: &Device, seed: u64) -> Result<Vec<Verdict>> {
        self.check_changed(device, seed, |_, _| {})
    }

    /// As [`Case::check`], with each result, which is numbered, changed on its way to the judge: what shows that the judge
    /// sees it.
    pub fn check_changed(
        &self,
        device: &Device,
        seed: u64,
        change: impl Fn(usize, &mut Vec<f64>),
    ) -> Result<Vec<Verdict>> {
        let seed = numbers::stream(seed, &format!("{} {}", self.op, self.label));
        let expected = Stored::of((self.run)(&Side::reference(seed, self.exact))?)?;
        let there = Side::device(device, seed);
        let compute = || -> Result<Vec<Stored>> {
            poison(device, &expected)?;
            Stored::of((self.run)(&there)?)
        };
        let mut found = compute()?;
        let again = compute()?;
        if found.len() != expected.len() {
            return Ok(vec![Verdict::wrong("results")]);
        }
        let same = |(a, b): (&Stored, &Stored)| {
            let bits = |s: &Stored| s.list.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            bits(a) == bits(b)
        };
        let repeats = found.iter().zip(&again).all(same);
        for (number, result) in found.iter_mut().enumerate() {
            change(number, &mut result.list);
        }
        let mut verdicts: Vec<Verdict> = found
            .iter()
            .zip(&expected)
            .map(|(found, expected)| found.judge(expected, self.exact))
            .collect();
        if !repeats {
            verdicts.push(Verdict::wrong("the same computed again"));
        }
        Ok(verdicts)
    }
}

/// Leaves NaN in memory of the sizes that results will take: an operation that leaves a number out leaves one of these.
fn poison(device: &Device, results: &[Stored]) -> Result<()> {
    if device.is_cpu() {
        return Ok(());
    }
    let held = results
        .iter()
        .flat_map(|result| [result.bytes(), result.bytes() / 2])
        .map(|bytes| {
            let bytes = bytes.max(1);
            Ok(Tensor::from_vec(vec![u8::MAX; bytes], bytes, device)?)
        })
        .collect::<Result<Vec<_>>>()?;
    drop(held);
    Ok(())
}

/// Every case.
pub fn cases(size: Size) -> Vec<Case> {
    let mut cases = rows::cases(size);
    cases.extend(attention::cases(size));
    cases.extend(products::cases(size));
    cases.extend(optimizer::cases(size));
    cases
}

/// The types of activations that a GPU computes with.
const FLOATS: [DType; 2] = [DType::F32, DType::BF16];
