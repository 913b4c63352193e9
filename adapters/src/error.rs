//! What can go wrong with weights and adapters, each with the tensor, file or setting it is about.

use crate::belonging::Difference;
use crate::hub::HubName;
use std::path::{Path, PathBuf};

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// Everything that reading, building, adapting and merging weights can refuse.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Nothing lies at the path.
    #[error("{} does not exist", path.display())]
    NotFound {
        /// The path as given.
        path: PathBuf,
    },
    /// A name of the Hugging Face Hub that is neither a folder nor in the hub's cache.
    #[error("{}", not_cached(name, cache, *partly))]
    NotCached {
        /// The name.
        name: HubName,
        /// The cache that was looked in.
        cache: PathBuf,
        /// Whether the cache holds some of its files.
        partly: bool,
    },
    /// A path that is neither a Hugging Face folder nor a GGUF file.
    #[error("{} is not a model: {why}", path.display())]
    NotAModel {
        /// The path as given.
        path: PathBuf,
        /// What is missing or wrong.
        why: String,
    },
    /// A folder whose only weights are pickled PyTorch files.
    #[error("{} holds only pickled weights ({file}), which medtune does not read", path.display())]
    OnlyBinWeights {
        /// The folder.
        path: PathBuf,
        /// The first such file.
        file: String,
    },
    /// A JSON file that does not parse.
    #[error("{} is not valid JSON: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why parsing stopped.
        source: serde_json::Error,
    },
    /// A file that ends before what its header promises.
    #[error("{} is truncated: it holds {found} bytes and its header promises {needed}", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Bytes that the header promises, at least.
        needed: u64,
        /// Bytes in the file.
        found: u64,
    },
    /// A safetensors or GGUF file that contradicts its own format.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Which rule of the format is broken, and where.
        reason: String,
    },
    /// One tensor name in two shards.
    #[error("tensor `{name}` is stored twice, in {first} and in {second}")]
    DuplicateTensor {
        /// The tensor.
        name: String,
        /// The shard read first.
        first: String,
        /// The shard read second.
        second: String,
    },
    /// An index that names a file that is not there.
    #[error("{} names the shard {shard}, which is not in the folder", index.display())]
    ShardMissing {
        /// The index file.
        index: PathBuf,
        /// The absent shard.
        shard: String,
    },
    /// An index that places a tensor in a shard that lacks it.
    #[error("{} places tensor `{tensor}` in {shard}, which does not hold it", index.display())]
    ShardLacks {
        /// The index file.
        index: PathBuf,
        /// The shard.
        shard: String,
        /// The tensor.
        tensor: String,
    },
    /// A tensor that the model needs and the weights lack.
    #[error("the weights have no tensor `{name}`")]
    MissingTensor {
        /// The tensor asked for.
        name: String,
        /// The stored name nearest to it.
        nearest: Option<String>,
    },
    /// A tensor whose shape is not the one that the configuration implies.
    #[error(
        "tensor `{name}` has shape {}, and the configuration needs {}",
        shape(found),
        shape(expected)
    )]
    Shape {
        /// The tensor.
        name: String,
        /// What was asked for.
        expected: Vec<usize>,
        /// What is stored.
        found: Vec<usize>,
    },
    /// A stored number format that cannot be computed with.
    #[error("tensor `{name}` is stored as {dtype}, which medtune does not compute with")]
    UnsupportedDtype {
        /// The tensor.
        name: String,
        /// The format's name.
        dtype: String,
    },
    /// A tensor that bitsandbytes has quantized in a way that is not read, or whose parts contradict each other.
    #[error("{}: tensor `{tensor}` {problem}", path.display())]
    Bitsandbytes {
        /// The folder.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A base that is to be quantized and is quantized.
    #[error("the base is quantized already: tensor `{name}` is stored as {dtype}")]
    AlreadyQuantized {
        /// The first such tensor.
        name: String,
        /// How it is stored.
        dtype: String,
    },
    /// A full fine-tune of weights that are to be quantized.
    #[error("tensor `{name}` is to be quantized, and quantized weights are not trained")]
    QuantizedUnderFull {
        /// The tensor.
        name: String,
    },
    /// A dtype that a model cannot be computed or written in.
    #[error("dtype {dtype} is not one of {choices}")]
    Dtype {
        /// What was asked for.
        dtype: String,
        /// What there is.
        choices: &'static str,
    },
    /// A GGUF container version other than 2 or 3.
    #[error("{} is GGUF version {version}; versions 2 and 3 are read", path.display())]
    GgufVersion {
        /// The file.
        path: PathBuf,
        /// The version in its header.
        version: u32,
    },
    /// A GGUF architecture that is not read.
    #[error("{} has the architecture `{architecture}`, which medtune does not read", path.display())]
    GgufArchitecture {
        /// The file.
        path: PathBuf,
        /// `general.architecture`.
        architecture: String,
    },
    /// A ggml block type that is not read.
    #[error("{}: tensor `{tensor}` has the ggml type {id}, which medtune does not read", path.display())]
    GgufType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The type's number in ggml.
        id: u32,
    },
    /// A GGUF tensor that has no place in the architecture.
    #[error("{}: tensor `{tensor}` has no place in a `{architecture}` model", path.display())]
    GgufTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// `general.architecture`.
        architecture: String,
    },
    /// A metadata key that is missing or has a value that is not supported.
    #[error("{}: metadata key `{key}` {problem}", path.display())]
    GgufKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A family of models that is not written as GGUF.
    #[error("model_type `{model_type}` is not one that medtune writes as GGUF")]
    GgufModelType {
        /// `model_type` of `config.json`.
        model_type: String,
    },
    /// A tensor of a checkpoint that a GGUF file of its architecture has no name for.
    #[error("tensor `{tensor}` has no place in a GGUF file of a `{architecture}` model")]
    GgufNoPlace {
        /// The tensor.
        tensor: String,
        /// `general.architecture`.
        architecture: String,
    },
    /// A part of an adapter that GGUF adapters cannot hold.
    #[error("a GGUF adapter has no place for {what}, which this adapter has")]
    GgufLora {
        /// The part.
        what: &'static str,
    },
    /// A setting of a `config.json` that cannot be used.
    #[error("config.json: `{key}` {problem}")]
    ConfigKey {
        /// The setting.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Rotary divisors that no supported scaling gives.
    #[error("{}: the divisors in `rope_freqs.weight` are not those of Llama 3's rotary scaling", path.display())]
    RopeDivisors {
        /// The file.
        path: PathBuf,
    },
    /// A target module that no linear layer of the model answers to.
    #[error("target module `{target}` matches no linear layer of this model")]
    TargetMatchesNothing {
        /// The target as written.
        target: String,
        /// The module name nearest to it.
        nearest: Option<String>,
        /// The last parts of the names of the layers there are.
        available: Vec<String>,
    },
    /// A target module that exists and cannot carry an adapter here.
    #[error("target module `{target}` cannot be adapted: {why}")]
    TargetUnsupported {
        /// The target as written.
        target: String,
        /// Why not.
        why: &'static str,
    },
    /// A module to save that the model lacks.
    #[error(
        "module to save `{name}` matches no embedding, head, norm or linear layer of this model"
    )]
    SavedMatchesNothing {
        /// The name as written.
        name: String,
        /// The module name nearest to it.
        nearest: Option<String>,
        /// The last parts of the names of the modules there are.
        available: Vec<String>,
    },
    /// A row of a weight that has no direction.
    #[error(
        "row {row} of `{module}.weight` with its update is all zeros, and DoRA needs its direction"
    )]
    ZeroRow {
        /// The module.
        module: String,
        /// The row.
        row: usize,
    },
    /// An adapter with an embedding and an output head that differ, over a base that shares one table.
    #[error(
        "the adapter parts the output head from the embedding, which are one table in this base"
    )]
    AdapterUnties,
    /// A LoRA setting outside its range.
    #[error("LoRA setting `{key}` is {value}: {rule}")]
    LoraSetting {
        /// The setting.
        key: &'static str,
        /// Its value.
        value: String,
        /// What it must be.
        rule: &'static str,
    },
    /// A PEFT setting that changes the mathematics in a way that is not supported.
    #[error("{} sets `{key}` to {value}, which medtune does not support", path.display())]
    AdapterSetting {
        /// The adapter's `adapter_config.json`.
        path: PathBuf,
        /// The setting.
        key: String,
        /// Its value, as JSON.
        value: String,
    },
    /// A tensor in an adapter file that its settings do not account for.
    #[error("{}: `{key}` is no tensor of the adapter that its settings describe", path.display())]
    AdapterKey {
        /// The adapter's weights file.
        path: PathBuf,
        /// The tensor.
        key: String,
    },
    /// One of the two matrices of a pair is missing.
    #[error("{}: module `{module}` lacks `{missing}`", path.display())]
    AdapterPair {
        /// The adapter's weights file.
        path: PathBuf,
        /// The module.
        module: String,
        /// `lora_A.weight`, `lora_B.weight` or `lora_magnitude_vector`.
        missing: &'static str,
    },
    /// A matrix whose rank is not the configuration's.
    #[error("{}: `{key}` has shape {}, and the adapter's rank is {rank}", path.display(), shape(found))]
    AdapterRank {
        /// The adapter's weights file.
        path: PathBuf,
        /// The tensor.
        key: String,
        /// `r` in `adapter_config.json`.
        rank: usize,
        /// The stored shape.
        found: Vec<usize>,
    },
    /// A pair in which A has B's shape and B has A's.
    #[error("{}: module `{module}` has lora_A and lora_B swapped (A is {}, B is {})", path.display(), shape(a), shape(b))]
    AdapterSwapped {
        /// The adapter's weights file.
        path: PathBuf,
        /// The module.
        module: String,
        /// Shape stored as A.
        a: Vec<usize>,
        /// Shape stored as B.
        b: Vec<usize>,
    },
    /// A NaN or an infinity where a number must be.
    #[error("tensor `{name}` holds a value that is not finite (element {element})")]
    NotFinite {
        /// The tensor.
        name: String,
        /// Index of the first such element, counted row by row.
        element: usize,
    },
    /// An adapter without a single pair.
    #[error("{} holds no LoRA matrices", path.display())]
    AdapterEmpty {
        /// The adapter's weights file.
        path: PathBuf,
    },
    /// An adapter module that the base model lacks.
    #[error("the adapter was made for a module `{module}`, which this base does not have")]
    AdapterModule {
        /// The module.
        module: String,
        /// The nearest module of the base.
        nearest: Option<String>,
    },
    /// An adapter matrix that does not fit its base weight.
    #[error(
        "adapter tensor `{key}` has shape {}, and this base needs {}",
        shape(found),
        shape(expected)
    )]
    AdapterShape {
        /// The tensor.
        key: String,
        /// What the base weight needs.
        expected: Vec<usize>,
        /// What the adapter holds.
        found: Vec<usize>,
    },
    /// An adapter on a base that it was not trained on.
    #[error("the adapter was trained on another base: {}", list(differences))]
    WrongBase {
        /// How the base that it was trained on is called.
        made_for: Option<String>,
        /// Everything that differs.
        differences: Vec<Difference>,
    },
    /// Training is asked to go on from an adapter that was made with another setting.
    #[error(
        "the adapter to start from has {key} = {adapter}, and this run asks for {key} = {asked}"
    )]
    AdapterDiffers {
        /// The setting.
        key: &'static str,
        /// Its value in the adapter.
        adapter: String,
        /// Its value in this run.
        asked: String,
    },
    /// A full fine-tune is asked to start from an unmerged adapter.
    #[error("a full fine-tune cannot start from an adapter")]
    AdapterUnderFull,
    /// One parameter name was registered twice.
    #[error("parameter `{name}` is registered twice")]
    DuplicateParameter {
        /// The parameter.
        name: String,
    },
    /// Weights and parameters of different models.
    #[error("parameter `{name}` has no tensor in the base it is to be written over")]
    ParameterWithoutTensor {
        /// The parameter.
        name: String,
    },
    /// A model is to be written over the one that it is made from.
    #[error("{} is the base model itself", path.display())]
    OutputIsBase {
        /// The folder.
        path: PathBuf,
    },
    /// A value too large for the chosen output format.
    #[error("tensor `{name}` holds {value}, beyond the largest {dtype} number")]
    Overflow {
        /// The tensor.
        name: String,
        /// The value.
        value: f32,
        /// The output format.
        dtype: String,
    },
    /// An adapter that cannot be taken out of a merged model.
    #[error("the adapter cannot be subtracted: {why}")]
    NotSubtractable {
        /// Why its merge cannot be undone.
        why: &'static str,
    },
    /// A merged model that is not what base and adapter say.
    #[error("the merged weights are not base + adapter: {}", .problems.join("; "))]
    ProofFailed {
        /// Each tensor that differs, and how.
        problems: Vec<String>,
    },
    /// Combining, extracting or resizing adapters was refused.
    #[error(transparent)]
    Algebra(Box<crate::AlgebraError>),
    /// An operation on tensors failed.
    #[error(transparent)]
    Kernel(#[from] kernels::Error),
    /// candle failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
    /// Writing or hashing files failed.
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
}

impl Error {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Error::Io { path, source }
    }
}

fn list(differences: &[Difference]) -> String {
    let shown: Vec<String> = differences.iter().map(Difference::to_string).collect();
    shown.join("; ")
}

fn not_cached(name: &HubName, cache: &Path, partly: bool) -> String {
    let cache = cache.display();
    if partly {
        format!("the Hugging Face cache {cache} holds only a part of `{name}`")
    } else {
        format!("there is no folder `{name}`, and no such model in the Hugging Face cache {cache}")
    }
}

/// `(2, 3)`.
fn shape(dims: &[usize]) -> String {
    let inner: Vec<String> = dims.iter().map(usize::to_string).collect();
    format!("({})", inner.join(", "))
}

/// The candidate that `name` is most likely a misspelling of.
pub(crate) fn nearest<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    candidates
        .into_iter()
        .map(|c| (strsim::normalized_damerau_levenshtein(name, c), c))
        .filter(|(score, _)| *score >= 0.6)
        .max_by(|a, b| a.0.total_cmp(&b.0).then_with(|| b.1.cmp(a.1)))
        .map(|(_, c)| c.to_owned())
}
