//! cargo run --release --example generate -- --prompt "a robot in the snow" --image_paths examples/assets/robot.png
//!
//! From a prompt and reference pictures to pictures; options are named as those of the official command line. Without a model
//! it uses the small one inside the program. `--help` lists everything.

mod again;
mod arguments;
mod best_of;
mod model;
mod places;
mod progress;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use burn::tensor::Device;
use clap::{ArgMatches, CommandFactory, FromArgMatches};
use image::RgbImage;
use uno_core::device;
use uno_models::eval::{Entry, read_prompts};
use uno_models::memory::Geometry;
use uno_models::output::{FileRecord, JPEG_QUALITY, ReferenceRecord, Settings, concat_horizontally};
use uno_models::picture::{DecodeOptions, Picture};
use uno_models::preprocess::preprocess_ref;
use uno_models::request::Sample;
use uno_models::{Generation, Request, UnoPipeline};

use again::Again;
use arguments::Arguments;
use best_of::Judge;
use model::Model;
use places::{Place, Places};
use progress::Bars;

fn main() -> std::process::ExitCode {
    let given = Arguments::command().get_matches_from(arguments::with_dashes(std::env::args_os()));
    let arguments = Arguments::from_arg_matches(&given).unwrap_or_else(|error| error.exit());
    match run(&arguments, &given) {
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

fn run(arguments: &Arguments, given: &ArgMatches) -> Result<()> {
    if let Some(threads) = arguments.threads {
        rayon::ThreadPoolBuilder::new().num_threads(threads.get()).build_global()?;
    }
    // What is asked is checked, as far as it can be, before a model is loaded for it.
    let opened = device::open_named(&arguments.device)?;
    let device = opened.device.clone();
    let again = arguments.from.as_ref().map(|picture| Again::read(picture, given)).transpose()?;
    let (jobs, places) = jobs(arguments, again.as_ref(), &device)?;
    places.check(jobs.iter().flat_map(|job| &job.places), arguments.best_of.get() > 1)?;

    let bars = Bars::new(arguments.json);
    let mut model = Model::open(arguments, again.as_ref(), &opened, &bars)?;
    model.plan(&largest(&jobs, arguments, &model)?, arguments.budget())?;
    if let Some(doubt) = again.as_ref().and_then(|again| again.doubt(model.tile())) {
        bars.say(&doubt);
    }
    if places.are_jpeg() {
        bars.say(&format!(
            "note: a JPEG (here of quality {JPEG_QUALITY}) is not exactly what was made; a PNG is"
        ));
    }
    let judge = match &arguments.dino {
        Some(dino) if arguments.best_of.get() > 1 => Some(Judge::open(dino, &device)?),
        _ => None,
    };
    let todo = |job: &Job| {
        let mut todo = job.pictures(&model, arguments.best_of.get())?;
        if places.goes_on() {
            todo.retain(|picture| !picture.is_done(judge.as_ref()));
        }
        let settings =
            todo.iter().flat_map(|planned| &planned.candidates).map(|candidate| &candidate.settings);
        settings.map(|settings| places.check_settings(settings)).collect::<Result<()>>()?;
        Ok::<_, anyhow::Error>(todo)
    };
    if arguments.eval_json_path.is_none() && places.goes_on() {
        // A share of prompts, whose pictures have the names of the prompts before them in the same folder.
        for planned in jobs.iter().map(todo).collect::<Result<Vec<_>>>()?.iter().flatten() {
            planned.place.check_free()?;
        }
    }
    let mut pipeline = None;
    for job in &jobs {
        let todo = todo(job)?;
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
                    generate_best(pipeline, judge, job, picture, &places, arguments, &bars)?;
                }
            }
            None => {
                for batch in todo.chunks(arguments.batch_size.get()) {
                    generate(pipeline, job, batch, &places, arguments, &bars)?;
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
                1 => job.places.len(),
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
    places: Vec<Place>,
}

/// One picture to make: where it goes, and of which samples it is the best; mostly of one.
struct Planned {
    place: Place,
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
        let plan = |(samples, place): (&[Sample], &Place)| Planned {
            place: place.clone(),
            candidates: samples.iter().map(candidate).collect(),
        };
        Ok(samples.zip(&self.places).map(plan).collect())
    }
}

impl Planned {
    /// Whether the picture is there from an earlier run with the same settings.
    fn is_done(&self, judge: Option<&Judge>) -> bool {
        let Place::Named(path) = &self.place else { return false };
        let Ok(there) = Settings::read(path.with_extension("json")) else { return false };
        let is_same = self.candidates.iter().any(|candidate| there.answers(&candidate.settings));
        let seeds: Vec<u64> = self.candidates.iter().map(|candidate| candidate.sample.seed).collect();
        is_same && path.is_file() && judge.is_none_or(|judge| judge.has_chosen(path, &seeds))
    }
}

/// Everything that is asked for, and where it goes.
fn jobs(arguments: &Arguments, again: Option<&Again>, device: &Device) -> Result<(Vec<Job>, Places)> {
    if let Some(again) = again {
        let places = Places::new(arguments, 1)?;
        let repeated = again.request(arguments, device)?;
        let job = Job {
            request: repeated.request,
            references: repeated.references,
            exif_orientation: repeated.exif_orientation,
            noise_file: repeated.noise_file,
            places: vec![places.of(0, 0)],
        };
        return Ok((vec![job], places));
    }
    let entries = match &arguments.eval_json_path {
        Some(path) => read_prompts(path, &mut |remark| eprintln!("{remark}"))?,
        None => {
            let paths = &arguments.image_paths;
            arguments.prompt.iter().map(|p| Entry { prompt: p.clone(), image_paths: paths.clone() }).collect()
        }
    };
    let (n, best_of) = (arguments.num_images_per_prompt.get(), arguments.best_of.get());
    let places = Places::new(arguments, entries.len().saturating_mul(n))?;
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
        if !samples.is_empty() {
            jobs.push(Job {
                request: Request { samples, ..request },
                references: entry.image_paths.clone(),
                exif_orientation: !arguments.ignore_exif_orientation,
                noise_file: arguments.noise.file().map(FileRecord::of).transpose()?,
                places: mine.iter().map(|&j| places.of(i, j)).collect(),
            });
        }
    }
    // A missing picture at the end of a list shows now and not after days.
    for path in jobs.iter().flat_map(|job| &job.references) {
        std::fs::metadata(path).with_context(|| format!("reference picture {}", path.display()))?;
    }
    Ok((jobs, places))
}

fn generate(
    pipeline: &UnoPipeline,
    job: &Job,
    batch: &[Planned],
    places: &Places,
    arguments: &Arguments,
    bars: &Bars,
) -> Result<()> {
    let candidates: Vec<&Candidate> = batch.iter().flat_map(|planned| &planned.candidates).collect();
    let (generation, _) = compute(pipeline, job, &candidates, bars)?;
    for ((generated, planned), candidate) in generation.pictures.iter().zip(batch).zip(candidates) {
        let settings = &candidate.settings;
        save_one((places, &planned.place), settings, &generated.picture, &generation, arguments, bars)?;
    }
    Ok(())
}

/// Makes all candidates of a picture, and saves the best.
fn generate_best(
    pipeline: &UnoPipeline,
    judge: &Judge,
    job: &Job,
    planned: &Planned,
    places: &Places,
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
    let settings = &planned.candidates[best].settings;
    let picture = &pictures[best].1;
    let path = save_one((places, &planned.place), settings, picture, &generation, arguments, bars)?;
    choice.write(&path)
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

/// Saves a picture of a generation at one of the places, and says where that is.
fn save_one(
    (places, place): (&Places, &Place),
    settings: &Settings,
    picture: &RgbImage,
    generation: &Generation,
    arguments: &Arguments,
    bars: &Bars,
) -> Result<PathBuf> {
    let picture = if arguments.concat_refs {
        let references = generation.references.iter();
        concat_horizontally(&std::iter::once(picture).chain(references).collect::<Vec<_>>())
    } else {
        picture.clone()
    };
    let path = places.save(place, &picture, settings)?;
    bars.saved(&path, settings, generation.seconds, &generation.notices)?;
    Ok(path)
}
