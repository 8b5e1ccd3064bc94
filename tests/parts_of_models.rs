//! Models in more files or fewer than usual: split GGUF files, all-in-one checkpoints, several variants in one folder.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
#[path = "common/raw_files.rs"]
mod raw_files;

use std::path::Path;

use common::program::{Desk, RawTensor, Tensors, serialized};
use raw_files::{Gguf, GgufTensor, STRING, gguf_entry, gguf_string, read_tensors};
use safetensors::Dtype;
use uno_core::weights::Checkpoint;
use uno_models::checkpoint::{CheckpointOptions, Environment, Part, Source, discover};

// Split GGUF files

/// Numbers of the types of GGUF metadata.
const U16: u32 = 2;
const I32: u32 = 5;

/// A GGUF file of these tensors, with what `gguf-split` writes into part `number` (from 0) of `count`.
fn gguf(tensors: &[(String, RawTensor)], split: Option<[u16; 2]>, all: usize) -> Vec<u8> {
    let mut file = Gguf {
        metadata: vec![gguf_entry("general.architecture", STRING, &gguf_string("flux"))],
        ..Gguf::sound()
    };
    if let Some([number, count]) = split {
        file.metadata.extend([
            gguf_entry("split.no", U16, &number.to_le_bytes()),
            gguf_entry("split.count", U16, &count.to_le_bytes()),
            gguf_entry("split.tensors.count", I32, &(all as i32).to_le_bytes()),
        ]);
    }
    (file.tensors, file.data) = (Vec::new(), Vec::new());
    for (name, tensor) in tensors {
        let kind = match tensor.dtype {
            Dtype::F32 => 0,
            Dtype::F16 => 1,
            Dtype::BF16 => 30,
            other => panic!("{other:?}"),
        };
        let dims: Vec<u64> = tensor.shape.iter().rev().map(|d| *d as u64).collect();
        file.tensors.push(GgufTensor::new(name, &dims, kind, file.data.len() as u64));
        file.data.extend(&tensor.data);
        file.data.resize(file.data.len().next_multiple_of(32), 0);
    }
    file.bytes()
}

fn part_name(number: usize) -> String {
    format!("flux1-dev-0000{number}-of-00003.gguf")
}

/// A model folder whose transformer is a GGUF file in three parts; its tensors too.
fn split() -> (Desk, Vec<(String, RawTensor)>) {
    let desk = Desk::with_model();
    let tensors: Vec<_> = read_tensors(&desk.read("model/flux1-dev.safetensors")).into_iter().collect();
    std::fs::remove_file(desk.path("model/flux1-dev.safetensors")).unwrap();
    for (i, part) in tensors.chunks(tensors.len().div_ceil(3)).enumerate() {
        desk.put(&format!("model/{}", part_name(i + 1)), gguf(part, Some([i as u16, 3]), tensors.len()));
    }
    (desk, tensors)
}

#[test]
fn the_parts_of_a_split_gguf_give_the_picture_of_the_whole() {
    let (desk, tensors) = split();
    desk.put("whole/flux1-dev.gguf", gguf(&tensors, None, 0));
    desk.made("--model model --save_path parts.png");
    desk.made("--model model --dit whole/flux1-dev.gguf --save_path whole.png");
    assert_eq!(desk.picture("parts.png"), desk.picture("whole.png"));
    // Whichever part is named.
    for number in 1..=3 {
        let opened = Checkpoint::open(desk.path("model").join(part_name(number))).unwrap();
        assert_eq!(opened.tensors().len(), tensors.len());
        assert!(opened.path().ends_with(part_name(1)));
    }
}

#[test]
fn a_missing_part_is_named_before_any_work() {
    for number in 1..=3 {
        let (desk, _) = split();
        std::fs::remove_file(desk.path("model").join(part_name(number))).unwrap();
        let absent = part_name(number);
        desk.run("--model model").refused(&desk, &["DiT", "one of 3 parts of a split GGUF file", &absent]);
        let other = desk.path("model").join(part_name(number % 3 + 1));
        let error = Checkpoint::open(other).unwrap_err().to_string();
        assert!(error.contains(&absent), "{error}");
    }
}

#[test]
fn parts_that_do_not_belong_together_are_refused() {
    let refused = |change: &dyn Fn(&Desk, &[(String, RawTensor)]), words: &[&str]| {
        let (desk, tensors) = split();
        change(&desk, &tensors);
        let error = Checkpoint::open(desk.path("model").join(part_name(1))).unwrap_err().to_string();
        for word in words {
            assert!(error.contains(word), "{word:?} is not in: {error}");
        }
    };
    let third = format!("model/{}", part_name(3));
    let share = |tensors: &[(String, RawTensor)]| tensors[..2].to_vec();
    refused(
        &|desk, t| desk.put(&third, gguf(&share(t), Some([1, 3]), t.len())),
        &["part 3 of 3", "header says part 2 of 3"],
    );
    refused(
        &|desk, t| desk.put(&third, gguf(&share(t), Some([2, 4]), t.len())),
        &["part 3 of 3", "header says part 3 of 4"],
    );
    refused(&|desk, t| desk.put(&third, gguf(&share(t), None, 0)), &["part 3 of 3", "tells of no parts"]);
    refused(
        &|desk, t| desk.put(&third, gguf(&share(t), Some([2, 3]), t.len())),
        &["an earlier part holds too"],
    );
    refused(
        &|desk, t| desk.put(&third, gguf(&t[t.len() - 1..], Some([2, 3]), t.len())),
        &["says that there are", "of different files"],
    );
}

#[test]
fn a_part_under_another_name_says_how_to_join_the_parts() {
    let (desk, tensors) = split();
    desk.put("first.gguf", gguf(&tensors[..3], Some([0, 3]), tensors.len()));
    let error = Checkpoint::open(desk.path("first.gguf")).unwrap_err().to_string();
    for words in ["part 1 of 3 of a split GGUF file", "-00001-of-00003.gguf", "gguf-split --merge"] {
        assert!(error.contains(words), "{words:?} is not in: {error}");
    }
    let error = Checkpoint::from_bytes("x.gguf", desk.read("first.gguf").into()).unwrap_err().to_string();
    assert!(error.contains("one of 3 parts"), "{error}");
}

// All-in-one checkpoints

/// A folder `all` with all weights in one file `name`, as ComfyUI saves them; the LoRA and the vocabularies are beside it.
fn all_in_one(name: &str) -> Desk {
    let desk = Desk::with_model();
    let mut all = Tensors::new();
    for (file, prefix) in [
        ("flux1-dev", "model.diffusion_model."),
        ("ae", "vae."),
        ("t5/model", "text_encoders.t5xxl.transformer."),
        ("clip/model", "text_encoders.clip_l.transformer."),
    ] {
        let part = read_tensors(&desk.read(&format!("model/{file}.safetensors")));
        all.extend(part.into_iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor)));
    }
    all.insert("text_encoders.clip_l.logit_scale".into(), raw_files::f32s(&[], [4.6]));
    desk.put(&format!("all/{name}"), serialized(&all));
    for file in [
        "dit_lora.safetensors",
        "t5/spiece.model",
        "t5/config.json",
        "clip/vocab.json",
        "clip/merges.txt",
        "clip/config.json",
    ] {
        desk.put(&format!("all/{file}"), desk.read(&format!("model/{file}")));
    }
    desk
}

fn in_folder(folder: &Path) -> CheckpointOptions {
    CheckpointOptions {
        model_dir: Some(folder.to_path_buf()),
        environment: Environment::empty(),
        ..CheckpointOptions::default()
    }
}

#[test]
fn an_all_in_one_checkpoint_in_a_model_folder_gives_the_picture_of_its_parts() {
    for name in ["flux1-dev-fp8-all.safetensors", "my_merge_v3.safetensors"] {
        let desk = all_in_one(name);
        let file = desk.path("all").join(name);
        let files = discover(&in_folder(&desk.path("all")), &()).unwrap();
        for (part, path, source) in files.parts() {
            match part {
                Part::Autoencoder | Part::T5 | Part::Clip => {
                    assert_eq!((path, source), (file.as_path(), &Source::AllInOne(file.clone())));
                }
                _ => assert_eq!(source, &Source::Folder(desk.path("all"))),
            }
        }
        assert_eq!(files.dit.files, file);
        assert_eq!(files.clip.config, Some(desk.path("all/clip/config.json")));
        desk.made("--model model --model_type flux-dev --save_path parts.png");
        let made = desk.made("--model all --model_type flux-dev --save_path all.png");
        assert!(made.stderr.contains("T5: ") && made.stderr.contains("all-in-one file"), "{}", made.stderr);
        assert_eq!(desk.picture("parts.png"), desk.picture("all.png"));
        desk.made("--from all.png --save_path again.png");
        assert_eq!(desk.picture("again.png"), desk.picture("all.png"));
    }
}

#[test]
fn a_file_of_its_own_goes_before_the_part_in_an_all_in_one_checkpoint() {
    let desk = all_in_one("flux1-dev.safetensors");
    desk.put("all/ae.safetensors", desk.read("model/ae.safetensors"));
    let files = discover(&in_folder(&desk.path("all")), &()).unwrap();
    assert_eq!(files.ae.files, desk.path("all/ae.safetensors"));
    assert!(matches!(files.t5.weights.source, Source::AllInOne(_)));
    // It goes before the environment, as the model folder does.
    let environment = Environment::of([("T5", desk.path("model/t5")), ("CLIP", desk.path("model/clip"))]);
    let files = discover(&CheckpointOptions { environment, ..in_folder(&desk.path("all")) }, &()).unwrap();
    assert!(matches!(files.t5.weights.source, Source::AllInOne(_)));
}

#[test]
fn an_all_in_one_checkpoint_that_is_named_by_an_option_serves_for_every_part() {
    let desk = all_in_one("comfy.safetensors");
    desk.made("--model model --model_type flux-dev --save_path parts.png");
    let words = "--t5_tokenizer model/t5 --clip_tokenizer model/clip --lora model/dit_lora.safetensors --model_type flux-dev";
    desk.made(&format!("--dit all/comfy.safetensors {words} --save_path dit.png"));
    let each = ["dit", "ae", "t5", "clip"].map(|part| format!("--{part} all/comfy.safetensors")).join(" ");
    desk.made(&format!("{each} {words} --save_path each.png"));
    for made in ["dit.png", "each.png"] {
        assert_eq!(desk.picture("parts.png"), desk.picture(made), "{made}");
    }
}

#[test]
fn a_vocabulary_that_is_not_beside_an_all_in_one_checkpoint_is_told_to_be_missing() {
    let desk = all_in_one("flux1-dev.safetensors");
    std::fs::remove_dir_all(desk.path("all/t5")).unwrap();
    desk.run("--model all").refused(
        &desk,
        &[
            "T5 tokenizer",
            "flux1-dev.safetensors holds the encoder's weights, but no vocabulary",
            "t5_tokenizer",
        ],
    );
}

#[test]
fn several_all_in_one_checkpoints_are_listed() {
    let desk = all_in_one("a.safetensors");
    desk.put("all/b.safetensors", desk.read("all/a.safetensors"));
    desk.run("--model all").refused(&desk, &["a.safetensors, b.safetensors", "option dit"]);
}

// Variants

#[test]
fn variants_of_a_part_are_listed_and_none_is_guessed() {
    for (folder, part, names) in [
        (
            "transformer",
            "dit",
            ["diffusion_pytorch_model.bf16.safetensors", "diffusion_pytorch_model.fp16.safetensors"],
        ),
        (
            "vae",
            "ae",
            ["diffusion_pytorch_model.bf16.safetensors", "diffusion_pytorch_model.fp32.safetensors"],
        ),
        ("text_encoder_2", "t5", ["model.fp16.safetensors", "model.fp8.safetensors"]),
    ] {
        let desk = Desk::with_model();
        let old = match part {
            "dit" => "model/flux1-dev.safetensors",
            "ae" => "model/ae.safetensors",
            _ => "model/t5/model.safetensors",
        };
        let bytes = desk.read(old);
        std::fs::remove_file(desk.path(old)).unwrap();
        names.iter().for_each(|name| desk.put(&format!("model/{folder}/{name}"), &bytes));
        desk.run("--model model").refused(&desk, &[&names.join(", "), &format!("option {part}")]);
        // One of them, named as told.
        desk.made(&format!("--model model --{part} model/{folder}/{} --t5_tokenizer model/t5", names[0]));
    }
}

#[test]
fn sharded_variants_are_listed_by_their_indexes_and_a_missing_index_is_told() {
    let desk = Desk::with_model();
    let tensors = read_tensors(&desk.read("model/flux1-dev.safetensors"));
    std::fs::remove_file(desk.path("model/flux1-dev.safetensors")).unwrap();
    let put = |variant: &str, index: &str| {
        let mut map = std::collections::BTreeMap::new();
        for half in 0..2 {
            let name = format!("diffusion_pytorch_model{variant}-0000{}-of-00002.safetensors", half + 1);
            let mine: Tensors = tensors
                .iter()
                .enumerate()
                .filter(|(i, _)| i % 2 == half)
                .map(|(_, (n, t))| (n.clone(), copy(t)))
                .collect();
            map.extend(mine.keys().map(|key| (key.clone(), name.clone())));
            desk.put(&format!("model/transformer/{name}"), serialized(&mine));
        }
        desk.put(&format!("model/transformer/{index}"), serde_json::json!({ "weight_map": map }).to_string());
    };
    let [bf16, fp16] =
        ["bf16", "fp16"].map(|v| format!("diffusion_pytorch_model.safetensors.index.{v}.json"));
    put(".fp16", &fp16);
    // One variant alone is the one that is meant.
    desk.made("--model model");
    std::fs::remove_dir_all(desk.path("out")).unwrap();
    put(".bf16", &bf16);
    desk.run("--model model").refused(&desk, &[&format!("{bf16}, {fp16}"), "option dit"]);
    desk.made(&format!("--model model --dit model/transformer/{bf16}"));
    std::fs::remove_dir_all(desk.path("out")).unwrap();
    for index in [bf16, fp16] {
        std::fs::remove_file(desk.path("model/transformer").join(index)).unwrap();
    }
    desk.run("--model model").refused(&desk, &["holds shards", "index"]);
}

fn copy(tensor: &RawTensor) -> RawTensor {
    RawTensor { dtype: tensor.dtype, shape: tensor.shape.clone(), data: tensor.data.clone() }
}
