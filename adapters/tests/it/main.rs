//! What the crate promises, by part.

mod algebra; // combining, extracting, resizing, measuring adapters
mod belonging; // which base an adapter was trained on
mod builder; // who is frozen, adapted, trained; target_modules
mod convert; // GGUF to a folder; fully trained weights
mod folder; // Hugging Face folders, whole and damaged
mod gguf; // GGUF files, against transformers' reading of them, whole and damaged
mod gguf_out; // GGUF files written: read back by us and by candle, hostile input
mod gguf_writer; // the other side of the format, to make files with
mod hub; // names of the Hugging Face Hub, found in its cache
mod layers; // LinearGroup against candle's tape and finite differences
mod merge; // against PEFT's merge; proofs that hold and that must not
mod peft; // adapter files, whole and damaged
mod quantize; // NF4: folders of bitsandbytes, and bases quantized as they are read
mod recipe; // the sections of a recipe
mod stream; // shards, large tensors, threads, subtraction
mod support;
