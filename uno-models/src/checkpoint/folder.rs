//! Finding a part's files in a folder by their names, and saying what is there instead.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use uno_core::weights::gguf_parts;

use super::all_in_one;
use super::files::{ClipTokenizerFiles, ModelType, Part, T5TokenizerFiles};
use super::look::{self, Look};
use super::presets::HubPart;
use crate::spelling::{edit_distance, letters};

/// File names of a part's weights without what comes after, the preferred first.
fn stems(part: Part, model_type: ModelType) -> &'static [&'static str] {
    match (part, model_type) {
        (Part::Dit, ModelType::FluxDev) => &["flux1-dev"],
        (Part::Dit, ModelType::FluxDevFp8) => &["flux1-dev-fp8", "flux-dev-fp8", "flux1-dev"],
        (Part::Dit, ModelType::FluxSchnell) => &["flux1-schnell"],
        (Part::Autoencoder, _) => &["ae"],
        (Part::Lora, _) => &["dit_lora"],
        _ => &["model"],
    }
}

/// What may follow a stem: one file (`.sft` is what black-forest-labs called it at first), or an index of shards.
const ENDINGS: [&str; 4] = [".safetensors", ".sft", ".safetensors.index.json", ".gguf"];

/// The folder of a text encoder in a model folder.
pub(super) fn subfolder(part: Part) -> Option<&'static str> {
    match part {
        Part::T5 | Part::T5Tokenizer => Some("t5"),
        Part::Clip | Part::ClipTokenizer => Some("clip"),
        _ => None,
    }
}

/// The folder of a part in a model folder as diffusers lays it out.
pub(super) fn diffusers_folder(part: Part) -> Option<&'static str> {
    match part {
        Part::Dit => Some("transformer"),
        Part::Autoencoder => Some("vae"),
        Part::T5 => Some("text_encoder_2"),
        Part::T5Tokenizer => Some("tokenizer_2"),
        Part::Clip => Some("text_encoder"),
        Part::ClipTokenizer => Some("tokenizer"),
        Part::Lora => None,
    }
}

/// A part's weights under a name that only begins as expected: ComfyUI's text encoders, quantized transformers.
pub(super) fn loosely_named(part: Part, model_type: ModelType, folder: &Path) -> Look<Option<PathBuf>> {
    let beginnings: &[&str] = match (part, model_type) {
        (Part::Dit, ModelType::FluxSchnell) => &["flux1-schnell"],
        (Part::Dit, _) => &["flux1-dev"],
        (Part::T5, _) => &["t5xxl", "t5-v1_1-xxl"],
        (Part::Clip, _) => &["clip_l", "clip-vit-large"],
        _ => return Ok(None),
    };
    let meant = |name: &String| {
        let name = name.to_ascii_lowercase();
        beginnings.iter().any(|beginning| name.starts_with(beginning))
            && (name.ends_with(".safetensors") || name.ends_with(".gguf") || is_index(&name))
    };
    let found: Vec<String> = whole_weights(folder).into_iter().filter(meant).collect();
    match &found[..] {
        [] => Ok(None),
        [one] => Ok(Some(folder.join(one))),
        several => Err(ambiguous(part, folder, several)),
    }
}

/// The transformer in a file of any name that holds other parts beside it.
pub(super) fn all_in_one(folder: &Path) -> Look<Option<PathBuf>> {
    let names: Vec<_> = whole_weights(folder).into_iter().filter(|name| !is_index(name)).collect();
    match &all_in_one::among(folder, &names)[..] {
        [] => Ok(None),
        [one] => Ok(Some(one.clone())),
        several => {
            let names =
                several.iter().filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
            Err(ambiguous(Part::Dit, folder, &names.collect::<Vec<_>>()))
        }
    }
}

/// That a folder holds several files that would do, and how to choose.
fn ambiguous(part: Part, folder: &Path, names: &[String]) -> String {
    let one = names.first().map(|name| folder.join(name)).unwrap_or_default();
    format!(
        "{} holds several files for it: {}; name the one that is meant with option {}, such as {}",
        folder.display(),
        look::listed(names.iter().map(String::as_str)),
        part.option(),
        one.display()
    )
}

/// Whether the name is that of an index of shards. diffusers puts a variant before the end: `.safetensors.index.fp16.json`.
fn is_index(name: &str) -> bool {
    name.ends_with(".json") && name.contains(".safetensors.index.")
}

/// Whether the name is that of a shard: `NAME-00001-of-00003.safetensors`.
fn is_shard(name: &str) -> bool {
    let number =
        |text: Option<&str>| text.is_some_and(|t| t.len() == 5 && t.bytes().all(|b| b.is_ascii_digit()));
    let mut ends = name.strip_suffix(".safetensors").unwrap_or_default().rsplit('-');
    number(ends.next()) && ends.next() == Some("of") && number(ends.next())
}

/// Names of what in a folder may be weights as a whole: files and indexes; neither shards, nor later parts of split GGUF files.
fn whole_weights(folder: &Path) -> Vec<String> {
    let there = entries(folder);
    let indexes = there.iter().filter(|name| is_index(name));
    let shards: BTreeSet<String> =
        indexes.filter_map(|name| look::shard_names(&folder.join(name)).ok()).flatten().collect();
    let is_whole = |name: &String| match gguf_parts(Path::new(name)) {
        Some(parts) => parts.first().is_some_and(|first| {
            // The first that is there stands for all of them.
            let first =
                parts.iter().find(|part| there.iter().any(|n| Path::new(n) == *part)).unwrap_or(first);
            first == Path::new(name)
        }),
        None if is_index(name) => true,
        None => {
            let is_weights = [".safetensors", ".gguf"].iter().any(|ending| name.ends_with(ending));
            is_weights && !shards.contains(name) && !is_shard(name)
        }
    };
    there.iter().filter(|name| is_whole(name)).cloned().collect()
}

/// The names that are looked for.
pub(super) fn wanted_names(part: Part, model_type: ModelType) -> Vec<String> {
    match part {
        Part::T5Tokenizer => vec!["spiece.model".to_owned(), "tokenizer.json".to_owned()],
        Part::ClipTokenizer => {
            vec!["tokenizer.json".to_owned(), "vocab.json".to_owned(), "merges.txt".to_owned()]
        }
        _ => stems(part, model_type)
            .iter()
            .flat_map(|stem| ENDINGS.iter().map(move |ending| format!("{stem}{ending}")))
            .filter(|name| matches!(part, Part::Dit | Part::Autoencoder) || !name.ends_with(".sft"))
            .filter(|name| matches!(part, Part::Dit | Part::T5) || !name.ends_with(".gguf"))
            .collect(),
    }
}

/// The models whose DiT is in a folder.
pub(super) fn model_types_in(folder: &Path) -> Vec<ModelType> {
    ModelType::ALL
        .into_iter()
        .filter(|&model_type| {
            // flux-dev-fp8 also takes the file of flux-dev; that alone does not make a folder one of fp8.
            let own = wanted_names(Part::Dit, model_type).into_iter();
            own.filter(|name| model_type != ModelType::FluxDevFp8 || name.contains("fp8"))
                .any(|name| look::is_there(&folder.join(name)))
        })
        .collect()
}

/// A part's weights at `path`: the file itself, or in that folder under one of the part's names. With `any_name`, a folder's
/// only weights are taken whatever they are called, and several are an error that lists them.
pub(super) fn weights(
    part: Part,
    model_type: ModelType,
    path: &Path,
    any_name: bool,
) -> Look<Option<PathBuf>> {
    let look_at = |file: PathBuf| {
        let instead = HubPart::of(part, model_type).wanted();
        look::weights(&file, &instead).map_err(|reason| of(&file, reason)).map(Some)
    };
    if !path.is_dir() {
        return look_at(path.to_path_buf());
    }
    let named = wanted_names(part, model_type).into_iter().map(|name| path.join(name));
    let of_diffusers = DIFFUSERS.iter().filter(|_| any_name).map(|name| path.join(name));
    if let Some(found) = named.chain(of_diffusers).find(|candidate| look::is_there(candidate)) {
        return look_at(found);
    }
    let found = if any_name { whole_weights(path) } else { Vec::new() };
    match &found[..] {
        [one] => look_at(path.join(one)),
        [] => match entries(path).into_iter().filter(|name| any_name && is_shard(name)).collect::<Vec<_>>() {
            shards if shards.is_empty() => Ok(None),
            shards => Err(format!(
                "{} holds shards ({}), but not the index that joins them (*.safetensors.index.json); get it from where they are from",
                path.display(),
                look::listed(shards.iter().map(String::as_str))
            )),
        },
        several => Err(ambiguous(part, path, several)),
    }
}

/// What diffusers calls weights, without a variant.
const DIFFUSERS: [&str; 2] =
    ["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors.index.json"];

/// A file and what is wrong with it, as one sentence.
fn of(file: &Path, reason: String) -> String {
    format!("{} {reason}", file.display())
}

/// T5's vocabulary at `path`, a file or a folder.
pub(super) fn t5_tokenizer(_: Part, _: ModelType, path: &Path, _: bool) -> Look<Option<T5TokenizerFiles>> {
    let look_at = |file: &Path| {
        let json = file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
        let file = look::vocabulary(file, json).map_err(|reason| of(file, reason))?;
        Ok(Some(if json { T5TokenizerFiles::Json(file) } else { T5TokenizerFiles::SentencePiece(file) }))
    };
    if !path.is_dir() {
        return look_at(path);
    }
    let candidates = ["spiece.model", "tokenizer.json"].map(|name| path.join(name));
    candidates.iter().find(|file| look::is_there(file)).map_or(Ok(None), |file| look_at(file))
}

/// CLIP's vocabulary at `path`: a `tokenizer.json`, one of the older pair of files, or a folder with either.
pub(super) fn clip_tokenizer(
    _: Part,
    _: ModelType,
    path: &Path,
    _: bool,
) -> Look<Option<ClipTokenizerFiles>> {
    let look_at = |file: &Path| look::vocabulary(file, true).map_err(|reason| of(file, reason));
    let pair = |folder: &Path| {
        let [vocab, merges] = ["vocab.json", "merges.txt"].map(|name| folder.join(name));
        for file in [&vocab, &merges] {
            look::vocabulary(file, file == &vocab).map_err(|reason| {
                of(file, format!("{reason} (vocab.json and merges.txt belong together)"))
            })?;
        }
        Ok(Some(ClipTokenizerFiles::VocabMerges { vocab, merges }))
    };
    if !path.is_dir() {
        return match (path.file_name().and_then(|name| name.to_str()), path.parent()) {
            (Some("vocab.json" | "merges.txt"), Some(folder)) => pair(folder),
            _ => Ok(Some(ClipTokenizerFiles::Json(look_at(path)?))),
        };
    }
    let json = path.join("tokenizer.json");
    if look::is_there(&json) {
        return Ok(Some(ClipTokenizerFiles::Json(look_at(&json)?)));
    }
    let any = ["vocab.json", "merges.txt"].iter().any(|name| look::is_there(&path.join(name)));
    if any { pair(path) } else { Ok(None) }
}

/// The `config.json` beside weights.
pub(super) fn config_beside(weights: &Path) -> Option<PathBuf> {
    weights.parent().map(|folder| folder.join("config.json")).filter(|file| file.is_file())
}

/// Says that `folder` lacks `part`, and which of its files may be meant for it.
pub(super) fn lacks(part: Part, model_type: ModelType, folder: &Path) -> String {
    let wanted = wanted_names(part, model_type);
    let names = look::listed(wanted.iter().map(String::as_str));
    let meant = near_name(&wanted, &entries(folder))
        .map(|(name, meant)| {
            format!("; did you mean {}? rename it to {meant}", look::listed([name.as_str()]))
        })
        .unwrap_or_default();
    format!("{} has none of {names}{meant}", folder.display())
}

/// Says what a folder holds, and remarks on formats among that which are known, but not read.
pub(super) fn contents(folder: &Path) -> String {
    let there = entries(folder);
    let mut text = format!("{} holds: {}", folder.display(), look::listed(there.iter().map(String::as_str)));
    let mut remark = |test: &dyn Fn(&Path) -> bool, remark: &str| {
        let names: Vec<_> = there.iter().map(String::as_str).filter(|name| test(Path::new(name))).collect();
        if !names.is_empty() {
            text += &format!(". {}: {remark}", look::listed(names));
        }
    };
    remark(&look::is_pickle_name, look::PICKLE);
    text
}

/// Names in a folder, sorted; folders end in `/`.
fn entries(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .flatten()
        .map(|entry| {
            let slash = if entry.path().is_dir() { "/" } else { "" };
            format!("{}{slash}", entry.file_name().to_string_lossy())
        })
        .collect();
    names.sort();
    names
}

/// The name in `there` that comes nearest to a wanted one, if it is near, with that one.
fn near_name(wanted: &[String], there: &[String]) -> Option<(String, String)> {
    let pairs = there.iter().flat_map(|name| wanted.iter().map(move |meant| (name, meant)));
    pairs
        .filter_map(|(name, meant)| {
            let (stem, ending) = split(name);
            let (meant_stem, meant_ending) = split(meant);
            let same_kind = ending.eq_ignore_ascii_case(meant_ending);
            let distance = edit_distance(&letters(stem), &letters(meant_stem));
            let near = same_kind && distance <= (meant_stem.len() / 3).clamp(1, 3);
            near.then_some((distance, name, meant))
        })
        .min()
        .map(|(_, name, meant)| (name.clone(), meant.clone()))
}

/// A name before and after its first dot that begins a known ending (else its last dot).
fn split(name: &str) -> (&str, &str) {
    let lower = name.to_ascii_lowercase();
    let at = ENDINGS
        .iter()
        .find(|ending| lower.ends_with(*ending))
        .map(|ending| name.len() - ending.len())
        .or_else(|| name.rfind('.'))
        .unwrap_or(name.len());
    name.split_at_checked(at).unwrap_or((name, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found_and_far_ones_are_not() {
        let near = |wanted: &str, there: &str| near_name(&[wanted.to_owned()], &[there.to_owned()]).is_some();
        assert!(near("flux1-dev.safetensors", "flux1_dev.safetensors"));
        assert!(near("flux1-dev.safetensors", "FLUX1-Dev.SafeTensors"));
        assert!(near("flux1-dev.safetensors", "flux-dev.safetensors"));
        assert!(near("dit_lora.safetensors", "dit-lora.safetensors"));
        assert!(near("spiece.model", "spice.model"));
        assert!(!near("ae.safetensors", "t5.safetensors"));
        assert!(!near("flux1-dev.safetensors", "flux1-schnell.safetensors"));
        assert!(!near("ae.safetensors", "ae.txt"));
    }
}
