//! Any bytes as a safetensors file: its header, its tensors, and what each model makes of its shapes.

#![no_main]

use std::sync::LazyLock;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use uno_core::flux::{Flux, FluxConfig};
use uno_core::text::{ClipTextConfig, ClipTextEncoder, T5Config, T5Encoder};
use uno_core::vae::{AutoEncoder, AutoEncoderConfig};
use uno_core::weights::{Checkpoint, LoadOptions, Storage};

static OPTIONS: LazyLock<LoadOptions> =
    LazyLock::new(|| LoadOptions::new(&uno_core::device::open("cpu").expect("the CPU opens")));

fuzz_target!(|data: &[u8]| {
    let checkpoint = match Checkpoint::from_bytes("x", Bytes::copy_from_slice(data)) {
        Ok(checkpoint) => checkpoint,
        Err(error) => {
            assert!(error.to_string().contains('x'), "a message names its file");
            return;
        }
    };
    assert!(checkpoint.byte_len() <= data.len());
    assert_eq!(checkpoint.fingerprint().len(), 64);
    let numbers: usize = checkpoint.tensors().values().map(|tensor| tensor.to_f32().len()).sum();
    assert!(numbers <= data.len());
    let _ = checkpoint.non_finite();
    assert!(checkpoint.to_e4m3().byte_len() <= data.len());

    let _ = FluxConfig::detect(&checkpoint);
    let _ = AutoEncoderConfig::detect(&checkpoint);
    let _ = T5Config::detect(&checkpoint);
    let _ = ClipTextConfig::detect(&checkpoint, None);
    // What remains of the file as a config.json that lies too.
    let _ = ClipTextConfig::detect(&checkpoint, Some(data.get(8..).unwrap_or_default()));
    for storage in [Storage::AsStored, Storage::Expanded] {
        let options = OPTIONS.clone().with_storage(storage);
        let _ = Flux::load(&checkpoint, &options);
        let _ = AutoEncoder::load(&checkpoint, &options);
        let _ = T5Encoder::load(&checkpoint, &options);
        let _ = ClipTextEncoder::load(&checkpoint, None, &options);
    }
});
