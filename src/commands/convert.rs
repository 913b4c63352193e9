//! `medtune convert`: a GGUF file to a Hugging Face folder.

use adapters::ExportOptions;
use adapters::recipe::StoredDtype;
use anyhow::Result;
use finetune::{Base, Checkpoint};
use serde_json::json;

use crate::args::ConvertArgs;
use crate::failure::{Exit, Failure};
use crate::stages::companions;
use crate::terminal::{bytes, note, print_json};

pub fn convert(args: &ConvertArgs, json: bool) -> Result<Exit> {
    if args.folder.exists() {
        let failure = Failure::user(format!("`{}` is there already", args.folder.display()));
        return Err(failure
            .hint("give another folder, or remove it first")
            .into());
    }
    let checkpoint = Checkpoint::open(&Base::Path(args.gguf.clone()))?;
    let dtype = args.dtype.map(|dtype| StoredDtype::from(dtype).into());
    let options = ExportOptions {
        dtype,
        companions: companions(&checkpoint)?,
        ..Default::default()
    };
    let size = adapters::convert(&checkpoint.weights, &args.folder, &options)?;
    if json {
        print_json(&json!({"folder": args.folder, "bytes": size}))?;
    } else {
        note(&format!("{} in {}", bytes(size), args.folder.display()));
    }
    Ok(Exit::Done)
}
