//! Downloads models of the Hugging Face Hub into the cache that its tools share; `adapters::hub` finds them there.
//!
//! The client is our own, over ureq. The hf-hub crate 1.0 cannot be had without tokio, hyper and a client of its storage
//! layer; 0.5, its last version with ureq, does not check what it downloads, takes a file whose download was cut for
//! resumable whatever the server answers, records a revision as there after the first file, and knows neither
//! `HF_HUB_CACHE` nor `HF_HUB_OFFLINE`. What a fetch has to promise is just that, so little would be left of it.

mod choose;
mod client;
mod download;
mod token;

pub use choose::Choice;
pub use client::Client;
pub use download::fetch;

/// Whether the environment forbids every connection.
pub fn is_offline() -> bool {
    let offline = ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"];
    // The first that is set decides, as for huggingface_hub.
    let set = offline
        .iter()
        .filter_map(|name| std::env::var(name).ok())
        .find(|value| !value.is_empty());
    set.is_some_and(|value| is_true(&value))
}

/// What huggingface_hub takes for a yes.
fn is_true(value: &str) -> bool {
    ["1", "ON", "YES", "TRUE"].contains(&value.to_uppercase().as_str())
}
