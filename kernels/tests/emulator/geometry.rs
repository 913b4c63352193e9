//! Launches of the largest shapes there are: a device takes every one.

use super::Float;
use kernels::cuda::launch::{self, AttentionTiles, CacheShape, Launch, Launches};
use kernels::device_check::ADAMW;
use kernels::{AttentionShape, Direction, DropoutKey, GgmlType, Segment};

fn holds(launches: impl Into<Launches>) {
    for step in launches.into().steps {
        assert!(step.is_valid(), "{step:?}");
    }
}

#[test]
fn of_models_of_every_size() {
    // Tokens, width, and more elements than 32 bits count.
    for t in [1, 4096, 131_072, 1 << 20] {
        for d in [64, 576, 5120, 28_672, 128_256] {
            let x = Float::Bf16;
            holds(launch::rms_norm(x, x, t, d, 1e-5, true));
            holds(launch::rms_norm_backward(x, x, x, t, d, true));
            holds(launch::rms_norm_backward_weight(x, x, t, d));
            holds(launch::rope(
                x,
                t,
                d / 64,
                8,
                64,
                [d, 512],
                Direction::Forward,
            ));
            holds(launch::swiglu(x, t, d, 2 * d));
            holds(launch::swiglu_backward(x, x, t, d, 2 * d, 2 * d));
            holds(launch::sum_rows(x, t, d));
            holds(launch::column_products(x, x, t, d));
            holds(launch::add_bias(x, x, t, d));
            holds(launch::add_assign(x, x, t * d));
            let squared = launch::Squared {
                address: 0,
                n: t * d,
                float: x,
            };
            holds(launch::sums_of_squares(&[squared; 3]).2);
            holds(launch::embedding(x, x, t, d));
            holds(launch::embedding_backward(x, t, 128_256, d));
            holds(launch::cross_entropy(x, t, d, Some(1.0)));
            let key = DropoutKey {
                seed: 1,
                step: 1,
                module: 1,
            };
            holds(launch::dropout(x, t, d, 0.1, key));
            holds(launch::row_norms(x, d, t, 256, 2.0));
            holds(launch::divide(t * d));
            holds(launch::scale_columns(x, t, d, 1.0));
            holds(launch::nf4_dequantize(x, 0, t * d, Some(0.1)));
            holds(launch::ggml_dequantize(GgmlType::Q4_0, x, t, d, None));
            let stepped = launch::Stepped {
                weights: launch::Weights::Master,
                g: x,
                n: t * d,
                settings: ADAMW,
                at: launch::Addresses::default(),
            };
            holds(launch::adamw(&[stepped; 3], 1).1);
            holds(launch::adamw_8bit(&[stepped; 3], 1).1);
        }
    }
}

#[test]
fn of_attention() {
    let segments: Vec<Segment> = (0..4096)
        .map(|i| Segment {
            start: i * 32,
            len: 32,
            prefix: None,
        })
        .collect();
    let tiles = AttentionTiles::of(&segments, 131_072).unwrap();
    for (heads, kv_heads, head_dim) in [
        (32, 32, 128),
        (40, 40, 128),
        (64, 8, 128),
        (9, 3, 64),
        (32, 32, 96),
        (8, 1, 256),
    ] {
        let shape = AttentionShape {
            heads,
            kv_heads,
            head_dim,
            scale: 0.1,
            window: None,
        };
        let (q, kv) = (heads * head_dim, kv_heads * head_dim);
        for float in super::FLOATS {
            holds(launch::attention(float, &shape, &tiles, [q, kv, kv]));
            holds(launch::attention_backward(
                float,
                &shape,
                &tiles,
                131_072,
                [q, kv, kv, q, kv, kv],
            ));
            for sequences in [1, 100_000] {
                let cache = CacheShape {
                    sequences,
                    capacity: 131_072,
                    stored: float,
                };
                holds(launch::attention_decode(float, &shape, &cache, 131_072));
                holds(launch::cache_append(float, &shape, &cache));
            }
        }
    }
}

#[test]
fn of_nothing() {
    let x = Float::Bf16;
    holds(launch::add_assign(x, x, 0));
    holds(launch::rms_norm(x, x, 0, 64, 1e-5, false));
    holds(launch::sum_rows(x, 0, 64));
    holds(launch::swiglu(x, 0, 64, 64));
    holds(launch::embedding_backward(x, 0, 7, 64));
    holds(launch::cross_entropy(x, 0, 7, None));
}

/// What a device refuses.
#[test]
fn of_too_much() {
    let right = launch::fill(Float::F32, 5, 0.0);
    assert!(right.is_valid());
    let wrong: [fn(&mut Launch); 6] = [
        |l| l.grid[0] = 0,
        |l| l.grid[0] = 1 << 31,
        |l| l.grid[1] = 65_536,
        |l| l.block = [1024, 2, 1],
        |l| l.block = [1, 1, 65],
        |l| l.shared_bytes = (99 << 10) + 1,
    ];
    for change in wrong {
        let mut launch = right.clone();
        change(&mut launch);
        assert!(!launch.is_valid(), "{launch:?}");
    }
}
