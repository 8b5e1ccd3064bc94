//! The part that judges: held-out looks, with their references, with none, with those of others, and without any model.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use burn::tensor::Device;
use image::RgbImage;
use serde::{Deserialize, Serialize};
use uno_core::image::Pixels;
use uno_core::traits::Silent;
use uno_models::checkpoint::{CheckpointOptions, discover};
use uno_models::components::{ModelSource, PipelineOptions, load};
use uno_models::picture::Picture;
use uno_models::pipeline::UnoPipeline;
use uno_models::tiny::autoencoder::SIDE;
use uno_models::tiny::data::{Pair, pair};
use uno_models::tiny::evaluation::{Judge, Scores};
use uno_models::train::shares::Shares;
use uno_models::unope::UnoPe;
use uno_models::{Defaults, Request};

#[derive(clap::Args)]
pub struct Arguments {
    /// Pictures of each kind
    #[arg(long, default_value_t = 48)]
    count: usize,
    /// Steps of the sampler
    #[arg(long, default_value_t = 25)]
    steps: usize,
    /// Guidance; what the model was made for if not given
    #[arg(long)]
    guidance: Option<f32>,
    /// How references are placed: d, h, w or o
    #[arg(long, default_value = "d")]
    pe: UnoPe,
    /// LoRA in place of the one in the model's folder
    #[arg(long)]
    lora: Option<PathBuf>,
    /// Name of the result's files below --out
    #[arg(long, default_value = "evaluation")]
    name: String,
}

impl Arguments {
    pub fn run(&self, out: &Path, seed: u64) -> Result<()> {
        let mut defaults = Defaults::UNO_TINY;
        defaults.guidance = self.guidance.unwrap_or(defaults.guidance);
        let candidate =
            Candidate { pipeline: open(out, self.lora.clone())?, defaults, pe: self.pe, steps: self.steps };
        let evaluation = evaluate(&candidate, self.count, &ALL, seed)?;
        crate::sheet::write(&out.join(format!("{}.png", self.name)), &evaluation.sheet, COLUMNS)?;
        let json = serde_json::to_string_pretty(&evaluation.rows)?;
        Ok(std::fs::write(out.join(format!("{}.json", self.name)), json)?)
    }
}

/// Whose references are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum References {
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

/// What is judged.
pub struct Candidate {
    /// The model.
    pub pipeline: UnoPipeline,
    /// Sizes and guidance.
    pub defaults: Defaults,
    /// How references are placed.
    pub pe: UnoPe,
    /// Steps of the sampler.
    pub steps: usize,
}

/// Means over the pictures of one kind.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    /// Subjects in a picture.
    pub subjects: usize,
    /// Whose references were given.
    pub references: References,
    /// Share of subjects whose own look is the nearest of 16.
    pub identity: f32,
    /// Share of other looks that are further away than the own.
    pub rank: f32,
    /// Distance of the own look.
    pub distance: f32,
    /// Share of pictures of the scene asked for.
    pub scene: f32,
    /// Share of pictures whose subjects lie as asked for.
    pub relation: Option<f32>,
}

/// Samples on the sheet of each number of subjects, and pictures in a row of it: two samples.
const SHOWN: usize = 8;
const COLUMNS: usize = 10;
/// Pictures that are made at a time.
const SHARES: usize = 2;

/// Rows, and pictures to look at: of each sample its references (white where there are fewer than three), the picture that
/// was made with them, and the one without.
pub struct Evaluation {
    pub rows: Vec<Row>,
    pub sheet: Vec<Pixels>,
}

/// Loads the model that was trained in `out`.
pub fn open(out: &Path, lora: Option<PathBuf>) -> Result<UnoPipeline> {
    let options =
        CheckpointOptions { model_dir: Some(out.join("model")), lora, ..CheckpointOptions::default() };
    let source = ModelSource::open(&discover(&options, &())?)?;
    Ok(load(&source, &PipelineOptions::new(&Device::flex()), &Silent)?)
}

/// Judges `count` pictures each of one, two and three subjects, for each kind of `references`.
pub fn evaluate(
    candidate: &Candidate,
    count: usize,
    references: &[References],
    seed: u64,
) -> Result<Evaluation> {
    let (judge, shares) = (Judge::new(), Shares::new(SHARES)?);
    let mut evaluation = Evaluation { rows: Vec::new(), sheet: Vec::new() };
    for subjects in 1..=3 {
        let pairs: Vec<Pair> = (0..count).map(|i| pair(seed, i, subjects, true)).collect();
        let mut shown: Vec<Vec<Pixels>> = pairs.iter().take(SHOWN).map(references_of).collect();
        for &references in references {
            // Each picture on its share of the cores: pictures are small.
            let judged = shares.run(|share| -> Result<Vec<_>> {
                let mine = (share..count).step_by(SHARES);
                mine.map(|i| candidate.judged(&judge, &pairs, i, references, seed)).collect()
            })?;
            let judged: Vec<&(Pixels, Scores)> =
                (0..count).map(|i| &judged[i % SHARES][i / SHARES]).collect();
            if matches!(references, References::Own | References::None) {
                shown.iter_mut().zip(&judged).for_each(|(shown, (picture, _))| shown.push(picture.clone()));
            }
            let scores: Vec<&Scores> = judged.iter().map(|(_, scores)| scores).collect();
            let row = Row::of(subjects, references, &scores);
            println!("{}", serde_json::to_string(&row)?);
            evaluation.rows.push(row);
        }
        evaluation.sheet.extend(shown.into_iter().flatten());
    }
    Ok(evaluation)
}

impl Candidate {
    /// The picture of sample `i` with somebody's references, and its scores.
    fn judged(
        &self,
        judge: &Judge,
        pairs: &[Pair],
        i: usize,
        references: References,
        seed: u64,
    ) -> Result<(Pixels, Scores)> {
        let wanted = &pairs[i];
        let given = if references == References::Shuffled { &pairs[(i + 1) % pairs.len()] } else { wanted };
        let picture = match references {
            References::Rendered => wanted.composition.render(SIDE),
            _ => self.generate(wanted, given, references, i as u64)?,
        };
        let scores = judge.judge(&picture, &wanted.composition, seed + i as u64);
        Ok((picture, scores))
    }

    fn generate(&self, wanted: &Pair, given: &Pair, references: References, seed: u64) -> Result<Pixels> {
        let mut request = Request::with_defaults(wanted.prompt.clone(), self.defaults)
            .with_steps(self.steps)
            .with_seed(seed);
        request.pe = self.pe;
        if references != References::None {
            for view in &given.references {
                request.references.push(picture(&view.render(SIDE))?);
            }
        }
        let generated = self.pipeline.generate(&request, &Silent)?;
        let one = generated.pictures.into_iter().next().context("a picture for one prompt")?;
        let (width, height) = (one.picture.width() as usize, one.picture.height() as usize);
        Ok(Pixels { width, height, rgb: one.picture.into_raw() })
    }
}

/// Three places for references.
fn references_of(pair: &Pair) -> Vec<Pixels> {
    let blank = || Pixels { width: SIDE, height: SIDE, rgb: vec![255; SIDE * SIDE * 3] };
    let views = pair.references.iter().map(|view| view.render(SIDE));
    views.chain(std::iter::repeat_with(blank)).take(3).collect()
}

/// A rendered picture as one that was opened.
fn picture(pixels: &Pixels) -> Result<Picture> {
    let rgb = RgbImage::from_raw(pixels.width as u32, pixels.height as u32, pixels.rgb.clone());
    Ok(Picture::from_rgb("reference", rgb.context("a picture of as many pixels as it says")?))
}

impl Row {
    fn of(subjects: usize, references: References, scores: &[&Scores]) -> Self {
        let flag = |x: bool| f32::from(u8::from(x));
        let each = |f: fn(&Scores) -> &[f32]| mean(scores.iter().flat_map(|s| f(s).iter().copied()));
        Self {
            subjects,
            references,
            identity: mean(scores.iter().flat_map(|s| s.is_right.iter().map(|&x| flag(x)))),
            rank: each(|s| &s.rank),
            distance: each(|s| &s.distance),
            scene: mean(scores.iter().map(|s| flag(s.scene))),
            relation: (subjects > 1).then(|| mean(scores.iter().filter_map(|s| s.relation.map(flag)))),
        }
    }
}

/// The mean, to three digits.
fn mean(values: impl Iterator<Item = f32>) -> f32 {
    let (sum, count) = values.fold((0.0, 0.0_f32), |(sum, count), x| (sum + x, count + 1.0));
    (sum / count.max(1.0) * 1000.0).round() / 1000.0
}
