//! What a refused call says: the operation, both shapes or the value, and what to do.

use candle_core::{DType, Device, Tensor};
use kernels::*;

fn t(rows: usize, cols: usize) -> Tensor {
    Tensor::ones((rows, cols), DType::F32, &Device::Cpu).unwrap()
}

fn said<T>(result: Result<T>) -> String {
    let error = result.err().expect("the call is refused");
    match error.hint() {
        Some(hint) => format!("{error}\nhint: {hint}"),
        None => error.to_string(),
    }
}

fn heads(heads: usize, kv_heads: usize) -> AttentionShape {
    AttentionShape {
        heads,
        kv_heads,
        head_dim: 8,
        scale: 0.35,
        window: None,
    }
}

fn segment(start: usize, len: usize, prefix: Option<std::ops::Range<usize>>) -> Segment {
    Segment { start, len, prefix }
}

#[test]
fn shapes_that_do_not_fit() {
    let w = Matrix::dense(t(7, 64));
    insta::assert_snapshot!(said(linear(&t(5, 123), &w)), @"linear: x has shape [5, 123], which does not fit the weight of shape [7, 64]");
    insta::assert_snapshot!(said(linear_dx(&t(5, 9), &w)), @"linear_dx: dy has shape [5, 9], which does not fit the weight of shape [7, 64]");
    insta::assert_snapshot!(said(linear(&t(5, 64).unsqueeze(0).unwrap(), &w)), @"linear: x has shape [1, 5, 64], but a matrix is needed");
    insta::assert_snapshot!(said(gemm(&mut t(5, 7), 0.0, 1.0, &t(5, 3), Op::Plain, &t(4, 7), Op::Plain)), @"gemm: op(a) has shape [5, 3], which does not fit op(b) of shape [4, 7]");
    insta::assert_snapshot!(said(gemm(&mut t(5, 6), 0.0, 1.0, &t(3, 5), Op::Transposed, &t(7, 3), Op::Transposed)), @"gemm: out has shape [5, 6], which does not fit the product of shape [5, 7]");
    insta::assert_snapshot!(said(rms_norm(&t(5, 12), &Tensor::ones(11, DType::F32, &Device::Cpu).unwrap(), 1e-5)), @"rms_norm: x has shape [5, 12], which does not fit the weight of shape [11]");
    let one = Tensor::ones(12, DType::F32, &Device::Cpu).unwrap();
    insta::assert_snapshot!(said(rms_norm_of_sum(&mut t(5, 12), &t(5, 11), &one, 1e-5)), @"rms_norm_of_sum: the sum has shape [5, 12], which does not fit x of shape [5, 11]");
    let x = t(5, 12);
    insta::assert_snapshot!(said(rms_norm_of_sum(&mut x.clone(), &x, &one, 1e-5)), @"rms_norm_of_sum: x shares its storage with the tensor that is written");
    insta::assert_snapshot!(said(rms_norm_of_sum(&mut t(12, 5).t().unwrap(), &x, &one, 1e-5)), @r"
    rms_norm_of_sum: the sum is a strided view, but it is used as one dense block
    hint: call contiguous() on it first
    ");
    let normed = || rms_norm(&x, &one, 1e-5).unwrap().1;
    insta::assert_snapshot!(said(rms_norm_backward_onto(normed(), &t(5, 12), &mut t(4, 12), false)), @"rms_norm_backward: dx has shape [4, 12], which does not fit x of shape [5, 12]");
    insta::assert_snapshot!(said(rms_norm_backward_onto(normed(), &x, &mut x.clone(), false)), @"rms_norm_backward: dy shares its storage with the tensor that is written");
    insta::assert_snapshot!(said(divide(&t(5, 12), &t(12, 5))), @"divide: a has shape [5, 12], which does not fit b of shape [12, 5]");
    let squares = RowSquares::of(&w).unwrap();
    let norms = |a: &Tensor, b: &Tensor| {
        said(row_norms(
            &w,
            &squares,
            LowRankUpdate { a, b, scaling: 1.0 },
        ))
    };
    insta::assert_snapshot!(norms(&t(3, 63), &t(7, 3)), @"row_norms: A has shape [3, 63], which does not fit the weight of shape [7, 64]");
    insta::assert_snapshot!(norms(&t(3, 64), &t(6, 3)), @"row_norms: B has shape [6, 3], which does not fit the weight of shape [7, 64]");
    insta::assert_snapshot!(norms(&t(3, 64), &t(7, 2)), @"row_norms: B has shape [7, 2], which does not fit A of shape [3, 64]");
    let other = Matrix::dense(t(8, 64));
    let (a, b) = (t(3, 64), t(8, 3));
    insta::assert_snapshot!(said(row_norms(&other, &squares, LowRankUpdate { a: &a, b: &b, scaling: 1.0 })), @"row_norms: the squares has shape [7], which does not fit the weight of shape [8, 64]");
    let none = Segments::new(&[], 4).unwrap();
    let table = RopeTable::new(&[0, 1, 2], &[1.0, 0.1], 1.0, DType::F32).unwrap();
    insta::assert_snapshot!(said(rope(&mut t(3, 9), 2, &table, Direction::Forward)), @"rope: x has shape [3, 9], which does not fit the table's (positions, heads, head_dim) of shape [3, 2, 4]");
    insta::assert_snapshot!(said(swiglu(t(3, 9), t(3, 8))), @"swiglu: gate has shape [3, 9], which does not fit up of shape [3, 8]");
    insta::assert_snapshot!(said(attention(&t(4, 16), &t(4, 8), &t(3, 8), &none, &heads(2, 1))), @"attention: v has shape [3, 8], which does not fit its heads of shape [4, 8]");
    insta::assert_snapshot!(said(add_assign(&mut t(2, 3), &t(3, 2))), @"add_assign: a has shape [2, 3], which does not fit b of shape [3, 2]");
    insta::assert_snapshot!(said(add_bias(&mut t(2, 3), &t(1, 3))), @"add_bias: y has shape [2, 3], which does not fit the bias of shape [1, 3]");
    insta::assert_snapshot!(said(attention(&t(4, 24), &t(4, 16), &t(4, 16), &none, &heads(3, 2))), @"attention: 3 query heads, 2 key/value heads, a window of any length: every key/value head must serve the same number of query heads");
    let blind = AttentionShape {
        window: Some(0),
        ..heads(2, 1)
    };
    insta::assert_snapshot!(said(attention(&t(4, 16), &t(4, 8), &t(4, 8), &none, &blind)), @"attention: 2 query heads, 1 key/value heads, a window of 0: a token must at least see itself");
}

#[test]
fn lists_of_the_wrong_length() {
    let w = Matrix::dense(t(7, 4));
    insta::assert_snapshot!(said(linear_cross_entropy(&t(5, 4), &w, &[1u32, 2], 1.0, true, false)), @"linear_cross_entropy: 5 entries are needed in targets, but there are 2");
    insta::assert_snapshot!(said(embedding_backward(&[1u32, 2, 3], &t(2, 4), 9)), @"embedding_backward: 2 entries are needed in ids, but there are 3");
    let key = DropoutKey {
        seed: 1,
        step: 1,
        module: 1,
    };
    insta::assert_snapshot!(said(dropout(&t(2, 4), 0.1, key, &RowIds::new([]))), @"dropout: 2 entries are needed in rows, but there are 0");
    insta::assert_snapshot!(said(dropout(&t(2, 4), 1.0, key, &RowIds::new([]))), @"dropout probability 1 is outside [0, 1)");
    let three = Segments::new(&[segment(0, 3, None)], 3).unwrap();
    insta::assert_snapshot!(said(attention(&t(4, 16), &t(4, 8), &t(4, 8), &three, &heads(2, 1))), @"attention: 4 entries are needed in the segments' rows, but there are 3");
    insta::assert_snapshot!(said(scatter_rows(&t(2, 4), &[1u32], 9)), @"scatter_rows: 2 entries are needed in indices, but there are 1");
    let mut cache = KvCache::new(1, 8, DType::F32);
    insta::assert_snapshot!(said(attention_cached(&t(3, 16), &t(3, 8), &t(3, 8), &mut [&mut cache], &[2], &heads(2, 1))), @"attention_cached: 2 entries are needed in the rows of q, but there are 3");
    assert!(cache.is_empty());
    let mut cache = KvCache::new(1, 4, DType::F32);
    insta::assert_snapshot!(said(attention_cached(&t(3, 16), &t(3, 8), &t(3, 8), &mut [&mut cache], &[3], &heads(2, 1))), @"attention_cached: a cache has shape [1, 4], which does not fit the heads of shape [1, 8]");
}

#[test]
fn ids_and_rows_out_of_range() {
    let w = Matrix::dense(t(7, 4));
    insta::assert_snapshot!(said(embedding(&w, &[3u32, 6, 7, 900], DType::F32)), @r"
    token id 7 at position 2 is outside the table of 7 rows
    hint: the tokenizer does not belong to this model, or its vocabulary was extended and the model's was not
    ");
    insta::assert_snapshot!(said(linear_token_scores(&t(2, 4), &w, &[1u32, 7])), @r"
    token id 7 at position 1 is outside the table of 7 rows
    hint: the tokenizer does not belong to this model, or its vocabulary was extended and the model's was not
    ");
    insta::assert_snapshot!(said(gather_rows(&t(2, 4), &[0u32, 1, 2])), @"gather_rows: row 2 (entry 2) is outside a tensor of 2 rows");
}

#[test]
fn segments_that_do_not_describe_the_rows() {
    let attend = |segments: &[Segment]| said(Segments::new(segments, 9));
    insta::assert_snapshot!(attend(&[segment(0, 4, None), segment(4, 6, None)]), @"attention: segment 1 (rows 4..10) leaves the pack");
    insta::assert_snapshot!(attend(&[segment(0, 4, None), segment(3, 2, None)]), @"attention: segment 1 (rows 3..5) overlaps the segment before it, or is out of order");
    insta::assert_snapshot!(attend(&[segment(0, 3, None), segment(3, 3, None), segment(6, 2, Some(2..4))]), @"attention: segment 2 (rows 6..8) has a prefix that is not inside one earlier segment");
    insta::assert_snapshot!(attend(&[segment(0, 3, Some(4..6)), segment(4, 3, None)]), @"attention: segment 0 (rows 0..3) has a prefix that is not inside one earlier segment");
}

#[test]
fn weights_cut_short_or_of_unknown_kinds() {
    let bytes = |n| Bytes::from_vec(vec![0; n]);
    insta::assert_snapshot!(said(Matrix::mapped(bytes(23), DType::BF16, 3, 4)), @r"
    a (3, 4) weight stored as BF16 takes 24 bytes, but 23 are given
    hint: the file is cut short or damaged: compare its hash with the source's
    ");
    insta::assert_snapshot!(said(Matrix::mapped(bytes(12), DType::U8, 3, 4)), @"a mapped weight: no arithmetic for U8 here (expected F32, F16, BF16 or F64)");
    insta::assert_snapshot!(said(Matrix::ggml(bytes(144), GgmlType::Q4K, 1, 576, None)), @"Q4_K packs 256 values a block, which does not divide rows of 576");
    insta::assert_snapshot!(said(Matrix::ggml(bytes(18 * 6), GgmlType::Q4_0, 6, 32, Some(2))), @"a weight of 6 rows cannot be split into 2 heads of even size");
    insta::assert_snapshot!(said(GgmlType::from_id(39)), @r"
    GGML tensor type 39 is not supported
    hint: supported are F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K and Q6_K; quantize the model again to one of them
    ");
    let owner = std::sync::Arc::new(vec![0u8; 10]);
    insta::assert_snapshot!(said(Bytes::new(owner, 4..12)), @r"
    bytes 4..12 lie outside a file of 10 bytes
    hint: the file is cut short or damaged: compare its hash with the source's
    ");
    assert!(Matrix::mapped(bytes(8), DType::F32, usize::MAX, usize::MAX).is_err());
}

#[test]
fn types_views_and_shared_storage() {
    let half = t(2, 4).to_dtype(DType::F16).unwrap();
    insta::assert_snapshot!(said(narrow(&half, DType::U8)), @"narrow: no arithmetic for F16 here (expected f32, bf16 or f64)");
    let bytes = Tensor::ones((2, 4), DType::U8, &Device::Cpu).unwrap();
    insta::assert_snapshot!(said(scale_assign(&mut bytes.clone(), 2.0)), @"scale_assign: no arithmetic for U8 here (expected f32, bf16 or f64)");
    let whole = t(4, 4);
    insta::assert_snapshot!(said(scale_assign(&mut whole.t().unwrap(), 2.0)), @r"
    scale_assign: the tensor that is written is a strided view, but it is used as one dense block
    hint: call contiguous() on it first
    ");
    insta::assert_snapshot!(said(add_assign(&mut whole.clone(), &whole)), @"add_assign: b shares its storage with the tensor that is written");
    insta::assert_snapshot!(said(gemm(&mut whole.clone(), 0.0, 1.0, &whole, Op::Plain, &t(4, 4), Op::Plain)), @"gemm: a shares its storage with the tensor that is written");
}
