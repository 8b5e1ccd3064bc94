//! cargo run --release --example generate -- --prompt "a robot in the snow" --image_paths examples/assets/robot.png
//!
//! From a prompt and reference pictures to pictures; options are named as those of the official command line. Without a model
//! it uses the small one inside the program. `--help` lists everything.

mod arguments;
mod model;
mod progress;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use burn::tensor::Device;
use clap::Parser;
use uno_core::device;
use uno_models::eval::{Entry, read_prompts};
use uno_models::memory::Geometry;
use uno_models::output::{FileRecord, ReferenceRecord, Settings, concat_horizontally, save};
use uno_models::picture::{DecodeOptions, Picture};
use uno_models::preprocess::preprocess_ref;
use uno_models::request::Sample;
use uno_models::{Request, UnoPipeline};

use arguments::Arguments;
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
    let mut pipeline = None;
    for job in &jobs {
        let mut todo = job.pictures(&model)?;
        if arguments.eval_json_path.is_some() {
            todo.retain(|picture| !picture.is_done());
        }
        if todo.is_empty() {
            bars.say(&format!("{:?}: there already", job.request.samples[0].prompt));
            continue;
        }
        let pipeline = match &pipeline {
            Some(loaded) => loaded,
            None => pipeline.insert(model.load(&bars)?),
        };
        for batch in todo.chunks(arguments.batch_size.get()) {
            generate(pipeline, job, batch, arguments, &bars)?;
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
            largest = geometry.with_batch(arguments.batch_size.get().min(job.paths.len()));
        }
    }
    Ok(largest)
}

/// The pictures of one prompt: they share references and settings, and may be computed together.
struct Job {
    /// Everything but the references, which are opened when it is their turn; one sample per picture.
    request: Request,
    references: Vec<PathBuf>,
    exif_orientation: bool,
    noise_file: Option<FileRecord>,
    /// One per sample.
    paths: Vec<PathBuf>,
}

/// One picture to make: which sample, where it goes, and what is recorded with it.
struct Planned {
    sample: Sample,
    path: PathBuf,
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

    fn pictures(&self, model: &Model) -> Result<Vec<Planned>> {
        let request = Request { references: self.open_references()?, ..self.request.clone() };
        let (width, height) = request.validate(model.channels(), model.downsampling())?;
        let mut references = Vec::new();
        for (path, picture) in self.references.iter().zip(&request.references) {
            let (width, height) = preprocess_ref(picture, request.long_side())?.dimensions();
            references.push(ReferenceRecord { file: FileRecord::of(path)?, width, height });
        }
        let plan = |(sample, path): (&Sample, &PathBuf)| {
            let mut settings = Settings::new(&request, sample, [width, height]).with_model(model.info());
            settings.references.clone_from(&references);
            settings.noise_file.clone_from(&self.noise_file);
            settings.exif_orientation = self.exif_orientation;
            Planned { sample: sample.clone(), path: path.clone(), settings }
        };
        Ok(request.samples.iter().zip(&self.paths).map(plan).collect())
    }
}

impl Planned {
    /// Whether the picture is there from an earlier run with the same settings. Whether LoRAs were merged follows from the
    /// memory that was free then, and makes no other picture.
    fn is_done(&self) -> bool {
        let same = |mut there: Settings| {
            there.lora_merged = self.settings.lora_merged;
            there == self.settings
        };
        self.path.is_file() && Settings::read(self.path.with_extension("json")).is_ok_and(same)
    }
}

/// Everything that is asked for.
fn jobs(arguments: &Arguments, repeated: Option<&Settings>, device: &Device) -> Result<Vec<Job>> {
    if let Some(settings) = repeated {
        return Ok(vec![repeat(arguments, settings, device)?]);
    }
    let entries = match &arguments.eval_json_path {
        Some(path) => read_prompts(path)?,
        None => {
            let paths = &arguments.image_paths;
            arguments.prompt.iter().map(|p| Entry { prompt: p.clone(), image_paths: paths.clone() }).collect()
        }
    };
    let n = arguments.num_images_per_prompt.get();
    let defaults = model::defaults(arguments);
    let mut jobs = Vec::new();
    for (i, entry) in entries.iter().enumerate() {
        let request = arguments.request(&entry.prompt, defaults, device)?.with_images_per_prompt(n)?;
        ensure!(
            request.latents.is_none() || entries.len() * n == 1,
            "--noise with a file makes one picture; got {} prompts and {n} pictures each",
            entries.len()
        );
        let mine = (0..n).filter(|j| arguments.shard.contains(i, *j, n));
        let (samples, paths): (Vec<_>, Vec<_>) =
            mine.map(|j| (request.samples[j].clone(), file(arguments, i, j, entries.len() * n))).unzip();
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
    let samples = batch.iter().map(|planned| planned.sample.clone()).collect();
    let request = Request { samples, references: job.open_references()?, ..job.request.clone() };
    bars.start_measuring();
    let generation = pipeline.generate(&request, bars)?;
    bars.say_measured();
    for (generated, planned) in generation.pictures.iter().zip(batch) {
        let picture = if arguments.concat_refs {
            let references = generation.references.iter();
            concat_horizontally(&std::iter::once(&generated.picture).chain(references).collect::<Vec<_>>())
        } else {
            generated.picture.clone()
        };
        save(&planned.path, &picture, &planned.settings)?;
        bars.saved(&planned.path, &planned.settings, generation.seconds, &generation.notices)?;
    }
    Ok(())
}
