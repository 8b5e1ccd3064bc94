//! The small model inside the program, for trying things out without a download.
//!
//! It is uno-tiny: trained on rendered pictures of a small world, with the code of this repository (docs/uno-tiny.md). It knows
//! eight kinds of subjects in six scenes, and takes colours and patterns from references.

use uno_core::text::{ClipTokenizer, T5Tokenizer};
use uno_core::weights::Checkpoint;

use crate::components::{ModelSource, TextSource};
use crate::error::Result;
use crate::output::FileRecord;
use crate::tiny::base::T5_TOKENS;

/// [`ModelSource::model_type`] of the embedded model.
pub const EMBEDDED: &str = "embedded";

/// A file of the embedded model: its bytes are part of the program.
macro_rules! embedded {
    ($name:literal) => {
        include_bytes!(concat!("../../assets/uno-tiny/", $name)).as_slice()
    };
}

/// The embedded model, opened.
///
/// # Errors
///
/// None, unless the program itself is damaged.
pub fn embedded() -> Result<ModelSource> {
    let open = |name: &str, bytes: &'static [u8]| {
        Checkpoint::from_bytes(format!("embedded/{name}"), bytes::Bytes::from_static(bytes))
    };
    let small =
        |part, name: &str, bytes: &[u8]| (part, FileRecord::of_bytes(format!("embedded/{name}"), bytes));
    Ok(ModelSource {
        model_type: EMBEDDED.into(),
        dit: open("flux1-dev.safetensors", embedded!("flux1-dev.safetensors"))?,
        ae: open("ae.safetensors", embedded!("ae.safetensors"))?,
        more_loras: Vec::new(),
        lora: Some(open("dit_lora.safetensors", embedded!("dit_lora.safetensors"))?),
        text: TextSource {
            t5: open("t5/model.safetensors", embedded!("t5/model.safetensors"))?,
            clip: open("clip/model.safetensors", embedded!("clip/model.safetensors"))?,
            t5_length: T5_TOKENS,
            clip_config: Some(embedded!("clip/config.json").to_vec()),
            t5_tokenizer: T5Tokenizer::from_spiece_bytes(
                "embedded/t5/spiece.model",
                embedded!("t5/spiece.model"),
            )?,
            clip_tokenizer: ClipTokenizer::from_vocab_merges_bytes(
                "embedded/clip",
                embedded!("clip/vocab.json"),
                embedded!("clip/merges.txt"),
            )?,
            files: vec![
                small("t5_tokenizer", "t5/spiece.model", embedded!("t5/spiece.model")),
                small("clip_vocab", "clip/vocab.json", embedded!("clip/vocab.json")),
                small("clip_merges", "clip/merges.txt", embedded!("clip/merges.txt")),
                small("clip_config", "clip/config.json", embedded!("clip/config.json")),
            ],
        },
    })
}
