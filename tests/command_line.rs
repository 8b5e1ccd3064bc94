//! `examples/generate` as a user runs it, with the small model inside the program.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use burn::tensor::FloatDType;
use common::program::{Desk, RawTensor, Run, Tensors, png_chunks, png_texts, serialized};
use image::{ImageDecoder, RgbImage};
use safetensors::Dtype;
use serde_json::Value;
use uno_core::noise::{NoiseSource, latent_noise};

/// Mean difference of two pictures of one size, in steps of 0 to 255.
fn difference(a: &RgbImage, b: &RgbImage) -> f64 {
    assert_eq!(a.dimensions(), b.dimensions());
    let sum: u64 = a.as_raw().iter().zip(b.as_raw()).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    sum as f64 / a.as_raw().len() as f64
}

#[test]
fn help_lists_the_official_options_and_every_option_has_a_description() {
    let help = Desk::new().command(&["--help"]).output().unwrap();
    assert!(help.status.success());
    let help = String::from_utf8(help.stdout).unwrap();
    for option in [
        "prompt",
        "image-paths",
        "eval-json-path",
        "offload",
        "num-images-per-prompt",
        "model-type",
        "width",
        "height",
        "ref-size",
        "num-steps",
        "guidance",
        "seed",
        "save-path",
        "concat-refs",
        "pe",
    ] {
        assert!(help.lines().any(|line| line.trim_start().starts_with(&format!("--{option}"))), "--{option}");
    }
    // An option's line is followed by its description, further in.
    let lines: Vec<&str> = help.lines().collect();
    for pair in lines.windows(2).filter(|pair| pair[0].starts_with("      --")) {
        assert!(pair[1].starts_with("          "), "{} has no description", pair[0]);
    }
}

#[test]
fn options_have_underscores_or_dashes_and_values_after_a_space_or_an_equals_sign() {
    let desk = Desk::new();
    let with = |arguments: &str| {
        let arguments: Vec<&str> = arguments.split_whitespace().collect();
        assert!(desk.command(&arguments).output().unwrap().status.success(), "{arguments:?}");
    };
    with("--prompt a_b --width 64 --height 64 --num_steps 2 --save_path under_scores");
    with("--prompt a_b --width 64 --height 64 --num-steps 2 --save-path da_shes");
    with("--prompt=a_b --width=64 --height=64 --num_steps=2 --save_path=equals_signs");
    let picture = desk.read("under_scores/0_0.png");
    assert_eq!(picture, desk.read("da_shes/0_0.png"));
    assert_eq!(picture, desk.read("equals_signs/0_0.png"), "values keep their underscores");
    assert_eq!(desk.json("equals_signs/0_0.json")["prompt"], "a_b");
}

#[test]
fn the_embedded_model_says_that_it_is_no_real_one() {
    let desk = Desk::with_copy_of("uno-tiny");
    let run = desk.made("").says("No model was named").says("--model DIR").says("--download").says("licence");
    assert_eq!(run.stdout.lines().count(), 1);
    assert!(run.stdout.starts_with("out/0_0.png"), "{}", run.stdout);
    assert_eq!(desk.json("out/0_0.json")["model_type"], "embedded");
    // The same files in a folder make the same picture, and say nothing of the kind; sizes and guidance are the official ones then.
    let guidance = desk.json("out/0_0.json")["guidance"].to_string();
    let run = desk.made(&format!("--model model --guidance {guidance} --save_path folder"));
    let run = run.says("model/ae.safetensors");
    assert!(!run.stderr.contains("No model was named"));
    assert_eq!(desk.json("folder/0_0.json")["model_type"], "flux-dev");
    assert_eq!(desk.picture("out/0_0.png"), desk.picture("folder/0_0.png"));
}

#[test]
fn the_embedded_model_has_sizes_of_its_own() {
    let desk = Desk::new();
    for name in ["a.png", "b.png"] {
        desk.draw(name, 200, 100);
    }
    let made = |arguments: &str, folder: &str| {
        let fixed = format!("--prompt x --num_steps 1 --save_path {folder} {arguments}");
        let run = desk.command(&fixed.split_whitespace().collect::<Vec<_>>()).output().unwrap();
        Run::from(run).succeeded();
        desk.json(&format!("{folder}/0_0.json"))
    };
    let one = made("--image_paths a.png", "one");
    assert_eq!((&one["width"], &one["height"], &one["ref_size"]), (&128.into(), &128.into(), &128.into()));
    assert_eq!(desk.picture("one/0_0.png").dimensions(), (128, 128));
    let two = made("--image_paths a.png b.png --width 64", "two");
    assert_eq!((&two["width"], &two["height"], &two["ref_size"]), (&64.into(), &128.into(), &80.into()));
}

#[test]
fn the_same_settings_give_the_same_bytes_however_they_are_computed() {
    let desk = Desk::new();
    desk.draw("reference.png", 64, 48);
    let reference = "--image_paths reference.png --ref_size 64";
    let settings = format!("{reference} --seed 7");
    desk.made(&format!("{settings} --save_path first"));
    let first = desk.read("first/0_0.png");
    for (how, folder) in [
        ("", "again"),
        ("--threads 1", "one"),
        ("--threads 2", "two"),
        ("--offload", "spared"),
        ("--batch_size 3", "batch"),
    ] {
        desk.made(&format!("{settings} {how} --save_path {folder}"));
        assert!(first == desk.read(&format!("{folder}/0_0.png")), "{how}");
    }
    // From itself, in every form.
    for (from, folder) in [("first/0_0.png", "from_png"), ("first/0_0.json", "from_json")] {
        desk.made(&format!("--from {from} --save_path {folder}"));
        assert_eq!(first, desk.read(&format!("{folder}/0_0.png")), "{from}");
        assert_eq!(desk.read("first/0_0.json"), desk.read(&format!("{folder}/0_0.json")), "{from}");
    }
    // And into a file that is named.
    desk.made("--from first/0_0.png --save_path named/picture.png");
    assert_eq!(desk.files("named"), ["picture.json", "picture.png"]);
    assert_eq!(first, desk.read("named/picture.png"));
    // Another seed is another picture.
    desk.made(&format!("{reference} --seed 8 --save_path other"));
    assert_ne!(desk.picture("first/0_0.png"), desk.picture("other/0_0.png"));
}

#[test]
fn several_pictures_have_the_next_seeds_alone_and_in_a_batch() {
    let desk = Desk::new();
    desk.draw("reference.png", 64, 48);
    let settings = "--image_paths reference.png --ref_size 64 --num_images_per_prompt 3 --seed 5";
    desk.made(&format!("{settings} --save_path alone"));
    desk.made(&format!("{settings} --batch_size 3 --save_path batch"));
    desk.made(&format!("{settings} --batch_size 2 --save_path uneven"));
    let names = ["0_0.json", "0_0.png", "0_1.json", "0_1.png", "0_2.json", "0_2.png"];
    for folder in ["alone", "batch", "uneven"] {
        assert_eq!(desk.files(folder), names);
        for name in names {
            assert_eq!(
                desk.read(&format!("alone/{name}")),
                desk.read(&format!("{folder}/{name}")),
                "{folder} {name}"
            );
        }
    }
    for (j, seed) in [5, 6, 7].into_iter().enumerate() {
        assert_eq!(desk.json(&format!("alone/0_{j}.json"))["seed"], seed);
    }
    // Each can be asked for by its own seed.
    desk.made("--image_paths reference.png --ref_size 64 --seed 7 --save_path third");
    assert_eq!(desk.read("alone/0_2.png"), desk.read("third/0_0.png"));
    desk.made("--from alone/0_2.png --save_path from");
    assert_eq!(desk.read("alone/0_2.png"), desk.read("from/0_0.png"));
}

#[test]
fn a_picture_carries_its_settings_in_text_exif_and_beside_it() {
    let desk = Desk::with_model();
    desk.draw("reference.png", 64, 48);
    let prompt = "a \"robot\"; ünïcode 猫\nof two lines";
    let arguments = ["--prompt", prompt, "--width", "80", "--num_images_per_prompt", "2", "--model", "model"];
    let more = ["--image_paths", "reference.png", "--ref_size", "64", "--seed", "18446744073709551614"];
    desk.run_with(&[&arguments[..], &more].concat()).succeeded();

    let (png, json) = (desk.read("out/0_1.png"), desk.json("out/0_1.json"));
    assert_eq!(json["prompt"], prompt);
    assert_eq!(json["seed"], u64::MAX, "of this picture, to the last digit");
    assert_eq!((&json["width"], &json["height"]), (&80.into(), &64.into()));
    assert_eq!((&json["num_steps"], &json["guidance"]), (&2.into(), &4.0.into()));
    assert_eq!((&json["ref_size"], &json["pe"]), (&64.into(), &"d".into()));
    assert_eq!(json["software"], concat!("uno-rs ", env!("CARGO_PKG_VERSION")));
    let reference = &json["references"][0];
    assert!(reference["path"].as_str().unwrap().ends_with("/reference.png"));
    assert_eq!(reference["sha256"].as_str().unwrap().len(), 64);
    assert_eq!((&reference["width"], &reference["height"]), (&64.into(), &48.into()));
    let model = json["model"].as_array().unwrap();
    let parts: Vec<&str> = model.iter().map(|record| record["part"].as_str().unwrap()).collect();
    let (weights, small) = parts.split_at(5);
    assert_eq!(weights, ["dit", "ae", "t5", "clip", "lora"]);
    assert_eq!(small, ["t5_tokenizer", "clip_vocab", "clip_merges", "clip_config"]);
    for record in model {
        assert_eq!(record["fingerprint"].as_str().unwrap().len(), 64);
        let path = record["path"].as_str().unwrap();
        assert!(path.contains("/model/"), "{path}");
    }

    let texts = png_texts(&png);
    assert_eq!(texts["Description"], prompt);
    // The same, but for the folders of files.
    let mut inside: Value = serde_json::from_str(&texts["uno"]).unwrap();
    for files in ["references", "model"] {
        for (inside, beside) in
            inside[files].as_array_mut().unwrap().iter_mut().zip(json[files].as_array().unwrap())
        {
            let (name, path) = (inside["path"].as_str().unwrap(), beside["path"].as_str().unwrap());
            assert_eq!(path.rsplit('/').next(), Some(name));
            inside["path"] = path.into();
        }
    }
    assert_eq!(inside, json);
    assert!(texts["Software"].starts_with("uno-rs "));
    let kinds: Vec<String> = png_chunks(&png).into_iter().map(|(kind, _)| kind).collect();
    assert!(kinds.iter().position(|kind| kind == "iTXt") < kinds.iter().position(|kind| kind == "IDAT"));

    // EXIF, as another program reads it.
    let mut decoder = image::codecs::png::PngDecoder::new(std::io::Cursor::new(&png)).unwrap();
    assert_eq!(decoder.dimensions(), (80, 64));
    let exif = decoder.exif_metadata().unwrap().expect("an eXIf chunk");
    let holds = |bytes: &[u8]| exif.windows(bytes.len()).any(|window| window == bytes);
    assert!(exif.starts_with(b"II*\0"));
    assert!(holds(prompt.as_bytes()));
    let seed: Vec<u8> = "\"seed\": 18446744073709551615".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert!(holds(&seed));
}

#[test]
fn json_lines_are_all_that_is_on_standard_output() {
    let desk = Desk::new();
    let run = desk.made("--json --num_images_per_prompt 2 --width 65");
    let lines: Vec<Value> = run.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    for (j, line) in lines.iter().enumerate() {
        assert_eq!(line["path"], format!("out/0_{j}.png"));
        assert_eq!(line["settings"], desk.json(&format!("out/0_{j}.json")));
        assert!(line["seconds"].as_f64().unwrap() > 0.0);
        assert!(line["notices"][0].as_str().unwrap().contains("65x64 is made as 64x64"));
    }
    // What people read is elsewhere.
    run.says("step 2/2").says("65x64 is made as 64x64");
}

#[test]
fn several_prompts_are_numbered() {
    let desk = Desk::new();
    let arguments = ["--prompt", "a robot", "--prompt", "", "--num_images_per_prompt", "2"];
    desk.run_with(&arguments).succeeded();
    for (name, prompt) in [("0_0", "a robot"), ("0_1", "a robot"), ("1_0", ""), ("1_1", "")] {
        assert_eq!(desk.json(&format!("out/{name}.json"))["prompt"], prompt);
    }
    assert_eq!(desk.files("out").len(), 8);
}

/// A list of three prompts with no, one and two references.
fn prompt_list(desk: &Desk) {
    desk.put("list/a.txt", "");
    desk.draw("list/a.png", 64, 48);
    desk.draw("list/b.png", 48, 64);
    desk.put(
        "list/prompts.json",
        r#"[{"prompt": "nothing", "image_paths": []},
            {"prompt": "one", "image_paths": ["a.png"]},
            {"prompt": "two", "image_paths": ["a.png", "b.png"], "index": 3}]"#,
    );
}

/// Every file of a folder, with the time of its last change.
fn times(desk: &Desk, folder: &str) -> BTreeMap<String, SystemTime> {
    let time = |name: &String| desk.path(folder).join(name).metadata().unwrap().modified().unwrap();
    desk.files(folder).into_iter().map(|name| (name.clone(), time(&name))).collect()
}

/// Files of pictures `{i}_{j}`, without temporary ones that a killed run may leave.
fn pictures(desk: &Desk, folder: &str) -> Vec<String> {
    desk.files(folder).into_iter().filter(|name| name.ends_with(".png")).collect()
}

#[test]
fn a_prompt_list_is_made_in_shards_and_nothing_twice() {
    let desk = Desk::new();
    prompt_list(&desk);
    let settings = "--eval_json_path list/prompts.json --num_images_per_prompt 2 --ref_size 64";
    desk.made(&format!("{settings} --shard 0/2"));
    let half = times(&desk, "out");
    assert_eq!(pictures(&desk, "out"), ["0_0.png", "1_0.png", "2_0.png"]);
    desk.made(&format!("{settings} --shard 1/2"));
    let all = times(&desk, "out");
    let names = ["0_0.png", "0_1.png", "1_0.png", "1_1.png", "2_0.png", "2_1.png"];
    assert_eq!(pictures(&desk, "out"), names);
    assert_eq!(all.len(), 12);
    assert!(half.iter().all(|(name, time)| all[name] == *time), "the second shard left the first alone");

    // The whole list again makes nothing, and loads no model for it.
    let run = desk.made(settings).says("there already");
    assert!(!run.stderr.contains("loading"), "{}", run.stderr);
    assert_eq!(run.stdout, "");
    assert_eq!(times(&desk, "out"), all);

    // What was lost is made again, the same as before, and nothing else.
    for lost in ["1_1.png", "2_0.json"] {
        let (png, json) = (lost.replace("json", "png"), lost.replace("png", "json"));
        let before = (desk.read(&format!("out/{png}")), desk.read(&format!("out/{json}")));
        std::fs::remove_file(desk.path("out").join(lost)).unwrap();
        let run = desk.made(settings);
        assert_eq!(run.stdout.lines().count(), 1, "{}", run.stdout);
        assert!(run.stdout.starts_with(&format!("out/{png}")), "{}", run.stdout);
        assert_eq!(before, (desk.read(&format!("out/{png}")), desk.read(&format!("out/{json}"))));
        let now = times(&desk, "out");
        let changed: Vec<_> =
            all.iter().filter(|(name, time)| now[*name] != **time).map(|(name, _)| name).collect();
        assert!(
            changed.iter().all(|name| [&png, &json, "1_1.png", "1_1.json"].contains(&name.as_str())),
            "{changed:?}"
        );
    }

    // Other settings are other pictures.
    let run = desk.made(&format!("{settings} --guidance 2 --shard 0/6"));
    assert_eq!(run.stdout.lines().count(), 1);
    assert_eq!(desk.json("out/0_0.json")["guidance"], 2.0);

    // A shard without work is no error.
    let run = desk.made(&format!("{settings} --shard 8/9 --save_path none"));
    assert_eq!((run.stdout.as_str(), desk.files("none").len()), ("", 0));
}

#[test]
fn a_killed_run_goes_on_where_it_was() {
    let desk = Desk::new();
    prompt_list(&desk);
    let settings = "--eval_json_path list/prompts.json --num_images_per_prompt 4 --ref_size 64 --num_steps 8";
    let arguments: Vec<&str> = settings.split_whitespace().collect();
    let mut child = desk
        .small(&arguments)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while !desk.path("out/0_1.json").exists() && start.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let before = times(&desk, "out");
    let done = |name: &&String| name.ends_with(".json") && !name.starts_with('.');
    let made = before.keys().filter(done).count();
    assert!((2..12).contains(&made), "{made} of 12 pictures were made before the end");
    // No picture is half-written.
    for name in pictures(&desk, "out") {
        assert_eq!(desk.picture(&format!("out/{name}")).dimensions(), (64, 64));
    }
    let run = desk.made(settings);
    assert_eq!(run.stdout.lines().count(), 12 - made, "{}", run.stdout);
    let after = times(&desk, "out");
    for name in before.keys().filter(done) {
        let png = name.replace("json", "png");
        assert_eq!((before[name], before[&png]), (after[name], after[&png]), "{name}");
    }
    let mut wanted: Vec<String> = (0..3).flat_map(|i| (0..4).map(move |j| format!("{i}_{j}.png"))).collect();
    wanted.sort();
    assert_eq!(pictures(&desk, "out"), wanted);
}

#[test]
fn the_size_of_references_follows_their_number_in_each_prompt() {
    let desk = Desk::with_model();
    prompt_list(&desk);
    desk.made("--model model --eval_json_path list/prompts.json --num_steps 1");
    let json = |i: usize| desk.json(&format!("out/{i}_0.json"));
    assert_eq!(json(1)["ref_size"], 512);
    assert_eq!(
        (&json(1)["references"][0]["width"], &json(1)["references"][0]["height"]),
        (&512.into(), &384.into())
    );
    assert_eq!(json(2)["ref_size"], 320);
    let sizes: Vec<_> = json(2)["references"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| (r["width"].clone(), r["height"].clone()))
        .collect();
    assert_eq!(sizes, [(320.into(), 240.into()), (240.into(), 320.into())]);
    // The order of prompts does not matter, nor does what came before.
    desk.put("list/prompts.json", r#"[{"prompt": "two", "image_paths": ["a.png", "b.png"]}]"#);
    desk.made("--model model --eval_json_path list/prompts.json --num_steps 1 --save_path alone");
    assert_eq!(desk.read("alone/0_0.png"), desk.read("out/2_0.png"));
}

#[test]
fn references_are_shown_beside_the_picture() {
    let desk = Desk::new();
    desk.draw("a.png", 64, 48);
    desk.draw("b.png", 32, 64);
    desk.made("--image_paths a.png b.png --ref_size 64 --save_path plain");
    desk.made("--image_paths a.png b.png --ref_size 64 --concat_refs");
    let joined = desk.picture("out/0_0.png");
    assert_eq!(joined.dimensions(), (64 + 64 + 32, 64));
    let part = |x, width, height| image::imageops::crop_imm(&joined, x, 0, width, height).to_image();
    assert_eq!(part(0, 64, 64), desk.picture("plain/0_0.png"));
    assert_eq!(part(64, 64, 48), desk.picture("a.png"), "of its own size already, so as it is");
    assert_eq!(part(128, 32, 64), desk.picture("b.png"));
    // Without references there is nothing beside it.
    desk.made("--concat_refs --save_path none");
    assert_eq!(desk.picture("none/0_0.png").dimensions(), (64, 64));
}

#[test]
fn noise_can_be_given_in_a_file() {
    let desk = Desk::new();
    let device = common::device();
    let drawn = latent_noise(NoiseSource::TorchCuda, 11, 16, [64, 64], FloatDType::BF16, &device).unwrap();
    let shape = drawn.dims().to_vec();
    let tensor = |values: Vec<f32>| {
        let data = values.into_iter().flat_map(f32::to_le_bytes).collect();
        let noise = RawTensor { dtype: Dtype::F32, shape: shape.clone(), data };
        serialized(&Tensors::from([("noise".to_owned(), noise)]))
    };
    let values = common::values(drawn);
    desk.put("same.safetensors", tensor(values.clone()));
    desk.put("other.safetensors", tensor(values.iter().map(|x| -x).collect()));
    desk.made("--seed 11 --save_path drawn");
    desk.made("--seed 99 --noise same.safetensors --save_path same");
    desk.made("--noise other.safetensors --save_path other");
    assert_eq!(desk.picture("drawn/0_0.png"), desk.picture("same/0_0.png"));
    assert_ne!(desk.picture("drawn/0_0.png"), desk.picture("other/0_0.png"));
    let json = desk.json("same/0_0.json");
    assert_eq!(json["noise"], Value::Null);
    assert!(json["noise_file"]["path"].as_str().unwrap().ends_with("/same.safetensors"));
    desk.made("--from other/0_0.png --save_path again");
    assert_eq!(desk.read("other/0_0.png"), desk.read("again/0_0.png"));
    // A file that has changed is not used in its place.
    desk.put("other.safetensors", desk.read("same.safetensors"));
    desk.run("--from other/0_0.png").refused(&desk, &["other.safetensors", "has changed"]);
    // The two generators of PyTorch differ.
    desk.made("--seed 11 --noise torch-cpu --save_path cpu");
    assert_ne!(desk.picture("drawn/0_0.png"), desk.picture("cpu/0_0.png"));
}

#[test]
fn what_is_computed_differently_differs_as_it_should() {
    let desk = Desk::with_model();
    desk.draw("reference.png", 64, 48);
    let settings = "--model model --image_paths reference.png --ref_size 64";
    let run = |how: &str, folder: &str| {
        desk.made(&format!("{settings} {how} --save_path {folder}"));
        (desk.picture(&format!("{folder}/0_0.png")), desk.json(&format!("{folder}/0_0.json")))
    };
    let (plain, json) = run("", "plain");
    assert_eq!((&json["lora_scale"], &json["model_type"]), (&1.0.into(), &"flux-dev".into()));
    let mut changes = BTreeMap::new();
    for (how, folder) in [
        ("--lora_scale 0", "no_lora"),
        ("--lora_scale 0.5", "half_lora"),
        ("--merge_lora", "merged"),
        ("--model_type flux-dev-fp8", "fp8"),
        ("--dtype bf16", "bf16"),
        ("--pe o", "pe"),
        ("--guidance 1", "guidance"),
        ("--schedule flux", "schedule"),
        ("--noise_dtype f32", "noise_dtype"),
        ("--reference_seed 1", "reference_seed"),
    ] {
        let (picture, json) = run(how, folder);
        let change = difference(&plain, &picture);
        println!("{how}: mean difference {change:.4}");
        changes.insert(folder, (change, json));
        // Each can be made again from itself.
        desk.made(&format!("--from {folder}/0_0.png --save_path {folder}_again"));
        assert_eq!(
            desk.read(&format!("{folder}/0_0.png")),
            desk.read(&format!("{folder}_again/0_0.png")),
            "{how}"
        );
    }
    let change = |folder: &str| changes[folder].0;
    assert!(change("no_lora") > change("half_lora") && change("half_lora") > 0.0);
    assert_eq!(changes["no_lora"].1["lora_scale"], Value::Null);
    assert!(change("merged") < 0.05, "merged or not is a matter of rounding");
    assert!(change("fp8") > 0.0 && change("fp8") < 8.0, "fewer digits change a picture a little");
    assert_eq!(changes["fp8"].1["model_type"], "flux-dev-fp8");
    assert!(change("bf16") > 0.0 && change("bf16") < 8.0);
    assert_eq!(changes["bf16"].1["dtype"], "BF16");
    for folder in ["pe", "guidance", "schedule", "noise_dtype", "reference_seed"] {
        assert!(change(folder) > 0.0, "{folder} changes nothing");
    }
}

#[test]
fn nothing_is_left_behind_but_results() {
    let desk = Desk::with_model();
    desk.draw("reference.png", 64, 48);
    std::fs::create_dir(desk.path("temporary")).unwrap();
    let before = desk.files(".");
    let arguments = ["--model", "model", "--image_paths", "reference.png", "--ref_size", "64", "--offload"];
    let output = desk.small(&arguments).env("TMPDIR", desk.path("temporary")).output().unwrap();
    assert!(output.status.success());
    let mut wanted = before;
    wanted.extend(["out/0_0.json".to_owned(), "out/0_0.png".to_owned()]);
    wanted.sort();
    assert_eq!(desk.files("."), wanted);
}
