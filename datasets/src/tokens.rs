//! What the model reads: token ids, which of them teach, and how several
//! samples share one row of tokens. Plain vectors, no tensors.

/// One sample as tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokenized {
    /// The sample's id.
    pub id: String,
    /// The sample's number in its set. Dropout is keyed by it, so a sample has
    /// the same mask wherever packing puts it.
    pub sample: u64,
    /// The token ids, (T).
    pub input_ids: Vec<u32>,
    /// Whether token i is a target, that is, predicted from the tokens before
    /// it, (T). Never true for token 0, which nothing predicts.
    pub loss_mask: Vec<bool>,
}

impl Tokenized {
    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.input_ids.len()
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.input_ids.is_empty()
    }

    /// Number of tokens that teach.
    pub fn target_tokens(&self) -> usize {
        self.loss_mask.iter().filter(|&&target| target).count()
    }
}

/// A run of tokens of one sample inside a [`Pack`] or [`Batch`]. Rows of
/// different segments do not see each other, unless `prefix` says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Index of its first token.
    pub start: usize,
    /// Number of tokens.
    pub len: usize,
    /// The sample's number, as [`Tokenized::sample`].
    pub sample: u64,
    /// The earlier segment whose tokens come before this one's: every row here
    /// sees all of it, positions continue from its end, and its last row
    /// predicts this segment's first token. Several segments may share one
    /// prefix (several answers to one prompt).
    pub prefix: Option<usize>,
}

impl Segment {
    /// The indices of its tokens.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.start..self.start + self.len
    }
}

/// One or more samples in one row of tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pack {
    /// The token ids, (T).
    pub input_ids: Vec<u32>,
    /// As [`Tokenized::loss_mask`], (T). The first token of a segment is a
    /// target only where the segment has a prefix to predict it from.
    pub loss_mask: Vec<bool>,
    /// The position of each token, (T): from 0 in a segment without a prefix,
    /// else from the prefix's end.
    pub positions: Vec<u32>,
    /// The samples' runs, in order, covering all tokens.
    pub segments: Vec<Segment>,
}

impl Pack {
    /// A pack of one sample.
    pub fn single(sample: &Tokenized) -> Self {
        let mut pack = Pack::default();
        pack.push(sample);
        pack
    }

    /// Adds a sample as a segment of its own.
    pub fn push(&mut self, sample: &Tokenized) {
        self.push_segment(&sample.input_ids, &sample.loss_mask, sample.sample, None);
    }

    /// Adds tokens that come after segment `prefix` of this pack (`None`: after
    /// nothing), and returns the new segment's index. Without a prefix the
    /// first token is never a target, whatever `loss_mask` says.
    ///
    /// # Panics
    /// There are no tokens, the slices differ in length, or `prefix` is not an
    /// earlier segment that itself has no prefix: all mistakes of the caller.
    pub fn push_segment(
        &mut self,
        input_ids: &[u32],
        loss_mask: &[bool],
        sample: u64,
        prefix: Option<usize>,
    ) -> usize {
        assert!(!input_ids.is_empty(), "a segment has at least one token");
        assert_eq!(input_ids.len(), loss_mask.len(), "one mask entry a token");
        let first = prefix.map_or(0, |prefix| {
            let before = &self.segments[prefix];
            assert!(before.prefix.is_none(), "a prefix has no prefix of its own");
            before.len as u32
        });
        let start = self.input_ids.len();
        self.input_ids.extend_from_slice(input_ids);
        self.loss_mask.extend_from_slice(loss_mask);
        self.loss_mask[start] &= prefix.is_some();
        self.positions
            .extend((0..input_ids.len() as u32).map(|i| first + i));
        self.segments.push(Segment {
            start,
            len: input_ids.len(),
            sample,
            prefix,
        });
        self.segments.len() - 1
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.input_ids.len()
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.input_ids.is_empty()
    }

    /// Number of tokens that teach.
    pub fn target_tokens(&self) -> usize {
        self.loss_mask.iter().filter(|&&target| target).count()
    }
}

/// What one forward pass reads: packs laid one after another, with no padding.
/// The fields are those of [`Pack`], with segments counted over the batch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// The token ids, (T).
    pub input_ids: Vec<u32>,
    /// Which tokens are targets, (T).
    pub loss_mask: Vec<bool>,
    /// The position of each token, (T).
    pub positions: Vec<u32>,
    /// The samples' runs; `start` and `prefix` count over the whole batch.
    pub segments: Vec<Segment>,
}

impl Batch {
    /// Lays packs one after another.
    pub fn from_packs<'p>(packs: impl IntoIterator<Item = &'p Pack>) -> Self {
        let mut batch = Batch::default();
        for pack in packs {
            let tokens = batch.input_ids.len();
            let segments = batch.segments.len();
            batch.input_ids.extend_from_slice(&pack.input_ids);
            batch.loss_mask.extend_from_slice(&pack.loss_mask);
            batch.positions.extend_from_slice(&pack.positions);
            batch.segments.extend(pack.segments.iter().map(|s| Segment {
                start: s.start + tokens,
                prefix: s.prefix.map(|p| p + segments),
                ..*s
            }));
        }
        batch
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.input_ids.len()
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.input_ids.is_empty()
    }

    /// Number of tokens that teach: what a step's loss is divided by. Equal to
    /// the length of both lists of [`Batch::rows_with_targets`].
    pub fn target_tokens(&self) -> usize {
        self.loss_mask.iter().filter(|&&target| target).count()
    }

    /// The rows whose output is scored, and the token each must predict. Row i
    /// predicts token i + 1 of its segment; a segment's first token is
    /// predicted by the last row of its prefix. A row that ends a prefix shared
    /// by several segments is listed once for each.
    pub fn rows_with_targets(&self) -> (Vec<usize>, Vec<u32>) {
        let mut rows = Vec::new();
        let mut targets = Vec::new();
        for segment in &self.segments {
            for i in segment.range().filter(|&i| self.loss_mask[i]) {
                let row = match segment.prefix {
                    _ if i > segment.start => i - 1,
                    Some(prefix) => self.segments[prefix].range().end - 1,
                    None => continue,
                };
                rows.push(row);
                targets.push(self.input_ids[i]);
            }
        }
        (rows, targets)
    }
}
