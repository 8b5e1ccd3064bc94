//! The part that judges: held-out looks, with their references, with none, with those of others, and without any model.

use std::path::Path;

use anyhow::{Context, Result};
use burn::tensor::Device;
use image::RgbImage;
use uno_core::image::Pixels;
use uno_core::traits::Silent;
use uno_models::Request;
use uno_models::checkpoint::{CheckpointOptions, discover};
use uno_models::components::{ModelSource, PipelineOptions, load};
use uno_models::picture::Picture;
use uno_models::pipeline::UnoPipeline;
use uno_models::tiny::autoencoder::SIDE;
use uno_models::tiny::data::{Pair, pair};
use uno_models::tiny::evaluation::{Judge, Scores};
use uno_models::unope::UnoPe;

use crate::uno::REFERENCE;

#[derive(clap::Args)]
pub struct Arguments {
    /// Pictures of each kind
    #[arg(long, default_value_t = 24)]
    count: usize,
    /// Steps of the sampler
    #[arg(long, default_value_t = 25)]
    steps: usize,
    /// How references are placed: d, h, w or o
    #[arg(long, default_value = "d")]
    pe: UnoPe,
    /// Name of the result's files below --out
    #[arg(long, default_value = "evaluation")]
    name: String,
}

/// Whose references are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum References {
    /// The subjects' own.
    Own,
    /// None.
    None,
    /// Those of the next sample.
    Shuffled,
    /// No model is asked: the picture is rendered. What the judge gives then is the most that can be reached.
    Rendered,
}

const ALL: [References; 4] = [References::Own, References::None, References::Shuffled, References::Rendered];

impl Arguments {
    pub fn run(&self, out: &Path, seed: u64) -> Result<()> {
        let options =
            CheckpointOptions { model_dir: Some(out.join("model")), ..CheckpointOptions::default() };
        let source = ModelSource::open(&discover(&options, &())?)?;
        let pipeline = load(&source, &PipelineOptions::new(&Device::flex()), &Silent)?;
        let judge = Judge::new();
        let mut rows = Vec::new();
        let mut sheet = Vec::new();
        for count in 1..=3 {
            let pairs: Vec<Pair> = (0..self.count).map(|i| pair(seed, i, count, true)).collect();
            for references in ALL {
                let mut scores = Vec::new();
                for (i, wanted) in pairs.iter().enumerate() {
                    let given = match references {
                        References::Shuffled => &pairs[(i + 1) % pairs.len()],
                        _ => wanted,
                    };
                    let picture = match references {
                        References::Rendered => wanted.composition.render(SIDE),
                        _ => self.generate(&pipeline, wanted, given, references, i as u64)?,
                    };
                    if references == References::Own && i < 8 {
                        sheet.extend(given.references.iter().map(|view| view.render(SIDE)));
                        sheet.extend((count..3).map(|_| blank()));
                        sheet.push(picture.clone());
                    }
                    scores.push(judge.judge(&picture, &wanted.composition, seed + i as u64));
                }
                let row = row(count, references, &scores);
                println!("{row}");
                rows.push(row);
            }
        }
        crate::sheet::write(&out.join(format!("{}.png", self.name)), &sheet, 8)?;
        Ok(std::fs::write(out.join(format!("{}.json", self.name)), serde_json::to_string_pretty(&rows)?)?)
    }

    fn generate(
        &self,
        pipeline: &UnoPipeline,
        wanted: &Pair,
        given: &Pair,
        references: References,
        seed: u64,
    ) -> Result<Pixels> {
        let mut request =
            Request::new(wanted.prompt.clone()).with_size(SIDE, SIDE).with_steps(self.steps).with_seed(seed);
        // As in training.
        request.guidance = 1.0;
        request.pe = self.pe;
        if references != References::None {
            request.ref_size = Some(REFERENCE[usize::from(given.references.len() > 1)] as u32);
            for view in &given.references {
                request.references.push(picture(&view.render(SIDE))?);
            }
        }
        let generated = pipeline.generate(&request, &Silent)?;
        let one = generated.pictures.into_iter().next().ok_or_else(|| anyhow::anyhow!("no picture"))?;
        let (width, height) = (one.picture.width() as usize, one.picture.height() as usize);
        Ok(Pixels { width, height, rgb: one.picture.into_raw() })
    }
}

fn blank() -> Pixels {
    Pixels { width: SIDE, height: SIDE, rgb: vec![255; SIDE * SIDE * 3] }
}

/// A rendered picture as one that was opened.
fn picture(pixels: &Pixels) -> Result<Picture> {
    let rgb = RgbImage::from_raw(pixels.width as u32, pixels.height as u32, pixels.rgb.clone());
    Ok(Picture::from_rgb("reference", rgb.context("a picture of as many pixels as it says")?))
}

/// Means of scores.
fn row(count: usize, references: References, scores: &[Scores]) -> serde_json::Value {
    let mean = |values: Vec<f32>| {
        (values.iter().sum::<f32>() / values.len().max(1) as f32 * 1000.0).round() / 1000.0
    };
    let flag = |x: bool| f32::from(u8::from(x));
    let each = |f: fn(&Scores) -> Vec<f32>| mean(scores.iter().flat_map(f).collect());
    serde_json::json!({
        "subjects": count,
        "references": format!("{references:?}").to_lowercase(),
        "identity": mean(scores.iter().flat_map(|s| s.is_right.iter().map(|&x| flag(x))).collect()),
        "rank": each(|s| s.rank.clone()),
        "distance": each(|s| s.distance.clone()),
        "scene": mean(scores.iter().map(|s| flag(s.scene)).collect()),
        "relation": mean(scores.iter().filter_map(|s| s.relation.map(flag)).collect()),
    })
}
