//! The order in which a model's files are looked for. The [module's documentation](super) says it in words.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::all_in_one;
use super::cache::HubCache;
use super::files::{CheckpointFiles, Located, ModelType, Part, Source, TextEncoderFiles};
use super::folder;
use super::hub::{self, Hub};
use super::look::{self, Look};
use super::options::CheckpointOptions;
use super::presets::{HubPart, human_bytes};
use super::progress::Progress;
use crate::error::{Error, Result};

/// Finds all files of a model, and downloads what is missing if [`CheckpointOptions::allow_download`] is set.
///
/// Everything on this machine is looked at before the first download, so a mistyped path shows at once. A file that is in the
/// hub cache is never downloaded again.
///
/// # Errors
///
/// - A path that an option or an environment variable names is not there, is empty, or is no safetensors file (pickles,
///   GGUF, git-lfs pointers and web pages are told apart): [`Error::Checkpoint`], naming the option or variable.
/// - A part is nowhere, and may not or cannot be downloaded: [`Error::Checkpoint`], with what was looked for, what is there
///   instead, and how to get it. If several parts are concerned, all are named.
/// - The hub refuses (gated repository, wrong token, file not there) or fails: [`Error::Hub`].
/// - An option contradicts another: [`Error::Request`].
pub fn discover(options: &CheckpointOptions, progress: &dyn Progress) -> Result<CheckpointFiles> {
    let mut search = Search::new(options)?;
    let (weights, t5_words, clip_words) = (folder::weights, folder::t5_tokenizer, folder::clip_tokenizer);

    // What is on this machine: all of it, before the first problem is reported.
    let mut gaps = Gaps::default();
    let dit = search.local(Part::Dit, None, weights, &mut gaps);
    search.dit = dit.as_ref().map(|dit| dit.files.clone());
    let ae = search.local(Part::Autoencoder, None, weights, &mut gaps);
    let t5 = search.local(Part::T5, None, weights, &mut gaps);
    let t5_tokenizer = search.local(Part::T5Tokenizer, t5.as_ref(), t5_words, &mut gaps);
    let clip = search.local(Part::Clip, None, weights, &mut gaps);
    let clip_tokenizer = search.local(Part::ClipTokenizer, clip.as_ref(), clip_words, &mut gaps);
    let lora = options.use_lora.then(|| search.local(Part::Lora, None, weights, &mut gaps));

    // What is not: the gated repository first, so that it is heard of before hours of other downloads.
    let hub = &mut search.settle(gaps, progress)?;
    let dit = search.complete(Part::Dit, dit, hub, weights)?;
    let ae = search.complete(Part::Autoencoder, ae, hub, weights)?;
    let t5_tokenizer = search.complete(Part::T5Tokenizer, t5_tokenizer, hub, t5_words)?;
    let clip_tokenizer = search.complete(Part::ClipTokenizer, clip_tokenizer, hub, clip_words)?;
    let lora = lora.map(|lora| search.complete(Part::Lora, lora, hub, weights)).transpose()?;
    let clip = search.complete(Part::Clip, clip, hub, weights)?;
    let t5 = search.complete(Part::T5, t5, hub, weights)?;

    // What lies beside an all-in-one file may be about any part of it.
    let config = |weights: &Path, tokenizer: &Path| match search.dit.as_deref() == Some(weights) {
        true => folder::config_beside(tokenizer),
        false => folder::config_beside(weights),
    };
    let t5_config = config(&t5.files, t5_tokenizer.files.path());
    let clip_config = config(&clip.files, clip_tokenizer.files.path());
    Ok(CheckpointFiles {
        model_type: search.model_type,
        dit,
        ae,
        t5: TextEncoderFiles { weights: t5, config: t5_config, tokenizer: t5_tokenizer },
        clip: TextEncoderFiles { weights: clip, config: clip_config, tokenizer: clip_tokenizer },
        lora,
    })
}

/// Looks for a part of a model at a path: the file itself, or a folder in which to look. The flag says whether a folder is
/// this part's own, so that its only file may have any name.
type Find<T> = fn(Part, ModelType, &Path, bool) -> Look<Option<T>>;

/// Options, and what follows from them.
struct Search<'a> {
    options: &'a CheckpointOptions,
    model_type: ModelType,
    /// The hub cache, where it may be used.
    cache: Option<HubCache>,
    /// The transformer's file, once it is found.
    dit: Option<PathBuf>,
    /// The parts in that file, if it is an all-in-one checkpoint; looked at when the first part is missing.
    all_in_one: OnceCell<Vec<Part>>,
}

impl<'a> Search<'a> {
    fn new(options: &'a CheckpointOptions) -> Result<Self> {
        if let (false, Some(lora)) = (options.use_lora, &options.lora) {
            return Err(Error::request("lora", lora.display(), "no path, because use_lora is off"));
        }
        if let Some(folder) = options.model_dir.as_deref().filter(|folder| !folder.is_dir()) {
            let reason = if look::is_there(folder) {
                "is not a folder; name a single file with its own option (dit, ae, t5, clip, lora)".to_owned()
            } else {
                format!("is not there{}", repository_hint(folder))
            };
            return Err(Error::checkpoint("model folder", format!("{} {reason}", folder.display())));
        }
        let cache = match options.model_dir.is_none() || options.allow_download {
            true => HubCache::locate(&options.hub, &options.environment),
            false => None,
        };
        Ok(Self { options, model_type: model_type(options), cache, dit: None, all_in_one: OnceCell::new() })
    }

    /// The transformer's file, if it holds `part` too.
    fn all_in_one(&self, part: Part) -> Option<&Path> {
        let file = self.dit.as_deref()?;
        let parts = self.all_in_one.get_or_init(|| all_in_one::parts_in(file));
        (part != Part::Dit && parts.contains(&part)).then_some(file)
    }

    /// Looks for `part` on this machine; what is not found or not sound goes to `gaps`. `beside` is the encoder whose
    /// tokenizer is looked for.
    fn local<T>(
        &self,
        part: Part,
        beside: Option<&Located>,
        find: Find<T>,
        gaps: &mut Gaps,
    ) -> Option<Located<T>> {
        match self.look_for(part, beside, find) {
            Ok(Some(found)) => return Some(found),
            Ok(None) => gaps.missing.push(part),
            Err(reason) => gaps.problems.push((part, reason)),
        }
        None
    }

    fn look_for<T>(&self, part: Part, beside: Option<&Located>, find: Find<T>) -> Look<Option<Located<T>>> {
        let in_folder = |folder: &Path, own| find(part, self.model_type, folder, own);
        if let Some(path) = self.options.explicit(part) {
            return self.named(part, path, Source::Option(part.option()), find).map(Some);
        }
        if let Some(Located { files: weights, source }) = beside
            && let Some(folder) = weights.parent()
            && let Some(files) = in_folder(folder, false)?
        {
            return Ok(Some(Located { files, source: source.clone() }));
        }
        if let Some(model_dir) = &self.options.model_dir {
            let folder = folder_of(part, model_dir);
            if folder.is_dir()
                && let Some(files) = in_folder(&folder, folder != *model_dir)?
            {
                return Ok(Some(Located { files, source: Source::Folder(model_dir.clone()) }));
            }
            // The same part as diffusers lays it out, and as ComfyUI and GGUF files are called.
            let diffusers = folder::diffusers_folder(part).map(|name| model_dir.join(name));
            if let Some(folder) = diffusers.filter(|folder| folder.is_dir())
                && let Some(files) = in_folder(&folder, true)?
            {
                return Ok(Some(Located { files, source: Source::Folder(model_dir.clone()) }));
            }
            if let Some(file) = folder::loosely_named(part, self.model_type, model_dir)?
                && let Some(files) = in_folder(&file, true)?
            {
                return Ok(Some(Located { files, source: Source::Folder(model_dir.clone()) }));
            }
            if part == Part::Dit
                && let Some(file) = folder::all_in_one(model_dir)?
                && let Some(files) = in_folder(&file, true)?
            {
                return Ok(Some(Located { files, source: Source::Folder(model_dir.clone()) }));
            }
        }
        if let Some(file) = self.all_in_one(part)
            && let Some(files) = in_folder(file, true)?
        {
            return Ok(Some(Located { files, source: Source::AllInOne(file.to_path_buf()) }));
        }
        let environment = &self.options.environment;
        let mut variables = part.variables(self.model_type).iter();
        if let Some((name, path)) =
            variables.find_map(|&name| environment.path(name).map(|path| (name, path)))
        {
            let source = Source::Env(name);
            if !matches!(part, Part::T5Tokenizer | Part::ClipTokenizer) {
                return self.named(part, &path, source, find).map(Some);
            }
            // The variable is about the weights; that they have no tokenizer beside them is no mistake.
            let folder = if path.is_dir() { &path } else { path.parent().unwrap_or(&path) };
            if let Ok(Some(files)) = in_folder(folder, false) {
                return Ok(Some(Located { files, source }));
            }
        }
        let repo = HubPart::of(part, self.model_type).repo;
        let mut snapshots = self.cache.iter().flat_map(|cache| cache.snapshots(repo));
        // A snapshot that lacks the part, or has half of it, is no error: the hub completes it.
        let cached = snapshots.find_map(|snapshot| in_folder(&snapshot, false).ok().flatten());
        Ok(cached.map(|files| Located { files, source: Source::HubCache(repo) }))
    }

    /// A path that was named must hold the part.
    fn named<T>(&self, part: Part, path: &Path, source: Source, find: Find<T>) -> Look<Located<T>> {
        let reason = if look::is_there(path) {
            match find(part, self.model_type, path, true) {
                Ok(Some(files)) => return Ok(Located { files, source }),
                Ok(None) => {
                    format!("{}; {}", folder::lacks(part, self.model_type, path), folder::contents(path))
                }
                Err(reason) => reason,
            }
        } else {
            format!("{} is not there{}", path.display(), repository_hint(path))
        };
        Err(format!("{source}: {reason}"))
    }

    /// Reports what the look at this machine found wrong. With parts missing, it settles whether they can be fetched, and
    /// makes ready for that; nothing is fetched yet.
    fn settle<'p>(&self, gaps: Gaps, progress: &'p dyn Progress) -> Result<Option<Hub<'p>>> {
        let Gaps { missing, mut problems } = gaps;
        let refusal = if missing.is_empty() { None } else { self.refusal() };
        if refusal.is_some() {
            problems.extend(missing.iter().map(|&part| (part, self.missing_reason(part))));
        }
        problems.sort();
        let end: String = match refusal {
            Some(refusal) => self
                .looked_in(&missing)
                .into_iter()
                .chain([refusal])
                .map(|line| format!("\n{line}"))
                .collect(),
            None => String::new(),
        };
        match &problems[..] {
            [] => {}
            [(part, reason)] => return Err(Error::checkpoint(part.name(), format!("{reason}{end}"))),
            several => {
                let lines: String =
                    several.iter().map(|(part, reason)| format!("\n- {part}: {reason}")).collect();
                let parts = format!("{} parts of the model", several.len());
                return Err(Error::checkpoint(parts, format!("missing, or not to be used{lines}{end}")));
            }
        }
        if missing.is_empty() {
            return Ok(None);
        }
        let cache = self.cache.clone().ok_or_else(|| {
            Error::checkpoint(
                "hub cache",
                "there is no home folder to put it in; set HF_HOME to a folder for it",
            )
        })?;
        let hub = Hub::new(&self.options.hub, &self.options.environment, cache, progress)?;
        let presets: Vec<_> = missing.iter().map(|&part| HubPart::of(part, self.model_type)).collect();
        if !progress.plan(&presets) {
            let names: Vec<_> = missing.iter().map(|part| part.name()).collect();
            return Err(Error::checkpoint(
                names.join(", "),
                "not on this machine, and the download was declined",
            ));
        }
        Ok(Some(hub))
    }

    /// The part, fetched if it was not found.
    fn complete<T>(
        &self,
        part: Part,
        found: Option<Located<T>>,
        hub: &mut Option<Hub<'_>>,
        find: Find<T>,
    ) -> Result<Located<T>> {
        let hub = match (found, hub) {
            (Some(found), _) => return Ok(found),
            (None, Some(hub)) => hub,
            (None, None) => return Err(Error::checkpoint(part.name(), "not found")),
        };
        let preset = HubPart::of(part, self.model_type);
        let snapshot = hub.fetch(&preset)?;
        let reason = match find(part, self.model_type, &snapshot, false) {
            Ok(Some(files)) => return Ok(Located { files, source: Source::Download(preset.repo) }),
            Ok(None) => folder::lacks(part, self.model_type, &snapshot),
            Err(reason) => reason,
        };
        Err(Error::Hub {
            repo: preset.repo.to_owned(),
            file: preset.main_file().to_owned(),
            reason: format!(
                "was downloaded, but cannot be used: {reason}; delete that file to have it downloaded anew"
            ),
        })
    }

    /// Why nothing can be fetched, or `None`.
    fn refusal(&self) -> Option<String> {
        if !hub::AVAILABLE {
            return Some(
                "This program was built without download from the hub (cargo feature `hub`): fetch the files by hand, or \
                 build it with that feature."
                    .to_owned(),
            );
        }
        let cache = HubCache::locate(&self.options.hub, &self.options.environment);
        let at =
            cache.map(|cache| format!(" It would be put in {}.", cache.root().display())).unwrap_or_default();
        if self.options.is_offline() {
            Some(format!(
                "Offline mode (option offline, or HF_HUB_OFFLINE=1) forbids fetching what is missing.{at}"
            ))
        } else if !self.options.allow_download {
            Some(format!(
                "Fetching what is missing was not allowed (option allow_download, on the command line --download).{at}"
            ))
        } else {
            None
        }
    }

    /// What was looked for in vain, and how to supply it.
    fn missing_reason(&self, part: Part) -> String {
        let mut reason = match &self.options.model_dir {
            None => "not found".to_owned(),
            Some(model_dir) => match folder::subfolder(part) {
                Some(name) if !model_dir.join(name).is_dir() => {
                    let lacks = folder::lacks(part, self.model_type, model_dir);
                    lacks.replacen(" has none of ", &format!(" has no folder {name}/ with any of "), 1)
                }
                _ => folder::lacks(part, self.model_type, &folder_of(part, model_dir)),
            },
        };
        if let (Part::Dit, Some(model_dir)) = (part, &self.options.model_dir)
            && let [other, ..] = folder::model_types_in(model_dir)[..]
        {
            reason += &format!(
                "; that is {other}, but model_type says {}: leave it out, or say {other}",
                self.model_type
            );
        }
        let encoder = match part {
            Part::T5Tokenizer => Some(Part::T5),
            Part::ClipTokenizer => Some(Part::Clip),
            _ => None,
        };
        if let Some(file) = encoder.and_then(|encoder| self.all_in_one(encoder)) {
            reason += &format!("; {} holds the encoder's weights, but no vocabulary", file.display());
        }
        let preset = HubPart::of(part, self.model_type);
        let variables = part.variables(self.model_type).join(" or ");
        let (bytes, terms) = (human_bytes(preset.bytes), preset.licence.name);
        let (option, files) = (part.option(), preset.wanted());
        reason += &format!("; name its path with option {option} or the environment variable {variables}");
        reason + &format!(", or get {files} ({bytes}; {terms})")
    }

    /// What is in the folders that were searched in vain.
    fn looked_in(&self, missing: &[Part]) -> Vec<String> {
        let Some(model_dir) = &self.options.model_dir else { return Vec::new() };
        let folders = missing
            .iter()
            .map(|&part| folder_of(part, model_dir))
            .map(|own| if own.is_dir() { own } else { model_dir.clone() });
        let folders: BTreeSet<_> = folders.collect();
        folders.iter().map(|folder| folder::contents(folder)).collect()
    }
}

/// What the look at this machine left open.
#[derive(Default)]
struct Gaps {
    missing: Vec<Part>,
    problems: Vec<(Part, String)>,
}

/// Where in the model folder a part is.
fn folder_of(part: Part, model_dir: &Path) -> PathBuf {
    folder::subfolder(part).map_or_else(|| model_dir.to_path_buf(), |name| model_dir.join(name))
}

/// The model that is meant: as asked, else as the names of its files or of the variables say.
fn model_type(options: &CheckpointOptions) -> ModelType {
    let by_name = |path: &PathBuf| {
        let name =
            path.file_name().map(|name| name.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
        match () {
            () if name.contains("schnell") => ModelType::FluxSchnell,
            () if name.contains("fp8") => ModelType::FluxDevFp8,
            () => ModelType::FluxDev,
        }
    };
    let in_folder = || folder::model_types_in(options.model_dir.as_deref()?).first().copied();
    let in_environment = || {
        let is_set = |t: &ModelType| {
            Part::Dit.variables(*t).iter().any(|name| options.environment.path(name).is_some())
        };
        ModelType::ALL.into_iter().find(is_set)
    };
    options
        .model_type
        .or_else(|| options.dit.as_ref().map(by_name))
        .or_else(in_folder)
        .or_else(in_environment)
        .unwrap_or_default()
}

/// Official users may have the name of a repository where a path is wanted.
fn repository_hint(path: &Path) -> &'static str {
    let mut parts = path.components();
    let two = parts.clone().count() == 2 && parts.all(|part| matches!(part, std::path::Component::Normal(_)));
    if two { "; a path is wanted here (the name of a hub repository is not taken)" } else { "" }
}
