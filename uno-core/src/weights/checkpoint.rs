//! Opening safetensors and GGUF files: one file, shards with an index, or bytes in memory.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use safetensors::SafeTensors;

use super::fingerprint::Fingerprint;
use super::layout::{Arrangement, Recipe};
use super::mapped::Window;
use super::split::{JOIN, check_part, gguf_parts};
use super::{StorageDtype, StoredTensor, foreign, gguf, layout, scales};
use crate::error::{Error, Result};

/// The tensors of one model as its files hold them, by name. Nothing is read but the headers.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    path: PathBuf,
    tensors: BTreeMap<String, StoredTensor>,
    metadata: Arc<BTreeMap<String, String>>,
    fingerprint: Fingerprint,
}

/// Largest index file that is read; the index of FLUX.1-dev in the diffusers layout has 0.1 MB.
const MAX_INDEX_BYTES: u64 = 64 << 20;

impl Checkpoint {
    /// Opens `path`: a safetensors or GGUF file (told apart by their contents; the parts of a split GGUF file are joined, whichever of
    /// them is named), an index (`*.safetensors.index.json`) of shards, or a folder that holds one of
    /// the two as `model.safetensors`, `diffusion_pytorch_model.safetensors` or as its only file of that kind.
    ///
    /// # Errors
    ///
    /// A file that is missing, empty, truncated, not safetensors (pickle is refused), or whose header lies about offsets,
    /// lengths or shapes; an index that names a shard outside its folder or a tensor that its shard lacks; a split GGUF file of which
    /// a part is missing or another file's; weights that are quantized in a way that is not read, unless the file holds other models
    /// beside them.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let metadata = std::fs::metadata(path).map_err(Error::io(path))?;
        if metadata.is_dir() {
            return Self::open(&weights_in(path)?);
        }
        if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json")) {
            Self::open_sharded(path)
        } else {
            Self::open_file(path)
        }
    }

    fn open_file(path: &Path) -> Result<Self> {
        let (opened, split) = Self::open_one(path)?;
        let part = |split: gguf::Split| {
            format!("is part {} of {} of a split GGUF file", split.number.saturating_add(1), split.count)
        };
        match (gguf_parts(path), split) {
            (None, None) => Ok(opened),
            (None, Some(split)) => Err(Error::format(
                path,
                format!(
                    "{}, but its name does not end in -00001-of-{:05}.gguf, so that the others cannot be found; give the parts their \
                     names back, or {JOIN}",
                    part(split),
                    split.count
                ),
            )),
            (Some(parts), _) => Self::join_parts(path, &parts),
        }
    }

    /// Joins the parts of a split GGUF file.
    fn join_parts(path: &Path, parts: &[PathBuf]) -> Result<Self> {
        let absent: Vec<_> = parts.iter().filter(|part| !part.is_file()).collect();
        if let Some(first) = absent.first() {
            let reason = format!(
                "is one of {} parts of a split GGUF file, of which {} are not beside it, the first {}; put them there",
                parts.len(),
                absent.len(),
                first.file_name().unwrap_or_default().display()
            );
            return Err(Error::format(path, reason));
        }
        let (mut tensors, mut fingerprints, mut promised) = (Tensors::new(), Vec::new(), None);
        for (number, part) in parts.iter().enumerate() {
            let refuse = |reason| Error::format(part, reason);
            let (opened, split) = Self::open_one(part)?;
            check_part(split.as_ref(), number, parts.len()).map_err(refuse)?;
            promised = promised.or(split.and_then(|split| split.tensors));
            for (name, tensor) in opened.tensors {
                if tensors.contains_key(&name) {
                    let reason = format!(
                        "holds {name}, which an earlier part holds too; the parts are of different files"
                    );
                    return Err(refuse(reason));
                }
                tensors.insert(name, tensor);
            }
            fingerprints.push(opened.fingerprint);
        }
        if let Some(promised) = promised.filter(|promised| *promised != tensors.len() as u64) {
            let reason = format!(
                "has {} tensors in all of its {} parts, but says that there are {promised}; the parts are of different files: load \
                 them anew",
                tensors.len(),
                parts.len()
            );
            return Err(Error::format(path, reason));
        }
        let path = parts.first().map_or(path, PathBuf::as_path).to_path_buf();
        let fingerprint = Fingerprint::of_shards(fingerprints);
        Ok(Self { path, tensors, metadata: Arc::default(), fingerprint })
    }

    /// Opens one file, which may be a part of a split one.
    fn open_one(path: &Path) -> Result<(Self, Option<gguf::Split>)> {
        let file = File::open(path).map_err(Error::io(path))?;
        // SAFETY: the file is mapped read-only. Should another process shorten it while it is mapped, the kernel ends this
        // process with SIGBUS; that is the known price of mapping, and what every safetensors reader pays.
        #[allow(unsafe_code)]
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io(path))?;
        Self::from_window(path, map.into())
    }

    fn open_sharded(index: &Path) -> Result<Self> {
        let length = std::fs::metadata(index).map_err(Error::io(index))?.len();
        if length > MAX_INDEX_BYTES {
            return Err(Error::format(index, format!("{length} bytes are too many for an index of shards")));
        }
        let text = std::fs::read(index).map_err(Error::io(index))?;
        #[derive(serde::Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }
        let Index { weight_map } = serde_json::from_slice(&text).map_err(|e| {
            Error::format(index, format!("not an index of shards: {e}; wanted JSON with a \"weight_map\""))
        })?;
        let folder = index.parent().unwrap_or(Path::new("."));
        let mut shards = BTreeMap::<&str, Self>::new();
        let mut tensors = BTreeMap::new();
        for (name, shard) in &weight_map {
            // A file name and nothing else: an index must not reach outside its folder.
            if !matches!(Path::new(shard).components().collect::<Vec<_>>()[..], [Component::Normal(_)]) {
                return Err(Error::format(
                    index,
                    format!("shard {shard:?} of tensor {name} is not a plain file name beside the index"),
                ));
            }
            if !shards.contains_key(shard.as_str()) {
                shards.insert(shard, Self::open_file(&folder.join(shard))?);
            }
            let tensor = shards.get(shard.as_str()).and_then(|s| s.tensors.get(name)).ok_or_else(|| {
                Error::format(
                    index,
                    format!(
                        "says that {shard} holds {name}, but it does not; the shards are of another download"
                    ),
                )
            })?;
            tensors.insert(name.clone(), tensor.clone());
        }
        let fingerprints = shards.into_values().map(|shard| shard.fingerprint).collect();
        let fingerprint = Fingerprint::of_shards(fingerprints);
        Ok(Self { path: index.to_path_buf(), tensors, metadata: Arc::default(), fingerprint })
    }

    /// Reads a safetensors file that is already in memory; `name` stands for its path in messages.
    ///
    /// # Errors
    ///
    /// As [`Checkpoint::open`].
    pub fn from_bytes(name: impl AsRef<Path>, bytes: bytes::Bytes) -> Result<Self> {
        let name = name.as_ref();
        match Self::from_window(name, bytes.into())? {
            (opened, None) => Ok(opened),
            (_, Some(split)) => {
                let reason = format!("is one of {} parts of a split GGUF file; {JOIN}", split.count);
                Err(Error::format(name, reason))
            }
        }
    }

    fn from_window(name: &Path, window: Window) -> Result<(Self, Option<gguf::Split>)> {
        let bytes = window.as_slice();
        let mut metadata = BTreeMap::new();
        let (tensors, data_start, split) = if gguf::is_gguf(bytes) {
            gguf_tensors(name, &window)?
        } else {
            let (tensors, data_start) = safetensors_tensors(name, &window, &mut metadata)?;
            (tensors, data_start, None)
        };
        let tensors = scales::apply(tensors).map_err(|reason| Error::format(name, reason))?;
        window.release();
        let fingerprint = Fingerprint::of_file(window, data_start);
        let metadata = Arc::new(metadata);
        let opened = Self { path: name.to_path_buf(), tensors, metadata, fingerprint };
        // Where there are several models, those that are not wanted may be stored in whatever way.
        if !layout::holds_several(opened.tensors.keys()) {
            opened.check_storage()?;
        }
        Ok((opened, split))
    }

    /// Refuses weights that are quantized in a way that is not read (nf4, SVDQuant, quanto and others). Models check it as they
    /// load; this is for what reads tensors by itself.
    ///
    /// # Errors
    ///
    /// Such weights, by the kind, with what to take instead.
    pub fn check_storage(&self) -> Result<()> {
        foreign::check_storage(self)
    }

    /// A checkpoint of which only names, formats and shapes are known. Models load from it with all weights zero and no
    /// memory used: a check of names and shapes without any data.
    pub fn from_shapes(
        name: impl Into<PathBuf>,
        shapes: impl IntoIterator<Item = (String, StorageDtype, Vec<usize>)>,
    ) -> Self {
        let tensors = shapes
            .into_iter()
            .map(|(name, dtype, shape)| (name, StoredTensor::header_only(dtype, shape)))
            .collect();
        Self { path: name.into(), tensors, metadata: Arc::default(), fingerprint: Fingerprint::none() }
    }

    /// A checkpoint of tensors made elsewhere; `name` stands for its path in messages.
    pub fn from_tensors(
        name: impl Into<PathBuf>,
        tensors: impl IntoIterator<Item = (String, StoredTensor)>,
    ) -> Self {
        let tensors = tensors.into_iter().collect();
        Self { path: name.into(), tensors, metadata: Arc::default(), fingerprint: Fingerprint::none() }
    }

    /// The same checkpoint with one more entry of [`metadata`](Self::metadata), which was found in a file beside it; its
    /// fingerprint is then of both.
    pub fn with_metadata(mut self, name: impl Into<String>, value: String) -> Self {
        let beside = Window::from(bytes::Bytes::from(value.clone().into_bytes()));
        let data_start = beside.as_slice().len();
        self.fingerprint =
            Fingerprint::of_shards(vec![self.fingerprint, Fingerprint::of_file(beside, data_start)]);
        Arc::make_mut(&mut self.metadata).insert(name.into(), value);
        self
    }

    /// The same checkpoint with every weight cast to e4m3 without scales and held in memory: the rule of the official
    /// `flux-dev-fp8`. Weights that are e4m3 already stay where they are.
    pub fn to_e4m3(&self) -> Self {
        self.with_each(StoredTensor::to_e4m3)
    }

    /// The same numbers as of [`Checkpoint::to_e4m3`], but cast whenever they are used: no memory, for a little time.
    pub fn rounded_to_e4m3(&self) -> Self {
        self.with_each(StoredTensor::rounded_to_e4m3)
    }

    fn with_each(&self, f: impl Fn(&StoredTensor) -> StoredTensor) -> Self {
        let changed = |(name, tensor): (&String, &StoredTensor)| {
            (name.clone(), if tensor.is_read() { f(tensor) } else { tensor.clone() })
        };
        Self { tensors: self.tensors.iter().map(changed).collect(), ..self.clone() }
    }

    /// The checkpoint under our names, made by one of the functions of [`layout`](super::layout); itself if it needs nothing.
    pub fn arranged(
        &self,
        arrange: impl FnOnce(&[(String, Vec<usize>)]) -> Option<Arrangement>,
    ) -> Cow<'_, Self> {
        let names: Vec<_> = self.tensors.iter().map(|(name, t)| (name.clone(), t.shape().to_vec())).collect();
        let Some(arrangement) = arrange(&names) else { return Cow::Borrowed(self) };
        // What cannot be done is left out here, and then reported as missing by the loader.
        let tensors = arrangement
            .recipes
            .into_iter()
            .filter_map(|(name, recipe)| Some((name, self.follow(&recipe)?)))
            .collect();
        let (metadata, fingerprint) = (self.metadata.clone(), self.fingerprint.clone());
        Cow::Owned(Self { tensors, path: self.path.clone(), metadata, fingerprint })
    }

    /// The same file with other tensors, made from its own.
    #[cfg(feature = "vision")]
    pub(crate) fn with_tensors(&self, tensors: BTreeMap<String, StoredTensor>) -> Self {
        Self { tensors, ..self.clone() }
    }

    fn follow(&self, recipe: &Recipe) -> Option<StoredTensor> {
        let get = |name: &String| self.tensors.get(name).cloned();
        match recipe {
            Recipe::Take(name) => get(name),
            Recipe::JoinRows(names) => {
                StoredTensor::join_rows(&names.iter().map(get).collect::<Option<Vec<_>>>()?)
            }
            Recipe::SwapHalves(name) => get(name)?.with_swapped_halves(),
            Recipe::AsKernel(name) => {
                let tensor = get(name)?;
                let shape = [tensor.shape(), &[1, 1]].concat();
                tensor.reshaped(shape)
            }
        }
    }

    /// Where the tensors come from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All tensors by name.
    pub fn tensors(&self) -> &BTreeMap<String, StoredTensor> {
        &self.tensors
    }

    /// What the header of a safetensors file says beside its tensors (`__metadata__`), by name. It is no more to be trusted than the
    /// file. Of GGUF files and of shards nothing is kept.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Dimensions of a tensor, if it is there.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(StoredTensor::shape)
    }

    /// How many consecutive indices `0, 1, 2 ...` stand for `{}` in `pattern`, with which some tensor's name begins; it finds
    /// depths. (A name that is missing or misspelt is then reported by itself, and not its whole block as unknown.)
    pub fn count(&self, pattern: &str) -> usize {
        let (before, after) = pattern.split_once("{}").unwrap_or((pattern, ""));
        let begins = |start: String| {
            self.tensors.range(start.clone()..).next().is_some_and(|(name, _)| name.starts_with(&start))
        };
        (0..).take_while(|i| begins(format!("{before}{i}{after}"))).count()
    }

    /// SHA-256 (hexadecimal) that tells this checkpoint from others: of the whole file up to 16 MiB, else of its length, its
    /// header and 256 blocks of 64 KiB spread evenly over it. Empty where only shapes are known. Computed when it is first asked for.
    pub fn fingerprint(&self) -> &str {
        self.fingerprint.value()
    }

    /// Names of tensors that hold NaN or infinity, with how many. Reads every byte.
    pub fn non_finite(&self) -> Vec<(String, usize)> {
        let count = |(name, tensor): (&String, &StoredTensor)| match tensor.count_non_finite() {
            0 => None,
            n => Some((name.clone(), n)),
        };
        self.tensors.iter().filter_map(count).collect()
    }

    /// The format of most of its bytes, in words for people: `BF16`, `Q4_K`; with `cast to F8_E4M3` if it is.
    pub fn storage(&self) -> String {
        let mut bytes = BTreeMap::<String, usize>::new();
        for tensor in self.tensors.values() {
            let words = match tensor.is_rounded() {
                true => format!("{} as F8_E4M3", tensor.dtype()),
                false => tensor.dtype().to_string(),
            };
            *bytes.entry(words).or_default() += tensor.byte_len();
        }
        bytes.into_iter().max_by_key(|(_, bytes)| *bytes).map_or_else(String::new, |(words, _)| words)
    }

    /// Total bytes of all tensors as stored.
    pub fn byte_len(&self) -> usize {
        self.tensors.values().map(StoredTensor::byte_len).sum()
    }
}

type Tensors = BTreeMap<String, StoredTensor>;

/// The tensors of a GGUF file, where its data begins, and what it says of the whole if it is a part.
fn gguf_tensors(name: &Path, window: &Window) -> Result<(Tensors, usize, Option<gguf::Split>)> {
    let header = gguf::read(window.as_slice()).map_err(|reason| Error::format(name, reason))?;
    let mut tensors = Tensors::new();
    for (key, entry) in header.tensors {
        let stored =
            window.slice(entry.range).and_then(|w| StoredTensor::in_window(entry.dtype, entry.shape, w));
        let stored =
            stored.ok_or_else(|| Error::format(name, format!("tensor {key} does not fit its shape")))?;
        tensors.insert(key, stored);
    }
    Ok((tensors, header.data_start, header.split))
}

/// The tensors of a safetensors file, and where its data begins. What else its header says goes to `beside`.
fn safetensors_tensors(
    name: &Path,
    window: &Window,
    beside: &mut BTreeMap<String, String>,
) -> Result<(Tensors, usize)> {
    let bytes = window.as_slice();
    let (header_length, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| {
        let broken = || format!("not a sound safetensors file ({e}); it may be truncated: load it anew");
        Error::format(name, foreign_format(bytes).or_else(|| wrong_length(bytes)).unwrap_or_else(broken))
    })?;
    beside.extend(metadata.metadata().clone().unwrap_or_default());
    let data_start = header_length + size_of::<u64>();
    let mut tensors = BTreeMap::new();
    for (key, info) in metadata.tensors() {
        let (start, end) = info.data_offsets;
        let range = data_start.checked_add(start).zip(data_start.checked_add(end));
        let stored = range
            .filter(|&(start, end)| start <= end && end <= bytes.len())
            .and_then(|(start, end)| {
                StoredTensor::in_window(info.dtype.into(), info.shape.clone(), window.slice(start..end)?)
            })
            .ok_or_else(|| {
                Error::format(
                    name,
                    format!(
                        "tensor {key} claims {:?} {:?} at bytes {start}..{end}, which does not fit together",
                        info.dtype, info.shape
                    ),
                )
            })?;
        tensors.insert(key, stored);
    }
    Ok((tensors, data_start))
}

/// That a safetensors file with a sound header is longer or shorter than that says; `None` if it has no such header.
fn wrong_length(bytes: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Place {
        data_offsets: (usize, usize),
    }
    let header_length = usize::try_from(u64::from_le_bytes(*bytes.first_chunk()?)).ok()?;
    let data_start = header_length.checked_add(size_of::<u64>())?;
    let header: BTreeMap<String, serde_json::Value> =
        serde_json::from_slice(bytes.get(size_of::<u64>()..data_start)?).ok()?;
    let tensors = header.into_iter().filter(|(name, _)| name != "__metadata__");
    let ends = tensors.map(|(_, tensor)| Some(serde_json::from_value::<Place>(tensor).ok()?.data_offsets.1));
    let ends: Option<Vec<usize>> = ends.collect();
    let end = data_start.checked_add(ends?.into_iter().max().unwrap_or(0))?;
    match end.cmp(&bytes.len()) {
        Ordering::Less => Some(gguf::longer(end, bytes.len())),
        Ordering::Greater => Some(format!(
            "is cut short: its tensors end at byte {end}, the file at {}; load it anew",
            bytes.len()
        )),
        Ordering::Equal => None,
    }
}

/// Files of a folder that a message names.
const SHOWN: usize = 10;

/// The file in `folder` that holds its weights.
fn weights_in(folder: &Path) -> Result<PathBuf> {
    const NAMES: [&str; 2] = ["model.safetensors", "diffusion_pytorch_model.safetensors"];
    for name in NAMES {
        for candidate in [folder.join(name), folder.join(format!("{name}.index.json"))] {
            if candidate.is_file() {
                return Ok(candidate);
            }
        }
    }
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .map_err(Error::io(folder))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_file() && path.to_string_lossy().ends_with(".safetensors"))
        .collect();
    found.sort();
    match &found[..] {
        [one] => Ok(one.clone()),
        [] => Err(Error::format(
            folder,
            "holds no .safetensors file; wanted model.safetensors or its index of shards",
        )),
        many => Err(Error::format(
            folder,
            format!(
                "holds {} .safetensors files and no index that joins them ({}{}); name the one that is meant",
                many.len(),
                many.iter()
                    .take(SHOWN)
                    .map(|path| path.file_name().unwrap_or_default().display().to_string())
                    .collect::<Vec<_>>()
                    .join(", "),
                if many.len() > SHOWN { ", ..." } else { "" }
            ),
        )),
    }
}

/// What a file is, if its first bytes show that it is no safetensors file; with the remedy.
fn foreign_format(bytes: &[u8]) -> Option<String> {
    let start = &bytes[..bytes.len().min(64)];
    let text = String::from_utf8_lossy(start);
    if bytes.is_empty() {
        Some("the file is empty; load it anew".into())
    } else if start.starts_with(b"PK\x03\x04")
        || (start.starts_with(b"\x80") && start.get(1).is_some_and(|&b| b <= 5))
    {
        Some(
            "this is a pickled PyTorch file, and reading one can run code hidden in it; take the .safetensors file of the \
             same model instead"
                .into(),
        )
    } else if text.starts_with("version https://git-lfs") {
        Some(
            "this is a git-lfs pointer, not the file itself; run `git lfs pull`, or load it from the hub"
                .into(),
        )
    } else if text.trim_start().starts_with('<') {
        Some("this is a web page, probably a saved error message; load the file anew".into())
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: &[u8]) -> bytes::Bytes {
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.extend(data);
        file.into()
    }

    fn message(file: bytes::Bytes) -> String {
        Checkpoint::from_bytes("x.safetensors", file).unwrap_err().to_string()
    }

    #[test]
    fn a_sound_file_opens_with_names_and_values() {
        let file =
            file(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, &[0, 0, 128, 63, 0, 0, 0, 64]);
        let checkpoint = Checkpoint::from_bytes("x", file).unwrap();
        assert_eq!(checkpoint.tensors()["a"].to_f32(), [1.0, 2.0]);
        assert_eq!(checkpoint.fingerprint().len(), 64);
    }

    #[test]
    fn a_header_that_lies_is_refused() {
        for header in [
            r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#,
            r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,800]}}"#,
            r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#,
            r#"{"a":{"dtype":"F32","shape":[18446744073709551615,18446744073709551615],"data_offsets":[0,8]}}"#,
            r#"{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}"#,
            r#"{"a":{"dtype":"F33","shape":[2],"data_offsets":[0,8]}}"#,
            r#"{"a":{"dtype":"F32""#,
            "",
        ] {
            assert!(message(file(header, &[0; 8])).contains("x.safetensors"), "{header}");
        }
    }

    #[test]
    fn a_header_length_beyond_the_file_is_refused() {
        let mut lie = u64::MAX.to_le_bytes().to_vec();
        lie.extend(b"{}");
        assert!(message(lie.into()).contains("not a sound safetensors file"));
    }

    #[test]
    fn a_truncated_file_is_refused() {
        let whole = file(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, &[0; 8]);
        for length in 0..whole.len() {
            assert!(Checkpoint::from_bytes("x", whole.slice(..length)).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn other_formats_are_named_with_a_remedy() {
        assert!(message(bytes::Bytes::from_static(b"PK\x03\x04....data.pkl")).contains("pickled"));
        assert!(message(bytes::Bytes::from_static(b"\x80\x02}q\x00.......")).contains("pickled"));
        assert!(message(bytes::Bytes::from_static(b"GGUF\x03\0\0\0")).contains("cut short"));
        assert!(
            message(bytes::Bytes::from_static(b"version https://git-lfs.github.com/spec/v1")).contains("lfs")
        );
        assert!(message(bytes::Bytes::new()).contains("empty"));
    }

    #[test]
    fn an_index_may_not_reach_outside_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let index = folder.path().join("model.safetensors.index.json");
        for shard in ["../x.safetensors", "/etc/passwd", "", "a/b.safetensors", ".."] {
            std::fs::write(&index, format!(r#"{{"weight_map":{{"a":"{shard}"}}}}"#)).unwrap();
            let error = Checkpoint::open(&index).unwrap_err().to_string();
            assert!(error.contains("plain file name"), "{shard}: {error}");
        }
    }

    #[test]
    fn shards_are_joined_by_their_index() {
        let folder = tempfile::tempdir().unwrap();
        for (name, shard) in [("a", "1.safetensors"), ("b", "2.safetensors")] {
            let header = format!(r#"{{"{name}":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}}}"#);
            std::fs::write(folder.path().join(shard), file(&header, &[0; 4])).unwrap();
        }
        let index = folder.path().join("model.safetensors.index.json");
        std::fs::write(&index, r#"{"weight_map":{"a":"1.safetensors","b":"2.safetensors"}}"#).unwrap();
        let names: Vec<_> = Checkpoint::open(folder.path()).unwrap().tensors().keys().cloned().collect();
        assert_eq!(names, ["a", "b"]);
        std::fs::write(&index, r#"{"weight_map":{"a":"1.safetensors","b":"1.safetensors"}}"#).unwrap();
        assert!(Checkpoint::open(&index).unwrap_err().to_string().contains("another download"));
    }
}
