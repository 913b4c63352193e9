//! `medtune logits`: a model's numbers for given token ids, to compare with another implementation.

use std::path::Path;

use adapters::PeftAdapter;
use adapters::hub::locate;
use adapters::recipe::ComputeDtype;
use anyhow::Result;
use datasets::{Batch, Pack, Tokenized};
use finetune::{Base, Checkpoint};

use crate::args::LogitsArgs;
use crate::failure::Exit;
use crate::terminal::print;

/// Prints one line a position: the logits of every token, in f32; with `--json` one array of rows.
pub fn logits(args: &LogitsArgs, json: bool) -> Result<Exit> {
    let checkpoint = Checkpoint::open(&Base::find(&args.model, Path::new("")))?;
    let adapter = match &args.adapter {
        Some(given) => Some(PeftAdapter::load(&locate(given, Path::new(""))?)?),
        None => None,
    };
    let (decoder, _) = checkpoint.decoder(
        ComputeDtype::F32.into(),
        adapters::Method::Frozen,
        adapter,
        0,
    )?;
    let sample = Tokenized {
        id: "ids".to_owned(),
        sample: 0,
        input_ids: args.ids.clone(),
        loss_mask: vec![false; args.ids.len()],
    };
    let rows = decoder
        .logits(&Batch::from_packs([&Pack::single(&sample)]))?
        .to_vec2::<f32>()?;
    if json {
        print(&format!("{}\n", serde_json::to_string(&rows)?))?;
    } else {
        for row in rows {
            let row: Vec<String> = row.iter().map(f32::to_string).collect();
            print(&format!("{}\n", row.join("\t")))?;
        }
    }
    Ok(Exit::Done)
}
