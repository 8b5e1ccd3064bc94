//! Before the first step: the data of all stages is checked, and prompts and pictures are encoded.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use sha2::{Digest, Sha256};
use uno_core::device::Opened;

use super::batch::{BatchRecipe, training_times};
use super::buckets::buckets;
use super::config::{StageConfig, TrainConfig};
use super::data::{Checked, DataError, OnDataError, Requirements, check, read};
use super::encodings::{Encoders, Encodings, Fingerprints};
use super::observer::{TrainEvent, TrainObserver};
use crate::components::{ModelSource, PipelineOptions, load_autoencoder, load_text_encoder};
use crate::error::{Error, Result};
use crate::output::{FileRecord, write_atomically};

/// Errors that are told one by one in a message; all of them are in a file.
const SHOWN: usize = 20;
/// The file with all errors of the data, in the output folder.
pub const DATA_ERRORS: &str = "data_errors.json";

/// The data of a stage.
pub struct StageData {
    /// Its samples.
    pub samples: Vec<Checked>,
    /// SHA-256 of what they are (prompts, file names, sizes), hexadecimal.
    pub hash: String,
    /// SHA-256 of what is in their pictures, hexadecimal.
    pub contents: String,
}

/// Reads and checks the data of all stages. Entries that cannot be used are listed in [`DATA_ERRORS`].
///
/// # Errors
///
/// Lists that cannot be read; entries that cannot be used, if the configuration refuses them; a stage with less than one batch.
pub fn check_data(config: &TrainConfig, observer: &dyn TrainObserver) -> Result<Vec<StageData>> {
    let mut errors: Vec<DataError> = Vec::new();
    let mut stages = Vec::new();
    for stage in &config.stages {
        let wanted = Requirements {
            buckets: buckets(stage.resolution)?,
            references: stage.references,
            long_side: stage.ref_size,
            verify: config.verify,
        };
        let mut samples = Vec::new();
        for source in &stage.data {
            let what = format!("checking {}", source.path.display());
            tell(observer, &TrainEvent::Begins { what: &what })?;
            let listed = read(source)?;
            if listed.below_score > 0 {
                let (below, path) = (listed.below_score, source.path.display());
                let text = format!("{path}: {below} entries are below the score {}", source.min_score);
                tell(observer, &TrainEvent::Notice { text: &text })?;
            }
            if let Some(text) = &listed.remark {
                tell(observer, &TrainEvent::Notice { text })?;
            }
            let (checked, wrong) = check(listed, &source.path, &wanted);
            samples.extend(checked);
            errors.extend(wrong);
        }
        stages.push(samples);
    }
    // A list may serve several stages.
    errors.sort();
    errors.dedup();
    if !errors.is_empty() {
        let path = config.output.join(DATA_ERRORS);
        let json = serde_json::to_string_pretty(&errors).unwrap_or_default();
        write_atomically(&path, |out| writeln!(out, "{json}"))?;
        if config.on_data_error == OnDataError::Refuse {
            return Err(Error::format(&path, summary(&errors)));
        }
        tell(observer, &TrainEvent::DataErrors { errors: &errors })?;
    }
    let hashed = stages.into_iter().zip(&config.stages).map(|(samples, stage)| {
        if samples.is_empty() {
            let field = format!("data of stage {:?}", stage.name);
            return Err(Error::request(field, "no sample that can be used", "at least one"));
        }
        tell(observer, &TrainEvent::Begins { what: "hashing the pictures" })?;
        Ok(StageData { hash: hash(&samples), contents: contents(&samples)?, samples })
    });
    hashed.collect()
}

fn summary(errors: &[DataError]) -> String {
    let shown = errors.iter().take(SHOWN).map(|error| format!("\n  {error}"));
    let more = match errors.len().saturating_sub(SHOWN) {
        0 => String::new(),
        n => format!("\n  and {n} more, all of them in this file"),
    };
    format!(
        "{} entries of the training data cannot be used:{}{more}\nMend or remove them, or leave them out with `on_data_error = \"skip\"`",
        errors.len(),
        shown.collect::<String>()
    )
}

fn hash(samples: &[Checked]) -> String {
    let mut hash = Sha256::new();
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for checked in samples {
        let sample = &checked.sample;
        let references = sample.references.iter().map(|path| name(path));
        for part in [sample.prompt.clone(), name(&sample.target)].into_iter().chain(references) {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.update(format!("{:?}", checked.shape()));
    }
    hex(&hash.finalize())
}

/// A picture that was replaced by another of the same length and time shows only in what it holds.
fn contents(samples: &[Checked]) -> Result<String> {
    let files: BTreeSet<&Path> = samples
        .iter()
        .flat_map(|checked| std::iter::once(&checked.sample.target).chain(&checked.sample.references))
        .map(PathBuf::as_path)
        .collect();
    let files: Vec<&Path> = files.into_iter().collect();
    let records = files.par_iter().map(|path| Ok((*path, FileRecord::of(path)?.sha256)));
    let records: BTreeMap<&Path, String> = records.collect::<Result<_>>()?;
    let mut hash = Sha256::new();
    for checked in samples {
        for path in std::iter::once(&checked.sample.target).chain(&checked.sample.references) {
            hash.update(records.get(path.as_path()).map(String::as_str).unwrap_or_default());
        }
    }
    Ok(hex(&hash.finalize()))
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Loads the encoders.
///
/// # Errors
///
/// Weights that do not fit; a device that fails.
pub fn encodings(
    config: &TrainConfig,
    source: &ModelSource,
    options: &PipelineOptions,
    observer: &dyn TrainObserver,
) -> Result<Encodings> {
    tell(observer, &TrainEvent::Begins { what: "loading text encoders and autoencoder" })?;
    let encoders = Encoders {
        text: Box::new(load_text_encoder(source, options)?),
        codec: Box::new(load_autoencoder(source, options)?),
    };
    let text = &source.text;
    let small: Vec<&str> = text.files.iter().map(|(_, record)| record.sha256.as_str()).collect();
    let fingerprints = Fingerprints {
        text: format!("{} {} {}", text.t5.fingerprint(), text.clip.fingerprint(), small.join(" ")),
        codec: source.ae.fingerprint().to_owned(),
    };
    let folder = config.cache.folder.clone().unwrap_or_else(|| config.output.join("cache"));
    let folder = config.cache.ahead.then_some(folder);
    Ok(Encodings::new(encoders, folder, fingerprints, &options.device, options.dtype))
}

/// Encodes everything that the stages need and lets go of the encoders.
///
/// # Errors
///
/// What encoding returns; a file that cannot be written; [`uno_core::Error::Cancelled`].
pub fn encode_ahead(
    encodings: &mut Encodings,
    stages: &[(&StageConfig, &StageData)],
    observer: &dyn TrainObserver,
) -> Result<()> {
    tell(observer, &TrainEvent::Begins { what: "encoding prompts and pictures" })?;
    let total = stages.iter().map(|(_, data)| data.samples.len()).sum();
    let mut before = 0;
    for (stage, data) in stages {
        encodings.encode_ahead(&data.samples, stage.fit, |done| {
            tell(observer, &TrainEvent::Advances { done: before + done, total })
        })?;
        before += data.samples.len();
    }
    if encodings.truncated() > 0 {
        let text =
            format!("{} prompts are too long for an encoder; their ends are dropped", encodings.truncated());
        tell(observer, &TrainEvent::Notice { text: &text })?;
    }
    encodings.release_encoders()
}

/// How a stage's samples become batches.
///
/// # Errors
///
/// None for a configuration that is valid.
pub fn recipe(config: &TrainConfig, stage: &StageConfig) -> Result<BatchRecipe> {
    Ok(BatchRecipe {
        seed: config.seed,
        times: training_times(stage.resolution)?,
        text_dropout: stage.text_dropout,
        pe: stage.pe,
        fit: stage.fit,
    })
}

/// Opens the devices of a configuration.
///
/// # Errors
///
/// A device that does not answer.
pub fn devices(config: &TrainConfig) -> Result<Vec<Opened>> {
    config.devices.iter().map(|name| Ok(uno_core::device::open_named(name)?)).collect()
}

/// Tells the observer; before the first step, its wish to stop ends the run at once.
pub fn tell(observer: &dyn TrainObserver, event: &TrainEvent<'_>) -> Result<()> {
    match observer.on_event(event).is_break() {
        true => Err(uno_core::Error::Cancelled { step: 0, total: 0 }.into()),
        false => Ok(()),
    }
}
