//! One table that is the embedding and the output head.

use super::{Builder, Embedding};
use crate::peft::module_of;
use crate::{Error, ParamId, ParameterKind, Result};
use kernels::Matrix;

impl Builder<'_> {
    /// The embedding of this checkpoint name and the output head `head`, which share one table.
    ///
    /// Naming either in `modules_to_save` trains the table, for both. An adapter of PEFT's may part them (it does unless
    /// `ensure_weight_tying` is set): such a one is read, and not trained.
    pub fn tied_embedding(
        &mut self,
        name: &str,
        head: &str,
        vocab: usize,
        dim: usize,
    ) -> Result<(Embedding, Embedding)> {
        let modules = [module_of(name), module_of(head)];
        self.tables.extend(modules.map(String::from));
        let base = self.weights.view_shaped(name, &[vocab, dim])?;
        let trained = self.trains_any(&modules);
        self.check_same_saved(&modules, trained)?;
        let of_embedding = self.saved_tensor(name, &[vocab, dim])?;
        let of_head = self.saved_tensor(head, &[vocab, dim])?;
        let part = |saved: Option<_>| match saved {
            Some(table) => Ok(Matrix::dense(table)),
            None => self.frozen(&base),
        };
        if let Some(adapter) = &self.adapter
            && !adapter.keeps_tied(name, head)?
        {
            if trained {
                return Err(Error::AdapterUnties);
            }
            return Ok((
                table(part(of_embedding)?, None),
                table(part(of_head)?, None),
            ));
        }
        let saved = of_embedding.or(of_head);
        let (matrix, param) = if trained {
            let (value, param) = self.trained_matrix(&base, saved, ParameterKind::TiedTable)?;
            (Matrix::dense(value), Some(param))
        } else {
            (part(saved)?, None)
        };
        Ok((table(matrix.clone(), param), table(matrix, param)))
    }
}

fn table(matrix: Matrix, param: Option<ParamId>) -> Embedding {
    Embedding { matrix, param }
}
