//! Where a tensor's bytes lie, and which of them are in memory.

use crate::mapped::MappedFile;
use crate::weights::Source;
use crate::{Result, WeightView, Weights};
use candle_core::DType;
use kernels::Bytes;
use safetensors::tensor::Dtype;
use std::path::Path;

impl Weights {
    /// All tensors as they follow one another in their files, which is the order to read them in.
    pub(crate) fn views_in_file_order(&self) -> Vec<&WeightView> {
        let mut views: Vec<&WeightView> = self.views().collect();
        views.sort_by_key(|view| view.position());
        views
    }

    /// Lets go of the memory that reading tensors whose names begin so has filled.
    pub fn release(&self, prefix: &str) {
        let of_prefix = |view: &&WeightView| view.name.starts_with(prefix);
        self.views().filter(of_prefix).for_each(WeightView::release);
    }
}

impl WeightView {
    /// A safetensors tensor's stored bytes.
    pub(crate) fn plain(&self) -> Option<(&[u8], Dtype)> {
        match &self.source {
            Source::Plain { bytes, dtype, .. } => Some((bytes.as_slice(), *dtype)),
            _ => None,
        }
    }

    /// The bytes in the mapped file, where the tensor lies in one.
    pub(crate) fn mapped(&self) -> Option<&Bytes> {
        match &self.source {
            Source::Plain { bytes, .. } | Source::Ggml { bytes, .. } => Some(bytes),
            Source::ToNf4(view) => view.mapped(),
            Source::Random { .. } | Source::Nf4 { .. } => None,
        }
    }

    /// The file of [`Self::mapped`].
    pub(crate) fn file(&self) -> Option<&MappedFile> {
        match &self.source {
            Source::Plain { file, .. } | Source::Ggml { file, .. } => Some(file),
            Source::ToNf4(view) => view.file(),
            Source::Random { .. } | Source::Nf4 { .. } => None,
        }
    }

    /// Bytes that the tensor takes where it lies.
    pub(crate) fn stored_bytes(&self) -> u64 {
        self.mapped()
            .map_or_else(|| self.size_bytes(), |bytes| bytes.len() as u64)
    }

    /// Whether rows can be read one after another, without the rest of the tensor.
    pub(crate) fn in_order(&self) -> bool {
        !matches!(
            self.source,
            Source::Ggml { heads: Some(_), .. } | Source::ToNf4(_)
        )
    }

    /// The file, and the first byte in it; nothing for what lies in none.
    fn position(&self) -> Option<(&Path, usize)> {
        match &self.source {
            Source::Plain { bytes, file, .. } | Source::Ggml { bytes, file, .. } => {
                Some((file.path(), file.offset_of(bytes.as_slice())?))
            }
            Source::ToNf4(view) => view.position(),
            Source::Random { .. } | Source::Nf4 { .. } => None,
        }
    }

    /// The bytes that identify the tensor: those of the file, or those that a file of it would hold.
    pub(crate) fn with_bytes<R>(&self, f: impl FnOnce(&[u8]) -> R) -> Result<R> {
        match &self.source {
            Source::Plain { bytes, .. } | Source::Ggml { bytes, .. } => Ok(f(bytes.as_slice())),
            Source::Random { init, seed, dtype } => Ok(f(&self.generate(*init, *seed, *dtype)?)),
            Source::Nf4 { nf4, .. } => Ok(f(&nf4.all_bytes())),
            Source::ToNf4(view) => view.with_bytes(f),
        }
    }

    /// Whether [`Self::with_bytes`] gives the numbers of a safetensors file in that dtype, in its row order.
    pub(crate) fn bytes_are(&self, dtype: DType) -> bool {
        self.float_dtype() == Some(dtype)
            && !matches!(self.source, Source::Ggml { heads: Some(_), .. })
    }

    /// Lets go of the memory that reading this tensor has filled, once it has been copied or is not needed for a while:
    /// it is read again if it is asked for again.
    pub(crate) fn release(&self) {
        if let Some(bytes) = self.mapped() {
            self.release_bytes(bytes.as_slice());
        }
    }

    /// As [`Self::release`], of some of its bytes.
    pub(crate) fn release_bytes(&self, bytes: &[u8]) {
        match &self.source {
            Source::Plain { file, .. } | Source::Ggml { file, .. } => file.release(bytes),
            Source::ToNf4(view) => view.release_bytes(bytes),
            Source::Random { .. } | Source::Nf4 { .. } => {}
        }
    }
}
