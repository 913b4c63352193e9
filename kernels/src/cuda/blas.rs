//! Matrix products by cuBLASLt.
//!
//! Which of its kernels computes a product is asked of its heuristic once a shape and kept. Sums of parts are added in
//! the accumulate type, in an order that the choice fixes: the same product on the same device gives the same bits.

use super::CudaError;
use super::gpu::{Gpu, code, lock};
use super::product::{Accumulate, Product, Strided, alignment};
use super::run::Buffer;
use crate::{Error, Op, Result, access};
use candle_core::cuda_backend::cudarc::cublaslt::result::{self as lt, CublasError};
use candle_core::cuda_backend::cudarc::cublaslt::sys;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DevicePtr};
use candle_core::{DType, Tensor};
use std::collections::HashMap;
use std::ffi::c_void;

const OP: &str = "gemm";

/// Memory for sums of parts: NVIDIA's advice is 32 MiB from compute capability 9.0 on, and 4 before; more does no harm.
const WORKSPACE_BYTES: usize = 32 << 20;

/// out = beta·out + alpha·op(a)·op(b) on a device, in place; with beta = 0 what `out` holds is not read.
///
/// Operands are both bf16, f16 (added up in f32, kept in f32 or rounded back once), f32 or f64. `a` and `b` are dense,
/// ranges of columns of dense tensors, or the transposes of either; `out` dense or such a range, and of neither's memory,
/// which [`crate::gemm()`] refuses.
pub(crate) fn gemm(
    out: &mut Tensor,
    beta: f64,
    alpha: f64,
    a: &Tensor,
    ta: Op,
    b: &Tensor,
    tb: Op,
) -> Result<()> {
    let (so, sa, sb) = (strided("out", out)?, strided("a", a)?, strided("b", b)?);
    let product = Product::new(so, sa, ta, sb, tb)?;
    if product.m == 0 || product.n == 0 {
        return Ok(());
    }
    if product.k == 0 {
        return empty_sum(out, beta);
    }
    let (out, a, b) = (
        Buffer::strided(OP, out)?,
        Buffer::strided(OP, a)?,
        Buffer::strided(OP, b)?,
    );
    let gpu = out.gpu().clone();
    let mut blas = lock(&gpu.blas);
    let blas = match &mut *blas {
        Some(blas) => blas,
        empty => empty.insert(Blas::new(&gpu)?),
    };
    Ok(blas.multiply(&gpu, &product, (beta, alpha), &out, &a, &b)?)
}

/// out = beta·out: there is nothing for cuBLASLt to multiply.
fn empty_sum(out: &Tensor, beta: f64) -> Result<()> {
    if beta == 0.0 {
        return Ok(out.zero_set()?);
    }
    let scaled = out.affine(beta, 0.0)?.detach();
    Ok(out.slice_set(&scaled, 0, 0)?)
}

fn strided(what: &'static str, tensor: &Tensor) -> Result<Strided> {
    let dims = access::dims2(OP, what, tensor)?;
    let [row, col] = tensor.stride() else {
        return Err(Error::Strided { op: OP, what });
    };
    Ok(Strided {
        dims,
        strides: (*row, *col),
        dtype: tensor.dtype(),
    })
}

/// cuBLASLt's state for one device.
pub(super) struct Blas {
    handle: sys::cublasLtHandle_t,
    workspace: CudaSlice<u8>,
    plans: HashMap<Key, Plan>,
}

// SAFETY: cuBLASLt's objects are not tied to a thread, and a lock is around all use of them here.
unsafe impl Send for Blas {}

/// What a choice depends on: the product, and how its operands are aligned.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    product: Product,
    alignments: [u32; 3],
}

/// A product's description, and the kernel that is chosen for it.
struct Plan {
    description: Description,
    layouts: [Layout; 3],
    algorithm: sys::cublasLtMatmulAlgo_t,
}

impl Blas {
    fn new(gpu: &Gpu) -> std::result::Result<Self, CudaError> {
        // SAFETY: cuBLASLt writes what it reads.
        let workspace = unsafe { gpu.stream().alloc::<u8>(WORKSPACE_BYTES) };
        let workspace = workspace.map_err(|e| gpu.refused("matrix products' workspace", e))?;
        let bound = gpu.stream().context().bind_to_thread();
        bound.map_err(|e| gpu.refused("its context", e))?;
        let handle = lt::create_handle().map_err(|e| CudaError::Driver {
            what: "to start cuBLASLt",
            problem: e.to_string(),
        })?;
        Ok(Self {
            handle,
            workspace,
            plans: HashMap::new(),
        })
    }

    fn multiply(
        &mut self,
        gpu: &Gpu,
        product: &Product,
        (beta, alpha): (f64, f64),
        out: &Buffer,
        a: &Buffer,
        b: &Buffer,
    ) -> std::result::Result<(), CudaError> {
        let bound = gpu.stream().context().bind_to_thread();
        bound.map_err(|e| CudaError::Driver {
            what: "its context",
            problem: code(e),
        })?;
        let refused = |problem: CublasError| CudaError::Product {
            product: product.name(),
            problem: problem.to_string(),
        };
        let key = Key {
            product: *product,
            alignments: [out, a, b].map(|buffer| alignment(buffer.address())),
        };
        if !self.plans.contains_key(&key) {
            let plan = Plan::new(self.handle, &key).map_err(refused)?;
            self.plans.insert(key.clone(), plan);
        }
        let plan = &self.plans[&key];
        let (alpha32, beta32) = (alpha as f32, beta as f32);
        let factor = |wide: &f64, narrow: &f32| -> *const c_void {
            match product.accumulate {
                Accumulate::F64 => std::ptr::from_ref(wide).cast(),
                Accumulate::F32 => std::ptr::from_ref(narrow).cast(),
            }
        };
        let address = |buffer: &Buffer| buffer.address() as *mut c_void;
        let [layout_out, layout_first, layout_second] = &plan.layouts;
        let workspace = self.workspace.device_ptr(gpu.stream()).0;
        // SAFETY: the layouts describe the buffers, which are alive and in the bounds of their tensors; the workspace
        // is used by this stream alone; the factors live until the call returns, which reads them.
        unsafe {
            lt::matmul(
                self.handle,
                plan.description.0,
                factor(&alpha, &alpha32),
                factor(&beta, &beta32),
                address(b),
                layout_first.0,
                address(a),
                layout_second.0,
                address(out),
                layout_out.0,
                address(out),
                layout_out.0,
                &raw const plan.algorithm,
                workspace as *mut c_void,
                WORKSPACE_BYTES,
                gpu.stream().cu_stream().cast(),
            )
        }
        .map_err(refused)
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        self.plans.clear();
        // SAFETY: created by `new`, and nothing uses it any more. A failure leaves nothing to be done.
        let _ = unsafe { lt::destroy_handle(self.handle) };
    }
}

impl Plan {
    fn new(handle: sys::cublasLtHandle_t, key: &Key) -> std::result::Result<Self, CublasError> {
        let p = &key.product;
        let description = Description::new(p)?;
        let layouts = [
            Layout::new(p.output, p.m, p.n, p.ld)?,
            Layout::new(p.input, p.first.rows, p.first.cols, p.first.ld)?,
            Layout::new(p.input, p.second.rows, p.second.cols, p.second.ld)?,
        ];
        let preference = Preference::new(key.alignments)?;
        let [out, first, second] = &layouts;
        // SAFETY: all of them were made just now.
        let found = unsafe {
            lt::get_matmul_algo_heuristic(
                handle,
                description.0,
                first.0,
                second.0,
                out.0,
                out.0,
                preference.0,
            )
        }?;
        Ok(Self {
            description,
            layouts,
            algorithm: found.algo,
        })
    }
}

/// How the product is computed.
struct Description(sys::cublasLtMatmulDesc_t);

impl Description {
    fn new(product: &Product) -> std::result::Result<Self, CublasError> {
        let (compute, scale) = match product.accumulate {
            Accumulate::F32 => (
                sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                sys::cudaDataType_t::CUDA_R_32F,
            ),
            Accumulate::F64 => (
                sys::cublasComputeType_t::CUBLAS_COMPUTE_64F,
                sys::cudaDataType_t::CUDA_R_64F,
            ),
        };
        let made = Self(lt::create_matmul_desc(compute, scale)?);
        let operands = [
            (
                sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA,
                product.first,
            ),
            (
                sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSB,
                product.second,
            ),
        ];
        for (attribute, operand) in operands {
            // CUBLAS_OP_N and CUBLAS_OP_T.
            let value = i32::from(operand.transposed);
            let (value, size) = bytes_of(&value);
            // SAFETY: the attribute is a number of 32 bits.
            unsafe { lt::set_matmul_desc_attribute(made.0, attribute, value, size) }?;
        }
        Ok(made)
    }
}

impl Drop for Description {
    fn drop(&mut self) {
        // SAFETY: made by `new`, given up once.
        let _ = unsafe { lt::destroy_matmul_desc(self.0) };
    }
}

/// A column-major matrix.
struct Layout(sys::cublasLtMatrixLayout_t);

impl Layout {
    fn new(
        dtype: DType,
        rows: usize,
        cols: usize,
        ld: usize,
    ) -> std::result::Result<Self, CublasError> {
        let dtype = match dtype {
            DType::BF16 => sys::cudaDataType_t::CUDA_R_16BF,
            DType::F16 => sys::cudaDataType_t::CUDA_R_16F,
            DType::F64 => sys::cudaDataType_t::CUDA_R_64F,
            // `Product::new` lets no other type through.
            _ => sys::cudaDataType_t::CUDA_R_32F,
        };
        let made = lt::create_matrix_layout(dtype, rows as u64, cols as u64, ld as i64)?;
        Ok(Self(made))
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: made by `new`, given up once.
        let _ = unsafe { lt::destroy_matrix_layout(self.0) };
    }
}

/// What the heuristic may choose from.
struct Preference(sys::cublasLtMatmulPreference_t);

impl Preference {
    fn new([out, a, b]: [u32; 3]) -> std::result::Result<Self, CublasError> {
        use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
        let made = Self(lt::create_matmul_pref()?);
        let workspace = WORKSPACE_BYTES as u64;
        let (value, size) = bytes_of(&workspace);
        let attribute = Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        // SAFETY: the attribute is a number of 64 bits.
        unsafe { lt::set_matmul_pref_attribute(made.0, attribute, value, size) }?;
        // Sums of parts are added in f32 or f64, not in the type of `out`.
        let reduction =
            sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
        let numbers = [
            (
                Attribute::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                reduction,
            ),
            // b comes first: see `product`.
            (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, b),
            (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, a),
            (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, out),
            (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, out),
        ];
        for (attribute, number) in numbers {
            let (value, size) = bytes_of(&number);
            // SAFETY: each of these attributes is a number of 32 bits.
            unsafe { lt::set_matmul_pref_attribute(made.0, attribute, value, size) }?;
        }
        Ok(made)
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: made by `new`, given up once.
        let _ = unsafe { lt::destroy_matmul_pref(self.0) };
    }
}

fn bytes_of<T>(value: &T) -> (*const c_void, usize) {
    (std::ptr::from_ref(value).cast(), size_of::<T>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;

    /// Different numbers that bf16 holds.
    fn numbers(rows: usize, cols: usize, seed: f64) -> Result<Tensor> {
        let values: Vec<f64> = (0..rows * cols)
            .map(|i| (i as f64 * 0.7 + seed).sin() + 0.1)
            .map(|x| f64::from(half::bf16::from_f64(x).to_f32()))
            .collect();
        Ok(Tensor::from_vec(values, (rows, cols), &Device::Cpu)?)
    }

    /// Every type, transpose and layout, beside the same product in f64 on the processor; where there is no GPU, nothing.
    #[test]
    fn a_gpus_products_are_the_processors() -> Result<()> {
        let Ok((device, _)) = crate::cuda::open(0) else {
            eprintln!("no GPU: nothing was compared");
            return Ok(());
        };
        let types = [
            (DType::BF16, DType::F32),
            (DType::BF16, DType::BF16),
            (DType::F32, DType::F32),
            (DType::F64, DType::F64),
        ];
        for (m, n, k) in [(5, 7, 123), (130, 210, 300), (1, 33, 4), (64, 1, 16)] {
            for (input, output) in types {
                for ta in [Op::Plain, Op::Transposed] {
                    for tb in [Op::Plain, Op::Transposed] {
                        for (beta, alpha) in [(0.0, 1.0), (1.0, -1.5), (0.5, 0.25)] {
                            let case = Case {
                                shape: (m, n, k),
                                types: (input, output),
                                ops: (ta, tb),
                                factors: (beta, alpha),
                            };
                            compare(&device, &case)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    #[derive(Debug)]
    struct Case {
        shape: (usize, usize, usize),
        types: (DType, DType),
        ops: (Op, Op),
        factors: (f64, f64),
    }

    fn compare(device: &Device, case: &Case) -> Result<()> {
        let ((m, n, k), (beta, alpha)) = (case.shape, case.factors);
        let stored = |op, rows, cols| {
            if op == Op::Plain {
                (rows, cols)
            } else {
                (cols, rows)
            }
        };
        let ((ar, ac), (br, bc)) = (stored(case.ops.0, m, k), stored(case.ops.1, k, n));
        let (a, b) = (numbers(ar, ac, 0.3)?, numbers(br, bc, 1.9)?);
        let mut expected = numbers(m, n, 2.5)?;

        // The operand a is a range of a wider matrix's columns, and out too; with beta = 0 it holds nothing to be read.
        let on_device = |t: &Tensor, dtype| t.to_dtype(dtype)?.to_device(device);
        let wide = on_device(&Tensor::cat(&[&numbers(ar, 3, 7.7)?, &a], 1)?, case.types.0)?;
        let b_there = on_device(&b, case.types.0)?;
        let held = if beta == 0.0 {
            (&expected * f64::NAN)?
        } else {
            expected.clone()
        };
        let wide_out = on_device(
            &Tensor::cat(&[&held, &numbers(m, 2, 5.5)?], 1)?,
            case.types.1,
        )?;
        let a_there = wide.narrow(1, 3, ac)?;
        let mut out = wide_out.narrow(1, 0, n)?;
        crate::gemm(
            &mut out, beta, alpha, &a_there, case.ops.0, &b_there, case.ops.1,
        )?;

        crate::gemm(&mut expected, beta, alpha, &a, case.ops.0, &b, case.ops.1)?;
        let found = wide_out.to_dtype(DType::F64)?.to_device(&Device::Cpu)?;
        let beside = found.narrow(1, n, 2)?.sub(&numbers(m, 2, 5.5)?)?;
        let worst = |t: &Tensor| t.abs()?.max_all()?.to_scalar::<f64>();
        assert_eq!(worst(&beside)?, 0.0, "{case:?} wrote beside its range");
        let difference = worst(&(found.narrow(1, 0, n)? - &expected)?)?;
        // A rounding of the result, and k roundings of the sum, whose terms are below 1.3.
        let of_result = if case.types.1 == DType::BF16 {
            2f64.powi(-8)
        } else {
            2f64.powi(-23)
        };
        let of_sum = if case.types.1 == DType::F64 {
            2f64.powi(-50)
        } else {
            2f64.powi(-22)
        };
        let bound = of_result * worst(&expected)? + of_sum * (k as f64) * 1.3;
        // Not a number is not within any bound.
        assert!(difference <= bound, "{case:?}: {difference} beyond {bound}");
        Ok(())
    }
}
