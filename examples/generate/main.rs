//! cargo run --release --example generate -- --prompt "a robot in the snow" --image_paths examples/assets/robot.png
//!
//! From a prompt and reference pictures to pictures; options are named as those of the official command line. Without a model
//! it uses the small one inside the program. `--help` lists everything.

mod arguments;
mod best_of;
mod model;
mod progress;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use burn::tensor::Device;
use clap::Parser;
use image::RgbImage;
use uno_core::device;
use uno_models::eval::{Entry, read_prompts};
use uno_models::memory::Geometry;
use uno_models::output::{FileRecord, ReferenceRecord, Settings, concat_horizontally, save};
use uno_models::picture::{DecodeOptions, Picture};
use uno_models::preprocess::preprocess_ref;
use uno_models::request::Sample;
use uno_models::{Generation, Request, UnoPipeline};

use arguments::Arguments;
use best_of::Judge;
use model::Model;
use progress::Bars;

fn main() -> std::process::ExitCode {
    let arguments = Arguments::parse_from(arguments::with_dashes(std::env::args_os()));
    match run(&arguments) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", message(&error));
            std::process::ExitCode::FAILURE
        }
    }
}

/// The error with its causes, those that it does not tell itself.
fn message(error: &anyhow::Error) -> String {
    error.chain().skip(1).map(ToString::to_string).fold(error.to_string(), |text, cause| {
        if text.contains(&cause) { text } else { format!("{text}: {cause}") }
    })
}

fn run(arguments: &Arguments) -> Result<()> {
    if let Some(threads) = arguments.threads {
        rayon::ThreadPoolBuilder::new().num_threads(threads.get()).build_global()?;
    }
    // What is asked is checked, as far as it can be, before a model is loaded for it.
    let device = device::open(&arguments.device)?;
    let repeated = arguments.from.as_ref().map(Settings::read).transpose()?;
    let jobs = jobs(arguments, repeated.as_ref(), &device)?;
    check_output_folder(&folder(arguments))?;

    let bars = Bars::new(arguments.json);
    let mut model = Model::open(arguments, repeated.as_ref(), &device, &bars)?;
    model.plan(&largest(&jobs, arguments, &model)?, arguments.budget())?;
    let judge = match &arguments.dino {
        Some(dino) if arguments.best_of.get() > 1 => Some(Judge::open(dino, &device)?),
        _ => None,
    };
    let mut pipeline = None;
    for job in &jobs {
        let mut todo = job.pictures(&model, arguments.best_of.get())?;
        if arguments.eval_json_path.is_some() {
            todo.retain(|picture| !picture.is_done(judge.as_ref()));
        }
        if todo.is_empty() {
            bars.say(&format!("{:?}: there already", job.request.samples[0].prompt));
            continue;
        }
        let pipeline = match &pipeline {
            Some(loaded) => loaded,
            None => pipeline.insert(model.load(&bars)?),
        };
        match &judge {
            Some(judge) => {
                for picture in &todo {
                    generate_best(pipeline, judge, job, picture, arguments, &bars)?;
                }
            }
            None => {
                for batch in todo.chunks(arguments.batch_size.get()) {
                    generate(pipeline, job, batch, arguments, &bars)?;
                }
            }
        }
    }
    Ok(())
}

/// The largest request among the jobs: with the most tokens.
fn largest(jobs: &[Job], arguments: &Arguments, model: &Model) -> Result<Geometry> {
    let mut largest = Geometry::default();
    for job in jobs {
        let geometry = job.geometry(model)?;
        if geometry.tokens() > largest.tokens() {
            let together = match arguments.best_of.get() {
                1 => job.paths.len(),
                best_of => best_of,
            };
            largest = geometry.with_batch(arguments.batch_size.get().min(together));
        }
    }
    Ok(largest)
}

/// The pictures of one prompt: they share references and settings, and may be computed together.
struct Job {
    /// Everything but the references, which are opened when it is their turn; one sample per picture, or as many as are made of each.
    request: Request,
    references: Vec<PathBuf>,
    exif_orientation: bool,
    noise_file: Option<FileRecord>,
    /// One per picture.
    paths: Vec<PathBuf>,
}

/// One picture to make: where it goes, and of which samples it is the best; mostly of one.
struct Planned {
    path: PathBuf,
    candidates: Vec<Candidate>,
}

/// A sample, and what is recorded with it.
struct Candidate {
    sample: Sample,
    settings: Settings,
}

impl Job {
    fn open_references(&self) -> Result<Vec<Picture>> {
        let mut options = DecodeOptions::default();
        options.apply_exif_orientation = self.exif_orientation;
        self.references.iter().map(|path| Ok(Picture::open(path, &options)?)).collect()
    }

    /// Sizes of picture and references, without making anything.
    fn geometry(&self, model: &Model) -> Result<Geometry> {
        let (width, height) = self.request.validate(model.channels(), model.downsampling())?;
        let long_side = self.request.long_side_of(self.references.len());
        let size = |picture: Picture| Ok(uno_models::preprocess::preprocessed_size(&picture, long_side)?);
        let references = self.open_references()?.into_iter().map(size).collect::<Result<Vec<_>>>()?;
        let geometry = Geometry::new(width, height).with_references(references);
        Ok(geometry.with_approximation(self.request.approximation))
    }

    fn pictures(&self, model: &Model, best_of: usize) -> Result<Vec<Planned>> {
        let request = Request { references: self.open_references()?, ..self.request.clone() };
        let (width, height) = request.validate(model.channels(), model.downsampling())?;
        let mut references = Vec::new();
        for (path, picture) in self.references.iter().zip(&request.references) {
            let (width, height) = preprocess_ref(picture, request.long_side())?.dimensions();
            references.push(ReferenceRecord { file: FileRecord::of(path)?, width, height });
        }
        let candidate = |sample: &Sample| {
            let mut settings = Settings::new(&request, sample, [width, height]).with_model(model.info());
            settings.references.clone_from(&references);
            settings.noise_file.clone_from(&self.noise_file);
            settings.exif_orientation = self.exif_orientation;
            Candidate { sample: sample.clone(), settings }
        };
        let samples = request.samples.chunks(best_of);
        let plan = |(samples, path): (&[Sample], &PathBuf)| Planned {
            path: path.clone(),
            candidates: samples.iter().map(candidate).collect(),
        };
        Ok(samples.zip(&self.paths).map(plan).collect())
    }
}

impl Planned {
    /// Whether the picture is there from an earlier run with the same settings. Whether LoRAs were merged follows from the
    /// memory that was free then, and makes no other picture.
    fn is_done(&self, judge: Option<&Judge>) -> bool {
        let Ok(mut there) = Settings::read(self.path.with_extension("json")) else { return false };
        let is_same = self.candidates.iter().any(|candidate| {
            there.lora_merged = candidate.settings.lora_merged;
            there == candidate.settings
        });
        let seeds: Vec<u64> = self.candidates.iter().map(|candidate| candidate.sample.seed).collect();
        is_same && self.path.is_file() && judge.is_none_or(|judge| judge.has_chosen(&self.path, &seeds))
    }
}

/// Everything that is asked for.
fn jobs(arguments: &Arguments, repeated: Option<&Settings>, device: &Device) -> Result<Vec<Job>> {
    if let Some(settings) = repeated {
        return Ok(vec![repeat(arguments, settings, device)?]);
    }
    let entries = match &arguments.eval_json_path {
        Some(path) => read_prompts(path, &mut |remark| eprintln!("{remark}"))?,
        None => {
            let paths = &arguments.image_paths;
            arguments.prompt.iter().map(|p| Entry { prompt: p.clone(), image_paths: paths.clone() }).collect()
        }
    };
    let (n, best_of) = (arguments.num_images_per_prompt.get(), arguments.best_of.get());
    let defaults = model::defaults(arguments);
    let mut jobs = Vec::new();
    for (i, entry) in entries.iter().enumerate() {
        let request = arguments.request(&entry.prompt, defaults, device)?;
        let request = request.with_images_per_prompt(n.saturating_mul(best_of))?;
        ensure!(
            request.latents.is_none() || entries.len() * n * best_of == 1,
            "--noise with a file makes one picture; got {} prompts and {} pictures each",
            entries.len(),
            n * best_of
        );
        ensure!(
            best_of == 1 || !entry.image_paths.is_empty(),
            "--best_of compares pictures with their references; got none for {:?}",
            entry.prompt
        );
        let mine: Vec<usize> = (0..n).filter(|j| arguments.shard.contains(i, *j, n)).collect();
        let samples: Vec<Sample> =
            mine.iter().flat_map(|j| request.samples[j * best_of..(j + 1) * best_of].to_vec()).collect();
        let paths: Vec<PathBuf> = mine.iter().map(|&j| file(arguments, i, j, entries.len() * n)).collect();
        if !samples.is_empty() {
            jobs.push(Job {
                request: Request { samples, ..request },
                references: entry.image_paths.clone(),
                exif_orientation: !arguments.ignore_exif_orientation,
                noise_file: arguments.noise.file().map(FileRecord::of).transpose()?,
                paths,
            });
        }
    }
    // A missing picture at the end of a list shows now and not after days.
    for path in jobs.iter().flat_map(|job| &job.references) {
        std::fs::metadata(path).with_context(|| format!("reference picture {}", path.display()))?;
    }
    Ok(jobs)
}

/// The request that made a picture, from its settings.
fn repeat(arguments: &Arguments, settings: &Settings, device: &Device) -> Result<Job> {
    let references: Vec<PathBuf> = settings.references.iter().map(|r| r.file.path.clone()).collect();
    settings.references.iter().try_for_each(|r| r.file.verify())?;
    let mut request = Request::new(&settings.prompt);
    request.samples = vec![Sample { prompt: settings.prompt.clone(), seed: settings.seed }];
    (request.width, request.height) = (settings.width, settings.height);
    request.num_steps = settings.num_steps;
    request.guidance = settings.guidance;
    request.pe = settings.pe;
    request.ref_size = Some(settings.ref_size);
    request.noise = settings.noise.unwrap_or_default();
    request.noise_dtype = settings.noise_dtype;
    request.sequence_length = settings.sequence_length;
    request.shift = settings.shift;
    request.reference_seed = settings.reference_seed;
    request.approximation = settings.approximation;
    if let Some(noise) = &settings.noise_file {
        noise.verify()?;
        request.latents = Some(arguments::read_noise(&noise.path, device)?);
    }
    Ok(Job {
        request,
        references,
        exif_orientation: settings.exif_orientation,
        noise_file: settings.noise_file.clone(),
        paths: vec![file(arguments, 0, 0, 1)],
    })
}

/// `--save_path x.png` names the one picture, anything else the folder for `{prompt}_{picture}.png`.
fn file(arguments: &Arguments, i: usize, j: usize, total: usize) -> PathBuf {
    if arguments.names_file() && total == 1 {
        arguments.save_path.clone()
    } else {
        folder(arguments).join(format!("{i}_{j}.png"))
    }
}

fn folder(arguments: &Arguments) -> PathBuf {
    match arguments.save_path.parent() {
        Some(parent) if arguments.names_file() => parent.to_path_buf(),
        _ => arguments.save_path.clone(),
    }
}

/// A folder that cannot be written to is found before the work and not after it.
fn check_output_folder(folder: &Path) -> Result<()> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    std::fs::create_dir_all(folder)
        .and_then(|()| tempfile::tempfile_in(folder).map(drop))
        .with_context(|| format!("cannot write to {}; give another --save_path", folder.display()))
}

fn generate(
    pipeline: &UnoPipeline,
    job: &Job,
    batch: &[Planned],
    arguments: &Arguments,
    bars: &Bars,
) -> Result<()> {
    let candidates: Vec<&Candidate> = batch.iter().flat_map(|planned| &planned.candidates).collect();
    let (generation, _) = compute(pipeline, job, &candidates, bars)?;
    for ((generated, planned), candidate) in generation.pictures.iter().zip(batch).zip(candidates) {
        save_one(planned, candidate, &generated.picture, &generation, arguments, bars)?;
    }
    Ok(())
}

/// Makes all candidates of a picture, and saves the best.
fn generate_best(
    pipeline: &UnoPipeline,
    judge: &Judge,
    job: &Job,
    planned: &Planned,
    arguments: &Arguments,
    bars: &Bars,
) -> Result<()> {
    let (mut pictures, mut last, mut seconds) = (Vec::new(), None, 0.0);
    for batch in planned.candidates.chunks(arguments.batch_size.get()) {
        let (generation, references) = compute(pipeline, job, &batch.iter().collect::<Vec<_>>(), bars)?;
        for (generated, candidate) in generation.pictures.iter().zip(batch) {
            pictures.push((candidate.sample.seed, generated.picture.clone()));
        }
        seconds += generation.seconds;
        last = Some((generation, references));
    }
    let (mut generation, references) = last.context("--best_of makes at least one picture")?;
    generation.seconds = seconds;
    let (best, choice) = judge.choose(&references, &pictures)?;
    bars.say(&choice.to_string());
    save_one(planned, &planned.candidates[best], &pictures[best].1, &generation, arguments, bars)?;
    choice.write(&planned.path)
}

/// Pictures of some samples, and the references that they were made with.
fn compute(
    pipeline: &UnoPipeline,
    job: &Job,
    candidates: &[&Candidate],
    bars: &Bars,
) -> Result<(Generation, Vec<Picture>)> {
    let samples = candidates.iter().map(|candidate| candidate.sample.clone()).collect();
    let request = Request { samples, references: job.open_references()?, ..job.request.clone() };
    bars.start_measuring();
    let generation = pipeline.generate(&request, bars)?;
    bars.say_measured();
    Ok((generation, request.references))
}

/// Saves a picture of a generation.
fn save_one(
    planned: &Planned,
    candidate: &Candidate,
    picture: &RgbImage,
    generation: &Generation,
    arguments: &Arguments,
    bars: &Bars,
) -> Result<()> {
    let picture = if arguments.concat_refs {
        let references = generation.references.iter();
        concat_horizontally(&std::iter::once(picture).chain(references).collect::<Vec<_>>())
    } else {
        picture.clone()
    };
    save(&planned.path, &picture, &candidate.settings)?;
    bars.saved(&planned.path, &candidate.settings, generation.seconds, &generation.notices)
}
