//! What combining, extracting and resizing refuse.

use super::CombineMethod;

/// What combining, extracting and resizing adapters refuse, by adapter, module and setting.
#[derive(Debug, thiserror::Error)]
pub enum AlgebraError {
    /// Fewer than two adapters to combine.
    #[error("there is nothing to combine: {given} of at least 2 adapters given")]
    TooFew {
        /// How many were given.
        given: usize,
    },
    /// Not one weight for each adapter.
    #[error("there are {adapters} adapters, and weights given: {weights}")]
    Weights {
        /// Weights given.
        weights: usize,
        /// Adapters given.
        adapters: usize,
    },
    /// A weight that is no number.
    #[error("weight {position} is {value}, which is not a finite number")]
    Weight {
        /// Counted from 1.
        position: usize,
        /// The weight.
        value: f64,
    },
    /// A method that prunes needs a density in (0, 1]; the others take none.
    #[error("method {method} {}", match density {
        Some(d) if method.prunes() => format!("cannot keep a share of {d} of the numbers"),
        Some(_) => "prunes nothing, and a density is given".into(),
        None => "needs a density".into(),
    })]
    Density {
        /// The method.
        method: CombineMethod,
        /// The density given.
        density: Option<f64>,
    },
    /// A rank for a method whose result has the rank that it has.
    #[error("method {method} takes no rank")]
    Rank {
        /// The method.
        method: CombineMethod,
    },
    /// DoRA's update depends on the base, and is no product of two factors.
    #[error("adapter `{adapter}` is a DoRA, whose update is not a product of two factors")]
    Dora {
        /// The adapter.
        adapter: String,
    },
    /// A method that goes through A and B number by number needs them of one shape.
    #[error(
        "method {method} needs adapters of one rank; `{first}` has {first_rank} and `{second}` {second_rank}"
    )]
    RanksDiffer {
        /// The method.
        method: CombineMethod,
        /// One adapter.
        first: String,
        /// Its rank.
        first_rank: usize,
        /// Another.
        second: String,
        /// Its rank.
        second_rank: usize,
    },
    /// Two adapters shape one module differently.
    #[error(
        "module `{module}` is {first_shape} in `{first}` and {second_shape} in `{second}` (out × in)"
    )]
    ShapesDiffer {
        /// The module.
        module: String,
        /// One adapter.
        first: String,
        /// `out × in` there.
        first_shape: String,
        /// Another.
        second: String,
        /// `out × in` there.
        second_shape: String,
    },
    /// Adapters of different bases or tokenizers.
    #[error(
        "`{first}` and `{second}` were trained on different {what}s ({first_hash} and {second_hash})"
    )]
    Belonging {
        /// `base` or `tokenizer`.
        what: &'static str,
        /// One adapter.
        first: String,
        /// Its base's fingerprint, cut.
        first_hash: String,
        /// Another.
        second: String,
        /// Its base's fingerprint, cut.
        second_hash: String,
    },
    /// Tensors saved whole that cannot be combined.
    #[error("`{name}`, which `{adapter}` saves whole, cannot be combined: {why}")]
    Saved {
        /// The adapter.
        adapter: String,
        /// The tensor's name in a checkpoint.
        name: String,
        /// Why not.
        why: &'static str,
    },
    /// More rank than a matrix has.
    #[error("rank {rank} is more than module `{module}` ({out} × {inner}) has")]
    RankTooLarge {
        /// The rank asked for.
        rank: usize,
        /// The module.
        module: String,
        /// Its rows.
        out: usize,
        /// Its columns.
        inner: usize,
    },
    /// A tensor that one of the two models lacks.
    #[error("tensor `{name}` is in the {has} model and not in the {lacks} one")]
    OnlyInOne {
        /// The tensor.
        name: String,
        /// `base` or `tuned`.
        has: &'static str,
        /// The other.
        lacks: &'static str,
    },
    /// A tensor of two shapes.
    #[error("tensor `{name}` has shape {base} in the base model and {tuned} in the tuned one{}",
        if *vocabulary { ": their vocabularies differ in size" } else { "" })]
    TunedShape {
        /// The tensor.
        name: String,
        /// Its shape in the base.
        base: String,
        /// Its shape in the tuned model.
        tuned: String,
        /// Whether it has a row for each token.
        vocabulary: bool,
    },
    /// A NaN or an infinity in one of two models.
    #[error(
        "tensor `{name}` of the {model} model holds a value that is not finite (element {element})"
    )]
    NotFinite {
        /// `base` or `tuned`.
        model: &'static str,
        /// The tensor.
        name: String,
        /// Index of the first such element, counted row by row.
        element: usize,
    },
    /// A number that the result's format has no room for.
    #[error("tensor `{name}` would hold {value:e}, beyond the largest {dtype} number")]
    Overflow {
        /// The tensor.
        name: String,
        /// The number.
        value: f64,
        /// The format.
        dtype: &'static str,
    },
    /// Two models without a difference that the targets could carry.
    #[error("no target module differs between the two models")]
    NothingDiffers,
}

impl From<AlgebraError> for crate::Error {
    fn from(error: AlgebraError) -> Self {
        Self::Algebra(Box::new(error))
    }
}

impl AlgebraError {
    /// What the person who reads the message can do about it.
    pub(crate) fn hint(&self) -> String {
        match self {
            Self::TooFew { .. } => "name two or more adapters after the output folder".into(),
            Self::Weights { .. } => "give one weight for each adapter, in their order: --weights 0.7,0.3".into(),
            Self::Weight { .. } => "weights may be negative or zero, which takes an update away or leaves it out".into(),
            Self::Density { method, density } => match density {
                Some(_) if !method.prunes() => "leave --density out".into(),
                _ => "--density is the share of the numbers that is kept, above 0 and at most 1: TIES was published with 0.2, \
                      DARE with 0.1 and more".into(),
            },
            Self::Rank { .. } => "leave --rank out; `medtune adapter resize` changes the rank of the result".into(),
            Self::Dora { .. } => {
                "merge each into the base, combine the models, and extract a LoRA with `medtune adapter extract`".into()
            }
            Self::RanksDiffer { .. } => {
                "bring them to one rank with `medtune adapter resize`, or use --method linear, which takes any".into()
            }
            Self::ShapesDiffer { .. } => "the adapters belong to different base models".into(),
            Self::Belonging { .. } => "--force combines them all the same, and the manifest says so".into(),
            Self::Saved { .. } => {
                "whole tensors are combined by --method linear where every adapter has them and the weights add up to 1; else \
                 merge each adapter into the base and combine the models".into()
            }
            Self::RankTooLarge { out, inner, .. } => {
                format!("ask for at most {}, or leave the module out", out.min(inner))
            }
            Self::OnlyInOne { .. } => "is the one model tuned from the other?".into(),
            Self::TunedShape { vocabulary: true, .. } => {
                "tokens were added in tuning, which a LoRA cannot carry: bring the base's tables to the same size first".into()
            }
            Self::TunedShape { .. } => "is the one model tuned from the other?".into(),
            Self::NotFinite { .. } => "the model is damaged, or its training diverged: use an earlier checkpoint".into(),
            Self::Overflow { .. } => "give smaller weights".into(),
            Self::NothingDiffers => {
                "check which folders were given; --target-modules names the layers, and --save-rest keeps the others' changes".into()
            }
        }
    }
}
