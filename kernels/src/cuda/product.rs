//! Matrix products as cuBLASLt takes them: by column-major matrices.
//!
//! A row-major matrix (r, c) whose rows lie `s` numbers apart is, read by columns, its transpose: (c, r), with leading
//! dimension `s`. So out = op(a)·op(b), row-major, is computed as outᵀ = op(b)ᵀ·op(a)ᵀ, column-major: b comes first, and
//! each operand is transposed where the row-major one is.

use crate::{Error, Op, Result};
use candle_core::DType;

/// A tensor of two dimensions as it lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Strided {
    /// Rows and columns.
    pub dims: (usize, usize),
    /// Numbers from one row to the next, and from one column to the next.
    pub strides: (usize, usize),
    /// What the numbers are.
    pub dtype: DType,
}

/// A column-major matrix that is read: column j starts at j · `ld`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Operand {
    /// Rows as stored.
    pub rows: usize,
    /// Columns as stored.
    pub cols: usize,
    /// Leading dimension, at least `rows`.
    pub ld: usize,
    /// Whether its transpose is multiplied.
    pub transposed: bool,
}

/// What the product is rounded to on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Accumulate {
    /// f32, of f32, bf16 and f16 operands.
    F32,
    /// f64, of f64 operands.
    F64,
}

/// out (m, n) = beta·out + alpha·op(first)·op(second), all column-major.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Product {
    /// Rows of the column-major product: columns of the row-major one.
    pub m: usize,
    /// Its columns: rows of the row-major one.
    pub n: usize,
    /// The dimension that is summed over.
    pub k: usize,
    /// The row-major product's b.
    pub first: Operand,
    /// The row-major product's a.
    pub second: Operand,
    /// Leading dimension of `out`.
    pub ld: usize,
    /// Type of both operands.
    pub input: DType,
    /// Type of `out`.
    pub output: DType,
    /// What is added up.
    pub accumulate: Accumulate,
}

const OP: &str = "gemm";

impl Product {
    /// Of row-major out (m, n) = beta·out + alpha·op(a)·op(b), as in [`crate::gemm()`]. `out` is dense, or a range of columns
    /// of a dense matrix; a and b may be such ranges too, or their transposes.
    pub fn new(out: Strided, a: Strided, ta: Op, b: Strided, tb: Op) -> Result<Self> {
        let orient = |m: Strided, op| match op {
            Op::Plain => m.dims,
            Op::Transposed => (m.dims.1, m.dims.0),
        };
        let ((am, ak), (bk, bn)) = (orient(a, ta), orient(b, tb));
        if ak != bk {
            return Err(crate::access::shape(
                OP,
                "op(a)",
                &[am, ak],
                "op(b)",
                &[bk, bn],
            ));
        }
        if (am, bn) != out.dims {
            let found = [out.dims.0, out.dims.1];
            return Err(crate::access::shape(
                OP,
                "out",
                &found,
                "the product",
                &[am, bn],
            ));
        }
        let ld = rows_apart(out).ok_or(Error::Strided {
            op: OP,
            what: "out",
        })?;
        Ok(Self {
            m: bn,
            n: am,
            k: ak,
            first: operand(b, tb, "b")?,
            second: operand(a, ta, "a")?,
            ld,
            input: input_type(a, b)?,
            output: out.dtype,
            accumulate: accumulate(a.dtype, out.dtype)?,
        })
    }

    /// In words, for errors.
    pub fn name(&self) -> String {
        let t = |operand: Operand| if operand.transposed { "ᵀ" } else { "" };
        format!(
            "({}, {}) {} = ({}, {k}){} x ({k}, {}){} {}",
            self.n,
            self.m,
            self.output.as_str(),
            self.n,
            t(self.second),
            self.m,
            t(self.first),
            self.input.as_str(),
            k = self.k,
        )
    }
}

/// Numbers from one row to the next, if columns lie next to each other and rows do not overlap.
fn rows_apart(m: Strided) -> Option<usize> {
    let ((rows, cols), (row_stride, col_stride)) = (m.dims, m.strides);
    let dense_rows = cols <= 1 || col_stride == 1;
    // With one row, its stride says nothing; a leading dimension may not be less than what it strides over.
    let ld = if rows <= 1 { cols } else { row_stride };
    (dense_rows && ld >= cols).then_some(ld.max(1))
}

/// A matrix whose columns lie next to each other is read by columns as its transpose, one whose rows do as itself.
fn operand(m: Strided, op: Op, what: &'static str) -> Result<Operand> {
    let (rows, cols) = m.dims;
    if let Some(ld) = rows_apart(m) {
        return Ok(Operand {
            rows: cols,
            cols: rows,
            ld,
            transposed: op == Op::Transposed,
        });
    }
    let turned = Strided {
        dims: (cols, rows),
        strides: (m.strides.1, m.strides.0),
        ..m
    };
    let ld = rows_apart(turned).ok_or(Error::Strided { op: OP, what })?;
    Ok(Operand {
        rows,
        cols,
        ld,
        transposed: op == Op::Plain,
    })
}

fn input_type(a: Strided, b: Strided) -> Result<DType> {
    if a.dtype == b.dtype {
        return Ok(a.dtype);
    }
    Err(Error::Type {
        op: OP,
        found: b.dtype,
        expected: "both operands of one type",
    })
}

/// Half types are added up in f32, and the sum may be kept or rounded back.
fn accumulate(input: DType, output: DType) -> Result<Accumulate> {
    match (input, output) {
        (DType::F64, DType::F64) => Ok(Accumulate::F64),
        (DType::F32 | DType::BF16 | DType::F16, DType::F32)
        | (DType::BF16, DType::BF16)
        | (DType::F16, DType::F16) => Ok(Accumulate::F32),
        (DType::F64 | DType::F32 | DType::BF16 | DType::F16, found) => Err(Error::Type {
            op: OP,
            found,
            expected: "f32, or the operands' type",
        }),
        (found, _) => Err(Error::Type {
            op: OP,
            found,
            expected: "operands in f32, bf16, f16 or f64",
        }),
    }
}

/// The largest power of two, up to 256, that divides an address: what heuristics may count on.
pub fn alignment(address: u64) -> u32 {
    1 << address.trailing_zeros().min(8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Follows a descriptor literally, column by column.
    fn column_major(
        product: &Product,
        out: &mut [f64],
        beta: f64,
        alpha: f64,
        a: &[f64],
        b: &[f64],
    ) {
        let at = |operand: &Operand, data: &[f64], row: usize, col: usize| {
            let (r, c) = if operand.transposed {
                (col, row)
            } else {
                (row, col)
            };
            assert!(r < operand.rows && c < operand.cols && operand.rows <= operand.ld);
            data[r + c * operand.ld]
        };
        for j in 0..product.n {
            for i in 0..product.m {
                let sum: f64 = (0..product.k)
                    .map(|l| at(&product.first, b, i, l) * at(&product.second, a, l, j))
                    .sum();
                let out = &mut out[i + j * product.ld];
                *out = beta * *out + alpha * sum;
            }
        }
    }

    /// Numbers that are all different.
    fn numbers(n: usize, seed: f64) -> Vec<f64> {
        (0..n)
            .map(|i| (i as f64 * 0.7 + seed).sin() + 0.1)
            .collect()
    }

    fn stored(dims: (usize, usize), strides: (usize, usize)) -> Strided {
        Strided {
            dims,
            strides,
            dtype: DType::F64,
        }
    }

    /// How an operand lies: dense, a range of a wider matrix's columns, or the transposed view of either.
    #[derive(Clone, Copy, Debug)]
    enum Lies {
        Dense,
        Range,
        Turned,
        TurnedRange,
    }

    impl Lies {
        fn of(self, (rows, cols): (usize, usize)) -> Strided {
            let strides = match self {
                Self::Dense => (cols, 1),
                Self::Range => (cols + 3, 1),
                Self::Turned => (1, rows),
                Self::TurnedRange => (1, rows + 2),
            };
            stored((rows, cols), strides)
        }
    }

    #[test]
    fn a_descriptor_followed_by_columns_gives_the_row_major_product() {
        let mut seen = 0;
        for (m, n, k) in [
            (5, 7, 123),
            (1, 7, 3),
            (5, 1, 4),
            (6, 4, 1),
            (1, 1, 5),
            (7, 5, 2),
        ] {
            for lies_a in [Lies::Dense, Lies::Range, Lies::Turned, Lies::TurnedRange] {
                for lies_b in [Lies::Dense, Lies::Range, Lies::Turned, Lies::TurnedRange] {
                    for ta in [Op::Plain, Op::Transposed] {
                        for tb in [Op::Plain, Op::Transposed] {
                            for out_gap in [0, 2] {
                                check((m, n, k), (lies_a, ta), (lies_b, tb), out_gap);
                                seen += 1;
                            }
                        }
                    }
                }
            }
        }
        assert_eq!(seen, 6 * 4 * 4 * 2 * 2 * 2);
    }

    fn check((m, n, k): (usize, usize, usize), a: (Lies, Op), b: (Lies, Op), out_gap: usize) {
        let dims = |op, rows, cols| {
            if op == Op::Plain {
                (rows, cols)
            } else {
                (cols, rows)
            }
        };
        let (sa, sb) = (a.0.of(dims(a.1, m, k)), b.0.of(dims(b.1, k, n)));
        let so = stored((m, n), (n + out_gap, 1));
        let (da, db) = (numbers(2000, 0.3), numbers(2000, 1.9));
        let mut out = numbers(m * (n + out_gap), 2.5);
        let mut expected = out.clone();

        let read = |s: Strided, data: &[f64], op: Op, row: usize, col: usize| {
            let (r, c) = if op == Op::Plain {
                (row, col)
            } else {
                (col, row)
            };
            data[r * s.strides.0 + c * s.strides.1]
        };
        for i in 0..m {
            for j in 0..n {
                let sum: f64 = (0..k)
                    .map(|l| read(sa, &da, a.1, i, l) * read(sb, &db, b.1, l, j))
                    .sum();
                let out = &mut expected[i * (n + out_gap) + j];
                *out = 0.5 * *out - 1.5 * sum;
            }
        }
        let product = Product::new(so, sa, a.1, sb, b.1).unwrap();
        column_major(&product, &mut out, 0.5, -1.5, &da, &db);
        for (i, (x, y)) in out.iter().zip(&expected).enumerate() {
            assert!(
                (x - y).abs() < 1e-9,
                "{a:?} {b:?} {product:?}: {i}: {x} and {y}"
            );
        }
    }

    #[test]
    fn types_decide_what_is_added_up() {
        let of = |dims: (usize, usize), dtype| Strided {
            dims,
            strides: (dims.1, 1),
            dtype,
        };
        let product = |input, output| {
            let (a, b) = (of((5, 123), input), of((7, 123), input));
            Product::new(of((5, 7), output), a, Op::Plain, b, Op::Transposed)
        };
        let bf16 = product(DType::BF16, DType::F32).unwrap();
        assert_eq!(bf16.accumulate, Accumulate::F32);
        insta::assert_snapshot!(bf16.name(), @"(5, 7) f32 = (5, 123) x (123, 7)ᵀ bf16");
        assert_eq!(
            product(DType::F64, DType::F64).unwrap().accumulate,
            Accumulate::F64
        );
        assert!(product(DType::BF16, DType::BF16).is_ok());
        let refused = [
            product(DType::F32, DType::BF16),
            product(DType::U32, DType::F32),
            Product::new(
                of((5, 7), DType::F32),
                of((5, 123), DType::F32),
                Op::Plain,
                of((123, 7), DType::BF16),
                Op::Plain,
            ),
            Product::new(
                of((5, 7), DType::F32),
                of((5, 123), DType::F32),
                Op::Transposed,
                of((123, 7), DType::F32),
                Op::Plain,
            ),
            Product::new(
                of((7, 5), DType::F32),
                of((5, 123), DType::F32),
                Op::Plain,
                of((123, 7), DType::F32),
                Op::Plain,
            ),
            Product::new(
                Strided {
                    strides: (1, 5),
                    ..of((5, 7), DType::F32)
                },
                of((5, 123), DType::F32),
                Op::Plain,
                of((123, 7), DType::F32),
                Op::Plain,
            ),
            Product::new(
                of((5, 7), DType::F32),
                Strided {
                    strides: (246, 2),
                    ..of((5, 123), DType::F32)
                },
                Op::Plain,
                of((123, 7), DType::F32),
                Op::Plain,
            ),
        ];
        let refused: Vec<String> = refused
            .into_iter()
            .map(|product| product.unwrap_err().to_string())
            .collect();
        insta::assert_snapshot!(refused.join("\n"), @"
        gemm: no arithmetic for BF16 here (expected f32, or the operands' type)
        gemm: no arithmetic for U32 here (expected operands in f32, bf16, f16 or f64)
        gemm: no arithmetic for BF16 here (expected both operands of one type)
        gemm: op(a) has shape [123, 5], which does not fit op(b) of shape [123, 7]
        gemm: out has shape [7, 5], which does not fit the product of shape [5, 7]
        gemm: out is a strided view, but it is used as one dense block
        gemm: a is a strided view, but it is used as one dense block
        ");
    }

    #[test]
    fn an_address_says_how_it_is_aligned() {
        let of = |address| alignment(address);
        assert_eq!(
            [of(0x7000), of(0x7002), of(0x7010), of(0x7ff8), of(1)],
            [256, 2, 16, 8, 1]
        );
    }
}
