//! `examples/generate` on bad input: it says what is wrong and what to do, fails without a panic, and writes nothing.
//! At the end unusual input that it must take.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::program::{Desk, RawTensor, Tensors, png_that_claims, serialized};
use image::{DynamicImage, GrayAlphaImage, ImageBuffer, Luma, Rgb};
use safetensors::Dtype;

/// The weights of the small model.
const WEIGHTS: [&str; 5] = [
    "flux1-dev.safetensors",
    "ae.safetensors",
    "dit_lora.safetensors",
    "t5/model.safetensors",
    "clip/model.safetensors",
];

/// Runs with damaged files in `model`, then mends them.
fn with_damage(desk: &Desk, file: &str, bytes: &[u8], check: impl FnOnce()) {
    let file = format!("model/{file}");
    let sound = desk.read(&file);
    desk.put(&file, bytes);
    check();
    desk.put(&file, sound);
}

/// The same, for a change of tensors.
fn with_tensors(desk: &Desk, file: &str, change: impl FnOnce(&mut Tensors), check: impl FnOnce()) {
    let name = format!("model/{file}");
    let sound = desk.read(&name);
    desk.change_tensors(&name, change);
    check();
    desk.put(&name, sound);
}

/// The first value of a 16-bit tensor becomes NaN (all ones is NaN in bf16 and in f16).
fn poison(tensors: &mut Tensors, name: &str) {
    tensors.get_mut(name).unwrap_or_else(|| panic!("no {name}")).data[..2].fill(0xff);
}

// Weights

#[test]
fn the_small_model_in_a_folder_is_sound_before_it_is_damaged() {
    let desk = Desk::with_model();
    desk.made("--model model");
    assert_eq!(desk.files("out"), ["0_0.json", "0_0.png"]);
}

#[test]
fn missing_weights_are_named_with_where_to_get_them() {
    let desk = Desk::with_model();
    for (file, part) in WEIGHTS.into_iter().zip(["DiT", "autoencoder", "LoRA", "T5", "CLIP"]) {
        let name = format!("model/{file}");
        let sound = desk.read(&name);
        std::fs::remove_file(desk.path(&name)).unwrap();
        desk.run("--model model").refused(&desk, &[part, "https://huggingface.co/", "option"]);
        desk.put(&name, sound);
    }
    desk.run("--model nowhere").refused(&desk, &["model folder", "nowhere is not there"]);
    desk.run("--model model --ae nowhere.safetensors").refused(&desk, &["nowhere.safetensors", "ae"]);
    desk.run("--model model/ae.safetensors").refused(&desk, &["is not a folder"]);
}

#[test]
fn truncated_weights_are_refused_at_every_length() {
    let desk = Desk::with_model();
    for file in WEIGHTS {
        let sound = desk.read(&format!("model/{file}"));
        let header = 8 + u64::from_le_bytes(sound[..8].try_into().unwrap()) as usize;
        for length in [0, 1, 7, 8, 9, header / 2, header, header + 1, sound.len() / 2, sound.len() - 1] {
            with_damage(&desk, file, &sound[..length], || {
                let run = desk.run("--model model").refused(&desk, &[file]);
                let remedies = ["load it anew", "from https://huggingface.co/"];
                assert!(remedies.iter().any(|remedy| run.stderr.contains(remedy)), "{}", run.stderr);
            });
        }
    }
}

#[test]
fn truncated_vocabularies_are_refused() {
    let desk = Desk::with_model();
    for file in ["t5/spiece.model", "clip/vocab.json", "clip/merges.txt"] {
        let sound = desk.read(&format!("model/{file}"));
        // The last cut is before the closing brace or within the last merge; a line break at the end is no loss.
        for length in [0, 1, sound.len() / 3, sound.len() / 2, sound.len() - 2] {
            with_damage(&desk, file, &sound[..length], || {
                desk.run("--model model").refused(&desk, &[file]);
            });
        }
    }
}

#[test]
fn a_header_that_lies_is_refused() {
    let desk = Desk::with_model();
    let sound = desk.read("model/ae.safetensors");
    let header_length = u64::from_le_bytes(sound[..8].try_into().unwrap());
    let header = std::str::from_utf8(&sound[8..8 + header_length as usize]).unwrap();
    for length in
        [u64::MAX, u64::MAX - 8, 1 << 62, sound.len() as u64, header_length - 1, header_length + 1, 0]
    {
        let lie = [&length.to_le_bytes(), &sound[8..]].concat();
        with_damage(&desk, "ae.safetensors", &lie, || {
            desk.run("--model model").refused(&desk, &["ae.safetensors"]);
        });
    }
    let shape = "[32,16,3,3]";
    assert!(header.contains(shape), "{header}");
    // Of the same length, so that nothing else moves.
    for other in ["[32,16,3,9]", "[32,16,3,0]", "[99,99,9,9]", "[32,16,3,-]", "[9999999999"] {
        let lie = [&sound[..8], header.replace(shape, other).as_bytes(), &sound[8 + header.len()..]].concat();
        with_damage(&desk, "ae.safetensors", &lie, || {
            desk.run("--model model").refused(&desk, &["ae.safetensors"]);
        });
    }
}

#[test]
fn misnamed_tensors_are_named() {
    let desk = Desk::with_model();
    for (file, name) in [
        ("flux1-dev.safetensors", "double_blocks.1.img_attn.proj.weight"),
        ("ae.safetensors", "decoder.mid.block_1.conv1.weight"),
        ("dit_lora.safetensors", "single_blocks.1.processor.qkv_lora.up.weight"),
        ("t5/model.safetensors", "encoder.block.1.layer.0.SelfAttention.q.weight"),
        ("clip/model.safetensors", "text_model.encoder.layers.1.mlp.fc2.bias"),
    ] {
        let misnamed = format!("{name}s");
        let rename = |tensors: &mut Tensors| {
            let tensor = tensors.remove(name).unwrap();
            tensors.insert(misnamed.clone(), tensor);
        };
        with_tensors(&desk, file, rename, || {
            desk.run("--model model").refused(&desk, &[file, name, &misnamed]);
        });
        // What is missing altogether is told as well.
        with_tensors(
            &desk,
            file,
            |tensors| drop(tensors.remove(name)),
            || {
                desk.run("--model model").refused(&desk, &[file, name]);
            },
        );
    }
}

#[test]
fn wrong_shapes_are_named_with_both_shapes() {
    let desk = Desk::with_model();
    for (file, name, got, wanted) in [
        ("flux1-dev.safetensors", "single_blocks.0.linear2.weight", vec![320, 64], "[64, 320]"),
        ("ae.safetensors", "decoder.mid.block_1.conv1.weight", vec![32, 32, 9], "[32, 32, 3, 3]"),
        (
            "dit_lora.safetensors",
            "double_blocks.0.processor.qkv_lora1.up.weight",
            vec![4, 192],
            "[outputs, 4]",
        ),
        (
            "t5/model.safetensors",
            "encoder.block.1.layer.1.DenseReluDense.wo.weight",
            vec![128, 64],
            "[64, 128]",
        ),
        ("clip/model.safetensors", "text_model.encoder.layers.1.mlp.fc2.weight", vec![64, 32], "[32, 64]"),
    ] {
        let reshape = |tensors: &mut Tensors| tensors.get_mut(name).unwrap().shape = got.clone();
        with_tensors(&desk, file, reshape, || {
            desk.run("--model model").refused(&desk, &[file, name, &format!("{got:?}"), wanted]);
        });
    }
}

#[test]
fn tensors_that_decide_dimensions_are_refused_when_they_are_absurd() {
    let desk = Desk::with_model();
    let empty = |shape: &[usize]| RawTensor { dtype: Dtype::BF16, shape: shape.to_vec(), data: Vec::new() };
    for (file, name, shape) in [
        ("flux1-dev.safetensors", "img_in.weight", vec![0, 64]),
        ("flux1-dev.safetensors", "txt_in.weight", vec![64, 0]),
        ("flux1-dev.safetensors", "double_blocks.0.img_attn.norm.key_norm.scale", vec![0]),
        ("flux1-dev.safetensors", "single_blocks.0.linear2.weight", vec![64, 0]),
        ("ae.safetensors", "decoder.conv_in.weight", vec![32, 0, 3, 3]),
        ("ae.safetensors", "encoder.conv_in.weight", vec![0, 3, 3, 3]),
        ("dit_lora.safetensors", "double_blocks.0.processor.qkv_lora1.down.weight", vec![0, 64]),
        ("t5/model.safetensors", "shared.weight", vec![0, 0]),
        (
            "t5/model.safetensors",
            "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
            vec![0, 4],
        ),
        ("clip/model.safetensors", "text_model.embeddings.position_embedding.weight", vec![0, 32]),
    ] {
        let empty = |tensors: &mut Tensors| drop(tensors.insert(name.into(), empty(&shape)));
        with_tensors(&desk, file, empty, || drop(desk.run("--model model").refused(&desk, &[file])));
    }
}

#[test]
fn no_tensors_at_all_are_refused() {
    let desk = Desk::with_model();
    for file in WEIGHTS {
        with_tensors(&desk, file, Tensors::clear, || {
            desk.run("--model model").refused(&desk, &[file]);
        });
    }
}

#[test]
fn a_nan_in_a_weight_is_reported_with_its_name_and_never_drawn() {
    let desk = Desk::with_model();
    desk.draw("reference.png", 64, 48);
    for (file, name) in [
        ("flux1-dev.safetensors", "double_blocks.1.img_mlp.0.weight"),
        ("flux1-dev.safetensors", "final_layer.linear.bias"),
        ("flux1-dev.safetensors", "guidance_in.in_layer.bias"),
        ("dit_lora.safetensors", "single_blocks.0.processor.qkv_lora.down.weight"),
        ("ae.safetensors", "decoder.conv_out.bias"),
        ("ae.safetensors", "decoder.mid.block_1.norm1.weight"),
        ("ae.safetensors", "encoder.conv_in.weight"),
        ("t5/model.safetensors", "encoder.block.0.layer.0.SelfAttention.q.weight"),
        ("t5/model.safetensors", "encoder.final_layer_norm.weight"),
        ("clip/model.safetensors", "text_model.final_layer_norm.bias"),
    ] {
        with_tensors(
            &desk,
            file,
            |tensors| poison(tensors, name),
            || {
                desk.run("--model model --image_paths reference.png --ref_size 64")
                    .refused(&desk, &["not finite", file, name, "load the files anew"]);
            },
        );
    }
}

#[test]
fn a_nan_is_reported_in_other_ways_to_compute_too() {
    let desk = Desk::with_model();
    for (file, name, how) in [
        ("flux1-dev.safetensors", "double_blocks.1.img_attn.qkv.weight", "--merge_lora"),
        ("flux1-dev.safetensors", "double_blocks.1.img_attn.qkv.weight", "--model_type flux-dev-fp8"),
        ("dit_lora.safetensors", "double_blocks.0.processor.qkv_lora1.up.weight", "--merge_lora"),
        ("t5/model.safetensors", "encoder.block.0.layer.0.SelfAttention.q.weight", "--offload"),
        ("flux1-dev.safetensors", "double_blocks.1.img_mlp.0.weight", "--dtype bf16"),
        (
            "flux1-dev.safetensors",
            "double_blocks.1.img_mlp.0.weight",
            "--batch_size 2 --num_images_per_prompt 2",
        ),
    ] {
        with_tensors(
            &desk,
            file,
            |tensors| poison(tensors, name),
            || {
                desk.run(&format!("--model model {how}")).refused(&desk, &["not finite", file, name]);
            },
        );
    }
}

#[test]
fn pickles_are_refused_whatever_their_name() {
    let desk = Desk::with_model();
    let zip = b"PK\x03\x04\x00\x00\x08\x08\x00\x00 archive/data.pkl";
    // It would run a command, were it loaded.
    let raw = b"\x80\x02cposix\nsystem\nq\x00X\x0c\x00\x00\x00touch pickledq\x01\x85q\x02Rq\x03.";
    for bytes in [&zip[..], &raw[..]] {
        for file in WEIGHTS {
            with_damage(&desk, file, bytes, || {
                desk.run("--model model").refused(&desk, &[file, "pickle", "safetensors"]);
            });
        }
        for (option, name) in
            [("--dit", "dit.pt"), ("--ae", "ae.pt"), ("--t5", "t5.bin"), ("--lora", "lora.ckpt")]
        {
            desk.put(name, bytes);
            desk.run(&format!("--model model {option} {name}"))
                .refused(&desk, &[name, "pickle", "safetensors"]);
        }
        desk.put("noise.pt", bytes);
        desk.run("--noise noise.pt").refused(&desk, &["noise.pt", "pickle"]);
    }
    assert!(!desk.path("pickled").exists());
}

#[test]
fn a_lora_for_another_model_is_refused() {
    let desk = Desk::with_model();
    // Of a model of twice the width.
    let widen = |tensors: &mut Tensors| {
        for (name, tensor) in tensors {
            let side = usize::from(name.contains(".down."));
            tensor.shape[side] *= 2;
            tensor.data.extend(tensor.data.clone());
        }
    };
    with_tensors(&desk, "dit_lora.safetensors", widen, || {
        desk.run("--model model").refused(
            &desk,
            &["dit_lora.safetensors", "128 inputs", "(width 64, ", "has 64 and 64", "another width"],
        );
    });
    // Of a model of more blocks.
    let deepen = |tensors: &mut Tensors| {
        let more: Vec<_> = tensors
            .iter()
            .filter(|(name, _)| name.starts_with("double_blocks.1."))
            .map(|(name, tensor)| (name.replace("blocks.1.", "blocks.2."), tensor.clone()))
            .collect();
        tensors.extend(more);
    };
    with_tensors(&desk, "dit_lora.safetensors", deepen, || {
        desk.run("--model model").refused(&desk, &["dit_lora.safetensors", "double_blocks.2.", "2 double"]);
    });
    // Of another training program, and not whole.
    let rename = |tensors: &mut Tensors| {
        let tensor = tensors.pop_first().unwrap().1;
        *tensors =
            Tensors::from([("lora_unet_double_blocks_0_img_attn_proj.lora_down.weight".into(), tensor)]);
    };
    with_tensors(&desk, "dit_lora.safetensors", rename, || {
        desk.run("--model model")
            .refused(&desk, &["dit_lora.safetensors", "half is missing", "img_attn_proj.lora_up.weight"]);
    });
    // No LoRA at all.
    desk.run("--model model --lora model/ae.safetensors")
        .refused(&desk, &["ae.safetensors", "is no LoRA for FLUX"]);
    desk.run("--model model --lora model/t5/spiece.model").refused(&desk, &["spiece.model"]);
}

#[test]
fn parts_in_each_others_places_are_refused() {
    let desk = Desk::with_model();
    desk.run("--model model --dit model/ae.safetensors").refused(&desk, &["ae.safetensors"]);
    desk.run("--model model --ae model/flux1-dev.safetensors").refused(&desk, &["flux1-dev.safetensors"]);
    desk.run("--model model --t5 model/clip/model.safetensors").refused(&desk, &["clip"]);
    desk.run("--model model --clip model/t5").refused(&desk, &["t5"]);
}

// Reference pictures

#[test]
fn references_that_are_no_pictures_are_refused() {
    let desk = Desk::new();
    desk.put("text.png", "this is a text");
    desk.put("page.jpg", "<html><body>404</body></html>");
    desk.put("empty.png", "");
    desk.draw("sound.png", 64, 64);
    let sound = desk.read("sound.png");
    desk.put("cut.png", &sound[..sound.len() / 2]);
    desk.draw("photo.jpg", 64, 64);
    let photo = desk.read("photo.jpg");
    desk.put("cut.jpg", &photo[..photo.len() / 2]);
    desk.put("photo.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic");
    desk.put("head.png", &sound[..30]);
    let mut flipped = sound.clone();
    flipped[sound.len() / 2] ^= 0xff;
    desk.put("flipped.png", flipped);
    for (name, words) in [
        ("text.png", &["is no picture", "PNG, JPEG, WebP"][..]),
        ("page.jpg", &["is a web page (HTML)", "load the picture itself anew"]),
        ("cut.jpg", &["cut short", "load it anew"]),
        ("photo.heic", &["HEIC", "convert it to PNG or JPEG first"]),
        ("empty.png", &["the file is empty"]),
        ("missing.png", &["No such file"]),
        ("cut.png", &["cannot be decoded", "damaged"]),
        ("head.png", &["cannot be decoded", "damaged"]),
        ("flipped.png", &["cannot be decoded", "damaged"]),
        (".", &[]),
        ("/dev/null", &["the file is empty"]),
    ] {
        let words: Vec<&str> = words.iter().copied().chain([name]).collect();
        desk.run(&format!("--ref_size 64 --image_paths {name}")).refused(&desk, &words);
        // As the second of two: nothing has been done for the first.
        desk.run(&format!("--ref_size 64 --image_paths sound.png {name}")).refused(&desk, &words);
    }
}

#[test]
fn references_of_impossible_dimensions_are_refused_before_they_are_decoded() {
    let desk = Desk::new();
    desk.draw("narrow.png", 1, 500);
    desk.draw("flat.png", 500, 1);
    desk.draw("wide.png", 30_000, 16);
    desk.put("bomb.png", png_that_claims(60_000, 60_000));
    desk.put("square.png", png_that_claims(19_999, 19_999));
    desk.put("largest.png", png_that_claims(i32::MAX as u32, i32::MAX as u32));
    desk.put("nothing.png", png_that_claims(0, 64));
    for (name, words) in [
        ("narrow.png", &["too elongated", "1x500", "crop it"][..]),
        ("flat.png", &["too elongated", "500x1", "crop it"]),
        ("wide.png", &["30000x16", "20000", "smaller"]),
        ("bomb.png", &["60000x60000", "20000", "smaller"]),
        ("square.png", &["19999x19999", "smaller"]),
        ("largest.png", &["2147483647x2147483647", "20000", "smaller"]),
        ("nothing.png", &[]),
    ] {
        let words: Vec<&str> = words.iter().copied().chain([name]).collect();
        desk.run(&format!("--image_paths {name}")).refused(&desk, &words);
    }
}

// Arguments

#[test]
fn arguments_that_cannot_be_done_are_named_with_those_that_can() {
    let desk = Desk::new();
    desk.put("noise.safetensors", serialized(&Tensors::from([noise("noise", [1, 16, 4, 4])])));
    for (arguments, words) in [
        ("--width 0", &["width", "got 0", "16 to 8192"][..]),
        ("--height 15", &["height", "got 15", "16 to 8192"]),
        ("--width 8193", &["width", "8192"]),
        ("--width 18446744073709551615", &["width", "8192"]),
        ("--width 64px", &["width", "64px"]),
        ("--width -64", &["width", "-64"]),
        ("--num_steps 0", &["num_steps", "got 0", "1 to"]),
        ("--num_steps 99999999999", &["num_steps", "1 to"]),
        ("--seed 18446744073709551616", &["seed", "18446744073709551616", "0 to 18446744073709551615"]),
        ("--seed -1", &["seed", "-1", "0 to 18446744073709551615"]),
        ("--seed 1.5", &["seed", "1.5", "0 to 18446744073709551615"]),
        ("--seed 18446744073709551615 --num_images_per_prompt 2", &["seed", "64 bits"]),
        ("--num_images_per_prompt 0", &["num-images-per-prompt", "1"]),
        ("--num_images_per_prompt 18446744073709551615", &["num_images_per_prompt", "1 to"]),
        ("--num_images_per_prompt 99999999999", &["num_images_per_prompt", "1 to"]),
        ("--batch_size 0", &["batch-size", "1"]),
        ("--threads 0", &["threads", "1"]),
        ("--guidance nan", &["guidance", "NaN", "finite"]),
        ("--guidance inf", &["guidance", "inf", "finite"]),
        ("--guidance 1e38", &["not finite"]),
        ("--lora_scale nan", &["LoRA scale", "NaN", "finite"]),
        ("--lora_scale 1e300", &["not finite"]),
        ("--ref_size 0", &["ref_size", "got 0", "16 to 8192"]),
        ("--ref_size -2", &["ref_size", "got -2", "-1"]),
        ("--ref_size 99999999999", &["ref_size", "99999999999", "8192"]),
        ("--pe x", &["pe", "got x", "d (diagonal)"]),
        ("--device tpu", &["device tpu", "this build has: cpu"]),
        ("--device cpu:7", &["device cpu:7", "wanted cpu"]),
        ("--dtype f8", &["dtype", "f8", "f32"]),
        ("--shard 2/2", &["shard", "2/2", "i/n"]),
        ("--shard 0/0", &["shard", "0/0", "i/n"]),
        ("--shard 1", &["shard", "i/n"]),
        ("--shard a/b", &["shard", "a/b", "i/n"]),
        ("--shard=-1/2", &["shard", "-1/2", "i/n"]),
        ("--model_type flux-pro", &["model_type", "flux-pro", "flux-dev"]),
        ("--noise nowhere.safetensors", &["nowhere.safetensors", "torch-cuda"]),
        ("--noise noise.safetensors", &["[1, 16, 4, 4]", "[1, 16, 8, 8]"]),
        ("--noise noise.safetensors --num_images_per_prompt 2", &["--noise", "one picture"]),
        ("--nonsense", &["--nonsense", "--help"]),
        ("--prompt a --eval_json_path list.json", &["--eval-json-path", "--prompt"]),
        ("--eval_json_path nowhere.json", &["nowhere.json"]),
    ] {
        desk.run(arguments).refused(&desk, words);
    }
    let nothing = desk.command(&["--save_path", "out"]).output().unwrap();
    common::program::Run::from(nothing).refused(&desk, &["--prompt"]);
}

fn noise(name: &str, shape: [usize; 4]) -> (String, RawTensor) {
    let data = vec![0; shape.iter().product::<usize>() * 4];
    (name.to_owned(), RawTensor { dtype: Dtype::F32, shape: shape.to_vec(), data })
}

#[test]
fn noise_that_is_none_is_refused() {
    let desk = Desk::new();
    let (name, mut tensor) = noise("noise", [1, 16, 8, 8]);
    tensor.data[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    desk.put("nan.safetensors", serialized(&Tensors::from([(name, tensor)])));
    desk.put(
        "two.safetensors",
        serialized(&Tensors::from([noise("a", [1, 16, 8, 8]), noise("b", [1, 16, 8, 8])])),
    );
    let (name, mut tensor) = noise("noise", [1, 16, 8, 8]);
    tensor.dtype = Dtype::I32;
    desk.put("integers.safetensors", serialized(&Tensors::from([(name, tensor)])));
    desk.put("none.safetensors", serialized(&Tensors::new()));
    for (name, words) in [
        ("nan", &["not finite", "give finite noise"][..]),
        ("two", &["two.safetensors", "got 2"]),
        ("integers", &["integers.safetensors", "I32"]),
        ("none", &["none.safetensors", "got 0"]),
    ] {
        desk.run(&format!("--noise {name}.safetensors")).refused(&desk, words);
    }
}

#[test]
fn prompt_lists_that_are_none_are_refused() {
    let desk = Desk::new();
    desk.draw("sound.png", 64, 64);
    for (list, words) in [
        ("", &["is no prompt list", "\"prompt\""][..]),
        ("[]", &["holds no prompt"]),
        ("{\"prompt\": \"a\"}", &["is no prompt list"]),
        ("[{\"image_paths\": []}]", &["is no prompt list", "prompt"]),
        ("[{\"prompt\": 1}]", &["is no prompt list"]),
        // The last of a list shows before the first is made.
        (
            "[{\"prompt\": \"a\", \"image_paths\": [\"sound.png\"]}, {\"prompt\": \"b\", \"image_paths\": [\"lost.png\"]}]",
            &["lost.png"],
        ),
    ] {
        desk.put("list.json", list);
        desk.run("--eval_json_path list.json --ref_size 64").refused(&desk, words);
    }
}

#[test]
fn places_that_cannot_be_written_to_are_refused_before_any_work() {
    let desk = Desk::new();
    desk.put("file", "not a folder");
    for (place, word) in [
        ("file", "file"),
        ("file/below", "file/below"),
        ("file/below.png", "file"),
        ("/proc/uno-rs", "/proc/uno-rs"),
        ("/proc/uno-rs/x.png", "/proc/uno-rs"),
        ("/proc", "/proc"),
    ] {
        let run = desk.run_with(&["--save_path", place]);
        assert!(!run.stderr.contains("denoising"), "{}", run.stderr);
        run.refused(&desk, &["cannot write to", word, "--save_path"]);
    }
    assert_eq!(desk.read("file"), b"not a folder");
    assert_eq!(desk.files("."), ["file"]);
}

// Pictures to make again

#[test]
fn only_pictures_with_settings_can_be_made_again() {
    let desk = Desk::with_model();
    desk.draw("foreign.png", 64, 64);
    desk.put("foreign.jpg", "\u{ff}no JSON");
    desk.put("empty.png", "");
    desk.put("empty.json", "");
    desk.put("other.json", "{\"prompt\": \"a\"}");
    for (name, words) in [
        ("foreign.png", &["holds no settings", "not made by uno-rs"][..]),
        ("foreign.jpg", &["holds no settings"]),
        ("empty.png", &["empty.png"]),
        ("empty.json", &["holds no settings"]),
        ("other.json", &["holds no settings"]),
        ("nowhere.png", &["nowhere.png", "No such file"]),
        ("model", &["model"]),
    ] {
        desk.run(&format!("--from {name}")).refused(&desk, words);
    }
}

#[test]
fn a_picture_is_not_made_again_from_other_files_than_the_first_time() {
    let desk = Desk::with_model();
    desk.draw("reference.png", 64, 64);
    desk.made("--model model --image_paths reference.png --ref_size 64 --save_path first");
    // Another reference.
    let sound = desk.read("reference.png");
    desk.draw("reference.png", 64, 48);
    desk.run("--from first/0_0.png").refused(&desk, &["reference.png", "has changed", "SHA-256"]);
    std::fs::remove_file(desk.path("reference.png")).unwrap();
    desk.run("--from first/0_0.png").refused(&desk, &["reference.png", "No such file"]);
    desk.put("reference.png", sound);
    // Another model in its place.
    let change = |tensors: &mut Tensors| tensors.get_mut("final_layer.linear.bias").unwrap().data[0] ^= 1;
    with_tensors(&desk, "flux1-dev.safetensors", change, || {
        desk.run("--from first/0_0.png")
            .refused(&desk, &["dit", "flux1-dev.safetensors", "fingerprint", "--dit"]);
    });
    let change = |tensors: &mut Tensors| tensors.get_mut("shared.weight").unwrap().data[0] ^= 1;
    with_tensors(&desk, "t5/model.safetensors", change, || {
        desk.run("--from first/0_0.json").refused(&desk, &["t5", "fingerprint", "--t5"]);
    });
    // Another small file.
    let sound = desk.read("model/clip/config.json");
    desk.put("model/clip/config.json", [sound.as_slice(), b" "].concat());
    desk.run("--from first/0_0.png").refused(&desk, &["clip_config", "fingerprint", "--clip"]);
    desk.put("model/clip/config.json", sound);
    // Another one that is named.
    desk.put("other/ae.safetensors", desk.read("model/ae.safetensors"));
    desk.change_tensors("other/ae.safetensors", |t| t.get_mut("decoder.conv_out.bias").unwrap().data[0] ^= 1);
    desk.run("--from first/0_0.png --model model --ae other/ae.safetensors")
        .refused(&desk, &["ae", "fingerprint"]);
    // It still works with everything in its place.
    desk.made("--from first/0_0.png --save_path second");
    assert_eq!(desk.read("first/0_0.png"), desk.read("second/0_0.png"));
}

#[test]
fn settings_that_were_tampered_with_are_refused() {
    let desk = Desk::new();
    desk.made("--save_path first");
    let sound = String::from_utf8(desk.read("first/0_0.json")).unwrap();
    for (from, to, words) in [
        ("\"form\": 1", "\"form\": 99", &["form 99", "wanted 1"][..]),
        ("\"width\": 64", "\"width\": 0", &["width", "16 to 8192"]),
        ("\"width\": 64", "\"width\": 18446744073709551615", &["width", "16 to 8192"]),
        ("\"num_steps\": 2", "\"num_steps\": 0", &["num_steps", "1 to"]),
        ("\"seed\": 3407", "\"seed\": -1", &["holds no settings"]),
        ("\"dtype\": \"F32\"", "\"dtype\": \"F4\"", &["F4"]),
        ("\"model_type\": \"embedded\"", "\"model_type\": \"flux-pro\"", &["flux-pro", "flux-dev"]),
        ("\"lora_scale\": 1.0", "\"lora_scale\": 1e999", &["holds no settings"]),
    ] {
        assert!(sound.contains(from), "{from} is not in {sound}");
        desk.put("changed.json", sound.replace(from, to));
        desk.run("--from changed.json").refused(&desk, words);
    }
    desk.put("large.json", " ".repeat(2 << 20) + &sound);
    desk.run("--from large.json").refused(&desk, &["large.json"]);
}

// What is unusual and accepted

/// Runs what must give one picture of 64x64 and nothing else.
#[track_caller]
fn accepted(desk: &Desk, arguments: &[&str]) -> common::program::Run {
    let run = desk.run_with(arguments).succeeded();
    assert_eq!(desk.files("out"), ["0_0.json", "0_0.png"]);
    assert_eq!(desk.picture("out/0_0.png").dimensions(), (64, 64));
    std::fs::remove_dir_all(desk.path("out")).unwrap();
    run
}

#[test]
fn unusual_prompts_are_accepted() {
    let desk = Desk::new();
    accepted(&desk, &["--prompt", ""]);
    accepted(&desk, &["--prompt", " \t\n "]);
    accepted(&desk, &["--prompt", "猫と🤖\u{200d}\u{301}\u{202e} ﷽"]);
    // Prompts are no file names.
    accepted(
        &desk,
        &["--prompt", "../../escaped/\\..\\x:*?\"<>|\u{1}\u{7}\u{1b}[31m\r\n\u{7f}\u{85}/etc/passwd"],
    );
    accepted(&desk, &["--prompt=--prompt"]);
    assert_eq!(desk.files("."), [""; 0], "nothing outside of the folder");
    let long = (0..2000).map(|i| format!("word{i}")).collect::<Vec<_>>().join(" ");
    let run = accepted(&desk, &["--prompt", &long]).says("too long for T5").says("too long for CLIP");
    assert!(!run.stderr.contains("word1999"), "the prompt itself is not repeated");
}

#[test]
fn sizes_that_are_no_multiples_of_16_are_rounded_and_said() {
    let desk = Desk::new();
    accepted(&desk, &["--width", "65"]).says("65x64 is made as 64x64");
    accepted(&desk, &["--width", "79", "--height", "70"]).says("79x70 is made as 64x64");
}

#[test]
fn references_of_every_kind_are_accepted() {
    let desk = Desk::new();
    let gray16 = ImageBuffer::from_fn(40, 30, |x, y| Luma([(x * 1600 + y) as u16]));
    DynamicImage::ImageLuma16(gray16).save(desk.path("gray16.png")).unwrap();
    let rgb16 = ImageBuffer::from_fn(40, 30, |x, y| Rgb([(x * 1600) as u16, (y * 2000) as u16, 65535]));
    DynamicImage::ImageRgb16(rgb16).save(desk.path("rgb16.png")).unwrap();
    let gray_alpha = GrayAlphaImage::from_fn(40, 30, |x, y| image::LumaA([(x * 6) as u8, (y * 8) as u8]));
    gray_alpha.save(desk.path("gray_alpha.png")).unwrap();
    desk.draw("tiny.png", 1, 1);
    desk.draw("photo.jpg", 40, 30);
    desk.draw("picture.webp", 40, 30);
    desk.draw("picture.gif", 40, 30);
    desk.draw("picture.bmp", 40, 30);
    desk.draw("picture.tiff", 40, 30);
    desk.put("named_wrongly.png", desk.read("photo.jpg"));
    desk.put("no ending", desk.read("photo.jpg"));
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/pictures");
    let (cmyk, palette) = (format!("{fixtures}/cmyk.jpg"), format!("{fixtures}/palette.png"));
    for name in [
        "gray16.png",
        "rgb16.png",
        "gray_alpha.png",
        "tiny.png",
        "photo.jpg",
        "picture.webp",
        "picture.gif",
        "picture.bmp",
        "picture.tiff",
        "named_wrongly.png",
        "no ending",
        &cmyk,
        &palette,
    ] {
        println!("{name}");
        accepted(&desk, &["--image_paths", name, "--ref_size", "32"]);
    }
}
