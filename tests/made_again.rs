//! `examples/generate --from`: a picture is made again from its settings, with the files that it was made from, wherever they are now,
//! and with nothing else.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::program::{Desk, RawTensor, Tensors, serialized};
use safetensors::Dtype;
use serde_json::Value;

/// A desk with a model and two LoRAs of different weights.
fn with_loras() -> Desk {
    let desk = Desk::with_model();
    for (name, flipped) in [("a.safetensors", 0), ("b.safetensors", 0x40)] {
        desk.put(name, desk.read("model/dit_lora.safetensors"));
        desk.change_tensors(name, |tensors| {
            for tensor in tensors.values_mut().take(4) {
                tensor.data[0] ^= flipped;
            }
        });
    }
    desk
}

fn moved(desk: &Desk, from: &str, to: &str) {
    std::fs::create_dir_all(desk.path(to).parent().unwrap()).unwrap();
    std::fs::rename(desk.path(from), desk.path(to)).unwrap();
}

#[test]
fn a_lora_that_was_moved_keeps_its_factor() {
    let desk = with_loras();
    desk.made("--model model --add_lora a.safetensors@-1.6 --save_path first.png");
    moved(&desk, "a.safetensors", "loras/style.safetensors");
    for (given, to) in [("", "again.png"), ("@-1.6", "same.png")] {
        desk.made(&format!("--from first.png --add_lora loras/style.safetensors{given} --save_path {to}"));
        assert_eq!(desk.picture("first.png"), desk.picture(to));
        assert_eq!(desk.json(&to.replace("png", "json"))["add_lora_scales"], Value::from(vec![-1.6]));
    }
    // Another factor, another file, the right one too often, and none.
    desk.run("--from first.png --add_lora loras/style.safetensors@1")
        .refused(&desk, &["style.safetensors", "factor 1", "-1.6"]);
    desk.run("--from first.png --add_lora loras/style.safetensors --add_lora b.safetensors")
        .refused(&desk, &["b.safetensors", "none of the picture's LoRAs", "a.safetensors", "fingerprint"]);
    desk.run("--from first.png --add_lora loras/style.safetensors --add_lora loras/style.safetensors")
        .refused(&desk, &["style.safetensors", "more often"]);
    desk.run("--from first.png").refused(&desk, &["a.safetensors", "fingerprint", "not found", "--add_lora"]);
    // Another file in its place is not taken for it.
    desk.put("a.safetensors", desk.read("b.safetensors"));
    desk.run("--from first.png").refused(&desk, &["a.safetensors", "another file", "--add_lora"]);
    // Beside the picture it is found.
    desk.put("travelled/first.png", desk.read("first.png"));
    desk.put("travelled/a.safetensors", desk.read("loras/style.safetensors"));
    desk.made("--from travelled/first.png --model model --save_path beside.png");
    assert_eq!(desk.picture("first.png"), desk.picture("beside.png"));
}

#[test]
fn several_loras_are_matched_by_what_they_hold() {
    let desk = with_loras();
    let given = "--add_lora a.safetensors@0.5 --add_lora b.safetensors@2 --add_lora a.safetensors@-1.5";
    desk.made(&format!("--model model {given} --save_path first.png"));
    moved(&desk, "a.safetensors", "x.safetensors");
    moved(&desk, "b.safetensors", "y.safetensors");
    for (i, given) in [
        "--add_lora y.safetensors --add_lora x.safetensors --add_lora x.safetensors",
        "--add_lora x.safetensors@-1.5 --add_lora x.safetensors@0.5 --add_lora y.safetensors@2",
        "--add_lora x.safetensors --add_lora x.safetensors@0.5 --add_lora y.safetensors",
        "--add_lora x.safetensors --add_lora y.safetensors",
    ]
    .into_iter()
    .enumerate()
    {
        desk.made(&format!("--from first.png {given} --save_path {i}.png"));
        assert_eq!(desk.picture("first.png"), desk.picture(&format!("{i}.png")), "{given}");
    }
    desk.run(
        "--from first.png --add_lora x.safetensors@0.5 --add_lora x.safetensors@0.5 --add_lora y.safetensors",
    )
    .refused(&desk, &["x.safetensors", "more often", "0.5 and -1.5"]);
    desk.run("--from first.png --add_lora x.safetensors").refused(&desk, &["b.safetensors", "not found"]);
    // UNO's own is no further one.
    desk.run("--from first.png --add_lora model/dit_lora.safetensors@3 --add_lora y.safetensors")
        .refused(&desk, &["dit_lora.safetensors", "none of the picture's LoRAs"]);
}

#[test]
fn what_the_settings_answer_is_not_taken_from_the_command_line() {
    let desk = Desk::with_model();
    desk.made("--model model --lora_scale 0.5 --save_path first.png");
    for option in [
        "--prompt other",
        "--width 128",
        "--height 64",
        "--num_steps 2",
        "--guidance 1",
        "--seed 3407",
        "--ref_size -1",
        "--pe o",
        "--num_images_per_prompt 2",
        "--batch_size 2",
        "--shard 0/2",
        "--model_type flux-dev",
        "--merge_lora",
        "--dtype bf16",
        "--noise_dtype f32",
        "--schedule flux",
        "--reference_seed 1",
        "--ignore_exif_orientation",
        "--first_block_cache",
        "--reference_cache",
        "--int8",
    ] {
        let name = option.split(' ').next().unwrap();
        let run = desk.run(&format!("--from first.png {option}"));
        assert!(!run.stderr.contains("loading"), "{option}: {}", run.stderr);
        run.refused(&desk, &[name, "beside --from", "first.png"]);
    }
    desk.run("--from first.png --eval_json_path list.json").refused(&desk, &["--from", "--eval-json-path"]);
    desk.run("--from first.png --lora_scale 1").refused(&desk, &["--lora_scale", "got 1", "0.5"]);
    desk.run("--from first.png --noise torch-cuda").refused(&desk, &["--noise", "drawn"]);
    desk.put("stray.png", "");
    desk.run("--from first.png --image_paths stray.png")
        .refused(&desk, &["stray.png", "no reference", "none"]);
    // What is the same, and what makes no other picture.
    desk.made("--from first.png --lora_scale 0.5 --threads 1 --memory least --model model --device cpu --save_path again.png");
    assert_eq!(desk.picture("first.png"), desk.picture("again.png"));

    desk.made("--model model --lora_scale 0 --save_path plain.png");
    desk.run("--from plain.png --lora model/dit_lora.safetensors").refused(&desk, &["--lora", "without"]);
    desk.made("--from plain.png --lora_scale 0 --save_path plain_again.png");
    desk.made("--save_path embedded.png");
    desk.run("--from embedded.png --model model").refused(&desk, &["--model", "inside the program"]);
}

#[test]
fn references_are_found_by_what_they_hold() {
    let desk = Desk::new();
    desk.draw("cup.png", 64, 48);
    desk.draw("hat.png", 48, 64);
    desk.made("--image_paths cup.png hat.png --ref_size 64 --save_path made/first.png");
    // Where they were: the file beside the picture says it.
    desk.made("--from made/first.png --save_path 0.png");
    // The picture alone knows only their names: beside it, or given, in whatever order and by whatever names.
    desk.put("sent/first.png", desk.read("made/first.png"));
    desk.run("--from sent/first.png").refused(&desk, &["cup.png", "SHA-256", "not found", "--image_paths"]);
    moved(&desk, "cup.png", "elsewhere/mug.png");
    moved(&desk, "hat.png", "sent/hat.png");
    desk.run("--from made/first.png").refused(&desk, &["cup.png", "No such file", "--image_paths"]);
    desk.made("--from sent/first.png --image_paths elsewhere/mug.png --save_path 1.png");
    desk.made("--from sent/first.png --image_paths sent/hat.png elsewhere/mug.png --save_path 2.png");
    for i in 0..3 {
        assert_eq!(desk.picture("made/first.png"), desk.picture(&format!("{i}.png")));
    }
    // Another picture of the name is none of them, and one that is none is not left out silently.
    desk.draw("sent/cup.png", 64, 64);
    desk.run("--from sent/first.png").refused(&desk, &["sent/cup.png has changed", "SHA-256"]);
    desk.run("--from sent/first.png --image_paths elsewhere/mug.png sent/cup.png")
        .refused(&desk, &["sent/cup.png", "no reference", "hat.png"]);
}

#[test]
fn noise_is_found_by_what_it_holds() {
    let desk = Desk::new();
    let values = (0..16 * 8 * 8).map(|i| ((i * 7919 % 2003) as f32 / 1001.0 - 1.0) * 1.7);
    let data = values.flat_map(f32::to_le_bytes).collect();
    let noise = RawTensor { dtype: Dtype::F32, shape: vec![1, 16, 8, 8], data };
    desk.put("noise.safetensors", serialized(&Tensors::from([("noise".to_owned(), noise)])));
    desk.made("--noise noise.safetensors --save_path first.png");
    moved(&desk, "noise.safetensors", "elsewhere/n.safetensors");
    desk.run("--from first.png").refused(&desk, &["noise.safetensors", "not found", "--noise"]);
    desk.made("--from first.png --noise elsewhere/n.safetensors --save_path again.png");
    assert_eq!(desk.picture("first.png"), desk.picture("again.png"));
}

#[test]
fn the_model_is_found_where_it_was_beside_the_picture_or_where_it_is_said_to_be() {
    let desk = Desk::with_model();
    // A vocabulary apart from the weights.
    let t5 = "--t5 model/t5/model.safetensors --t5_tokenizer words/spiece.model";
    desk.put("words/spiece.model", desk.read("model/t5/spiece.model"));
    desk.made(&format!("--model model {t5} --save_path first.png"));
    desk.made("--from first.png --save_path 0.png");
    desk.put("sent/first.png", desk.read("first.png"));
    desk.run("--from sent/first.png").refused(&desk, &["flux1-dev.safetensors", "--model"]);
    desk.made("--from sent/first.png --model model --save_path 1.png");
    // A part elsewhere, the others where they were.
    desk.put("elsewhere/autoencoder.safetensors", desk.read("model/ae.safetensors"));
    desk.made("--from first.png --ae elsewhere/autoencoder.safetensors --save_path 2.png");
    desk.put("elsewhere/other.safetensors", desk.read("model/ae.safetensors"));
    desk.change_tensors("elsewhere/other.safetensors", |tensors| {
        tensors.get_mut("decoder.conv_out.bias").unwrap().data[0] ^= 1;
    });
    desk.run("--from first.png --ae elsewhere/other.safetensors")
        .refused(&desk, &["ae:", "other.safetensors is another one", "fingerprint", "--ae"]);
    // All beside the picture.
    for part in ["flux1-dev.safetensors", "ae.safetensors", "dit_lora.safetensors"] {
        desk.put(&format!("sent/{part}"), desk.read(&format!("model/{part}")));
    }
    desk.made("--from sent/first.png --t5 model/t5 --clip model/clip --save_path 3.png");
    for i in 0..4 {
        assert_eq!(desk.picture("first.png"), desk.picture(&format!("{i}.png")), "{i}");
    }
}

#[test]
fn settings_of_older_versions_are_read() {
    let desk = Desk::new();
    desk.draw("cup.png", 64, 48);
    desk.made("--image_paths cup.png --ref_size 64 --save_path first.png");
    let mut json = desk.json("first.json");
    assert_eq!(json.as_object_mut().unwrap().remove("vae_tile"), Some(Value::Null));
    assert!(json["references"][0]["path"].as_str().unwrap().ends_with("/cup.png"));
    desk.put("old.json", json.to_string());
    desk.made("--from old.json --save_path again.png");
    assert_eq!(desk.read("first.png"), desk.read("again.png"));
}

#[test]
fn tiles_are_recorded_and_are_used_again_however_much_memory_there_is() {
    let desk = Desk::new();
    let size = "--width 512 --height 512 --num_steps 1";
    desk.made(&format!("{size} --memory 150MiB --save_path tiled.png"));
    let tile = desk.json("tiled.json")["vae_tile"].clone();
    assert!(tile.is_u64(), "{tile}: the plan works in tiles");
    desk.made("--from tiled.png --save_path again.png");
    assert_eq!(desk.read("tiled.png"), desk.read("again.png"));
    desk.made(&format!("{size} --save_path whole.png"));
    assert_eq!(desk.json("whole.json")["vae_tile"], Value::Null);
    assert_ne!(desk.picture("whole.png"), desk.picture("tiled.png"));
    // What cannot be done as it was is refused, and of what is not known it is said.
    desk.run("--from whole.png --memory 150MiB").refused(&desk, &["memory", "whole pictures"]);
    let mut json = desk.json("tiled.json");
    json.as_object_mut().unwrap().remove("vae_tile");
    desk.put("old.json", json.to_string());
    desk.made("--from old.json --memory 150MiB --save_path old.png").says("did not record");
    json["vae_tile"] = 0.into();
    desk.put("broken.json", json.to_string());
    desk.run("--from broken.json").refused(&desk, &["vae_tile", "got 0"]);
}
