//! Preprocessing of references against Pillow, through the official implementation.

mod common;

use common::*;
use serde::Deserialize;
use uno_models::picture::{DecodeOptions, Picture};
use uno_models::preprocess::preprocess_ref;

#[derive(Deserialize)]
struct Case {
    input: String,
    long_side: u32,
    output: String,
}

#[test]
fn references_are_scaled_and_cropped_as_pillow_does() {
    for (index, set) in each("preprocess/index.json") {
        let folder = index.parent().unwrap();
        let cases: Vec<Case> = serde_json::from_slice(&std::fs::read(&index).unwrap()).unwrap();
        // Pillow, and with it the official code, ignores EXIF orientation.
        let mut options = DecodeOptions::default();
        options.apply_exif_orientation = false;
        for case in &cases {
            let picture = Picture::open(folder.join(&case.input), &options).unwrap();
            let got = preprocess_ref(&picture, case.long_side).unwrap();
            let wanted = image::open(folder.join(&case.output)).unwrap().into_rgb8();
            assert_eq!(got.dimensions(), wanted.dimensions(), "{}", case.input);
            let differences =
                got.as_raw().iter().zip(wanted.as_raw()).map(|(a, b)| f64::from(a.abs_diff(*b)));
            let largest = differences.clone().fold(0.0, f64::max);
            let mean = differences.sum::<f64>() / wanted.as_raw().len() as f64;
            // JPEG decoders differ; what follows them does not.
            let is_jpeg = [".jpg", ".jpeg"].iter().any(|end| case.input.ends_with(end));
            let what = format!("{} at {}: levels", case.input, case.long_side);
            check(&set, &format!("{what}, largest"), largest, if is_jpeg { 6.0 } else { 0.0 });
            check(&set, &format!("{what}, mean"), mean, if is_jpeg { 0.5 } else { 0.0 });
        }
    }
}
