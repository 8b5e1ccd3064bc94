//! cargo run --release --example convert -- --input flux1-dev.safetensors --lora dit_lora.safetensors --storage q4_k --out uno-q4_k.gguf
//!
//! Writes one part of a model (transformer, T5, CLIP or autoencoder) of any layout in another storage format, LoRAs merged in if
//! wanted, one tensor at a time. It says how far each tensor is from what it was, and what of its inputs it leaves out. The file appears under its name when it is whole. It has our names (those of
//! black-forest-labs, and of transformers for text encoders), which ComfyUI-GGUF reads too.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Mutex;

use anyhow::{Context, Result, bail, ensure};
use burn::tensor::{Device, FloatDType, Tensor};
use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use rayon::prelude::*;
use uno_core::flux::FluxConfig;
use uno_core::lora::{self, LoraDelta};
use uno_core::lora_keys::Component;
use uno_core::weights::layout::{self, Arrangement};
use uno_core::weights::{Checkpoint, StorageDtype, StoredTensor, TensorHeader, write};

/// Writes a checkpoint in another storage format.
#[derive(Parser)]
struct Arguments {
    /// A file, an index of shards or a folder, in any layout that is known
    #[arg(long)]
    input: PathBuf,
    /// Which part of a file that holds several is written; by default the first of these that it holds
    #[arg(long, value_enum)]
    part: Option<Part>,
    /// A LoRA, or the folder of one, to merge into transformer or text encoder, with its factor after an @; may be given several
    /// times
    #[arg(long, num_args = 1, value_name = "PATH[@SCALE]")]
    lora: Vec<String>,
    /// Format of matrices: f32, bf16, f16, fp8, fp8_scaled (with a scale per matrix), q8_0, q4_0, q4_1, q5_0, q5_1, q2_k, q3_k,
    /// q4_k, q5_k or q6_k
    #[arg(long)]
    storage: Target,
    /// Cast vectors and the small outer layers too, not only the matrices of blocks (with fp8: the official rule)
    #[arg(long)]
    all: bool,
    /// The file to write: *.safetensors, or *.gguf for the q formats
    #[arg(long)]
    out: PathBuf,
    /// Also write the errors as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// What matrices become.
#[derive(Clone, Copy, Debug)]
enum Target {
    Plain(StorageDtype),
    ScaledFp8,
}

impl FromStr for Target {
    type Err = uno_core::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.to_ascii_lowercase().as_str() {
            "fp8_scaled" | "fp8-scaled" => Ok(Self::ScaledFp8),
            _ => text.parse().map(Self::Plain),
        }
    }
}

/// A part of a model.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Transformer,
    Autoencoder,
    T5,
    Clip,
}

impl Part {
    const ALL: [Self; 4] = [Self::Transformer, Self::Autoencoder, Self::T5, Self::Clip];

    /// Its name as `--part` takes it.
    fn name(self) -> &'static str {
        match self {
            Self::Transformer => "transformer",
            Self::Autoencoder => "autoencoder",
            Self::T5 => "t5",
            Self::Clip => "clip",
        }
    }

    /// Its name in GGUF's metadata.
    fn architecture(self) -> &'static str {
        match self {
            Self::Transformer => "flux",
            Self::Autoencoder => "autoencoder",
            Self::T5 => "t5encoder",
            Self::Clip => "clip",
        }
    }

    /// A tensor that no other part has.
    fn mark(self) -> &'static str {
        match self {
            Self::Transformer => "img_in.weight",
            Self::Autoencoder => "decoder.conv_in.weight",
            Self::T5 => "encoder.final_layer_norm.weight",
            Self::Clip => "text_model.final_layer_norm.weight",
        }
    }

    fn arrange(self, names: &[(String, Vec<usize>)]) -> Option<Arrangement> {
        match self {
            Self::Transformer => layout::flux(names),
            Self::Autoencoder => layout::autoencoder(names),
            Self::T5 => layout::t5(names),
            Self::Clip => layout::clip(names),
        }
    }

    /// What LoRAs call it, if they adapt it.
    fn component(self) -> Option<Component> {
        match self {
            Self::Transformer => Some(Component::Transformer),
            Self::Autoencoder => None,
            Self::T5 => Some(Component::T5),
            Self::Clip => Some(Component::Clip),
        }
    }

    /// The part under our names, and the names in the file of the tensors that it is made from; `None` if the file has it not.
    fn within(self, file: &Checkpoint) -> Option<(Checkpoint, BTreeSet<String>)> {
        let mut used: BTreeSet<String> = file.tensors().keys().cloned().collect();
        let arranged = file.arranged(|names| {
            let arrangement = self.arrange(names)?;
            used = arrangement.recipes.values().flat_map(|recipe| recipe.sources().iter().cloned()).collect();
            Some(arrangement)
        });
        arranged.tensors().contains_key(self.mark()).then(|| (arranged.into_owned(), used))
    }
}

/// What is written.
struct Chosen {
    /// `None` where it is nothing known.
    part: Option<Part>,
    /// Under our names.
    checkpoint: Checkpoint,
}

/// What LoRAs add, by layer, each with the first output that it adds to.
type Deltas = BTreeMap<String, Vec<(LoraDelta, usize)>>;

/// The outer layers of the transformer, small and sensitive; they stay as they are.
const OUTER: [&str; 7] = [
    "img_in.",
    "txt_in.",
    "time_in.",
    "vector_in.",
    "guidance_in.",
    "final_layer.",
    "relative_attention_bias",
];

/// One tensor to write.
struct Job {
    header: TensorHeader,
    /// The tensor whose numbers these are; for a scale, that of its weight.
    source: String,
    is_scale: bool,
}

/// How far a written tensor is from what it was.
#[derive(serde::Serialize)]
struct Difference {
    name: String,
    storage: String,
    /// Root mean square of the difference, relative to that of the numbers.
    relative_rms: f64,
    largest: f64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let file = Checkpoint::open(&arguments.input)?;
    let chosen = choose(&arguments, &file)?;
    let checkpoint = &chosen.checkpoint;
    checkpoint.check_storage()?;
    ensure!(
        !checkpoint.tensors().is_empty(),
        "{} holds no tensor; wanted a checkpoint of FLUX, its autoencoder, T5 or CLIP",
        arguments.input.display()
    );
    let deltas = merged(&arguments, &chosen)?;
    let jobs = jobs(&arguments, checkpoint)?;
    let headers: Vec<TensorHeader> = jobs.iter().map(|job| job.header.clone()).collect();
    let is_gguf = arguments.out.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
    let metadata = match is_gguf {
        true => {
            let architecture = chosen.part.map_or("unknown", Part::architecture);
            BTreeMap::from([("general.architecture".to_owned(), architecture.to_owned())])
        }
        false => BTreeMap::new(),
    };
    let bar = ProgressBar::new(checkpoint.tensors().values().map(|t| t.byte_len() as u64).sum());
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes}  {msg}  {eta} left") {
        bar.set_style(style);
    }
    let differences = Mutex::new(Vec::new());
    write(&arguments.out, &headers, &metadata, |i| {
        let job = &jobs[i];
        let tensor = &checkpoint.tensors()[&job.source];
        bar.set_message(job.header.name.clone());
        let fail = |error: anyhow::Error| uno_core::Error::format(&arguments.input, format!("{error:#}"));
        let (bytes, difference) = convert(job, tensor, &deltas, arguments.storage).map_err(fail)?;
        if let (Some(difference), Ok(mut all)) = (difference, differences.lock()) {
            all.push(difference);
            bar.inc(tensor.byte_len() as u64);
        }
        Ok(bytes)
    })?;
    bar.finish_and_clear();
    let differences = differences.into_inner().unwrap_or_default();
    report(&differences, &arguments)?;
    println!("{}", arguments.out.display());
    Ok(())
}

/// The part that is written. What else the file holds is said.
fn choose(arguments: &Arguments, file: &Checkpoint) -> Result<Chosen> {
    let held: Vec<_> = Part::ALL.into_iter().filter_map(|part| Some((part, part.within(file)?))).collect();
    let chosen = match arguments.part {
        Some(part) => held.iter().find(|(held, _)| *held == part),
        None => held.first(),
    };
    let Some((part, (checkpoint, used))) = chosen else {
        if let Some(part) = arguments.part {
            let names = held.iter().map(|(part, _)| part.name()).collect::<Vec<_>>().join(", ");
            let names = if names.is_empty() { "no part that is known" } else { &names };
            bail!("{} holds no {}; it holds {names}", arguments.input.display(), part.name());
        }
        return Ok(Chosen { part: None, checkpoint: file.clone() });
    };
    let mut left: BTreeSet<_> = file.tensors().keys().filter(|name| !used.contains(*name)).collect();
    for (other, (_, tensors)) in &held {
        let before = left.len();
        left.retain(|name| !tensors.contains(*name));
        if before > left.len() {
            let (count, name) = (before - left.len(), other.name());
            eprintln!(
                "left out: {count} tensors of the part {name}; convert them to a file of their own with --part {name}"
            );
        }
    }
    if let Some(first) = left.first() {
        eprintln!(
            "left out: {} tensors that belong to no part that is known, the first is {first}",
            left.len()
        );
    }
    // Some versions of transformers saved the numbers 0, 1, 2 ... with their models.
    let (counted, kept): (Vec<_>, Vec<_>) = checkpoint
        .tensors()
        .iter()
        .map(|(name, tensor)| (name.clone(), tensor.clone()))
        .partition(|(name, tensor)| name.ends_with("embeddings.position_ids") && !tensor.is_read());
    for (name, _) in counted {
        eprintln!("left out: {name}, which only counts positions");
    }
    Ok(Chosen { part: Some(*part), checkpoint: Checkpoint::from_tensors(checkpoint.path(), kept) })
}

/// What LoRAs add to the part that is written. What else they hold is said.
fn merged(arguments: &Arguments, chosen: &Chosen) -> Result<Deltas> {
    let mut all = Deltas::new();
    for text in &arguments.lora {
        // A file whose own name ends in @ and a number is meant if it is there.
        let split = text.rsplit_once('@').filter(|_| !Path::new(text).exists());
        let split = split.and_then(|(path, scale)| Some((path, scale.parse::<f64>().ok()?)));
        let (path, scale) = split.unwrap_or((text, 1.0));
        let component = chosen.part.and_then(Part::component);
        let component = component.context("a LoRA can only be merged into a transformer, T5 or CLIP")?;
        let file = lora::open(path)?;
        let (mine, others): (Vec<_>, Vec<_>) =
            lora::deltas(&file, scale)?.into_iter().partition(|delta| delta.component == component);
        let with = Part::ALL.into_iter().filter_map(|part| {
            let count = others.iter().filter(|delta| Some(delta.component) == part.component()).count();
            (count > 0).then_some((part, count))
        });
        let with: Vec<_> = with.collect();
        ensure!(
            !mine.is_empty(),
            "{path}: adapts nothing of {component}, but {}; give it where that is converted",
            with.iter()
                .map(|(part, count)| format!("{count} layers of the part {}", part.name()))
                .collect::<Vec<_>>()
                .join(", ")
        );
        eprintln!("{path}: {} layers of {component} are merged", mine.len());
        for (part, count) in with {
            eprintln!(
                "left out: what {path} adds to {count} layers of the part {}, which is a file of its own; convert that with the \
                 same --lora, or use it with the LoRA beside it (--add_lora)",
                part.name()
            );
        }
        if component == Component::Transformer
            && let Err(error) = lora::check_whole(&file, &FluxConfig::detect(&chosen.checkpoint)?)
        {
            eprintln!("note: {error}");
        }
        for delta in mine {
            let weight = chosen.checkpoint.shape(&format!("{}.weight", delta.layer)).unwrap_or_default();
            let [outputs, input] = *weight else {
                bail!("{path}: adapts {}, which the checkpoint does not have", delta.layer);
            };
            let place = delta.place([input, outputs], "the checkpoint");
            let first = place.map_err(|reason| anyhow::anyhow!("{path}: {reason}"))?.start;
            all.entry(delta.layer.clone()).or_default().push((delta, first));
        }
    }
    Ok(all)
}

/// What is written, in order.
fn jobs(arguments: &Arguments, checkpoint: &Checkpoint) -> Result<Vec<Job>> {
    let is_gguf = arguments.out.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
    let mut jobs = Vec::new();
    for (name, tensor) in checkpoint.tensors() {
        if !tensor.is_read() {
            bail!("{name} is {tensor}, which is not read");
        }
        let shape = tensor.shape().to_vec();
        let inner = shape.len() == 2 && !OUTER.iter().any(|outer| name.contains(outer));
        let wanted = match arguments.storage {
            Target::Plain(dtype) => dtype,
            Target::ScaledFp8 => StorageDtype::F8E4M3,
        };
        let whole_blocks = shape.last().is_none_or(|last| last.is_multiple_of(wanted.block_len()));
        let casts = inner || (arguments.all && (wanted.block_len() == 1 || shape.len() == 2));
        // What stays is written as it is stored, or in the nearest format that loses nothing and that the file can hold.
        let kept = match tensor.dtype() {
            dtype if tensor.is_derived() || dtype.pack(&[]).is_none() => StorageDtype::F32,
            StorageDtype::F8E4M3 if is_gguf => StorageDtype::BF16,
            dtype => dtype,
        };
        let dtype = if casts && whole_blocks { wanted } else { kept };
        let source = name.clone();
        if matches!(arguments.storage, Target::ScaledFp8) && inner {
            let scale = format!("{}.scale_weight", name.strip_suffix(".weight").unwrap_or(name));
            let header = TensorHeader { name: scale, dtype: StorageDtype::F32, shape: vec![1] };
            jobs.push(Job { header, source: source.clone(), is_scale: true });
        }
        jobs.push(Job {
            header: TensorHeader { name: source.clone(), dtype, shape },
            source,
            is_scale: false,
        });
    }
    if matches!(arguments.storage, Target::ScaledFp8) {
        ensure!(!is_gguf, "GGUF has no fp8; name the file *.safetensors");
    }
    Ok(jobs)
}

/// The bytes of one tensor, and how far they are from its numbers.
fn convert(
    job: &Job,
    tensor: &StoredTensor,
    deltas: &Deltas,
    target: Target,
) -> Result<(Vec<u8>, Option<Difference>)> {
    let TensorHeader { name, dtype, .. } = &job.header;
    let mut numbers = tensor.to_f32();
    let layer = job.source.strip_suffix(".weight").unwrap_or(&job.source);
    for (delta, first) in deltas.get(layer).into_iter().flatten() {
        add(&mut numbers, delta, *first);
    }
    let wrong = numbers.par_iter().filter(|x| !x.is_finite()).count();
    ensure!(wrong == 0, "{name} holds {wrong} numbers that are NaN or infinite; load the file anew");
    let is_scaled = matches!(target, Target::ScaledFp8) && *dtype == StorageDtype::F8E4M3;
    let largest = numbers.par_iter().map(|x| x.abs()).reduce(|| 0.0, f32::max);
    // 448 is the largest e4m3 number.
    let scale = if (is_scaled || job.is_scale) && largest > 0.0 { largest / 448.0 } else { 1.0 };
    if job.is_scale {
        return Ok((scale.to_le_bytes().to_vec(), None));
    }
    let wanted = numbers.clone();
    if scale != 1.0 {
        numbers.par_iter_mut().for_each(|x| *x /= scale);
    }
    let bytes = pack(*dtype, &numbers).with_context(|| format!("{name}: cannot be written as {dtype}"))?;
    let mut written = vec![0.0; numbers.len()];
    ensure!(expand(*dtype, &bytes, &mut written), "{name}: {dtype} cannot be read back");
    let (mut square, mut size, mut worst) = (0f64, 0f64, 0f64);
    for (wanted, got) in wanted.iter().zip(&written) {
        let difference = f64::from(*got * scale) - f64::from(*wanted);
        square += difference * difference;
        size += f64::from(*wanted) * f64::from(*wanted);
        worst = worst.max(difference.abs());
    }
    let lost = written.iter().filter(|x| !x.is_finite()).count();
    ensure!(
        lost == 0,
        "{name}: {lost} numbers are too large for {dtype} (up to {largest}); use fp8_scaled or bf16"
    );
    let relative_rms = if size > 0.0 { (square / size).sqrt() } else { 0.0 };
    let storage = if is_scaled { format!("{dtype} scaled") } else { dtype.to_string() };
    Ok((bytes, Some(Difference { name: name.clone(), storage, relative_rms, largest: worst })))
}

/// Numbers that a thread packs at a time: whole blocks of every format.
const CHUNK: usize = 1 << 18;

fn pack(dtype: StorageDtype, numbers: &[f32]) -> Option<Vec<u8>> {
    let chunks: Option<Vec<Vec<u8>>> = numbers.par_chunks(CHUNK).map(|chunk| dtype.pack(chunk)).collect();
    Some(chunks?.concat())
}

fn expand(dtype: StorageDtype, bytes: &[u8], out: &mut [f32]) -> bool {
    let Some(size) = dtype.bytes_of(CHUNK).filter(|size| *size > 0) else { return false };
    out.par_chunks_mut(CHUNK).zip(bytes.par_chunks(size)).all(|(out, bytes)| dtype.expand(bytes, out))
}

/// `weight[first..] += scale * up @ down`, in f32.
fn add(numbers: &mut [f32], delta: &LoraDelta, first: usize) {
    let device = Device::flex();
    let matrix = |t: &StoredTensor| t.to_tensor::<2>(&device, FloatDType::F32);
    let product: Tensor<2> = matrix(&delta.up).matmul(matrix(&delta.down)).mul_scalar(delta.scale);
    let columns = delta.down.shape()[1];
    let Ok(product) = product.into_data().try_into_vec::<f32>() else { return };
    for (number, added) in numbers.iter_mut().skip(first * columns).zip(product) {
        *number += added;
    }
}

/// The largest differences for people, all of them as JSON.
fn report(differences: &[Difference], arguments: &Arguments) -> Result<()> {
    let mut worst: Vec<&Difference> = differences.iter().collect();
    worst.sort_by(|a, b| b.relative_rms.total_cmp(&a.relative_rms));
    let mut out = std::io::stderr().lock();
    writeln!(out, "{:>12} {:>12}  {:<14} tensor", "relative RMS", "largest", "storage")?;
    for d in &worst {
        writeln!(out, "{:>12.3e} {:>12.3e}  {:<14} {}", d.relative_rms, d.largest, d.storage, d.name)?;
    }
    if let Some(path) = &arguments.report {
        let text = serde_json::to_vec_pretty(differences)?;
        uno_models::output::write_atomically(path, |file| file.write_all(&text))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
