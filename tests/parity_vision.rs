//! Image encoders against transformers, timm, open_clip and torchvision (tests/reference/make_vision.py).

#![cfg(feature = "vision")]

mod common;

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use common::{Cases, relative_error, values};
use uno_core::image::Pixels;
use uno_core::text::ClipTokenizer;
use uno_core::vision::{Clip, Dino, ImageEncoder, cosine};
use uno_core::weights::{Checkpoint, LoadOptions};

const CLOSE: f64 = 1e-5;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/vision")
}

fn cases() -> Cases {
    Cases::open(&fixtures().join("cases.safetensors"))
}

/// A checkpoint of a folder and its config.json.
fn files(name: &str) -> (Checkpoint, Vec<u8>) {
    let folder = fixtures().join(name);
    (
        Checkpoint::open(folder.join("model.safetensors")).unwrap(),
        std::fs::read(folder.join("config.json")).unwrap(),
    )
}

fn dino(name: &str) -> Dino {
    let (checkpoint, config) = files(name);
    Dino::load(&checkpoint, Some(&config), &LoadOptions::new(&Device::flex())).unwrap()
}

fn clip(name: &str) -> Clip {
    let (checkpoint, config) = files(name);
    Clip::load(&checkpoint, Some(&config), &LoadOptions::new(&Device::flex())).unwrap()
}

fn pictures() -> Vec<Pixels> {
    let open = |i: usize| {
        let picture = image::open(fixtures().join(format!("{i}.png"))).unwrap().to_rgb8();
        Pixels { width: picture.width() as usize, height: picture.height() as usize, rgb: picture.into_raw() }
    };
    (0..4).map(open).collect()
}

fn agree(what: &str, got: Tensor<2>, name: &str) {
    let error = relative_error(&values(got), &cases().values(name));
    assert!(error < CLOSE, "{what}: relative error {error:e}");
}

fn rows(rows: Vec<Vec<f32>>) -> Tensor<2> {
    let (count, width) = (rows.len(), rows[0].len());
    Tensor::<1>::from_floats(rows.concat().as_slice(), &Device::flex()).reshape([count, width])
}

#[test]
fn pictures_are_made_ready_as_torchvision_does_bit_for_bit() {
    for (encoder, name) in [
        (&dino("dino") as &dyn ImageEncoder, "imagenet_32"),
        (&clip("clip") as &dyn ImageEncoder, "clip_pixels_32"),
    ] {
        let ready = |p: &Pixels| encoder.preprocessing().apply(p, &Device::flex()).unwrap();
        let got = Tensor::cat(pictures().iter().map(ready).collect(), 0);
        assert!(values(got) == cases().values(name), "{name}");
    }
}

#[test]
fn dino_agrees_in_both_layouts_and_on_pictures_of_another_form() {
    let pixels = cases().tensor::<4>("imagenet_32");
    agree("transformers' layout", dino("dino").encode(pixels.clone()).unwrap(), "dino");
    agree("timm's layout", dino("dino_timm").encode(pixels.clone()).unwrap(), "dino_timm");
    let wide = Tensor::cat(vec![pixels.clone(), pixels.flip([0])], 3);
    agree("positions between those trained", dino("dino").encode(wide).unwrap(), "dino_wide");
}

#[test]
fn dinov2_agrees_at_the_size_that_it_is_used_at() {
    let encoder = dino("dinov2");
    assert_eq!((encoder.config().grid, encoder.preprocessing().crop), (37, 224));
    let ready = |p: &Pixels| encoder.preprocessing().apply(p, &Device::flex()).unwrap();
    let pixels = Tensor::cat(pictures().iter().map(ready).collect(), 0);
    agree("DINOv2", encoder.encode(pixels).unwrap(), "dinov2");
}

#[test]
fn clip_agrees_in_both_layouts_for_pictures_and_texts() {
    let vocabulary = fixtures().join("clip");
    let tokenizer = ClipTokenizer::from_dir(&vocabulary).unwrap();
    let prompts = ["a robot beside a teapot", "a cat", ""];
    for (folder, image, text) in
        [("clip", "clip_image", "clip_text"), ("clip_openai", "openai_image", "openai_text")]
    {
        let clip = clip(folder);
        agree(folder, rows(clip.embed(&pictures()).unwrap()), image);
        let texts = prompts.map(|prompt| clip.embed_text(&tokenizer, prompt).unwrap());
        assert!(texts.iter().all(|(_, is_cut)| !is_cut));
        agree(folder, rows(texts.map(|(vector, _)| vector).to_vec()), text);
    }
    let (_, is_cut) = clip("clip").embed_text(&tokenizer, &"cat ".repeat(100)).unwrap();
    assert!(is_cut, "a text of more than 77 tokens");
}

#[test]
fn a_picture_is_one_with_itself() {
    for encoder in [&dino("dino") as &dyn ImageEncoder, &dino("dinov2"), &clip("clip")] {
        for vector in encoder.embed(&pictures()).unwrap() {
            assert!((cosine(&vector, &vector) - 1.0).abs() < 1e-6);
        }
    }
}

#[test]
fn checkpoints_that_are_no_such_encoder_are_refused_with_a_reason() {
    let options = LoadOptions::new(&Device::flex());
    let (dino, config) = files("dino");
    let (clip, clip_config) = files("clip");
    let message = |result: uno_core::Result<Dino>| result.unwrap_err().to_string();
    for (what, error) in [
        ("patch_embed", message(Dino::load(&clip, Some(&config), &options))),
        ("config.json", message(Dino::load(&dino, Some(b"{"), &options))),
        ("do not divide", message(Dino::load(&dino, Some(br#"{"num_attention_heads": 5}"#), &options))),
        ("do not divide", message(Dino::load(&dino, None, &options))),
    ] {
        assert!(error.contains(what), "{error}");
    }
    assert!(Clip::load(&dino, Some(&clip_config), &options).is_err());
    let encoder = self::dino("dino");
    let wrong = |dims: [usize; 4]| encoder.encode(Tensor::zeros(dims, &Device::flex()));
    for dims in [[1, 3, 30, 32], [1, 4, 32, 32], [1, 3, 0, 8]] {
        assert!(wrong(dims).is_err(), "{dims:?}");
    }
}
