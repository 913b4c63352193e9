//! AdamW with moments in eight bits against bitsandbytes, and the map's own rules.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use kernels::{AdamW, DynamicMap, Keep, Moments, adamw_step};

const ELEMENTS: usize = 5003;
const SETTINGS: AdamW = AdamW {
    learning_rate: 0.02,
    beta1: 0.85,
    beta2: 0.97,
    epsilon: 1e-6,
    weight_decay: 0.1,
    gradient_scale: 1.0,
};

fn golden() -> HashMap<String, Tensor> {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/adamw_8bit/golden.safetensors");
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

/// As `scripts/golden/adamw_8bit.py`.
fn number(i: usize, salt: usize) -> f64 {
    ((i * 7_919 + salt * 104_729) % 2_003) as f64 / 1_001.0 - 0.9987
}

fn tensor(values: impl Iterator<Item = f64>) -> Tensor {
    let values: Vec<f32> = values.map(|x| x as f32).collect();
    Tensor::new(values, &Device::Cpu).unwrap()
}

fn gradient(step: usize) -> Tensor {
    const SCALE: [f64; 6] = [1.0, 1e-1, 1e-2, 1e-3, 1e-4, 0.0];
    tensor((0..ELEMENTS).map(|i| number(i, 1 + step) * SCALE[i / 256 % 6]))
}

/// Parameter and moments after some steps.
fn ours(steps: usize) -> (Tensor, Moments) {
    let mut p = tensor((0..ELEMENTS).map(|i| number(i, 1)));
    let mut moments = Moments::blockwise(ELEMENTS, &Device::Cpu).unwrap();
    for step in 1..=steps {
        adamw_step(
            &mut p,
            &Keep::Exact,
            &gradient(step),
            &mut moments,
            &SETTINGS,
            step as u64,
        )
        .unwrap();
    }
    (p, moments)
}

fn f32s(t: &Tensor) -> Vec<f32> {
    t.to_vec1().unwrap()
}

#[test]
fn the_maps_are_bitsandbytes() {
    let golden = golden();
    for (name, map) in [
        ("signed", DynamicMap::Signed),
        ("unsigned", DynamicMap::Unsigned),
    ] {
        assert_eq!(f32s(&golden[name]), map.values(), "{name}");
    }
}

#[test]
fn twenty_steps_agree_with_bitsandbytes() {
    let golden = golden();
    for steps in [1, 20] {
        let (p, moments) = ours(steps);
        let theirs = |name: &str| &golden[&format!("{steps}.{name}")];
        let mut away = 0;
        for (name, tensor) in moments.tensors() {
            if tensor.dtype() == DType::U8 {
                let codes = |t: &Tensor| t.to_vec1::<u8>().unwrap();
                for (a, b) in codes(tensor).into_iter().zip(codes(theirs(name))) {
                    // torch fuses a multiplication and an addition here: a value between two entries may fall the
                    // other way.
                    assert!(a.abs_diff(b) <= 1, "{name} after {steps}: {a}, {b}");
                    away += usize::from(a != b);
                }
            } else {
                for (a, b) in f32s(tensor).into_iter().zip(f32s(theirs(name))) {
                    let same = (a - b).abs() <= 1e-6 * b || (a == 0.0 && b == 1.0);
                    assert!(same, "{name} after {steps}: {a}, {b}");
                }
            }
        }
        println!(
            "after {steps} steps {away} of {} codes are another",
            2 * ELEMENTS
        );
        assert!(away <= 2 * steps, "{away} codes after {steps} steps");
        // Where a code once fell the other way, the updates since then differ by a share of the learning rate.
        let differences: Vec<f32> = f32s(&p)
            .into_iter()
            .zip(f32s(theirs("p")))
            .map(|(a, b)| (a - b).abs())
            .filter(|d| *d > 2e-6)
            .collect();
        println!("after {steps} steps p differs by {differences:?}");
        assert!(differences.len() <= 3, "{differences:?}");
        assert!(differences.iter().all(|d| *d < 1e-3), "{differences:?}");
    }
}

#[test]
fn a_code_is_the_nearest_entry() {
    // One step from zero with beta1 = 0 stores the gradient itself; 1 in each block sets its scale.
    let settings = AdamW {
        beta1: 0.0,
        beta2: 0.0,
        ..SETTINGS
    };
    let n = 40_003;
    let values: Vec<f32> = (0..n)
        .map(|i| match i % 256 {
            0 => 1.0,
            _ => (number(i, 3).powi(9) * 10f64.powi(-((i / 7 % 6) as i32))) as f32,
        })
        .collect();
    let mut p = Tensor::zeros(n, DType::F32, &Device::Cpu).unwrap();
    let mut moments = Moments::blockwise(n, &Device::Cpu).unwrap();
    let g = Tensor::new(&*values, &Device::Cpu).unwrap();
    adamw_step(&mut p, &Keep::Exact, &g, &mut moments, &settings, 1).unwrap();
    let Moments::Blockwise { first, second } = &moments else {
        unreachable!()
    };
    let squares = values.iter().map(|x| x * x).collect::<Vec<_>>();
    for (stored, exact) in [(first, &values), (second, &squares)] {
        let map = stored.map().values();
        let scales = f32s(&stored.absmax);
        let codes = stored.codes.to_vec1::<u8>().unwrap();
        let mut used = std::collections::BTreeSet::new();
        for (i, (code, x)) in codes.into_iter().zip(exact).enumerate() {
            let x = f64::from((x / scales[i / 256]).clamp(-1.0, 1.0));
            let distance = |code: usize| (f64::from(map[code]) - x).abs();
            let best = (0..256).map(distance).fold(f64::MAX, f64::min);
            let ulp = 1e-7 * x.abs();
            assert!(distance(code.into()) <= best + ulp, "{x}: {code}");
            used.insert(code);
        }
        assert!(used.len() > 200, "only {} entries were tried", used.len());
    }
}

#[test]
fn threads_change_nothing() {
    let states = [1, 3].map(|threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        let (p, moments) = pool.install(|| ours(3));
        let codes = moments.tensors()[0].1.to_vec1::<u8>().unwrap();
        (f32s(&p), codes)
    });
    assert_eq!(states[0], states[1]);
}
