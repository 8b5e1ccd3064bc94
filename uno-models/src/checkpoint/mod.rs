//! Finding the files of a model: on disk by option, folder or environment variable, in the hub cache, or by download.
//!
//! This layer finds files and looks at their first bytes; it reads no tensor. `uno_core::weights::Checkpoint` opens what it
//! found.
//!
//! ```text
//! CheckpointOptions -> discover() -> CheckpointFiles -> Checkpoint::open(...), tokenizers
//! ```
//!
//! # Order
//!
//! Each part (see [`Part`]) comes from the first of these that has it:
//!
//! 1. its own option ([`CheckpointOptions::dit`] and so on),
//! 2. the model folder ([`CheckpointOptions::model_dir`]); a tokenizer is also taken from beside its encoder's weights,
//! 3. the transformer's own file, where that is an all-in-one checkpoint with the autoencoder or text encoders in it,
//! 4. its environment variable: `FLUX_DEV`, `FLUX_DEV_FP8`, `FLUX_SCHNELL`, `AE`, `T5`, `CLIP`, `LORA`,
//! 5. the hub cache, which the Python tools fill and read too,
//! 6. the hub, if [`CheckpointOptions::allow_download`] is set and nothing says offline.
//!
//! A path that was named and leads nowhere is an error, never a reason to go on to the next step. Where a model folder is
//! named, steps 5 and 6 need `allow_download`: who names a folder wants the model in it, not a mixture.
//!
//! # Model folder
//!
//! ```text
//! flux1-dev.safetensors | flux1-dev-fp8.safetensors | flux1-schnell.safetensors   (or ....safetensors.index.json, or .sft)
//! ae.safetensors
//! dit_lora.safetensors
//! t5/    model.safetensors or model.safetensors.index.json; spiece.model or tokenizer.json; config.json
//! clip/  model.safetensors; tokenizer.json or vocab.json + merges.txt; config.json
//! ```
//!
//! Files: `files` (what is found, and where), `all_in_one` (files with several parts), `options`, `environment`, `presets` (repositories and licences), `look` (cheap
//! checks), `folder` (names in a folder), `cache` (layout of the hub cache), `discover` (the order above), `progress`,
//! `hub` (download; feature `hub`, in whose absence `no_hub` stands for it).

mod all_in_one;
mod cache;
mod discover;
mod embedded;
mod environment;
mod files;
mod folder;
#[cfg_attr(not(feature = "hub"), path = "no_hub.rs")]
mod hub;
mod look;
mod options;
mod presets;
mod progress;

pub use discover::discover;
pub use embedded::{EMBEDDED, embedded};
pub use environment::Environment;
pub use files::{
    CheckpointFiles, ClipTokenizerFiles, Located, ModelType, Part, Source, T5TokenizerFiles, TextEncoderFiles,
};
pub use options::{CheckpointOptions, HubOptions};
pub use presets::{HubFile, HubPart, Licence, Need};
pub use progress::Progress;
