//! What each operation gains over candle's plain composition with its tape, forward and backward, at SmolLM2-135M's shapes.
//!
//! ```text
//! ops [--csv] [FILTER]
//! ```
//!
//! Walks the registry and then what its cases cannot show: attention and the loss at a model's shapes, and LoRA. Prints
//! the median of seven runs of each, taken in turns, and the most bytes that were allocated beside the inputs; with
//! `--csv` as `threads,what,with,without,ratio,unit`. FILTER is a part of a name. The two sides must agree to 1e-3 of
//! the largest number, or it ends with an error. `RAYON_NUM_THREADS` sets the threads.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use candle_core::{D, Device, Tensor, Var};
use kernels::{
    AttentionShape, Matrix, OPS, Op, OpCase, Segment, Segments, attention, attention_backward,
    gather_rows, gemm, linear, linear_cross_entropy, linear_dx, scatter_rows,
};

type Outcome = Result<Vec<Tensor>, Box<dyn std::error::Error>>;
type Run = Box<dyn Fn() -> Outcome>;

/// Two ways to the same numbers.
struct Trial {
    what: String,
    with: Run,
    without: Run,
}

/// Tokens, width, MLP width, vocabulary, heads of SmolLM2-135M.
const T: usize = 1024;
const DIM: usize = 576;
const MLP: usize = 1536;
const VOCAB: usize = 49152;
const HEADS: AttentionShape = AttentionShape {
    heads: 9,
    kv_heads: 3,
    head_dim: 64,
    scale: 0.125,
    window: None,
};
const RUNS: usize = 7;

/// Shapes for the registry's cases, by the start of their name; others are timed at the largest they are tested at.
const SHAPES: &[(&str, &[&[usize]])] = &[
    ("gemm", &[&[T, MLP], &[DIM, T], &[DIM, MLP]]),
    ("linear_cross_entropy", &[&[T, DIM], &[VOCAB, DIM]]),
    ("linear", &[&[T, DIM], &[MLP, DIM]]),
    ("rms_norm", &[&[T, DIM], &[DIM]]),
    ("rope", &[&[T, DIM]]),
    ("swiglu", &[&[T, MLP], &[T, MLP]]),
    ("embedding", &[&[VOCAB, DIM]]),
    ("dropout", &[&[T, DIM]]),
    ("add_bias", &[&[T, DIM], &[DIM]]),
    ("add_assign", &[&[T, DIM], &[T, DIM]]),
    ("gather_rows", &[&[T, DIM]]),
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let csv = arguments.iter().any(|a| a == "--csv");
    let filter = arguments.iter().find(|a| !a.starts_with("--"));
    let wanted = |what: &str| filter.is_none_or(|part| what.contains(part.as_str()));
    let threads = rayon::current_num_threads();
    if !csv {
        println!(
            "{threads} thread(s)\n{:56} {:>9} {:>9} {:>7} {:>9} {:>9}",
            "", "ms", "plain ms", "ratio", "MiB", "plain MiB"
        );
    }
    let makers = OPS
        .iter()
        .filter(|case| !case.name.starts_with("attention"))
        .map(|case| (case.name.to_owned(), None, Some(*case)));
    let own = OWN
        .iter()
        .map(|(what, make)| ((*what).to_owned(), Some(make), None));
    for (what, make, case) in makers.chain(own) {
        if !wanted(&what) {
            continue;
        }
        let trial = match (make, case) {
            (Some(make), _) => make(what)?,
            (None, Some(case)) => of_registry(case)?,
            (None, None) => continue,
        };
        report(&measure(trial)?, threads, csv);
    }
    Ok(())
}

/// A case of the registry at a model's shapes.
fn of_registry(case: OpCase) -> Result<Trial, Box<dyn std::error::Error>> {
    let known = SHAPES
        .iter()
        .find(|(name, _)| case.name.starts_with(name))
        .map(|(_, shapes)| *shapes);
    let shapes = known
        .or(case.shapes.last().copied())
        .ok_or("a case without shapes")?;
    let inputs = (1..)
        .zip(shapes)
        .map(|(seed, shape)| numbers(shape, seed))
        .collect::<Result<Vec<_>, _>>()?;
    let dims: Vec<String> = shapes
        .iter()
        .map(|s| format!("{s:?}").replace(", ", "x"))
        .collect();
    let (y, _) = (case.run)(&inputs, None)?;
    let dy = y.ones_like()?;
    let own_inputs = inputs.clone();
    Ok(Trial {
        what: format!("{} {}", case.name, dims.join(" ")),
        with: Box::new(move || {
            let (y, mut all) = (case.run)(&own_inputs, Some(&dy))?;
            all.push(y);
            Ok(all)
        }),
        without: Box::new(move || tape(&inputs, case.reference)),
    })
}

/// The gradients of sum(y) by candle's tape, and y.
fn tape(
    inputs: &[Tensor],
    composition: impl Fn(&[Tensor]) -> candle_core::Result<Tensor>,
) -> Outcome {
    let vars = inputs
        .iter()
        .map(Var::from_tensor)
        .collect::<Result<Vec<_>, _>>()?;
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let y = composition(&tensors)?;
    let grads = y.sum_all()?.backward()?;
    let of = |v: &Var| grads.get(v).cloned().ok_or("a gradient is missing");
    let mut all = vars.iter().map(of).collect::<Result<Vec<_>, _>>()?;
    all.push(y.detach());
    Ok(all)
}

type Make = fn(String) -> Result<Trial, Box<dyn std::error::Error>>;

/// What the registry's cases cannot show.
const OWN: &[(&str, Make)] = &[
    ("attention in blocks one segment of 1024", |what| {
        attention_trial(what, 1)
    }),
    ("attention in blocks four segments of 256", |what| {
        attention_trial(what, 4)
    }),
    ("head and loss fused 1024 targets frozen head", fused_loss),
    ("head and loss over 30 % target rows only", target_rows),
    ("LoRA through the rank-8 side up_proj", lora),
];

/// Against softmax over (T, T) scores under a mask, all heads in one product.
fn attention_trial(what: String, segments: usize) -> Result<Trial, Box<dyn std::error::Error>> {
    let len = T / segments;
    let segment = |i| Segment {
        start: i * len,
        len,
        prefix: None,
    };
    let packed: Vec<Segment> = (0..segments).map(segment).collect();
    let packed = Segments::new(&packed, T)?;
    let (q, kv) = (
        HEADS.heads * HEADS.head_dim,
        HEADS.kv_heads * HEADS.head_dim,
    );
    let inputs = vec![
        numbers(&[T, q], 1)?,
        numbers(&[T, kv], 2)?,
        numbers(&[T, kv], 3)?,
    ];
    let hidden = |i: usize, j: usize| j > i || i / len != j / len;
    let mask = (0..T * T).map(|at| {
        if hidden(at / T, at % T) {
            -1e30f32
        } else {
            0.0
        }
    });
    let mask = Tensor::from_iter(mask, &Device::Cpu)?.reshape((1, T, T))?;
    let own_inputs = inputs.clone();
    Ok(Trial {
        what,
        with: Box::new(move || {
            let [q, k, v] = &own_inputs[..] else {
                return Err("three inputs".into());
            };
            let (y, saved) = attention(q, k, v, &packed, &HEADS)?;
            let (dq, dk, dv) = attention_backward(saved, &y.ones_like()?)?;
            Ok(vec![dq, dk, dv, y])
        }),
        without: Box::new(move || tape(&inputs, |x| plain_attention(x, &mask))),
    })
}

fn plain_attention(x: &[Tensor], mask: &Tensor) -> candle_core::Result<Tensor> {
    let (kv, group, d) = (HEADS.kv_heads, HEADS.heads / HEADS.kv_heads, HEADS.head_dim);
    // (H, T, hd), each key and value head once for every query head that reads it.
    let heads = |x: &Tensor| x.reshape((T, (), d))?.transpose(0, 1)?.contiguous();
    let shared = |x: &Tensor| {
        let x = heads(x)?.unsqueeze(1)?;
        x.broadcast_as((kv, group, T, d))?
            .contiguous()?
            .reshape((kv * group, T, d))
    };
    let (q, k, v) = (heads(&x[0])?, shared(&x[1])?, shared(&x[2])?);
    let scores = (q.matmul(&k.transpose(1, 2)?)? * HEADS.scale)?.broadcast_add(mask)?;
    let p = scores
        .broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?
        .exp()?;
    let p = p.broadcast_div(&p.sum_keepdim(D::Minus1)?)?;
    p.matmul(&v)?.transpose(0, 1)?.reshape((T, ()))
}

fn targets(n: usize) -> Vec<u32> {
    (0..n).map(|i| ((i * 7919 + 5) % VOCAB) as u32).collect()
}

/// One row's loss and the gradient of x, the head frozen: against all logits at once.
fn fused_loss(what: String) -> Result<Trial, Box<dyn std::error::Error>> {
    let (x, w) = (numbers(&[T, DIM], 1)?, (numbers(&[VOCAB, DIM], 2)? * 0.05)?);
    let (own_x, head) = (x.clone(), Matrix::dense(w.clone()));
    Ok(Trial {
        what,
        with: Box::new(move || {
            let loss = linear_cross_entropy(&own_x, &head, &targets(T), 1.0, true, false)?;
            let sum = Tensor::new(&[loss.loss_sum.value().unwrap() as f32], &Device::Cpu)?;
            Ok(loss.dx.into_iter().chain([sum]).collect())
        }),
        without: Box::new(move || {
            let targets = Tensor::new(targets(T), &Device::Cpu)?.unsqueeze(1)?;
            tape(std::slice::from_ref(&x), |x| {
                let logits = x[0].matmul(&w.t()?)?;
                let at_target = logits.gather(&targets, 1)?.squeeze(1)?;
                (logits.log_sum_exp(1)? - at_target)?.sum_all()?.reshape(1)
            })
        }),
    })
}

/// Rows without a target skip the head: against giving them a gradient of zero.
fn target_rows(what: String) -> Result<Trial, Box<dyn std::error::Error>> {
    let (x, w) = (numbers(&[T, DIM], 1)?, (numbers(&[VOCAB, DIM], 2)? * 0.05)?);
    let head = Matrix::dense(w);
    let (own_x, own_head) = (x.clone(), head.clone());
    let rows: Vec<usize> = (0..T).filter(|row| row % 10 < 3).collect();
    let (own_rows, all) = (rows.clone(), targets(T));
    let chosen: Vec<u32> = rows.iter().map(|row| all[*row]).collect();
    Ok(Trial {
        what,
        with: Box::new(move || {
            let x = gather_rows(&own_x, &own_rows)?;
            let loss = linear_cross_entropy(&x, &own_head, &chosen, 1.0, true, false)?;
            let dx = loss.dx.ok_or("dx was asked for")?;
            Ok(vec![scatter_rows(&dx, &own_rows, T)?])
        }),
        without: Box::new(move || {
            let loss = linear_cross_entropy(&x, &head, &all, 1.0, true, false)?;
            let dx = loss.dx.ok_or("dx was asked for")?;
            Ok(vec![scatter_rows(&gather_rows(&dx, &rows)?, &rows, T)?])
        }),
    })
}

/// y = x Wᵀ + s x Aᵀ Bᵀ: against adding s B A to W first, whose gradient is as large as W.
fn lora(what: String) -> Result<Trial, Box<dyn std::error::Error>> {
    const RANK: usize = 8;
    const SCALE: f64 = 2.0;
    let inputs = [[T, DIM], [RANK, DIM], [MLP, RANK]];
    let inputs = (1..).zip(&inputs).map(|(seed, shape)| numbers(shape, seed));
    let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
    let w = numbers(&[MLP, DIM], 4)?;
    let (own_inputs, matrix) = (inputs.clone(), Matrix::dense(w.clone()));
    Ok(Trial {
        what,
        with: Box::new(move || {
            let [x, a, b] = &own_inputs[..] else {
                return Err("three inputs".into());
            };
            let zeros = |rows, cols| Tensor::zeros((rows, cols), x.dtype(), &Device::Cpu);
            let (mut y, mut h) = (linear(x, &matrix)?, zeros(T, RANK)?);
            gemm(&mut h, 0.0, 1.0, x, Op::Plain, a, Op::Transposed)?;
            gemm(&mut y, 1.0, SCALE, &h, Op::Plain, b, Op::Transposed)?;
            let dy = y.ones_like()?;
            let mut dx = linear_dx(&dy, &matrix)?;
            let (mut g, mut da, mut db) = (zeros(T, RANK)?, zeros(RANK, DIM)?, zeros(MLP, RANK)?);
            gemm(&mut g, 0.0, SCALE, &dy, Op::Plain, b, Op::Plain)?;
            gemm(&mut da, 0.0, 1.0, &g, Op::Transposed, x, Op::Plain)?;
            gemm(&mut db, 0.0, SCALE, &dy, Op::Transposed, &h, Op::Plain)?;
            gemm(&mut dx, 1.0, 1.0, &g, Op::Plain, a, Op::Plain)?;
            Ok(vec![dx, da, db, y])
        }),
        without: Box::new(move || {
            tape(&inputs, |x| {
                let w = (&w + (x[2].matmul(&x[1])? * SCALE)?)?;
                x[0].matmul(&w.t()?)
            })
        }),
    })
}

/// Medians in milliseconds, and bytes.
struct Measured {
    what: String,
    ms: [f64; 2],
    bytes: [usize; 2],
}

fn measure(trial: Trial) -> Result<Measured, Box<dyn std::error::Error>> {
    let (ours, bytes) = counted(&trial.with)?;
    let (theirs, plain_bytes) = counted(&trial.without)?;
    agree(&trial.what, &ours, &theirs)?;
    drop((ours, theirs));
    let mut ms = [Vec::new(), Vec::new()];
    for _ in 0..RUNS {
        for (run, ms) in [&trial.with, &trial.without].into_iter().zip(&mut ms) {
            let started = Instant::now();
            let outcome = run()?;
            ms.push(started.elapsed().as_secs_f64() * 1e3);
            drop(outcome);
        }
    }
    Ok(Measured {
        what: trial.what,
        ms: ms.map(|mut list| {
            list.sort_by(f64::total_cmp);
            list[list.len() / 2]
        }),
        bytes: [bytes, plain_bytes],
    })
}

/// What a run gives, and the most bytes that were allocated at once while it ran.
fn counted(run: &Run) -> Result<(Vec<Tensor>, usize), Box<dyn std::error::Error>> {
    let before = ALLOCATED.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    let outcome = run()?;
    Ok((outcome, MOST.load(Ordering::Relaxed).saturating_sub(before)))
}

fn agree(what: &str, ours: &[Tensor], theirs: &[Tensor]) -> Result<(), Box<dyn std::error::Error>> {
    for (i, (a, b)) in ours.iter().zip(theirs).enumerate() {
        let largest = |t: &Tensor| t.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>();
        let (a, b) = (
            a.to_dtype(candle_core::DType::F32)?,
            b.to_dtype(candle_core::DType::F32)?,
        );
        let (off, most) = (largest(&(&a - &b)?)?, largest(&b)?);
        if off.is_nan() || off > 1e-3 * most {
            return Err(format!("{what}: result {i} is off by {off} of {most}").into());
        }
    }
    Ok(())
}

fn report(measured: &Measured, threads: usize, csv: bool) {
    let [ms, plain_ms] = measured.ms;
    let [mib, plain_mib] = measured
        .bytes
        .map(|bytes| bytes as f64 / f64::from(1 << 20));
    let what = &measured.what;
    if csv {
        println!(
            "{threads},{what},{ms:.3},{plain_ms:.3},{:.2},ms",
            plain_ms / ms
        );
        println!(
            "{threads},{what},{mib:.2},{plain_mib:.2},{:.2},MiB allocated",
            plain_mib / mib
        );
    } else {
        let ratio = plain_ms / ms;
        println!("{what:56} {ms:9.3} {plain_ms:9.3} {ratio:7.2} {mib:9.2} {plain_mib:9.2}");
    }
}

/// Numbers in (-1, 1), the same in every run.
fn numbers(shape: &[usize], seed: u64) -> candle_core::Result<Tensor> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let numbers = (0..shape.iter().product()).map(|_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    });
    Tensor::from_iter(numbers, &Device::Cpu)?.reshape(shape)
}

/// The system's allocator, which counts.
struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

fn grow(bytes: usize) {
    let now = ALLOCATED.fetch_add(bytes, Ordering::Relaxed) + bytes;
    MOST.fetch_max(now, Ordering::Relaxed);
}

// SAFETY: every call is the system allocator's, with the arguments that came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller keeps `alloc_zeroed`'s contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps `dealloc`'s contract.
        unsafe { System.dealloc(start, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;
