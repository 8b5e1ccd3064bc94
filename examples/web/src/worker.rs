//! The one thread that makes pictures: job after job, picture after picture.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use anyhow::{Context, Result};
use image::RgbImage;
use tracing::{error, info};
use uno_core::traits::Silent;
use uno_models::output::{FileRecord, ReferenceRecord, Settings, save};
use uno_models::preprocess::preprocessed_size_of;
use uno_models::request::Sample;
use uno_models::{Request, UnoPipeline};

use crate::disk::{Trouble, Unwritable};
use crate::folder::sync;
use crate::halt::{Halt, Reason};
use crate::job::{Job, JobSettings};
use crate::metrics::Metrics;
use crate::model::{Loaded, Model};
use crate::progress::Watch;
use crate::queue::{LOOK, Outcome, Queue};
use crate::references::References;
use crate::store::{Store, StoreError};

/// What the worker needs.
pub struct Worker {
    pub queue: Arc<Queue>,
    pub store: Arc<Store>,
    pub references: Arc<References>,
    pub model: Arc<Model>,
    pub metrics: Arc<Metrics>,
}

impl Worker {
    /// Loads the model and begins to work at the queue, on a thread that ends when the queue stops.
    ///
    /// # Errors
    ///
    /// A model that cannot be loaded, or does not fit into memory.
    pub fn start(self) -> Result<JoinHandle<()>> {
        let (tell, hear) = mpsc::channel();
        let work = move || {
            let mut loaded = None;
            // Before the first job, so that a wrong file shows at once and not to the first client.
            let result = guarded(|| {
                let (selection, geometry) = self.model.usual()?;
                self.model.prepare(&mut loaded, selection, &geometry, &Silent).map(drop)
            });
            let is_loaded = result.is_ok();
            if tell.send(result).is_ok() && is_loaded {
                self.run(&mut loaded);
            }
        };
        let thread =
            thread::Builder::new().name("worker".into()).spawn(work).context("no thread for the work")?;
        hear.recv().context("the worker ended")??;
        Ok(thread)
    }

    fn run(&self, loaded: &mut Option<Loaded>) {
        while let Some((job, halt)) = self.queue.next() {
            let id = job.id.clone();
            let start = Instant::now();
            info!(job = %id, pictures = job.settings.num_images, "begins");
            let outcome = match guarded(|| self.make(&job, &halt, loaded)) {
                Ok(outcome) => outcome,
                Err(error) if is_cancelled(&error) => match halt.get() {
                    Some(Reason::Stopping) => Outcome::HandedBack,
                    _ => Outcome::Cancelled,
                },
                Err(error) => {
                    // What a panic or an error has left of it is not trusted.
                    *loaded = None;
                    error!(job = %id, "{}", message(&error));
                    Outcome::Failed(message(&error))
                }
            };
            info!(job = %id, seconds = start.elapsed().as_secs_f64(), "ends: {}", said(&outcome));
            self.queue.finish(&outcome);
        }
    }

    /// Makes the pictures of a job that are not there yet.
    fn make(&self, job: &Job, halt: &Arc<Halt>, loaded: &mut Option<Loaded>) -> Result<Outcome> {
        let settings = &job.settings;
        let watch =
            Watch::new(self.queue.clone(), self.metrics.clone(), self.model.clone(), job, halt.clone())?;

        // 1. The model, with the LoRAs and in the memory that the job wants.
        let (selection, geometry) = (self.model.selection(settings)?, self.model.geometry(settings)?);
        let loaded = self.model.prepare(loaded, selection, &geometry, &watch)?;

        // 2. The references, and all else that its pictures share.
        let request = self.request(settings)?;
        let records = self.records(settings)?;

        // 3. One picture after the other, each on disk before the next is begun.
        let folder = self.store.folder().pictures_of(&job.id);
        for n in job.pictures.len()..settings.num_images {
            if let Some(outcome) = self.halted(halt) {
                return Ok(outcome);
            }
            let sample =
                Sample { prompt: settings.prompt.clone(), seed: settings.seed.wrapping_add(n as u64) };
            let mut recorded = Settings::new(&request, &sample, [settings.width, settings.height]);
            recorded = recorded.with_model(&loaded.info);
            recorded.references.clone_from(&records);
            // What clients get tells nothing of this machine.
            let recorded = recorded.without_folders();
            let path = folder.join(format!("{n}.png"));
            if !is_there(&path, &recorded) {
                let start = Instant::now();
                watch.begin_picture(n);
                let picture = generate(&loaded.pipeline, &request, sample, &watch)?;
                self.metrics.picture_made(start.elapsed().as_secs_f64());
                let write = || {
                    self.put_others_aside(job, n, &recorded)?;
                    self.save(&path, &picture, &recorded)
                };
                if let Some(outcome) = self.until_written(halt, &watch, write)? {
                    return Ok(outcome);
                }
            }
            let record = || self.queue.set_pictures(n + 1).map_err(WriteError::from);
            if let Some(outcome) = self.until_written(halt, &watch, record)? {
                return Ok(outcome);
            }
        }
        Ok(Outcome::Done)
    }

    /// How the job ends now, if it is to be stopped.
    fn halted(&self, halt: &Halt) -> Option<Outcome> {
        match halt.get() {
            Some(Reason::Cancelled) => Some(Outcome::Cancelled),
            Some(Reason::Stopping) => Some(Outcome::HandedBack),
            None => self.queue.is_stopping().then_some(Outcome::HandedBack),
        }
    }

    /// Repeats `write` until the disk takes it, so that a finished picture is not lost for want of space; the outcome of a job
    /// that is stopped meanwhile.
    fn until_written(
        &self,
        halt: &Halt,
        watch: &Watch,
        mut write: impl FnMut() -> Result<(), WriteError>,
    ) -> Result<Option<Outcome>> {
        loop {
            let unwritable = match write() {
                Ok(()) => return Ok(None),
                Err(WriteError::Unwritable(unwritable)) => unwritable,
                Err(WriteError::Other(error)) => return Err(error),
            };
            watch.wait_for_disk(&unwritable.trouble);
            loop {
                thread::sleep(LOOK);
                if let Some(outcome) = self.halted(halt) {
                    return Ok(Some(outcome));
                }
                if self.store.disk().trouble().is_none() {
                    break;
                }
            }
        }
    }

    /// Writes a picture, so that it is there even after the machine has failed: the database will say that it is.
    fn save(&self, path: &Path, picture: &RgbImage, settings: &Settings) -> Result<(), WriteError> {
        let synced = || sync(&path.with_extension("json")).and_then(|()| sync(path));
        let saved = save(path, picture, settings).and_then(|()| {
            synced().map_err(|source| uno_models::Error::Write { path: path.to_owned(), source })
        });
        saved.map_err(|error| match Trouble::of_write(&error) {
            Some(trouble) => WriteError::Unwritable(self.store.disk().note(trouble)),
            None => WriteError::Other(error.into()),
        })
    }

    /// Moves away what is in the place of a picture and is another one, such as a database from before knows nothing of.
    fn put_others_aside(&self, job: &Job, n: usize, recorded: &Settings) -> Result<(), WriteError> {
        let folder = Path::new("pictures").join(job.id.as_str());
        let names = ["png", "json"].map(|kind| folder.join(format!("{n}.{kind}")));
        // What an attempt of before could not finish, for want of space.
        if is_there(&self.store.folder().path().join(&names[0]), recorded) {
            return Ok(());
        }
        let moved = self.store.folder().put_aside(&names, "another picture is made in its place");
        moved.map(drop).map_err(|error| match Trouble::of_io(&error) {
            Some(trouble) => WriteError::Unwritable(self.store.disk().note(trouble)),
            None => WriteError::Other(
                anyhow::Error::new(error).context(format!("{} is in the way of a picture", folder.display())),
            ),
        })
    }

    /// The request that all pictures of a job share; its samples are another for each.
    fn request(&self, settings: &JobSettings) -> Result<Request> {
        let mut request = Request::new("");
        (request.width, request.height) = (settings.width, settings.height);
        request.num_steps = settings.num_steps;
        request.guidance = settings.guidance;
        request.ref_size = Some(settings.ref_size);
        request.pe = settings.pe;
        let opened = settings.references.iter().map(|reference| self.references.open(reference));
        request.references = opened.collect::<uno_models::Result<_>>()?;
        let (channels, downsampling) = self.model.codec();
        request.validate(channels, downsampling)?;
        Ok(request)
    }

    /// What is recorded of the references with each picture.
    fn records(&self, settings: &JobSettings) -> Result<Vec<ReferenceRecord>> {
        let record = |reference: &crate::job::Reference| {
            let size = (reference.width, reference.height);
            let (width, height) = preprocessed_size_of("reference", size, settings.ref_size)?;
            let file = FileRecord { path: self.references.path(&reference.id), sha256: reference.id.clone() };
            Ok(ReferenceRecord { file, width: width as u32, height: height as u32 })
        };
        settings.references.iter().map(record).collect()
    }
}

/// Why something was not written.
enum WriteError {
    /// The disk does not take it; later it may.
    Unwritable(Unwritable),
    Other(anyhow::Error),
}

impl From<StoreError> for WriteError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unwritable(unwritable) => Self::Unwritable(unwritable),
            StoreError::Database(_) => Self::Other(error.into()),
        }
    }
}

/// Makes one picture.
fn generate(pipeline: &UnoPipeline, request: &Request, sample: Sample, watch: &Watch) -> Result<RgbImage> {
    let request = Request { samples: vec![sample], ..request.clone() };
    let generation = pipeline.generate(&request, watch)?;
    let made = generation.pictures.into_iter().next().context("the pipeline made no picture")?;
    Ok(made.picture)
}

/// Whether a picture is there from a server that ended before it could say so.
fn is_there(path: &Path, recorded: &Settings) -> bool {
    Settings::read(path).is_ok_and(|there| there.answers(recorded))
}

/// Runs `f`; a panic is an error.
fn guarded<T>(f: impl FnOnce() -> Result<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(result) => result,
        Err(payload) => {
            let text = payload.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no reason given");
            Err(anyhow::anyhow!("the program failed ({text}); this is a bug, please report it"))
        }
    }
}

fn is_cancelled(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<uno_models::Error>();
    matches!(error, Some(uno_models::Error::Core(uno_core::Error::Cancelled { .. })))
}

fn said(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Done => "done",
        Outcome::Cancelled => "cancelled",
        Outcome::Failed(_) => "failed",
        Outcome::HandedBack => "back in the queue",
    }
}

/// The error with its causes, those that it does not tell itself.
pub fn message(error: &anyhow::Error) -> String {
    error.chain().skip(1).map(ToString::to_string).fold(error.to_string(), |text, cause| {
        if text.contains(&cause) { text } else { format!("{text}: {cause}") }
    })
}
