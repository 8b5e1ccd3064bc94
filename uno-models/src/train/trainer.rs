//! A training run from its configuration to its last checkpoint.

use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::tensor::{Device, FloatDType};
use uno_core::device::Opened;
use uno_core::weights::{Checkpoint, Storage, StorageDtype};

use super::checkpoint::{self, State, Training, VERSION};
use super::config::{Dtype, StageConfig, TrainConfig};
use super::data::{BatchOrder, Checked, OrderState};
use super::ema::Ema;
use super::encodings::Encodings;
use super::lock::RunLock;
use super::lora::{self, LoraModel};
use super::memory::expected_memory;
use super::metrics::Metrics;
use super::named::NamedTensors;
use super::observer::{COLUMNS, StepReport, TrainEvent, TrainObserver};
use super::optimizer::{AdamW, clip_global_norm};
use super::pictures::{self, Pictures};
use super::prepare::{StageData, check_data, devices, encode_ahead, encodings, recipe, tell};
use super::step::Replicas;
use crate::checkpoint::{Progress, discover, embedded};
use crate::components::{ModelSource, PipelineOptions, load_transformer};
use crate::error::{Error, Result};

/// Where a run begins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Start {
    /// At the first step of the first stage.
    #[default]
    Fresh,
    /// After the latest checkpoint in the output folder; at the first step if there is none.
    Latest,
    /// After this checkpoint.
    Checkpoint(PathBuf),
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// The last checkpoint.
    pub checkpoint: PathBuf,
    /// Whether all stages are done; otherwise the observer stopped the run.
    pub is_complete: bool,
}

/// Opens the model that a configuration names, or the embedded one; without any LoRA.
///
/// # Errors
///
/// Files that are not found or are not what they should be.
pub fn open_model(config: &TrainConfig, progress: &dyn Progress) -> Result<ModelSource> {
    let options = config.checkpoint_options()?;
    let mut source = match options.names_anything() || options.model_type.is_some() || options.allow_download
    {
        true => ModelSource::open(&discover(&options, progress)?)?,
        false => embedded()?,
    };
    source.lora = None;
    Ok(source)
}

/// Trains, on a base model that was opened.
///
/// # Errors
///
/// A configuration that cannot be done; data, weights or a checkpoint that cannot be used; numbers that are not finite;
/// a disk that is full. What was saved before stays.
pub fn train(
    config: &TrainConfig,
    source: &ModelSource,
    start: &Start,
    observer: &dyn TrainObserver,
) -> Result<Finished> {
    // 1. What is asked, and where it goes on from.
    config.validate()?;
    check_rank(config, source)?;
    let devices = devices(config)?;
    let requests = pictures::requests(&config.pictures)?;
    let _lock = RunLock::acquire(&config.output)?;
    let resumed = resumed(config, source, start)?;

    // 2. Data of all stages, before anything is loaded.
    let data = check_data(config, observer)?;
    if let Some((folder, state)) = &resumed {
        check_resumed(config, source, &data, folder, state)?;
        if state.contents.is_none() {
            let text = "the checkpoint is of an earlier version, which did not record what is in the pictures; whether they \
                        have changed since is not known";
            tell(observer, &TrainEvent::Notice { text })?;
        }
    }

    // 3. Prompts and pictures.
    let options = options(config, &devices[0]);
    let mut encodings = encodings(config, source, &options, observer)?;
    let pictures = Pictures::prepare(requests, &encodings, source, &options)?;
    if config.cache.ahead {
        let stages: Vec<_> = config.stages.iter().zip(&data).collect();
        encode_ahead(&mut encodings, &stages, observer)?;
    }

    // 4. The transformer and its LoRA.
    tell(observer, &TrainEvent::Begins { what: "loading the transformer" })?;
    let last = resumed.as_ref().map(|(folder, _)| folder.as_path());
    let parameters = first_parameters(config, source, last, &options)?;
    let replicas = devices.iter().map(|opened| {
        let flux = load_transformer(source, &self::options(config, opened))?;
        Ok((opened.device.clone(), LoraModel::new(flux, &parameters.to_device(&opened.device))?))
    });
    let replicas = Replicas::new(replicas.collect::<Result<_>>()?)?;

    let expected = expected_memory(config, source, &options, &parameters, &data).to_string();
    tell(observer, &TrainEvent::Notice { text: &expected })?;

    // 5. The stages.
    let mut run = Run { config, source, options, encodings, pictures, replicas, observer, samples: 0 };
    let mut training = run.begin(parameters);
    let mut first = 0;
    let mut at = None;
    if let Some((folder, state)) = resumed {
        checkpoint::read(&folder, &state, &mut training, &devices[0].device)?;
        run.samples = state.samples;
        first = config.stages.iter().position(|stage| stage.name == state.stage).unwrap_or(0);
        at = Some((folder, state));
    }
    let mut last = None;
    for (number, (stage, data)) in config.stages.iter().zip(&data).enumerate().skip(first) {
        let resumed = at.take();
        if resumed.is_none() && number > 0 {
            // Each stage has an optimizer of its own, and the parameters of the stage before.
            training = run.begin(training.parameters);
        }
        let (folder, is_complete) = run.stage(stage, data, &mut training, resumed)?;
        if !is_complete {
            return Ok(Finished { checkpoint: folder, is_complete });
        }
        last = Some(folder);
    }
    let checkpoint = last.ok_or_else(|| Error::request("stages", 0, "at least one stage"))?;
    Ok(Finished { checkpoint, is_complete: true })
}

/// The checkpoint to go on from.
fn resumed(config: &TrainConfig, source: &ModelSource, start: &Start) -> Result<Option<(PathBuf, State)>> {
    let stages: Vec<&str> = config.stages.iter().map(|stage| stage.name.as_str()).collect();
    let others = checkpoint::other_stages(&config.output, &stages);
    if *start == Start::Latest && !others.is_empty() {
        return Err(Error::format(
            &config.output,
            format!(
                "holds checkpoints of {}, which the configuration does not have (its stages are {}); a stage that was renamed \
                 gets its old name back, or name the checkpoint to go on from in place of \"latest\"",
                others.join(", "),
                stages.join(", ")
            ),
        ));
    }
    let latest = checkpoint::latest(&config.output, stages.into_iter());
    let folder = match (start, latest) {
        (Start::Checkpoint(folder), _) => folder.clone(),
        (Start::Latest, Some(folder)) => folder,
        (Start::Latest | Start::Fresh, None) => return Ok(None),
        (Start::Fresh, Some(folder)) => {
            return Err(Error::format(
                &folder,
                "is there from an earlier run; resume it (\"latest\"), or choose another output folder",
            ));
        }
    };
    let state = checkpoint::read_state(&folder)?;
    if state.model != source.dit.fingerprint() {
        return Err(Error::format(
            &folder,
            "was trained on another transformer than the one that is named now",
        ));
    }
    Ok(Some((folder, state)))
}

/// That a checkpoint belongs to this configuration and data, so that going on is what it would have been.
fn check_resumed(
    config: &TrainConfig,
    source: &ModelSource,
    data: &[StageData],
    folder: &Path,
    state: &State,
) -> Result<()> {
    let refuse = |reason: &str| Err(Error::format(folder, reason));
    let Some((_, data)) = config.stages.iter().zip(data).find(|(stage, _)| stage.name == state.stage) else {
        return refuse(&format!("is of stage {:?}, which the configuration has not", state.stage));
    };
    let now = State {
        config: config.hash(&state.stage),
        seed: config.seed,
        model: source.dit.fingerprint().into(),
        ..state.clone()
    };
    if now != *state {
        return refuse(
            "was made with another configuration; to go on from its LoRA with new settings, name it as `lora.init` in a \
             configuration with another output folder",
        );
    }
    if data.hash != state.data {
        return refuse(
            "was trained on other data than the lists hold now; restore them, or begin anew from its LoRA (`lora.init`)",
        );
    }
    if state.contents.as_ref().is_some_and(|contents| *contents != data.contents) {
        return refuse(
            "was trained on pictures that have been replaced since, under the same names; restore them, or begin anew from its \
             LoRA (`lora.init`)",
        );
    }
    Ok(())
}

/// That the rank is one that the model's layers can have: a matrix's rank is at most its smaller side.
fn check_rank(config: &TrainConfig, source: &ModelSource) -> Result<()> {
    let hidden = uno_core::flux::FluxConfig::detect(&source.dit)?.hidden_size;
    match config.lora.rank {
        Some(rank) if rank > hidden => {
            Err(Error::request("lora.rank", rank, format!("1 to {hidden}, the width of this model")))
        }
        _ => Ok(()),
    }
}

/// The parameters that the first stage begins with, or those of the checkpoint at `resumed`, which needs no `lora.init` any more.
fn first_parameters(
    config: &TrainConfig,
    source: &ModelSource,
    resumed: Option<&Path>,
    options: &PipelineOptions,
) -> Result<NamedTensors> {
    let read = |path: &Path| {
        let file = if path.is_dir() { path.join(checkpoint::LORA) } else { path.to_path_buf() };
        lora::read(&Checkpoint::open(file)?, &options.device)
    };
    match (resumed, &config.lora.init) {
        (Some(folder), _) => read(folder),
        (None, Some(init)) => {
            let parameters = read(init)?;
            match (config.lora.rank, lora::rank(&parameters)) {
                (Some(wanted), Some(got)) if wanted != got => Err(Error::request(
                    "lora.rank",
                    wanted,
                    format!("{got}, the rank of {} (`lora.init`); or leave it out", init.display()),
                )),
                _ => Ok(parameters),
            }
        }
        (None, None) => {
            let dimensions = uno_core::flux::FluxConfig::detect(&source.dit)?;
            lora::init(&dimensions, config.lora.new_rank(), config.seed, &options.device)
        }
    }
}

/// How the model is loaded on a device.
fn options(config: &TrainConfig, opened: &Opened) -> PipelineOptions {
    let mut options = PipelineOptions::suited_to(opened);
    options.dtype = match config.dtype {
        Dtype::F32 => FloatDType::F32,
        Dtype::F16 => FloatDType::F16,
        Dtype::Bf16 => FloatDType::BF16,
    };
    if let Some(expand) = config.expand_weights {
        options.storage = if expand { Storage::Expanded } else { Storage::AsStored };
    }
    options
}

/// What stays the same over all stages.
struct Run<'a> {
    config: &'a TrainConfig,
    source: &'a ModelSource,
    options: PipelineOptions,
    encodings: Encodings,
    pictures: Pictures,
    replicas: Replicas,
    observer: &'a dyn TrainObserver,
    /// Samples drawn so far.
    samples: u64,
}

impl Run<'_> {
    /// Optimizer and average at the beginning of a stage.
    fn begin(&self, parameters: NamedTensors) -> Training {
        let optimizer = AdamW::new(self.config.optimizer, &parameters);
        let ema = self.config.ema_decay.map(|decay| Ema::new(decay, parameters.clone()));
        Training { parameters, optimizer, ema }
    }

    /// Trains a stage from its beginning or from a checkpoint on. Returns the last checkpoint, and whether the stage is done.
    fn stage(
        &mut self,
        stage: &StageConfig,
        data: &StageData,
        training: &mut Training,
        resumed: Option<(PathBuf, State)>,
    ) -> Result<(PathBuf, bool)> {
        let (mut saved, done, order) = match resumed {
            Some((folder, state)) => {
                // A run that was killed between a checkpoint and its pictures.
                self.make_pictures(training, &folder)?;
                (Some(folder), state.step, state.order)
            }
            None => (None, 0, OrderState::default()),
        };
        let shapes: Vec<_> = data.samples.iter().map(Checked::shape).collect();
        let mut order = BatchOrder::new(&shapes, stage.batch_size, self.config.seed, order);
        let folder = self.config.output.join(&stage.name);
        let mut metrics = Metrics::open(&folder, &COLUMNS, done, self.config.tensorboard)?;
        checkpoint::remove_unfinished(&self.config.output, &stage.name)?;
        let rate = stage.learning_rate();
        self.replicas.set(&training.parameters);
        for step in done..stage.steps {
            let start = Instant::now();
            let (loss, gradients) = self.gradients(stage, data, &mut order)?;
            let (gradients, gradient_norm) = clip_global_norm(gradients, self.config.max_grad_norm)?;
            training.optimizer.step(&mut training.parameters, &gradients, rate.at(step));
            self.replicas.set(&training.parameters);
            if let Some(ema) = &mut training.ema {
                ema.update(&training.parameters);
            }
            let report = StepReport {
                step: step + 1,
                steps: stage.steps,
                loss,
                gradient_norm,
                learning_rate: rate.at(step),
                seconds: start.elapsed().as_secs_f64(),
                epoch: order.state().epoch,
            };
            metrics.log(report.step, &report.columns())?;
            let stopped = self.observer.on_event(&TrainEvent::Step(report)).is_break();
            let is_due =
                report.step.is_multiple_of(self.config.checkpoint_every) || report.step == stage.steps;
            if is_due || stopped {
                let folder = self.save(stage, data, training, &order, report.step)?;
                let stopped =
                    self.observer.on_event(&TrainEvent::Saved { folder: &folder }).is_break() || stopped;
                saved = Some(folder);
                if stopped {
                    return Ok((
                        saved.unwrap_or_default(),
                        report.step == stage.steps && self.is_last(stage),
                    ));
                }
            }
        }
        saved.map(|folder| (folder, true)).ok_or_else(|| Error::request("steps", 0, "at least 1"))
    }

    fn is_last(&self, stage: &StageConfig) -> bool {
        self.config.stages.last().is_some_and(|last| last.name == stage.name)
    }

    /// Mean loss and gradients of one step.
    fn gradients(
        &mut self,
        stage: &StageConfig,
        data: &StageData,
        order: &mut BatchOrder,
    ) -> Result<(f64, NamedTensors)> {
        let recipe = recipe(self.config, stage)?;
        let count = stage.accumulation * self.replicas.len();
        let batches: Vec<(u64, Vec<usize>)> = (0..count)
            .map(|_| {
                let first = self.samples;
                let batch = order.next_batch();
                self.samples += batch.len() as u64;
                (first, batch)
            })
            .collect();
        let make = |i: usize, device: &Device| {
            let (first, numbers) = &batches[i];
            let samples: Vec<&Checked> = numbers.iter().filter_map(|&n| data.samples.get(n)).collect();
            recipe.make(&samples, *first, &self.encodings, device)
        };
        self.replicas.backward(count, stage.guidance, self.config.gradient_checkpointing, make)
    }

    /// Writes a checkpoint, and its pictures once it is there.
    fn save(
        &self,
        stage: &StageConfig,
        data: &StageData,
        training: &Training,
        order: &BatchOrder,
        step: u64,
    ) -> Result<PathBuf> {
        let output = &self.config.output;
        let folder = checkpoint::folder(output, &stage.name, step);
        let state = State {
            version: VERSION,
            stage: stage.name.clone(),
            step,
            samples: self.samples,
            seed: self.config.seed,
            order: order.state().clone(),
            config: self.config.hash(&stage.name),
            data: data.hash.clone(),
            contents: Some(data.contents.clone()),
            model: self.source.dit.fingerprint().to_owned(),
        };
        let dtype = match self.config.lora.save_dtype {
            Dtype::F32 => StorageDtype::F32,
            Dtype::F16 => StorageDtype::F16,
            Dtype::Bf16 => StorageDtype::BF16,
        };
        checkpoint::write(&folder, training, &state, dtype)?;
        if let Some(keep) = self.config.keep_checkpoints {
            checkpoint::prune(output, &stage.name, keep)?;
        }
        self.make_pictures(training, &folder)?;
        Ok(folder)
    }

    /// Makes the pictures of the checkpoint in `folder`, where they are not there yet. One that fails is told and no error:
    /// what was learned is saved.
    fn make_pictures(&self, training: &Training, folder: &Path) -> Result<()> {
        let Some(model) = self.replicas.first().filter(|_| !self.pictures.are_in(folder)) else {
            return Ok(());
        };
        let shown = training.ema.as_ref().map_or(&training.parameters, Ema::parameters);
        let (device, dtype) = (&self.options.device, self.options.dtype);
        for reason in self.pictures.make(model.for_inference(shown), device, dtype, folder) {
            // The wish to stop is heard after the checkpoint, like any other.
            let _ = self.observer.on_event(&TrainEvent::Notice { text: &format!("no picture {reason}") });
        }
        Ok(())
    }
}
