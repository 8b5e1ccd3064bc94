//! Names and shapes of the full-size checkpoints, without any data: the models' own loaders run on headers alone.

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::*;
use serde::Deserialize;
use uno_core::flux::{Flux, FluxConfig};
use uno_core::lora;
use uno_core::text::{ClipTextConfig, ClipTextEncoder, T5Encoder};
use uno_core::vae::AutoEncoder;
use uno_core::weights::{Checkpoint, LoadOptions, StorageDtype};

#[derive(Deserialize)]
struct Entry {
    shape: Vec<usize>,
    dtype: String,
}

fn manifest(path: &Path) -> Checkpoint {
    let entries: BTreeMap<String, Entry> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let shapes = entries.into_iter().map(|(name, entry)| {
        let dtype = match entry.dtype.as_str() {
            "F32" => StorageDtype::F32,
            "BF16" => StorageDtype::BF16,
            "F16" => StorageDtype::F16,
            "F8_E4M3" => StorageDtype::F8E4M3,
            _ => StorageDtype::Other(safetensors::Dtype::I64),
        };
        (name, dtype, entry.shape)
    });
    Checkpoint::from_shapes(path, shapes)
}

/// The manifests whose keys satisfy `is`, by file name.
fn manifests(is: impl Fn(&Checkpoint) -> bool) -> Vec<(String, Checkpoint)> {
    let Some(folder) = golden().map(|golden| golden.join("manifests")).filter(|folder| folder.is_dir())
    else {
        eprintln!("skipped: no manifests");
        return Vec::new();
    };
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let named =
        paths.iter().map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), manifest(path)));
    named.filter(|(_, checkpoint)| is(checkpoint)).collect()
}

fn has(key: &'static str) -> impl Fn(&Checkpoint) -> bool {
    move |checkpoint| checkpoint.tensors().contains_key(key)
}

fn options() -> LoadOptions {
    LoadOptions::new(&device())
}

#[test]
fn transformers_of_full_size_have_exactly_the_known_keys() {
    for (name, checkpoint) in manifests(has("img_in.weight")) {
        let model = Flux::load(&checkpoint, &options()).unwrap();
        println!("{name}: {} tensors, {:?}", checkpoint.tensors().len(), model.config());
        let guidance_embed = has("guidance_in.in_layer.weight")(&checkpoint);
        if name.starts_with("flux1-") {
            let mut wanted = FluxConfig::default();
            wanted.guidance_embed = guidance_embed;
            assert_eq!(model.config(), &wanted);
        }
    }
}

#[test]
fn the_lora_of_full_size_fits_the_transformers_of_full_size_and_no_other() {
    let loras = manifests(|c| c.tensors().keys().all(|key| key.contains(".processor.")));
    for (name, checkpoint) in manifests(has("img_in.weight")) {
        for (lora_name, lora_file) in &loras {
            let mut model = Flux::load(&checkpoint, &options()).unwrap();
            lora::attach(&mut model, lora_file, 1.0, &options()).unwrap();
            println!("{lora_name} fits {name}: {} tensors", lora_file.tensors().len());
        }
    }
    for (_, set) in each("model") {
        let mut model = Flux::load(&Checkpoint::open(dit_path(&set)).unwrap(), &options()).unwrap();
        for (lora_name, lora_file) in &loras {
            let error = lora::attach(&mut model, lora_file, 1.0, &options()).unwrap_err().to_string();
            assert!(error.contains("of another width"), "{lora_name}: {error}");
        }
    }
}

#[test]
fn the_autoencoder_of_full_size_has_exactly_the_known_keys() {
    for (name, checkpoint) in manifests(has("encoder.conv_in.weight")) {
        let model = AutoEncoder::load(&checkpoint, &options()).unwrap();
        println!("{name}: {} tensors, {:?}", checkpoint.tensors().len(), model.config());
        assert_eq!(model.config().downsampling(), 8);
    }
}

#[test]
fn the_text_encoders_of_full_size_have_exactly_the_known_keys() {
    for (name, checkpoint) in manifests(has("encoder.final_layer_norm.weight")) {
        let model = T5Encoder::load(&checkpoint, &options()).unwrap();
        println!("{name}: {} tensors, {:?}", checkpoint.tensors().len(), model.config());
    }
    for (name, checkpoint) in manifests(has("text_model.final_layer_norm.weight")) {
        let config = ClipTextConfig::detect(&checkpoint, None).unwrap();
        println!("{name}: {} tensors, {config:?}", checkpoint.tensors().len());
        ClipTextEncoder::load_with(&checkpoint, config, &options()).unwrap();
    }
}

#[test]
fn a_missing_and_a_misnamed_tensor_of_full_size_are_reported_by_name() {
    for (_, checkpoint) in manifests(has("img_in.weight")) {
        let renamed = checkpoint.tensors().iter().map(|(name, tensor)| {
            let name = name.replace("final_layer.linear", "final.linear");
            (name, tensor.dtype(), tensor.shape().to_vec())
        });
        let error = Flux::load(&Checkpoint::from_shapes("x", renamed), &options()).unwrap_err().to_string();
        assert!(error.contains("final_layer.linear.weight (did you mean final.linear.weight?)"), "{error}");
    }
}
