//! Named tensors of a model, wherever they come from: a Hugging Face folder, a GGUF file, or a seed.
//!
//! A stored tensor stays where it is: a [`WeightView`] knows its name, shape and bytes in the mapped file, and becomes
//! a matrix that computes straight from those bytes, or a tensor of its own, when asked.

use crate::error::nearest;
use crate::gguf::{self, GgufMetadata};
use crate::mapped::MappedFile;
use crate::random::Stream;
use crate::{Error, Result, bitsandbytes, encode, folder};
use candle_core::{DType, Tensor};
use kernels::{Bytes, GgmlType, Matrix, Nf4};
use safetensors::tensor::Dtype;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// How a fresh tensor is filled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Normal numbers of mean 0.
    Normal {
        /// Standard deviation.
        std: f64,
    },
    /// All one, as norms start.
    Ones,
    /// All zero, as biases start.
    Zeros,
}

/// A tensor of a model that is made from a seed.
#[derive(Clone, Debug)]
pub struct TensorSpec {
    /// Checkpoint name, with `.weight` or `.bias`.
    pub name: String,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    /// How it is filled.
    pub init: Init,
}

/// A model's named tensors and its configuration.
pub struct Weights {
    config: Value,
    tensors: BTreeMap<String, WeightView>,
    metadata: Option<GgufMetadata>,
    origin: Option<PathBuf>,
}

/// One tensor of a [`Weights`], not yet read.
#[derive(Clone)]
pub struct WeightView {
    /// Checkpoint name.
    pub name: String,
    /// Outermost dimension first: (out, in) for a linear layer.
    pub shape: Vec<usize>,
    pub(crate) source: Source,
}

#[derive(Clone)]
pub(crate) enum Source {
    Plain {
        bytes: Bytes,
        dtype: Dtype,
        file: MappedFile,
    },
    Ggml {
        bytes: Bytes,
        kind: GgmlType,
        heads: Option<usize>,
        file: MappedFile,
    },
    Random {
        init: Init,
        seed: u64,
        dtype: DType,
    },
    Nf4 {
        nf4: Nf4,
        /// What it was quantized from.
        dtype: DType,
    },
    /// To be quantized when it is read.
    ToNf4(Box<WeightView>),
}

impl Weights {
    /// Opens a Hugging Face folder or a GGUF file. Headers are read and checked, tensors are only mapped.
    pub fn open(path: &Path) -> Result<Self> {
        let kind = std::fs::metadata(path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::NotFound { path: path.into() },
            _ => Error::Io {
                path: path.into(),
                source: e,
            },
        })?;
        if kind.is_dir() {
            Self::open_folder(path)
        } else if path.extension().is_some_and(|e| e == "safetensors") {
            Err(Error::NotAModel {
                path: path.into(),
                why: "it is one file of a folder; give the folder".into(),
            })
        } else {
            Self::open_gguf(path)
        }
    }

    fn open_folder(path: &Path) -> Result<Self> {
        let mut stored = folder::open(path)?;
        let mut config = folder::read_json(&path.join("config.json"))?;
        if !config.is_object() {
            return Err(Error::NotAModel {
                path: path.into(),
                why: "its config.json is not an object".into(),
            });
        }
        let quantized = bitsandbytes::take_quantized(path, &mut config, &mut stored)?;
        let view = |(name, t): (String, crate::safetensors_file::Stored)| {
            let source = Source::Plain {
                bytes: t.bytes,
                dtype: t.dtype,
                file: t.file,
            };
            (
                name.clone(),
                WeightView {
                    name,
                    shape: t.shape,
                    source,
                },
            )
        };
        let quantized = quantized.into_iter().map(|view| (view.name.clone(), view));
        let tensors = stored.into_iter().map(view).chain(quantized).collect();
        Ok(Self {
            config,
            tensors,
            metadata: None,
            origin: Some(path.into()),
        })
    }

    fn open_gguf(path: &Path) -> Result<Self> {
        let file = gguf::open(path)?;
        let config = gguf::config(path, &file)?;
        let tensors = gguf::views(path, &file, &config)?;
        Ok(Self {
            config,
            tensors,
            metadata: Some(file.metadata),
            origin: Some(path.into()),
        })
    }

    /// Fresh weights from a configuration and a seed. They are made when asked for, in the configuration's dtype
    /// (`dtype` or `torch_dtype`: bfloat16 or float16; else float32), each the same whatever else is made before it.
    pub fn random(config: Value, specs: Vec<TensorSpec>, seed: u64) -> Self {
        let dtype = match config
            .get("dtype")
            .or(config.get("torch_dtype"))
            .and_then(Value::as_str)
        {
            Some("bfloat16") => DType::BF16,
            Some("float16") => DType::F16,
            _ => DType::F32,
        };
        let view = |spec: TensorSpec| {
            let source = Source::Random {
                init: spec.init,
                seed,
                dtype,
            };
            (
                spec.name.clone(),
                WeightView {
                    name: spec.name,
                    shape: spec.shape,
                    source,
                },
            )
        };
        Self {
            config,
            tensors: specs.into_iter().map(view).collect(),
            metadata: None,
            origin: None,
        }
    }

    /// The Hugging Face `config.json`; for a GGUF file, one made from its metadata.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// Tensor names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The tensor of this name.
    pub fn view(&self, name: &str) -> Result<WeightView> {
        self.tensors
            .get(name)
            .cloned()
            .ok_or_else(|| Error::MissingTensor {
                name: name.into(),
                nearest: nearest(name, self.names()),
            })
    }

    /// The tensor of this name, which must have this shape.
    pub fn view_shaped(&self, name: &str, shape: &[usize]) -> Result<WeightView> {
        let view = self.view(name)?;
        if view.shape != shape {
            return Err(Error::Shape {
                name: name.into(),
                expected: shape.into(),
                found: view.shape,
            });
        }
        Ok(view)
    }

    /// All tensors, sorted by name.
    pub fn views(&self) -> impl Iterator<Item = &WeightView> {
        self.tensors.values()
    }

    /// The same weights with each tensor changed.
    pub(crate) fn map_views(
        mut self,
        change: impl Fn(WeightView) -> Result<WeightView>,
    ) -> Result<Self> {
        let changed = |(name, view)| Ok((name, change(view)?));
        self.tensors = self
            .tensors
            .into_iter()
            .map(changed)
            .collect::<Result<_>>()?;
        Ok(self)
    }

    /// The metadata, for a GGUF file.
    pub fn gguf(&self) -> Option<&GgufMetadata> {
        self.metadata.as_ref()
    }

    /// The Hugging Face folder that the weights lie in, if they lie in one.
    pub fn folder(&self) -> Option<&Path> {
        match self.metadata {
            None => self.origin.as_deref(),
            Some(_) => None,
        }
    }

    /// The folder or file as given to [`Weights::open`].
    pub fn path(&self) -> Option<&Path> {
        self.origin.as_deref()
    }
}

impl WeightView {
    /// A tensor of a GGUF file; `heads` undoes llama.cpp's row permutation.
    pub(crate) fn ggml(
        name: String,
        shape: Vec<usize>,
        bytes: Bytes,
        kind: GgmlType,
        heads: Option<usize>,
        file: MappedFile,
    ) -> Self {
        let source = Source::Ggml {
            bytes,
            kind,
            heads,
            file,
        };
        Self {
            name,
            shape,
            source,
        }
    }

    /// How its numbers are stored: `F32`, `BF16`, `Q4_1`, `I64`.
    pub fn dtype_name(&self) -> String {
        match &self.source {
            Source::Plain { dtype, .. } => format!("{dtype:?}"),
            Source::Ggml { kind, .. } => kind.name().into(),
            Source::Random { dtype, .. } => format!("{dtype:?}"),
            Source::Nf4 { .. } | Source::ToNf4(_) => "NF4".into(),
        }
    }

    /// The dtype, where it is one that computes without unpacking.
    pub fn float_dtype(&self) -> Option<DType> {
        match &self.source {
            Source::Plain { dtype, .. } => encode::float_dtype(*dtype),
            Source::Ggml {
                kind: GgmlType::F32,
                ..
            } => Some(DType::F32),
            Source::Ggml {
                kind: GgmlType::F16,
                ..
            } => Some(DType::F16),
            Source::Ggml {
                kind: GgmlType::BF16,
                ..
            } => Some(DType::BF16),
            Source::Ggml { .. } | Source::Nf4 { .. } | Source::ToNf4(_) => None,
            Source::Random { dtype, .. } => Some(*dtype),
        }
    }

    /// Whether its numbers can be computed with at all.
    pub fn is_float(&self) -> bool {
        !matches!(self.source, Source::Plain { .. }) || self.float_dtype().is_some()
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// A matrix that reads the stored bytes where they are. The tensor must have two dimensions.
    pub fn matrix(&self) -> Result<Matrix> {
        match self.shape[..] {
            [rows, columns] => self.matrix_of(rows, columns),
            _ => Err(Error::Shape {
                name: self.name.clone(),
                expected: vec![0, 0],
                found: self.shape.clone(),
            }),
        }
    }

    /// The tensor as `rows` × `columns`, its innermost dimension within a row.
    pub(crate) fn matrix_of(&self, rows: usize, columns: usize) -> Result<Matrix> {
        Ok(match &self.source {
            Source::Plain { bytes, .. } | Source::Ggml { bytes, .. } => {
                self.matrix_in(bytes, rows, columns)?
            }
            Source::Random { init, seed, dtype } => Matrix::mapped(
                Bytes::from_vec(self.generate(*init, *seed, *dtype)?),
                *dtype,
                rows,
                columns,
            )?,
            Source::Nf4 { nf4, .. } => Matrix::nf4(nf4.clone(), rows, columns)?,
            Source::ToNf4(view) => view.to_nf4(rows, columns)?,
        })
    }

    /// A matrix of these bytes, which are stored as the tensor is: all of it, or some of its rows where they lie
    /// [in order](Self::in_order).
    pub(crate) fn matrix_in(&self, bytes: &Bytes, rows: usize, columns: usize) -> Result<Matrix> {
        let bytes = bytes.clone();
        Ok(match (&self.source, self.float_dtype()) {
            (Source::Ggml { kind, heads, .. }, _) => {
                Matrix::ggml(bytes, *kind, rows, columns, *heads)?
            }
            (Source::Plain { .. }, Some(dtype)) => Matrix::mapped(bytes, dtype, rows, columns)?,
            _ => {
                return Err(Error::UnsupportedDtype {
                    name: self.name.clone(),
                    dtype: self.dtype_name(),
                });
            }
        })
    }

    /// Rows and columns that [`Self::matrix_of`] takes for a tensor of any number of dimensions.
    pub(crate) fn rows_and_columns(&self) -> (usize, usize) {
        match (&self.source, &self.shape[..]) {
            // llama.cpp permutes a bias as a column.
            (Source::Ggml { heads: Some(_), .. }, [n]) => (*n, 1),
            (_, [rows @ .., columns]) => (rows.iter().product(), *columns),
            (_, []) => (1, 1),
        }
    }

    /// A tensor of its own, converted to `dtype`.
    pub fn tensor(&self, dtype: DType) -> Result<Tensor> {
        let (rows, columns) = self.rows_and_columns();
        Ok(self
            .matrix_of(rows, columns)?
            .to_tensor(dtype)?
            .reshape(self.shape.as_slice())?)
    }

    /// Makes a random tensor's bytes, in parallel, in pieces that do not depend on the number of threads.
    pub(crate) fn generate(&self, init: Init, seed: u64, dtype: DType) -> Result<Vec<u8>> {
        use rayon::prelude::*;
        const PIECE: usize = 1 << 16;
        let (count, width) = (self.elements(), dtype.size_in_bytes());
        let mut bytes = vec![0u8; count * width];
        let stream = Stream::new(seed, &self.name);
        bytes
            .par_chunks_mut(PIECE * width)
            .enumerate()
            .try_for_each(|(piece, out)| {
                let mut values = vec![0f32; out.len() / width];
                match init {
                    Init::Normal { std } => stream.normals(piece * PIECE, std, &mut values),
                    Init::Ones => values.fill(1.0),
                    Init::Zeros => {}
                }
                encode::encode(&self.name, &values, dtype, out)
            })?;
        Ok(bytes)
    }
}
