//! The command line.

mod files;
mod merge;

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;

use crate::commands::adapter::args::{AdapterCommand, EXAMPLES as ADAPTER_EXAMPLES};
use crate::commands::gpu_check::args::GpuCheckArgs;

pub use files::{ConvertArgs, ExportArgs, LogitsArgs, WeightType};
pub use merge::{MergeArgs, MergeFlags, VerifyArgs};

/// The version with the commit, as `--version` prints it.
pub const VERSION: &str = env!("MEDTUNE_VERSION");

const EXAMPLES: &str = "\
Examples:
  medtune run recipes/quickstart.toml            all stages of a recipe, into runs/quickstart
  medtune run RECIPE --set train.epochs=1        with one setting changed
  medtune check RECIPE                           every problem of a recipe, before anything runs
  medtune show RECIPE --sample 3                 its settings, and three of its samples
  medtune recipes list                           the recipes that come with medtune

Exit codes: 0 done; 1 an [[expect]] of the recipe is not met; 2 a problem in what was given;
3 a defect or a failing machine; 4 stopped, and the same command goes on from there.";

/// Tunes Llama-family models for medicine: builds the data, trains, merges and evaluates, as a recipe says.
#[derive(Debug, Parser)]
#[command(name = "medtune", version = VERSION, after_help = EXAMPLES, max_term_width = 100)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
    /// Prints the result as JSON on stdout
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs every stage of a recipe: data, training, merge, evaluation
    ///
    /// A stage whose inputs and settings have not changed since it last ran is not run again.
    #[command(after_help = "\
Examples:
  medtune run recipes/quickstart.toml
  medtune run recipes/smollm2-pubmedqa.toml --data-root /data --out /scratch/pubmedqa
  medtune run RECIPE --set train.learning_rate=2e-4 --set 'data.source[0].limit=100'")]
    Run(StageArgs),
    /// Builds a recipe's data: reads, cleans, splits, samples to quota, and says what it did
    #[command(after_help = "\
Examples:
  medtune build recipes/quickstart.toml --out /tmp/run
  medtune build recipes/data/mellama-214k.toml --data-root /data --plan
  medtune build recipes/data/mellama-214k.toml --data-root /data --allow-missing --parquet")]
    Build(BuildArgs),
    /// Trains, after building the data
    #[command(
        after_help = "Example:\n  medtune train recipes/quickstart.toml --set train.epochs=1"
    )]
    Train(StageArgs),
    /// Downloads a model of the Hugging Face Hub into the cache that its tools share
    ///
    /// HF_HOME, HF_HUB_CACHE, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE mean what they mean there. Recipes and commands
    /// then find the model by its name, without the network.
    #[command(after_help = "\
Examples:
  medtune fetch HuggingFaceTB/SmolLM2-135M-Instruct
  medtune fetch meta-llama/Llama-2-13b-hf --revision main
  medtune fetch ORG/NAME-GGUF --include '*.Q8_0.gguf'")]
    Fetch(FetchArgs),
    /// Merges an adapter into its base: a recipe's, or any two folders
    #[command(after_help = "\
Examples:
  medtune merge recipes/quickstart.toml
  medtune merge --base models/SmolLM2-135M-Instruct --adapter runs/x/adapter --into merged
  medtune merge --base MODEL --adapter DIR --into merged --validate pubmedqa:50 --data-root /data
  medtune merge --base merged --adapter runs/x/adapter --subtract --into back")]
    Merge(MergeArgs),
    /// Proves that a merged model is its base plus its adapter, tensor by tensor
    #[command(after_help = "\
Examples:
  medtune verify recipes/quickstart.toml
  medtune verify --base models/SmolLM2-135M-Instruct --adapter runs/x/adapter --merged merged")]
    Verify(VerifyArgs),
    /// Evaluates a recipe's model before and after tuning, or any models and endpoints
    #[command(after_help = "\
Examples:
  medtune eval recipes/smollm2-pubmedqa.toml --set 'eval.tasks=[\"pubmedqa:100\"]'
  medtune eval --model models/SmolLM2-135M-Instruct --task pubmedqa:100 --data-root /data --out /tmp/eval
  medtune eval --model BASE --adapter runs/x/adapter --against MERGED --task pubmedqa --data-root /data
  medtune eval --endpoint https://api.openai.com/v1 --endpoint-model gpt-4 --api-key-env OPENAI_API_KEY \\
      --task pubmedqa-generate:50 --data-root /data")]
    Eval(EvalArgs),
    /// Talks with a model: a recipe's tuned one, a folder or a GGUF file
    #[command(after_help = "\
Examples:
  medtune chat recipes/quickstart.toml
  medtune chat models/SmolLM2-135M-Instruct --adapter runs/x/adapter
  medtune chat MODEL --prompt 'What is aspirin for?'")]
    Chat(ChatArgs),
    /// Says what a recipe would do: stages, files, sizes; runs nothing
    #[command(after_help = "\
Examples:
  medtune plan recipes/smollm2-pubmedqa.toml
  medtune plan recipes/mellama-13b-chat.toml --machine h200 --machine a100-80g")]
    Plan(PlanArgs),
    /// Shows a recipe's settings with where each comes from, or samples with their masks
    #[command(after_help = "\
Examples:
  medtune show recipes/quickstart.toml
  medtune show recipes/quickstart.toml --sample 2")]
    Show(ShowArgs),
    /// Says where a sample came from: source, file, record, what cleaning did, and the packs it is trained in
    #[command(after_help = "\
Examples:
  medtune trace runs/quickstart fact/12
  medtune trace recipes/quickstart.toml fact/12 --reveal")]
    Trace(TraceArgs),
    /// Shows what a run came to, or compares several: tables, Markdown, JSON, or one HTML page
    #[command(after_help = "\
Examples:
  medtune report runs/quickstart
  medtune report runs/quickstart --html quickstart.html
  medtune report runs/rank8 runs/rank16 runs/rank32 --html ranks.html")]
    Report(ReportArgs),
    /// Finds every problem of recipes and evaluation tasks
    ///
    /// Without arguments: all of those in ./recipes.
    #[command(
        after_help = "Examples:\n  medtune check\n  medtune check my.toml --set train.epochs=1"
    )]
    Check(CheckArgs),
    /// Lists, prints and copies the recipes that come with medtune
    #[command(subcommand)]
    Recipes(RecipesCommand),
    /// Looks into adapters, combines them, extracts them from tuned models, and changes their rank
    #[command(subcommand, after_help = ADAPTER_EXAMPLES)]
    Adapter(AdapterCommand),
    /// Converts a GGUF file to a Hugging Face folder
    #[command(after_help = "Example:\n  medtune convert model.Q4_K.gguf models/model --dtype bf16")]
    Convert(ConvertArgs),
    /// Writes a model, or an adapter, as a GGUF file for llama.cpp and what is built on it
    ///
    /// Tensors whose rows are no whole blocks of a type get the one that llama.cpp takes then, and are listed.
    #[command(after_help = "\
Examples:
  medtune export merged model.Q8_0.gguf --type q8_0
  medtune export --adapter runs/x/adapter --base models/SmolLM2-135M-Instruct adapter.gguf")]
    Export(ExportArgs),
    /// Prints a model's logits for token ids, to compare with another implementation
    #[command(
        after_help = "Example:\n  medtune logits models/SmolLM2-135M-Instruct --ids 1,9690,198 --json"
    )]
    Logits(LogitsArgs),
    /// Proves and times computing on a GPU; scripts/gpu-check runs all of it
    #[command(
        hide = true,
        after_help = "\
Examples:
  medtune gpu-check report ops
  medtune gpu-check ceilings speed-train --row 13b-lora --out check.json"
    )]
    GpuCheck(GpuCheckArgs),
    /// Prints a completion script for a shell
    #[command(
        after_help = "Example:\n  medtune completions bash > ~/.local/share/bash-completion/completions/medtune"
    )]
    Completions { shell: Shell },
}

/// What every command that reads a recipe takes.
#[derive(Debug, Clone, Default, ClapArgs)]
pub struct RecipeFlags {
    /// Changes one setting of the recipe, such as train.epochs=1; can be given several times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
    /// The run's folder [default: runs/NAME]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub out: Option<PathBuf>,
    /// Where the paths of data sources start [default: the recipe's folder]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub data_root: Option<PathBuf>,
    /// What computes: cpu, or, with a build for NVIDIA GPUs, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: String,
}

/// How data is built, and who may see it.
#[derive(Debug, Clone, Default, ClapArgs)]
pub struct DataFlags {
    /// Builds without the sources whose files are not there; the manifest says what is missing
    #[arg(long)]
    pub allow_missing: bool,
    /// Says that you may see and export credentialed text (PhysioNet, n2c2), which the run records
    #[arg(long)]
    pub i_have_credentials: bool,
}

/// A recipe's data, and how to build it.
#[derive(Debug, Clone, ClapArgs)]
pub struct BuildArgs {
    #[command(flatten)]
    pub stage: StageArgs,
    /// Prints the table of sources, with what is missing and how to get it, and builds nothing
    #[arg(long)]
    pub plan: bool,
    /// Writes train.parquet and validation.parquet as well
    #[arg(long)]
    pub parquet: bool,
}

/// A sample of a run.
#[derive(Debug, ClapArgs)]
pub struct TraceArgs {
    /// The run's folder, or the recipe that was run
    #[arg(value_name = "RUN|RECIPE", value_hint = ValueHint::AnyPath)]
    pub run: PathBuf,
    /// The sample's id, such as alpaca/12
    pub id: String,
    #[command(flatten)]
    pub flags: RecipeFlags,
    /// Prints the sample's text too
    #[arg(long)]
    pub reveal: bool,
    /// Says that you may see credentialed text (PhysioNet, n2c2), which the run records
    #[arg(long)]
    pub i_have_credentials: bool,
}

/// Runs, and how to show them.
#[derive(Debug, ClapArgs)]
pub struct ReportArgs {
    /// The runs' folders; of several, changes are counted from the first
    #[arg(value_name = "RUN", required = true, value_hint = ValueHint::DirPath)]
    pub runs: Vec<PathBuf>,
    /// Writes a page that needs nothing but itself: no network, no scripts
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub html: Option<PathBuf>,
    /// Prints Markdown
    #[arg(long)]
    pub markdown: bool,
    /// Shows texts that are not open, where the report holds them
    #[arg(long)]
    pub reveal: bool,
    /// Says that you may see credentialed text (PhysioNet, n2c2), which the run records
    #[arg(long)]
    pub i_have_credentials: bool,
}

/// A recipe, and how to run it.
#[derive(Debug, Clone, ClapArgs)]
pub struct StageArgs {
    /// A recipe's file, or the name of one in ./recipes
    #[arg(value_hint = ValueHint::FilePath)]
    pub recipe: PathBuf,
    #[command(flatten)]
    pub flags: RecipeFlags,
    #[command(flatten)]
    pub data: DataFlags,
    /// Runs every stage again, even where nothing changed
    #[arg(long)]
    pub fresh: bool,
}

/// What to evaluate: a recipe's model, or models and endpoints by name.
#[derive(Debug, Clone, ClapArgs)]
pub struct EvalArgs {
    /// A recipe's file, or the name of one in ./recipes
    #[arg(required_unless_present_any = ["model", "endpoint"], value_hint = ValueHint::FilePath)]
    pub recipe: Option<PathBuf>,
    #[command(flatten)]
    pub flags: RecipeFlags,
    #[command(flatten)]
    pub data: DataFlags,
    /// Runs every stage again, even where nothing changed
    #[arg(long)]
    pub fresh: bool,
    /// Writes prompts' answers and right answers of texts that are not open into the report too
    #[arg(long)]
    pub reveal: bool,
    #[command(flatten)]
    pub models: ModelFlags,
}

/// Models and tasks without a recipe.
#[derive(Debug, Clone, Default, ClapArgs)]
pub struct ModelFlags {
    /// A model to evaluate: a folder or a GGUF file
    #[arg(long, value_name = "MODEL", conflicts_with = "recipe", requires = "task", value_hint = ValueHint::AnyPath)]
    pub model: Option<PathBuf>,
    /// An adapter to put on the model; the model without it is shown beside
    #[arg(long, value_name = "DIR", requires = "model", value_hint = ValueHint::DirPath)]
    pub adapter: Option<PathBuf>,
    /// A further model to show beside; can be given several times
    #[arg(long, value_name = "MODEL", requires = "model", value_hint = ValueHint::AnyPath)]
    pub against: Vec<PathBuf>,
    /// A task, such as pubmedqa:100 for a hundred of its items; can be given several times
    #[arg(long, value_name = "TASK", conflicts_with = "recipe")]
    pub task: Vec<String>,
    // What --help prints, where angle brackets would stand.
    #[allow(rustdoc::bare_urls)]
    /// An OpenAI-compatible API, such as https://api.openai.com/v1 or http://127.0.0.1:8000/v1
    #[arg(
        long,
        value_name = "URL",
        conflicts_with = "recipe",
        requires = "task",
        requires = "endpoint_model"
    )]
    pub endpoint: Option<String>,
    /// The name of a model there; can be given several times
    #[arg(long, value_name = "NAME", requires = "endpoint")]
    pub endpoint_model: Vec<String>,
    /// The environment variable that holds the key for the API
    #[arg(long, value_name = "VARIABLE", requires = "endpoint")]
    pub api_key_env: Option<String>,
}

/// A recipe, and what to plan it for.
#[derive(Debug, Clone, ClapArgs)]
pub struct PlanArgs {
    #[command(flatten)]
    pub stage: StageArgs,
    /// Plans for this device instead of the machine at hand: the name or the file of one in recipes/machines
    #[arg(long, value_name = "NAME|FILE", value_hint = ValueHint::FilePath)]
    pub machine: Vec<PathBuf>,
}

/// A model of the hub.
#[derive(Debug, ClapArgs)]
pub struct FetchArgs {
    /// The model's name on the hub; @REVISION may follow
    #[arg(value_name = "ORG/NAME")]
    pub model: String,
    /// A branch, a tag or a commit [default: main]
    #[arg(long, value_name = "REVISION")]
    pub revision: Option<String>,
    /// Downloads the files that fit instead of what the model needs; can be given several times
    #[arg(long, value_name = "PATTERN")]
    pub include: Vec<String>,
    /// Downloads every file that is not pickled
    #[arg(long, conflicts_with = "include")]
    pub all: bool,
}

#[derive(Debug, ClapArgs)]
pub struct ChatArgs {
    /// A recipe that was run, a model's folder, or a GGUF file
    #[arg(value_name = "RECIPE|MODEL", value_hint = ValueHint::AnyPath)]
    pub model: PathBuf,
    #[command(flatten)]
    pub flags: RecipeFlags,
    /// An adapter to put on the model
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub adapter: Option<PathBuf>,
    /// Answers this and ends, instead of reading from the terminal
    #[arg(long, value_name = "TEXT")]
    pub prompt: Option<String>,
    /// The longest answer
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub max_new_tokens: usize,
}

#[derive(Debug, ClapArgs)]
pub struct ShowArgs {
    /// A recipe's file, or the name of one in ./recipes
    #[arg(value_hint = ValueHint::FilePath)]
    pub recipe: PathBuf,
    #[command(flatten)]
    pub flags: RecipeFlags,
    /// Shows this many samples as the model reads them, with what it learns marked
    #[arg(long, value_name = "N")]
    pub sample: Option<usize>,
    #[command(flatten)]
    pub data: DataFlags,
}

#[derive(Debug, ClapArgs)]
pub struct CheckArgs {
    /// Recipes, evaluation tasks, or folders of them
    #[arg(value_hint = ValueHint::AnyPath)]
    pub paths: Vec<PathBuf>,
    #[command(flatten)]
    pub flags: RecipeFlags,
}

#[derive(Debug, Subcommand)]
pub enum RecipesCommand {
    /// Lists them
    List,
    /// Prints one
    Show {
        /// As `recipes list` names it
        name: String,
    },
    /// Copies one, with what it extends and the tasks that it asks, to change it
    Copy {
        /// As `recipes list` names it
        name: String,
        /// Into this folder
        #[arg(default_value = ".", value_hint = ValueHint::DirPath)]
        folder: PathBuf,
    },
    /// Prints the JSON schema of recipes or of evaluation tasks, for editors
    Schema {
        #[arg(value_enum, default_value_t = SchemaKind::Recipe)]
        kind: SchemaKind,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SchemaKind {
    /// A tuning recipe
    Recipe,
    /// An evaluation task
    Task,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example() {
        for command in Args::command().get_subcommands() {
            let examples = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            let has = examples.contains("medtune ") || command.get_name() == "recipes";
            assert!(has, "{} has no example", command.get_name());
        }
    }
}
