//! Random numbers in the place of weights: which they are, and that they are evenly spread.

use candle_core::{DType, Device, Tensor};
use half::bf16;
use kernels::{Uniform, fill_uniform};

fn filled(n: usize, dtype: DType, uniform: Uniform) -> Vec<f32> {
    let mut out = Tensor::full(f32::NAN, n, &Device::Cpu).unwrap();
    out = out.to_dtype(dtype).unwrap();
    fill_uniform(&mut out, uniform).unwrap();
    out.to_dtype(DType::F32).unwrap().to_vec1().unwrap()
}

const KEY: Uniform = Uniform {
    seed: 7,
    offset: 0,
    scale: 1.0,
};

/// What was made once is made always: a timing's loss can be compared with another's.
#[test]
fn the_numbers_are_these() {
    let first = filled(3, DType::F32, KEY);
    insta::assert_debug_snapshot!(first.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), @"
    [
        1065042955,
        1007792448,
        3201602222,
    ]
    ");
    assert!(first.iter().all(|x| (x * 16_777_216.0) as i32 % 2 != 0));
}

#[test]
fn a_part_is_filled_as_the_whole_would_be() {
    let whole = filled(40_001, DType::F32, KEY);
    for (first, n) in [(1, 5), (16_383, 2), (16_384, 20_123), (39_994, 7)] {
        let offset = first as u64;
        let part = filled(n, DType::F32, Uniform { offset, ..KEY });
        assert_eq!(part, whole[first..first + n], "{n} from {first}");
    }
    // Places go round.
    let offset = u64::MAX - 4;
    assert_eq!(
        filled(9, DType::F32, Uniform { offset, ..KEY })[5..],
        whole[..4]
    );
}

#[test]
fn bf16_holds_the_rounded_numbers_times_the_scale() {
    let scale = 0.02;
    let exact = filled(5_000, DType::F32, KEY);
    let rounded = filled(5_000, DType::BF16, Uniform { scale, ..KEY });
    for (exact, rounded) in exact.iter().zip(rounded) {
        assert_eq!(rounded, bf16::from_f32(exact * scale).to_f32());
    }
}

/// Mean 0, variance 1/3, no place like its neighbour, no seed like another: within five standard errors.
#[test]
fn numbers_are_spread_evenly() {
    let n = 1 << 20;
    let list = filled(n, DType::F32, KEY);
    let other = filled(n, DType::F32, Uniform { seed: 8, ..KEY });
    let mean = |of: &dyn Fn(usize) -> f64| (0..n - 1).map(of).sum::<f64>() / (n - 1) as f64;
    let x = |i: usize| f64::from(list[i]);
    let error = 1.0 / (n as f64).sqrt();
    assert!(mean(&x).abs() < 5.0 * error / 3f64.sqrt());
    assert!((mean(&|i| x(i) * x(i)) - 1.0 / 3.0).abs() < 5.0 * error * 0.3);
    assert!(mean(&|i| x(i) * x(i + 1)).abs() < 5.0 * error / 3.0);
    assert!(mean(&|i| x(i) * f64::from(other[i])).abs() < 5.0 * error / 3.0);
    let mut shares = [0usize; 64];
    for x in &list {
        shares[((x + 1.0) * 32.0) as usize] += 1;
    }
    let expected = n as f64 / 64.0;
    assert!(
        shares
            .iter()
            .all(|s| (*s as f64 - expected).abs() < 5.0 * expected.sqrt())
    );
}

#[test]
fn another_type_is_refused() {
    let mut out = Tensor::zeros(3, DType::U8, &Device::Cpu).unwrap();
    let error = fill_uniform(&mut out, KEY).unwrap_err();
    insta::assert_snapshot!(error, @"fill_uniform: no arithmetic for U8 here (expected f32 or bf16)");
}
