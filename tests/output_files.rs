//! Where `examples/generate` puts its pictures: numbered on, and never in place of somebody's file.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;

use common::program::{Desk, Run, png_texts};
use serde_json::Value;

/// The prompts of all pictures in a folder, by the names of their files.
fn prompts(desk: &Desk, folder: &str) -> BTreeMap<String, String> {
    let names = desk.files(folder).into_iter().filter(|name| name.ends_with(".png"));
    let prompt = |name: &String| png_texts(&desk.read(&format!("{folder}/{name}")))["Description"].clone();
    names.map(|name| (name.clone(), prompt(&name))).collect()
}

fn made_of(desk: &Desk, prompts: &[&str], more: &str) -> Run {
    let mut arguments: Vec<&str> = prompts.iter().flat_map(|prompt| ["--prompt", prompt]).collect();
    arguments.extend(more.split_whitespace());
    desk.run_with(&arguments).succeeded()
}

#[test]
fn pictures_in_a_folder_are_numbered_on() {
    let desk = Desk::new();
    made_of(&desk, &["one", "two"], "--num_images_per_prompt 2");
    let run = made_of(&desk, &["three"], "");
    assert!(run.stdout.starts_with("out/2_0.png"), "{}", run.stdout);
    made_of(&desk, &["three"], "");
    desk.made("--from out/2_0.png");
    let now = prompts(&desk, "out");
    let now: Vec<_> = now.iter().map(|(name, prompt)| (name.as_str(), prompt.as_str())).collect();
    let wanted = [
        ("0_0.png", "one"),
        ("0_1.png", "one"),
        ("1_0.png", "two"),
        ("1_1.png", "two"),
        ("2_0.png", "three"),
        ("3_0.png", "three"),
        ("4_0.png", "three"),
    ];
    assert_eq!(now, wanted);
    // Only numbers count, those of other files too.
    desk.put("other/7_0.json", "[]");
    desk.put("other/9_x.png", "mine");
    desk.put("other/99999999999999999999_0.png", "mine");
    desk.put("other/portrait.png", "mine");
    assert!(made_of(&desk, &["four"], "--save_path other").stdout.starts_with("other/8_0.png"));
    assert_eq!((desk.read("other/7_0.json"), desk.read("other/9_x.png")), (b"[]".to_vec(), b"mine".to_vec()));
    // Asked for by name, the old numbers are used again.
    made_of(&desk, &["five"], "--overwrite");
    assert_eq!(prompts(&desk, "out")["0_0.png"], "five");
    assert_eq!(prompts(&desk, "out").len(), 7);
}

#[test]
fn two_runs_at_once_lose_nothing() {
    let desk = Desk::new();
    let start = |prompt: &str| {
        let arguments = ["--prompt", prompt, "--prompt", prompt, "--num_images_per_prompt", "3"];
        let mut command = desk.small(&arguments);
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        command.spawn().unwrap()
    };
    let runs: Vec<_> = ["one", "two", "three"].into_iter().map(start).collect();
    assert!(runs.into_iter().all(|mut run| run.wait().unwrap().success()));
    let made = prompts(&desk, "out");
    let mut count = BTreeMap::new();
    made.values().for_each(|prompt| *count.entry(prompt.as_str()).or_insert(0) += 1);
    assert_eq!(count, BTreeMap::from([("one", 6), ("two", 6), ("three", 6)]));
    for name in made.keys() {
        let json = desk.json(&format!("out/{}", name.replace("png", "json")));
        assert_eq!(json["prompt"], made[name].as_str(), "{name}");
    }
    assert_eq!(desk.files("out").len(), 36, "nothing temporary is left");
    // Those of a prompt have one number.
    for (name, prompt) in made.iter().filter(|(name, _)| name.ends_with("_0.png")) {
        let of_it = made.iter().filter(|(other, _)| other.split('_').next() == name.split('_').next());
        assert!(of_it.clone().count() == 3 && of_it.into_iter().all(|(_, other)| other == prompt), "{name}");
    }
}

#[test]
fn a_file_that_is_named_is_replaced_only_if_it_is_ours() {
    let desk = Desk::new();
    let refused = |arguments: &str, words: &[&str]| {
        let run = desk.run(arguments);
        assert!(!run.stderr.contains("loading") && !run.stderr.contains("denoising"), "before the work");
        run.refused(&desk, words);
    };
    // Settings of the user's own beside the picture's name.
    let scene = r#"{"prompt": "a scene of mine", "seed": 5}"#;
    desk.put("scene.json", scene);
    refused("--save_path scene.png", &["scene.json", "not replaced", "--overwrite"]);
    refused("--save_path scene.jpg", &["scene.json"]);
    assert_eq!(
        (desk.read("scene.json"), desk.path("scene.png").exists()),
        (scene.as_bytes().to_vec(), false)
    );
    // A picture of the user's own.
    desk.draw("mine.png", 32, 32);
    let mine = desk.read("mine.png");
    refused("--save_path mine.png", &["mine.png", "not replaced", "--overwrite"]);
    assert_eq!((desk.read("mine.png"), desk.path("mine.json").exists()), (mine, false));
    // What cannot be told is not ours.
    for (name, bytes) in
        [("empty.png", &b""[..]), ("cut.png", b"\x89PNG\r\n\x1a\n"), ("cut.jpg", b"\xff\xd8\xff")]
    {
        desk.put(name, bytes);
        refused(&format!("--save_path {name}"), &[name, "not replaced"]);
        assert_eq!(desk.read(name), bytes);
    }
    // Our own.
    desk.made("--save_path ours.png --seed 1");
    desk.made("--save_path ours.png --seed 2");
    assert_eq!(desk.json("ours.json")["seed"], 2);
    desk.made("--from ours.png --save_path ours.png");
    // Whatever it is, if that is wanted.
    desk.made("--save_path mine.png --overwrite");
    assert_eq!(desk.picture("mine.png").dimensions(), (64, 64));
    // What tells why a picture was chosen.
    desk.draw("reference.png", 64, 64);
    desk.put("best.best_of.json", "{}");
    refused(
        "--image_paths reference.png --best_of 2 --dino nowhere --save_path best.png",
        &["best.best_of.json", "not replaced"],
    );
}

#[test]
fn the_name_of_one_picture_is_numbered_for_several() {
    let desk = Desk::new();
    desk.draw("a.png", 8, 8);
    let mine = desk.read("a.png");
    desk.made("--save_path a.png --num_images_per_prompt 2");
    desk.made("--save_path a.png --num_images_per_prompt 2 --seed 9");
    let names = ["a.png", "a_0_0.json", "a_0_0.png", "a_0_1.json", "a_0_1.png", "a_1_0.json", "a_1_0.png"];
    assert_eq!(desk.files(".")[..7], names);
    assert_eq!((desk.read("a.png"), desk.files(".").len()), (mine, 9));
}

#[test]
fn jpeg_is_written_with_its_settings_and_other_kinds_are_refused() {
    let desk = Desk::new();
    desk.made("--save_path exact.png");
    let run = desk.made("--save_path near.jpg").says("a JPEG (here of quality 95)");
    assert!(run.stdout.starts_with("near.jpg"));
    desk.made("--save_path more.JPEG --num_images_per_prompt 2");
    let names = ["more_0_0.JPEG", "more_0_0.json", "more_0_1.JPEG", "more_0_1.json", "near.jpg", "near.json"];
    assert_eq!(desk.files(".")[2..], names);
    let bytes = desk.read("near.jpg");
    assert_eq!(&bytes[..3], b"\xff\xd8\xff");
    let (exact, near) = (desk.picture("exact.png"), desk.picture("near.jpg"));
    let differences = exact.as_raw().iter().zip(near.as_raw()).map(|(a, b)| u64::from(a.abs_diff(*b)));
    assert!(differences.sum::<u64>() < 4 * exact.as_raw().len() as u64, "nearly the same picture");
    let folder = desk.path(".").canonicalize().unwrap();
    let wide: Vec<u8> = folder.to_str().unwrap().encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert!(!bytes.windows(wide.len()).any(|window| window == wide));
    // It is made again from its EXIF alone.
    std::fs::remove_file(desk.path("near.json")).unwrap();
    desk.made("--from near.jpg --save_path again.png");
    assert_eq!(exact, desk.picture("again.png"));
    desk.made("--from near.jpg --save_path near.jpg");
    assert_eq!(bytes, desk.read("near.jpg"));

    for name in ["x.webp", "x.tiff", "x.TIF", "x.gif", "x.bmp", "x.avif", "x.heic", "deep/x.jxl"] {
        desk.run(&format!("--save_path {name}")).refused(&desk, &[name, ".png", ".jpg"]);
        assert!(!desk.path(name).exists());
    }
    // A prompt that does not fit is refused before the work.
    let long = "word ".repeat(8000);
    let run = desk.run_with(&["--prompt", &long, "--save_path", "long.jpg"]);
    assert!(!run.stderr.contains("denoising"), "{}", run.stderr);
    run.refused(&desk, &["a JPEG holds", "PNG"]);
    // A folder may be called as it likes, once it is there.
    std::fs::create_dir(desk.path("x.webp")).unwrap();
    desk.made("--save_path x.webp");
    assert_eq!(desk.files("x.webp"), ["0_0.json", "0_0.png"]);
}

#[test]
fn lists_and_shares_keep_their_names() {
    let desk = Desk::new();
    desk.put("list.json", r#"[{"prompt": "one", "image_paths": []}, {"prompt": "two", "image_paths": []}]"#);
    let list = "--eval_json_path list.json --save_path list";
    desk.put("list/1_0.json", "[1, 2, 3]");
    let run = desk.run(list);
    assert!(!run.stderr.contains("loading"), "{}", run.stderr);
    run.refused(&desk, &["list/1_0.json", "not replaced"]);
    assert_eq!(
        (desk.files("list"), desk.read("list/1_0.json")),
        (vec!["1_0.json".into()], b"[1, 2, 3]".to_vec())
    );
    desk.made(&format!("{list} --overwrite"));
    assert_eq!(desk.files("list"), ["0_0.json", "0_0.png", "1_0.json", "1_0.png"]);
    assert_eq!(desk.made(list).stdout, "", "all are there");
    desk.run("--eval_json_path list.json --save_path list.png").refused(&desk, &["list.png", "2", "folder"]);
    // From another folder, by the same references, they are the same.
    desk.put("moved/list.json", desk.read("list.json"));
    assert_eq!(desk.made("--eval_json_path moved/list.json --save_path list").stdout, "");

    // Shares of prompts have the names that all of them have, and what is there goes on or is left alone.
    let share =
        |i: usize, more: &str| format!("--num_images_per_prompt 4 --shard {i}/2 --save_path shares {more}");
    desk.made(&share(0, ""));
    desk.made(&share(1, ""));
    assert_eq!(desk.files("shares").len(), 8);
    assert_eq!(desk.made(&share(1, "")).stdout, "");
    let before = desk.read("shares/0_0.png");
    let run = desk.run(&share(0, "--seed 1"));
    assert!(!run.stderr.contains("loading"), "{}", run.stderr);
    run.refused(&desk, &["shares/0_0.png", "other settings", "--overwrite"]);
    assert_eq!(before, desk.read("shares/0_0.png"));
    desk.made(&share(0, "--seed 1 --overwrite"));
    assert_ne!(before, desk.read("shares/0_0.png"));
}

#[test]
fn pictures_of_a_list_in_tiles_are_made_anew_where_they_can_be_exact_and_not_the_other_way_round() {
    let desk = Desk::new();
    desk.put("list.json", r#"[{"prompt": "one", "image_paths": []}]"#);
    let list = "--eval_json_path list.json --width 512 --height 512 --num_steps 1";
    desk.made(&format!("{list} --memory 150MiB"));
    assert!(desk.json("out/0_0.json")["vae_tile"].is_u64());
    assert_eq!(desk.made(&format!("{list} --memory 150MiB")).stdout, "");
    desk.made(list);
    assert_eq!(desk.json("out/0_0.json")["vae_tile"], Value::Null);
    assert_eq!(desk.made(&format!("{list} --memory 150MiB")).stdout, "");
}

#[test]
fn pictures_tell_nothing_of_the_machine_and_the_file_beside_them_does() {
    let desk = Desk::with_model();
    desk.draw("reference.png", 64, 48);
    desk.made("--model model --image_paths reference.png --ref_size 64");
    let folder = desk.path(".").canonicalize().unwrap();
    let folder = folder.to_str().unwrap();
    let png = desk.read("out/0_0.png");
    let wide: Vec<u8> = folder.encode_utf16().flat_map(u16::to_le_bytes).collect();
    for words in [folder.as_bytes(), &wide] {
        assert!(!png.windows(words.len()).any(|window| window == words));
    }
    let inside: Value = serde_json::from_str(&png_texts(&png)["uno"]).unwrap();
    let beside = desk.json("out/0_0.json");
    assert_eq!(inside["references"][0]["path"], "reference.png");
    assert_eq!(inside["references"][0]["sha256"], beside["references"][0]["sha256"]);
    assert!(beside["references"][0]["path"].as_str().unwrap().starts_with(folder));
    for (inside, beside) in
        inside["model"].as_array().unwrap().iter().zip(beside["model"].as_array().unwrap())
    {
        assert!(!inside["path"].as_str().unwrap().contains('/'));
        assert_eq!((&inside["part"], &inside["fingerprint"]), (&beside["part"], &beside["fingerprint"]));
    }
}

#[test]
fn a_device_by_another_name_computes_alike() {
    let desk = Desk::with_model();
    let made = |device: &str| {
        desk.made(&format!("--model model --device {device} --memory 2GiB --save_path {device}.png"));
        (desk.read(&format!("{device}.png")), desk.json(&format!("{device}.json")))
    };
    let (picture, settings) = made("cpu");
    assert_eq!((&settings["device"], &settings["dtype"]), (&"cpu".into(), &"F32".into()));
    let mut names = vec!["CPU", "flex", "cpu:0"];
    if uno_core::device::BACKENDS == ["cpu"] {
        names.push("auto");
    }
    for name in names {
        let (same, recorded) = made(name);
        assert_eq!((&same == &picture, recorded), (true, settings.clone()), "{name}");
    }
}
