//! Losses, their gradient and scores of a chunk of logits.

use super::*;
use kernels::Matrix;
use kernels::cuda::launch;

const SHAPES: [(usize, usize); 4] = [(5, 7), (3, 123), (2, 4099), (1, 16_384)];

/// Logits between -24 and 24, and a target a row.
fn logits(rows: usize, v: usize, float: Float) -> (Vec<f64>, Vec<u32>) {
    let z: Vec<f64> = numbers(rows * v, 5, Float::F32)
        .iter()
        .map(|x| 16.0 * x)
        .collect();
    let z = list(&tensor(&z, &[rows, v], dtype(float)));
    let targets = (0..rows).map(|i| ((i * 5 + 2) % v) as u32).collect();
    (z, targets)
}

/// x whose product with the identity is itself: the logits are what the head sees.
fn identity(v: usize) -> Matrix {
    let eye: Vec<f64> = (0..v * v)
        .map(|i| f64::from(u8::from(i % (v + 1) == 0)))
        .collect();
    Matrix::dense(tensor(&eye, &[v, v], DType::F64))
}

#[test]
fn cross_entropy() {
    for float in FLOATS {
        for (rows, v) in SHAPES {
            let name = format!("cross_entropy {float:?} ({rows}, {v})");
            let (z, targets) = logits(rows, v, float);
            let scale = 0.37;
            // Row by row and from the definition: the head's product would be too large a matrix here.
            let (mut losses, mut gradient) = (Vec::new(), Vec::new());
            for (z, target) in z.chunks(v).zip(&targets) {
                let most = z.iter().fold(f64::NEG_INFINITY, |m, x| m.max(*x));
                let sum: f64 = z.iter().map(|x| (x - most).exp()).sum();
                losses.push(sum.ln() + most - z[*target as usize]);
                let of = |i: usize| {
                    (z[i] - most).exp() / sum - f64::from(u8::from(i == *target as usize))
                };
                gradient.extend((0..v).map(|i| scale * of(i)));
            }
            if v < 200 {
                let x = tensor(&z, &[rows, v], DType::F64);
                let op =
                    kernels::linear_cross_entropy(&x, &identity(v), &targets, scale, true, false)
                        .unwrap();
                assert!((op.loss_sum - losses.iter().sum::<f64>()).abs() < 1e-9);
                within(
                    &name,
                    &list(&op.dx.unwrap()),
                    &gradient,
                    Float::F32,
                    &vec![1e-12; rows * v],
                );
            }
            let buffers = [
                Buffer::floats(&z, float),
                Buffer::u32s(&targets),
                Buffer::poison(rows, 4),
                Buffer::f64s(&[2.5]),
            ];
            let found = run(launch::cross_entropy(float, rows, v, Some(scale)), &buffers);
            // Of a sum of exponentials that is off by a rounding a thread's number, the tree, and 2^-24 of the exponents.
            let steps = v as f64 / 512.0 + 16.0 + 48.0 * 1.5;
            within(
                &name,
                &found[2].floats(Float::F32),
                &losses,
                Float::F32,
                &vec![(steps + 48.0) * 2f64.powi(-24); rows],
            );
            close(
                &name,
                &found[0].floats(float),
                &gradient,
                float,
                2.0 * steps,
            );
            let alone = run(launch::cross_entropy(float, rows, v, None), &buffers);
            assert!(
                alone[0].0 == buffers[0].bytes && alone[2].0 == found[2].0,
                "{name}"
            );
            let mut sum = launch::sum_losses(rows);
            sum.args[0] = launch::Arg::Read(2);
            sum.args[1] = launch::Arg::Update(3);
            let mut buffers = buffers;
            buffers[2] = Buffer::f32s(&found[2].f32s());
            let total = run(sum, &buffers)[3].f64s()[0];
            let expected: f64 = 2.5 + found[2].f32s().iter().map(|x| f64::from(*x)).sum::<f64>();
            assert!(
                (total - expected).abs() < 1e-12 * expected,
                "{name}: {total} {expected}"
            );
        }
    }
}

#[test]
fn token_scores() {
    for float in FLOATS {
        let (rows, v) = (9, 123);
        let (mut z, mut targets) = logits(rows, v, float);
        // The largest is the target, an equal before it, an equal after it.
        for (row, [at, equal]) in [[50, 50], [50, 49], [50, 51], [122, 122], [122, 0]]
            .into_iter()
            .enumerate()
        {
            z[row * v + at] = 30.0;
            z[row * v + equal] = 30.0;
            targets[row] = at as u32;
        }
        let x = tensor(&z, &[rows, v], DType::F64);
        let expected = kernels::linear_token_scores(&x, &identity(v), &targets).unwrap();
        let buffers = [
            Buffer::floats(&z, float),
            Buffer::u32s(&targets),
            Buffer::poison(rows, 4),
            Buffer::poison(rows, 4),
        ];
        let found = run(launch::token_scores(float, rows, v), &buffers);
        let log_probs: Vec<f64> = expected.iter().map(|s| s.log_prob).collect();
        within(
            "token_scores",
            &found[2].floats(Float::F32),
            &log_probs,
            Float::F32,
            &[200.0 * 2f64.powi(-24); 9],
        );
        let greedy: Vec<u32> = expected.iter().map(|s| u32::from(s.greedy)).collect();
        assert_eq!(found[3].u32s(), greedy);
        assert_eq!(greedy[..5], [1, 0, 1, 1, 0]);
    }
}
