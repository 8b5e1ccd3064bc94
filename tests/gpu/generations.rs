//! Whole generations with the small random model: a prompt, one reference, two steps.

use burn::tensor::{Device, FloatDType};
use image::RgbImage;
use uno_core::approximation::Approximation;
use uno_core::traits::Silent;
use uno_core::weights::Storage;
use uno_models::Request;
use uno_models::components::{PipelineOptions, load};
use uno_models::picture::{DecodeOptions, Picture};

use crate::common::*;
use crate::gpu;

fn request() -> Request {
    let picture = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/assets/robot.png");
    let picture = Picture::open(picture, &DecodeOptions::default()).unwrap();
    let mut request =
        Request::new("a robot").with_reference(picture).with_size(64, 64).with_steps(2).with_seed(7);
    request.ref_size = Some(64);
    request
}

fn generate(request: &Request, device: &Device, adjust: impl FnOnce(&mut PipelineOptions)) -> RgbImage {
    let mut options = PipelineOptions::new(device);
    adjust(&mut options);
    let pipeline = load(&random_model(), &options, &Silent).unwrap();
    pipeline.generate(request, &Silent).unwrap().pictures.remove(0).picture
}

/// Mean difference in levels of 255.
fn difference(got: &RgbImage, wanted: &RgbImage) -> f64 {
    assert_eq!(got.dimensions(), wanted.dimensions());
    let sum: f64 = got.as_raw().iter().zip(wanted.as_raw()).map(|(a, b)| f64::from(a.abs_diff(*b))).sum();
    sum / got.as_raw().len() as f64
}

fn agree(what: &str, got: &RgbImage, wanted: &RgbImage, tolerance: f64) {
    let difference = difference(got, wanted);
    println!("{what}: mean difference {difference:.3} of 255 against the CPU (at most {tolerance})");
    assert!(difference <= tolerance, "{what}: {difference}");
}

#[test]
fn pictures_agree_with_those_of_the_cpu_in_f32_and_f16_and_streamed() {
    let Some(gpu) = gpu() else { return };
    let request = request();
    let wanted = generate(&request, &device(), |_| ());
    let expanded = |options: &mut PipelineOptions| options.storage = Storage::Expanded;
    let stay = generate(&request, &gpu, expanded);
    agree("f32", &stay, &wanted, 0.05);
    let streamed = generate(&request, &gpu, |options| {
        expanded(options);
        (options.resident_bytes, options.stream_text_encoders) = (200_000, true);
    });
    assert!(streamed == stay, "weights streamed");
    if gpu.supports_dtype(FloatDType::F16) {
        let half = |options: &mut PipelineOptions| options.dtype = FloatDType::F16;
        let picture = generate(&request, &gpu, |options| {
            expanded(options);
            half(options);
        });
        agree("f16", &picture, &wanted, 1.0);
        let streamed = generate(&request, &gpu, |options| {
            expanded(options);
            half(options);
            options.resident_bytes = 100_000;
        });
        assert!(streamed == picture, "f16, weights streamed");
    }
}

#[test]
fn approximated_pictures_are_those_of_the_cpu_too() {
    let Some(gpu) = gpu() else { return };
    // A threshold that every step but the first falls below, and a cache that serves every step but the first.
    let first_block_cache = Approximation { first_block_cache: Some(1e6), ..Approximation::default() };
    let reference_cache = Approximation { reference_cache: Some(2), ..Approximation::default() };
    let exact = generate(&request(), &device(), |_| ());
    for (what, approximation) in
        [("first-block cache", first_block_cache), ("reference cache", reference_cache)]
    {
        let request = Request { approximation, ..request() };
        let wanted = generate(&request, &device(), |_| ());
        println!("{what}: changes the picture by {:.3} of 255", difference(&wanted, &exact));
        let got = generate(&request, &gpu, |options| options.storage = Storage::Expanded);
        agree(what, &got, &wanted, 0.05);
    }
}
