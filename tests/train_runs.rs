//! Whole training runs on the small random model: resumed, accumulated, shared by devices, refused.

mod common;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use common::random_model;
use image::{Rgb, RgbImage};
use uno_core::flux::Flux;
use uno_core::lora;
use uno_core::weights::{Checkpoint, LoadOptions};
use uno_models::components::ModelSource;
use uno_models::picture::{DecodeOptions, Picture};
use uno_models::train::checkpoint::{LORA, LORA_EMA, list};
use uno_models::train::{Finished, Start, TrainConfig, TrainEvent, train};

/// A folder with pictures and a list of them: targets of two shapes, each with one reference.
struct Data(tempfile::TempDir);

impl Data {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut entries = Vec::new();
        for i in 0..5u8 {
            let (w, h) = if i % 2 == 0 { (40, 40) } else { (60, 30) };
            let picture = |name: String, w, h, colour: u8| {
                let picture = RgbImage::from_fn(w, h, |x, y| Rgb([colour, x as u8 * 4, y as u8 * 4]));
                picture.save(folder.path().join(&name)).unwrap();
                name
            };
            let target = picture(format!("t{i}.png"), w, h, 40 * i);
            let reference = picture(format!("r{i}.png"), 32, 32, 255 - 40 * i);
            entries.push(serde_json::json!({
                "prompt": format!("thing {i}"), "image_paths": [reference], "image_tgt_path": target,
            }));
        }
        std::fs::write(folder.path().join("data.json"), serde_json::to_string(&entries).unwrap()).unwrap();
        Self(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// A configuration with one stage of `steps` steps, and lines of its own for run and stage.
    fn config(&self, output: &str, steps: u64, run: &str, stage: &str) -> TrainConfig {
        let text = format!(
            "output = {:?}\ndevices = [\"cpu\"]\ndtype = \"f32\"\nema_decay = 0.9\n{run}\n[lora]\nrank = 4\n\
             [[stages]]\nname = \"single\"\ndata = [{{ path = \"data.json\" }}]\nsteps = {steps}\nresolution = 32\n\
             ref_size = 32\nlearning_rate = 1e-2\naccumulation = 2\n{stage}",
            self.path().join(output)
        );
        let path = self.path().join("config.toml");
        std::fs::write(&path, text).unwrap();
        TrainConfig::read(&path).unwrap()
    }
}

fn source() -> ModelSource {
    ModelSource { lora: None, ..random_model() }
}

fn run(config: &TrainConfig, start: &Start) -> Finished {
    train(config, &source(), start, &|_: &TrainEvent<'_>| ControlFlow::Continue(())).unwrap()
}

/// The same, stopped after some steps.
fn run_until(config: &TrainConfig, start: &Start, last: u64) -> Finished {
    let stop = |event: &TrainEvent<'_>| match event {
        TrainEvent::Step(report) if report.step == last => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    train(config, &source(), start, &stop).unwrap()
}

/// The files of a checkpoint that decide how it goes on.
fn files(folder: &Path) -> Vec<Vec<u8>> {
    let names = [LORA, LORA_EMA, "optimizer.safetensors", "state.json"];
    names.iter().map(|name| std::fs::read(folder.join(name)).unwrap()).collect()
}

fn numbers(file: PathBuf) -> Vec<f32> {
    Checkpoint::open(file).unwrap().tensors().values().flat_map(|tensor| tensor.to_f32()).collect()
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn a_run_that_is_stopped_anywhere_and_resumed_gives_the_same_bytes() {
    let data = Data::new();
    let straight = run(&data.config("straight", 5, "", ""), &Start::Fresh);
    assert!(straight.is_complete);
    for stop in 1..5 {
        let config = data.config(&format!("stopped{stop}"), 5, "", "");
        let stopped = run_until(&config, &Start::Fresh, stop);
        assert!(!stopped.is_complete && stopped.checkpoint.ends_with(format!("checkpoint-{stop}")));
        let resumed = run(&config, &Start::Latest);
        assert!(resumed.is_complete);
        assert_eq!(files(&straight.checkpoint), files(&resumed.checkpoint), "stopped after {stop}");
        // Metrics are as if it had not been stopped, but for the seconds.
        let metrics = std::fs::read_to_string(config.output.join("single/metrics.csv")).unwrap();
        let steps: Vec<&str> = metrics.lines().skip(1).map(|line| line.split(',').next().unwrap()).collect();
        assert_eq!(steps, ["1", "2", "3", "4", "5"]);
    }
}

#[test]
fn a_stage_begins_with_the_result_of_the_one_before_and_resumes_there_too() {
    let data = Data::new();
    let second = "[[stages]]\nname = \"multi\"\ndata = [{ path = \"data.json\" }]\nsteps = 2\nresolution = 32\n\
                  ref_size = 32\naccumulation = 1\nlearning_rate = 1e-2\nwarmup_steps = 2\ndecay = \"cosine\"";
    let config = data.config("whole", 2, "", second);
    let whole = run(&config, &Start::Fresh);
    assert!(whole.checkpoint.ends_with("multi/checkpoint-2"));
    let other = data.config("parts", 2, "", second);
    // Stopped at the very end of the first stage, then inside the second.
    assert!(!run_until(&other, &Start::Fresh, 2).is_complete);
    assert!(!run_until(&other, &Start::Latest, 1).is_complete);
    let parts = run(&other, &Start::Latest);
    assert_eq!(files(&whole.checkpoint), files(&parts.checkpoint));
    assert!(run(&other, &Start::Latest).is_complete, "what is done stays done");
    // A run that ended with its first stage goes on with a second one that is added.
    assert!(run(&data.config("added", 2, "", ""), &Start::Fresh).is_complete);
    let added = run(&data.config("added", 2, "", second), &Start::Latest);
    assert_eq!(files(&whole.checkpoint), files(&added.checkpoint));
}

#[test]
fn accumulation_several_devices_and_larger_batches_are_the_same_step() {
    let data = Data::new();
    let result = |name: &str, run_lines: &str, stage: &str| {
        let mut config = data.config(name, 2, run_lines, "");
        config.stages[0].accumulation = 1;
        match stage {
            "batch" => config.stages[0].batch_size = 4,
            "accumulation" => config.stages[0].accumulation = 4,
            _ => (config.devices, config.stages[0].accumulation) = (vec!["cpu".into(); 2], 2),
        }
        // One shape, so that the order of the samples is the same whatever the batch.
        config.stages[0].data[0].path = data.path().join("square.json");
        numbers(run(&config, &Start::Fresh).checkpoint.join("optimizer.safetensors"))
    };
    let list = std::fs::read_to_string(data.path().join("data.json")).unwrap();
    let list: Vec<serde_json::Value> = serde_json::from_str(&list).unwrap();
    let square: Vec<_> = list.into_iter().step_by(2).collect();
    std::fs::write(data.path().join("square.json"), serde_json::to_string(&square).unwrap()).unwrap();
    let batch = result("batch", "", "batch");
    let size = batch.iter().map(|x| x.abs()).fold(0.0, f32::max);
    for how in ["accumulation", "devices"] {
        let difference = largest_difference(&batch, &result(how, "", how));
        println!("{how}: largest difference {difference:e} of {size}");
        assert!(difference <= 1e-5 * size, "{how}: {difference} of {size}");
    }
}

#[test]
fn encoding_ahead_in_another_place_or_batch_by_batch_gives_the_same_bytes() {
    let data = Data::new();
    let ahead = run(&data.config("ahead", 2, "", ""), &Start::Fresh);
    let elsewhere = run(&data.config("elsewhere", 2, "[cache]\nfolder = \"encodings\"", ""), &Start::Fresh);
    let config = data.config("fly", 2, "[cache]\nahead = false", "");
    let on_the_fly = run(&config, &Start::Fresh);
    assert_eq!(files(&ahead.checkpoint), files(&elsewhere.checkpoint));
    assert_eq!(files(&ahead.checkpoint), files(&on_the_fly.checkpoint));
    assert!(data.path().join("encodings/latents").is_dir() && !config.output.join("cache").exists());
}

#[test]
fn a_picture_that_was_replaced_is_encoded_anew() {
    let data = Data::new();
    let cache = "[cache]\nfolder = \"encodings\"";
    let before = run(&data.config("before", 1, cache, ""), &Start::Fresh);
    for name in ["t0.png", "t2.png", "t4.png"] {
        RgbImage::from_pixel(40, 40, Rgb([250, 1, 2])).save(data.path().join(name)).unwrap();
    }
    for name in ["t1.png", "t3.png"] {
        RgbImage::from_pixel(60, 30, Rgb([250, 1, 2])).save(data.path().join(name)).unwrap();
    }
    let after = run(&data.config("after", 1, cache, ""), &Start::Fresh);
    assert_ne!(files(&before.checkpoint)[2], files(&after.checkpoint)[2]);
}

#[test]
fn a_picture_replaced_by_one_of_the_same_length_and_time_is_noticed() {
    let data = Data::new();
    // Uncompressed, so that another colour has the same length.
    let bmp = |colour: u8| {
        let path = data.path().join("t0.bmp");
        RgbImage::from_pixel(40, 40, Rgb([colour; 3])).save(&path).unwrap();
        path
    };
    let list = std::fs::read_to_string(data.path().join("data.json")).unwrap();
    std::fs::write(data.path().join("data.json"), list.replace("t0.png", "t0.bmp")).unwrap();
    let time = std::fs::metadata(bmp(10)).unwrap().modified().unwrap();
    let cache = "[cache]\nfolder = \"encodings\"";
    let stopped = data.config("stopped", 3, cache, "");
    run_until(&stopped, &Start::Fresh, 1);
    let before = run(&data.config("before", 3, cache, ""), &Start::Fresh);

    std::fs::File::options().write(true).open(bmp(250)).unwrap().set_modified(time).unwrap();
    let go_on = |_: &TrainEvent<'_>| ControlFlow::Continue(());
    let error = train(&stopped, &source(), &Start::Latest, &go_on).unwrap_err().to_string();
    assert!(error.contains("replaced"), "{error}");
    let after = run(&data.config("after", 3, cache, ""), &Start::Fresh);
    assert_ne!(
        files(&before.checkpoint)[2],
        files(&after.checkpoint)[2],
        "no latent of the old picture is used"
    );

    // A checkpoint of a version that did not record contents goes on, and says so.
    bmp(10);
    let state = stopped.output.join("single/checkpoint-1/state.json");
    let mut old: serde_json::Value = serde_json::from_slice(&std::fs::read(&state).unwrap()).unwrap();
    old.as_object_mut().unwrap().remove("contents");
    std::fs::write(&state, old.to_string()).unwrap();
    let notices = notices(&stopped, &Start::Latest);
    assert!(notices.iter().any(|notice| notice.contains("earlier version")), "{notices:?}");
}

/// What a run tells its user.
fn notices(config: &TrainConfig, start: &Start) -> Vec<String> {
    let notices = std::sync::Mutex::new(Vec::new());
    let listen = |event: &TrainEvent<'_>| {
        if let TrainEvent::Notice { text } = event {
            notices.lock().unwrap().push((*text).to_owned());
        }
        ControlFlow::Continue(())
    };
    train(config, &source(), start, &listen).unwrap();
    notices.into_inner().unwrap()
}

const PICTURE: &str =
    "[[pictures]]\nprompt = \"x\"\nreferences = [\"r0.png\"]\nwidth = 32\nheight = 32\nnum_steps = 2";

#[test]
fn pictures_that_cannot_be_made_are_refused_before_the_first_step() {
    let data = Data::new();
    RgbImage::new(1, 1).save(data.path().join("dot.png")).unwrap();
    RgbImage::new(1, 400).save(data.path().join("line.png")).unwrap();
    for (from, to, named) in [
        ("num_steps = 2", "num_steps = 0", "num_steps"),
        ("height = 32", "height = 0", "height"),
        ("width = 32", "width = 100000", "width"),
        ("r0.png", "line.png", "line.png"),
        ("r0.png", "absent.png", "absent.png"),
        ("num_steps = 2", "num_steps = 2\nref_size = 1", "ref_size"),
    ] {
        let config = data.config("refused", 1, &PICTURE.replace(from, to), "");
        let go_on = |_: &TrainEvent<'_>| ControlFlow::Continue(());
        let error = train(&config, &source(), &Start::Fresh, &go_on).unwrap_err().to_string();
        assert!(error.contains("pictures[0]") && error.contains(named), "{to}: {error}");
        assert!(list_of_checkpoints(&config).is_empty());
    }
    // A reference of one pixel can be scaled: it makes a picture.
    let config = data.config("dot", 1, &PICTURE.replace("r0.png", "dot.png"), "");
    let finished = run(&config, &Start::Fresh);
    assert!(finished.checkpoint.join("0.png").is_file());
}

#[test]
fn a_picture_that_fails_is_told_and_the_checkpoint_is_there() {
    let data = Data::new();
    let config = data.config("run", 1, PICTURE, "");
    // The latents of a picture become infinite by a guidance that passes for a number.
    let mut broken = config.clone();
    broken.pictures[0].guidance = f32::MAX;
    let told = notices(&broken, &Start::Fresh);
    assert!(told.iter().any(|notice| notice.contains("0.png")), "{told:?}");
    let folder = broken.output.join("single/checkpoint-1");
    assert!(folder.join(LORA).is_file() && !folder.join("0.png").exists());
    // A run that goes on from there makes what is missing.
    assert!(run(&config, &Start::Latest).is_complete);
    assert!(folder.join("0.png").is_file());
}

#[test]
fn a_stage_that_was_renamed_is_not_begun_anew_without_a_word() {
    let data = Data::new();
    let config = data.config("run", 2, "", "");
    run_until(&config, &Start::Fresh, 1);
    let mut renamed = config.clone();
    renamed.stages[0].name = "first".into();
    let go_on = |_: &TrainEvent<'_>| ControlFlow::Continue(());
    let error = train(&renamed, &source(), &Start::Latest, &go_on).unwrap_err().to_string();
    assert!(error.contains("checkpoints of single") && error.contains("first"), "{error}");
    assert!(run(&config, &Start::Latest).is_complete);
}

#[test]
fn ranks_that_cannot_be_or_contradict_the_first_lora_are_refused_and_a_resumed_run_needs_it_no_more() {
    let data = Data::new();
    let go_on = |_: &TrainEvent<'_>| ControlFlow::Continue(());
    let refused = |config: &TrainConfig| {
        train(config, &source(), &Start::Fresh, &go_on).map(|_| ()).unwrap_err().to_string()
    };
    let mut large = data.config("large", 1, "", "");
    large.lora.rank = Some(100_000);
    assert!(refused(&large).starts_with("lora.rank: got 100000"), "{}", refused(&large));

    let first = run(&data.config("first", 1, "", ""), &Start::Fresh);
    let mut second = data.config("second", 2, "", "");
    second.lora.init = Some(first.checkpoint.clone());
    second.lora.rank = Some(8);
    let error = refused(&second);
    assert!(error.contains("lora.rank: got 8, wanted 4"), "{error}");
    for rank in [None, Some(4)] {
        second.lora.rank = rank;
        second.output = data.path().join(format!("second{rank:?}"));
        run_until(&second, &Start::Fresh, 1);
    }
    std::fs::remove_dir_all(&first.checkpoint).unwrap();
    assert!(run(&second, &Start::Latest).is_complete);
}

#[test]
fn what_is_trained_is_loaded_by_the_pipeline_and_changes_the_model() {
    let data = Data::new();
    let config = data.config("run", 2, PICTURE, "");
    let finished = run(&config, &Start::Fresh);
    assert_eq!(image::open(finished.checkpoint.join("0.png")).unwrap().width(), 32);
    let options = LoadOptions::new(&Device::flex());
    let mut flux = Flux::load(&source().dit, &options).unwrap();
    let file = Checkpoint::open(finished.checkpoint.join(LORA)).unwrap();
    let attached = lora::attach(&mut flux, &file, 1.0, &options).unwrap();
    assert_eq!(attached.style, "UNO or XLabs");
    let up = |file: &Checkpoint| {
        let tensors = file.tensors().iter().filter(|(name, _)| name.contains(".up."));
        tensors.flat_map(|(_, tensor)| tensor.to_f32()).collect::<Vec<_>>()
    };
    assert!(up(&file).iter().all(|x| x.is_finite()) && up(&file).iter().any(|x| *x != 0.0));
    let average = Checkpoint::open(finished.checkpoint.join(LORA_EMA)).unwrap();
    assert!(largest_difference(&up(&file), &up(&average)) > 0.0);
}

#[test]
fn the_loss_falls_on_data_that_can_be_learned_by_heart() {
    let data = Data::new();
    let config = data.config("run", 40, "", "text_dropout = 0.0\nbatch_size = 1");
    run(&config, &Start::Fresh);
    let metrics = std::fs::read_to_string(config.output.join("single/metrics.csv")).unwrap();
    let losses: Vec<f64> =
        metrics.lines().skip(1).map(|line| line.split(',').nth(1).unwrap().parse().unwrap()).collect();
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    let (first, last) = (mean(&losses[..10]), mean(&losses[30..]));
    assert!(last < 0.95 * first, "{first} to {last}");
}

#[test]
fn data_that_cannot_be_used_is_refused_before_the_first_step_or_left_out() {
    let data = Data::new();
    std::fs::write(data.path().join("t1.png"), b"not a picture").unwrap();
    std::fs::remove_file(data.path().join("r2.png")).unwrap();
    let list = std::fs::read_to_string(data.path().join("data.json")).unwrap();
    let mut list: Vec<serde_json::Value> = serde_json::from_str(&list).unwrap();
    list[3]["image_paths"] = serde_json::json!(["r3.png", "r4.png"]);
    list.push(serde_json::json!({"prompt": "no target", "image_paths": ["r0.png"]}));
    std::fs::write(data.path().join("data.json"), serde_json::to_string(&list).unwrap()).unwrap();
    let config = data.config("refused", 1, "", "references = 1");
    let go_on = |_: &TrainEvent<'_>| ControlFlow::Continue(());
    let error = train(&config, &source(), &Start::Fresh, &go_on).unwrap_err().to_string();
    for part in [
        "4 entries",
        "entry 1",
        "t1.png",
        "entry 2",
        "r2.png",
        "entry 3",
        "references",
        "entry 5",
        "image_tgt_path",
    ] {
        assert!(error.contains(part), "{part} in {error}");
    }
    assert!(list_of_checkpoints(&config).is_empty());
    let config = data.config("skipped", 1, "on_data_error = \"skip\"", "references = 1");
    let finished = run(&config, &Start::Fresh);
    assert!(finished.is_complete);
    let told = std::fs::read_to_string(config.output.join("data_errors.json")).unwrap();
    assert_eq!(told.matches("\"entry\"").count(), 4, "{told}");
}

#[test]
fn a_target_that_is_a_jpeg_cut_short_is_refused_where_pictures_are_decoded_beforehand() {
    let data = Data::new();
    let photo = include_bytes!("fixtures/pictures/pillow/progressive.jpg");
    std::fs::write(data.path().join("t1.png"), &photo[..photo.len() / 2]).unwrap();
    let config = data.config("cut", 1, "", "references = 1");
    let go_on = |_: &TrainEvent<'_>| ControlFlow::Continue(());
    let error = train(&config, &source(), &Start::Fresh, &go_on).unwrap_err().to_string();
    assert!(error.contains("t1.png") && error.contains("cut short"), "{error}");
    std::fs::write(data.path().join("t1.png"), photo).unwrap();
    run(&config, &Start::Fresh);
}

fn list_of_checkpoints(config: &TrainConfig) -> Vec<(u64, PathBuf)> {
    list(&config.output, "single")
}

#[test]
fn a_run_is_not_begun_over_another_nor_resumed_as_another() {
    let data = Data::new();
    let config = data.config("run", 3, "checkpoint_every = 1\nkeep_checkpoints = 2", "");
    run(&config, &Start::Fresh);
    assert_eq!(list_of_checkpoints(&config).iter().map(|(step, _)| *step).collect::<Vec<_>>(), [2, 3]);
    let go_on = |_: &TrainEvent<'_>| ControlFlow::Continue(());
    let refused = |config: &TrainConfig, start: &Start| {
        train(config, &source(), start, &go_on).map(|_| ()).unwrap_err().to_string()
    };
    assert!(refused(&config, &Start::Fresh).contains("earlier run"));
    let mut other = config.clone();
    other.stages[0].learning_rate = 1.0;
    assert!(refused(&other, &Start::Latest).contains("another configuration"));
    let damaged = config.output.join("single/checkpoint-3/optimizer.safetensors");
    std::fs::write(&damaged, b"cut").unwrap();
    assert!(
        refused(&config, &Start::Checkpoint(config.output.join("single/checkpoint-3"))).contains("optimizer")
    );
    assert!(refused(&config, &Start::Checkpoint(data.path().join("absent"))).contains("absent"));
    // More steps are the same run.
    let mut longer = config.clone();
    longer.stages[0].steps = 4;
    let from = Start::Checkpoint(config.output.join("single/checkpoint-2"));
    assert!(run(&longer, &from).checkpoint.ends_with("checkpoint-4"));
}

#[test]
fn a_size_from_the_header_is_that_of_the_decoded_picture() {
    let options = DecodeOptions::default();
    let mut compared = 0;
    for folder in ["tests/fixtures/pictures", "examples/assets"] {
        for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if let Ok(picture) = Picture::open(&path, &options) {
                let size = Picture::size_of_file(&path, &options);
                assert_eq!(size.unwrap(), picture.size(), "{}", path.display());
                compared += 1;
            }
        }
    }
    assert!(compared >= 2);
}
