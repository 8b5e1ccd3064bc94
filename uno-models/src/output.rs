//! Results on disk: PNG or JPEG with its settings inside, and the same settings in a JSON file beside it.
//!
//! A picture leaves the machine, so its settings name files without their folders; the JSON beside it, which stays, has them with
//! the folders that it is given.

mod exif;
mod files;

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use image::codecs::jpeg::JpegEncoder;
use image::{ImageEncoder, RgbImage};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uno_core::approximation::Approximation;
use uno_core::device::Opened;
use uno_core::noise::NoiseSource;
use uno_core::sampling::SequenceLength;
use uno_core::weights::Checkpoint;

use crate::components::{ModelSource, PipelineOptions, VaeTiling};
use crate::error::{Error, Result};
use crate::request::{NoiseDtype, Request, Sample};
use crate::text_file;
use crate::unope::UnoPe;

pub use files::{write_atomically, write_new};

/// Keyword of the PNG text chunk that holds [`Settings`] as JSON.
pub const KEYWORD: &str = "uno";
/// Version of the form of [`Settings`].
const FORM: u32 = 1;
/// Largest settings that are read, in bytes.
const MAX_SETTINGS: u64 = 1 << 20;
/// Pixels along each side that the autoencoder makes one latent of.
const PIXELS_PER_LATENT: usize = 8;
/// Quality of JPEG files, of 100; colours at the full resolution.
pub const JPEG_QUALITY: u8 = 95;

/// Everything that it takes to make a picture again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Settings {
    /// Version of this form.
    pub form: u32,
    /// Program and version that made the picture.
    pub software: String,
    /// Prompt.
    pub prompt: String,
    /// The seed that was used: of this picture, not of its batch.
    pub seed: u64,
    /// Width in pixels, as made.
    pub width: usize,
    /// Height in pixels, as made.
    pub height: usize,
    /// Steps of the sampler.
    pub num_steps: usize,
    /// Guidance.
    pub guidance: f32,
    /// Placement of references.
    pub pe: UnoPe,
    /// Longer side of references, as used.
    pub ref_size: u32,
    /// The references, in order.
    pub references: Vec<ReferenceRecord>,
    /// Source of the noise; `None` for given latents.
    pub noise: Option<NoiseSource>,
    /// File that the noise was given in.
    pub noise_file: Option<FileRecord>,
    /// Format that the noise was drawn in.
    pub noise_dtype: NoiseDtype,
    /// Sequence length rule of the schedule.
    pub sequence_length: SequenceLength,
    /// Whether the schedule was shifted.
    pub shift: bool,
    /// Seed of the references' latents; `None` for their mean.
    pub reference_seed: Option<u64>,
    /// What was approximated between steps to save time.
    #[serde(default, flatten)]
    pub approximation: Approximation,
    /// Whether the transformer multiplied in 8-bit integers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub int8: bool,
    /// Whether EXIF orientation of references was honoured.
    pub exif_orientation: bool,
    /// Side of the tiles that the autoencoder worked in, in latents.
    #[serde(default, rename = "vae_tile", skip_serializing_if = "VaeTiling::is_auto")]
    pub vae_tiling: VaeTiling,
    /// Number format of the transformer.
    pub dtype: String,
    /// Device that computed it.
    pub device: String,
    /// Factor on UNO's LoRA; `None` without one.
    pub lora_scale: Option<f64>,
    /// Whether the LoRA was merged.
    pub lora_merged: bool,
    /// Factors on further LoRAs, the parts `add_lora.0`, `add_lora.1` ... of the model.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add_lora_scales: Vec<f64>,
    /// Kind of model, as the official `--model_type`; `embedded` for the one inside the program.
    pub model_type: String,
    /// The model's files.
    pub model: Vec<ModelRecord>,
}

/// A reference picture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReferenceRecord {
    /// The file and its hash.
    #[serde(flatten)]
    pub file: FileRecord,
    /// Width as the model saw it.
    pub width: u32,
    /// Height as the model saw it.
    pub height: u32,
}

/// A file and what it held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Where it was.
    pub path: PathBuf,
    /// SHA-256 of its bytes, hexadecimal.
    pub sha256: String,
}

impl FileRecord {
    /// Hashes a file.
    ///
    /// # Errors
    ///
    /// A file that cannot be read.
    pub fn of(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let mut hash = Sha256::new();
        let mut file = File::open(path).map_err(Error::read(path))?;
        std::io::copy(&mut file, &mut hash).map_err(Error::read(path))?;
        let sha256 = hex(&hash.finalize());
        let path = std::path::absolute(path).map_err(Error::read(path))?;
        Ok(Self { path, sha256 })
    }

    /// The record of bytes in memory.
    pub(crate) fn of_bytes(name: impl Into<PathBuf>, bytes: &[u8]) -> Self {
        Self { path: name.into(), sha256: hex(&Sha256::digest(bytes)) }
    }

    /// Fails if the file no longer holds what it held.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, or that has changed.
    pub fn verify(&self) -> Result<()> {
        let now = Self::of(&self.path)?;
        if now.sha256 == self.sha256 {
            return Ok(());
        }
        Err(Error::format(
            &self.path,
            format!(
                "has changed since the picture was made: its SHA-256 is {}, was {}",
                now.sha256, self.sha256
            ),
        ))
    }
}

/// A file of the model: a checkpoint, a vocabulary, or CLIP's `config.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelRecord {
    /// Which part.
    pub part: String,
    /// Its file.
    pub path: PathBuf,
    /// [`uno_core::weights::Checkpoint::fingerprint`]; of small files the SHA-256.
    pub fingerprint: String,
}

/// What computes: the model's files, and how they are used.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ModelInfo {
    /// Kind of model.
    pub model_type: String,
    /// The model's files.
    pub files: Vec<ModelRecord>,
    /// Device, as [`uno_core::device::Opened`] is shown.
    pub device: String,
    /// Side of the autoencoder's tiles in latents; `None` without tiles.
    pub vae_tile: Option<usize>,
    /// Number format of the transformer: `F32`, `F16` or `BF16`.
    pub dtype: String,
    /// Factor on UNO's LoRA; `None` without one.
    pub lora_scale: Option<f64>,
    /// Whether the LoRA is merged.
    pub lora_merged: bool,
    /// Factors on further LoRAs, in order.
    pub add_lora_scales: Vec<f64>,
    /// Whether the transformer multiplies in 8-bit integers.
    pub int8: bool,
}

impl ModelInfo {
    /// Describes a pipeline that is loaded from `source` with `options`, a plan applied to them if there is one, on `device`.
    pub fn new(source: &ModelSource, options: &PipelineOptions, device: &Opened) -> Self {
        let record = |(part, checkpoint): (String, &Checkpoint)| {
            let path = checkpoint.path();
            // The embedded model lies in no folder.
            let absolute = if path.exists() { std::path::absolute(path).ok() } else { None };
            ModelRecord {
                part,
                path: absolute.unwrap_or_else(|| path.to_path_buf()),
                fingerprint: checkpoint.fingerprint().to_owned(),
            }
        };
        let small = source.text.files.iter().map(|(part, file)| ModelRecord {
            part: (*part).to_owned(),
            path: file.path.clone(),
            fingerprint: file.sha256.clone(),
        });
        Self {
            model_type: source.model_type.clone(),
            files: source.checkpoints().into_iter().map(record).chain(small).collect(),
            device: device.to_string(),
            vae_tile: options.vae_tiling.tile(),
            dtype: format!("{:?}", options.dtype),
            lora_scale: source.lora.as_ref().map(|_| options.lora_scale),
            lora_merged: options.merge_lora.is_merged(),
            add_lora_scales: source.more_loras.iter().map(|(_, scale)| *scale).collect(),
            int8: options.int8,
        }
    }
}

impl Settings {
    /// The settings of one sample of a request; model, device and files are filled in by the program.
    pub fn new(request: &Request, sample: &Sample, [width, height]: [usize; 2]) -> Self {
        Self {
            form: FORM,
            software: concat!("uno-rs ", env!("CARGO_PKG_VERSION")).into(),
            prompt: sample.prompt.clone(),
            seed: sample.seed,
            width,
            height,
            num_steps: request.num_steps,
            guidance: request.guidance,
            pe: request.pe,
            ref_size: request.long_side(),
            references: Vec::new(),
            noise: request.latents.is_none().then_some(request.noise),
            noise_file: None,
            noise_dtype: request.noise_dtype,
            sequence_length: request.sequence_length,
            shift: request.shift,
            reference_seed: request.reference_seed,
            approximation: request.approximation,
            int8: false,
            exif_orientation: true,
            vae_tiling: VaeTiling::Auto,
            dtype: String::new(),
            device: String::new(),
            lora_scale: None,
            lora_merged: false,
            add_lora_scales: Vec::new(),
            model_type: String::new(),
            model: Vec::new(),
        }
    }

    /// The same with what is known of model and computation.
    pub fn with_model(mut self, model: &ModelInfo) -> Self {
        let model = model.clone();
        (self.model_type, self.model) = (model.model_type, model.files);
        (self.device, self.dtype) = (model.device, model.dtype);
        (self.lora_scale, self.lora_merged) = (model.lora_scale, model.lora_merged);
        (self.add_lora_scales, self.int8) = (model.add_lora_scales, model.int8);
        self.vae_tiling = model.vae_tile.into();
        self
    }

    /// The same with files by their names alone: what may leave this machine.
    pub fn without_folders(&self) -> Self {
        let mut settings = self.clone();
        for path in settings.paths() {
            // Those of another system are cut, too.
            let name = path.to_string_lossy();
            let name = name.rsplit(['/', '\\']).find(|part| !part.is_empty()).unwrap_or_default();
            *path = PathBuf::from(name.to_owned());
        }
        settings
    }

    /// Every file that is named.
    fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let files = self.references.iter_mut().map(|reference| &mut reference.file);
        let files = files.chain(&mut self.noise_file).map(|file| &mut file.path);
        files.chain(self.model.iter_mut().map(|record| &mut record.path))
    }

    /// Whether a picture with these settings is the one that `wanted` asks for.
    ///
    /// Where the files lie makes no difference, and neither do merged LoRAs, which follow from the memory that is free. A picture
    /// that was decoded in one piece is taken where tiles are planned now, but not the other way round.
    pub fn answers(&self, wanted: &Self) -> bool {
        let comparable = |settings: &Self| {
            let mut settings = settings.clone();
            settings.paths().for_each(|path| *path = PathBuf::new());
            (settings.lora_merged, settings.vae_tiling) = (false, VaeTiling::Auto);
            settings.device = settings.device.to_ascii_lowercase().replace("flex", "cpu");
            settings
        };
        let is_tiled = self.in_tiles();
        (is_tiled.is_none() || is_tiled == wanted.in_tiles()) && comparable(self) == comparable(wanted)
    }

    /// Side of the tiles, if picture or references do not fit in one.
    fn in_tiles(&self) -> Option<usize> {
        let references = self.references.iter().map(|r| r.width.max(r.height) as usize);
        let longest = references.chain([self.width, self.height]).max().unwrap_or(0);
        self.vae_tiling.tile().filter(|tile| tile.saturating_mul(PIXELS_PER_LATENT) < longest)
    }

    /// Reads settings from a PNG or JPEG that was made with them, or from its JSON file; the contents say which it is.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, holds no settings, or settings of another form.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let json = settings_text(path)?;
        let settings: Self = serde_json::from_str(&json).map_err(|e| {
            Error::format(path, format!("holds no settings of a picture made by uno-rs: {e}"))
        })?;
        if settings.form != FORM {
            let got = settings.form;
            return Err(Error::format(
                path,
                format!("settings of form {got}, wanted {FORM}; use the version that made it"),
            ));
        }
        Ok(settings)
    }

    /// The same, with the folders of files from the JSON file beside a picture, if that is of the same picture.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn read_with_folders(path: impl AsRef<Path>) -> Result<Self> {
        let settings = Self::read(&path)?;
        let beside = Self::read(path.as_ref().with_extension("json"));
        Ok(match beside {
            Ok(beside) if beside.without_folders() == settings.without_folders() => beside,
            _ => settings,
        })
    }

    fn to_json(&self) -> Result<String> {
        serde_json::to_string_pretty(self)
            .map_err(|e| Error::request("settings", e, "values that JSON can hold"))
    }
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The settings in a file as they stand there: the text of a JSON file, or what a picture carries.
fn settings_text(path: &Path) -> Result<String> {
    let mut file = BufReader::new(File::open(path).map_err(Error::read(path))?);
    let start = file.fill_buf().map_err(Error::read(path))?;
    let found = if start.starts_with(b"\x89PNG") {
        settings_of_png(path, file)?
    } else if start.starts_with(b"\xff\xd8") {
        let broken = |e| Error::format(path, format!("is no sound JPEG: {e}"));
        exif::of_jpeg(&mut file).map_err(broken)?.and_then(|block| exif::comment(&block))
    } else {
        Some(text_file::read(path, MAX_SETTINGS, "settings")?)
    };
    found.ok_or_else(|| {
        Error::format(
            path,
            "holds no settings: it was not made by uno-rs, or a program stripped them; try its .json file",
        )
    })
}

fn settings_of_png(path: &Path, file: BufReader<File>) -> Result<Option<String>> {
    let broken = |e: png::DecodingError| Error::format(path, format!("is no sound PNG: {e}"));
    let mut decoder = png::Decoder::new_with_limits(file, png::Limits { bytes: 64 << 20 });
    decoder.set_ignore_text_chunk(false);
    // A small file can hold a profile or a text that inflates to gigabytes.
    decoder.set_ignore_iccp_chunk(true);
    let reader = decoder.read_info().map_err(broken)?;
    let info = reader.info();
    match info.utf8_text.iter().find(|chunk| chunk.keyword == KEYWORD) {
        Some(chunk) => {
            let mut chunk = chunk.clone();
            chunk.decompress_text_with_limit(MAX_SETTINGS as usize).map_err(broken)?;
            chunk.get_text().map(Some).map_err(broken)
        }
        None => Ok(info.exif_metadata.as_ref().and_then(|block| exif::comment(block))),
    }
}

/// Whether a file was written by these programs: a picture that carries settings, or such settings themselves, of this form or another.
fn is_ours(path: &Path) -> bool {
    let json =
        settings_text(path).ok().and_then(|text| serde_json::from_str::<serde_json::Value>(&text).ok());
    json.is_some_and(|json| {
        let software = json.get("software").and_then(|software| software.as_str());
        json.get("form").is_some_and(|form| form.is_u64())
            && software.is_some_and(|s| s.starts_with("uno-rs "))
    })
}

/// What a picture is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PictureFormat {
    /// Exact.
    Png,
    /// Smaller, with colours that are a little off ([`JPEG_QUALITY`]).
    Jpeg,
}

impl PictureFormat {
    /// By the extension of a file; `None` for one that is no picture's, or of a format that is not written.
    pub fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "png" => Some(Self::Png),
            "jpg" | "jpeg" => Some(Self::Jpeg),
            _ => None,
        }
    }
}

/// That a picture with these settings can be written: what would else show after the work.
///
/// # Errors
///
/// Settings that are too long for a JPEG.
pub fn check_writable(path: &Path, settings: &Settings) -> Result<()> {
    Encoded::new(path, settings).map(drop)
}

/// That a picture can be saved at `path` without taking the place of a file that these programs did not write: of a picture
/// without settings, or of a JSON file with something else.
///
/// # Errors
///
/// Such a file, by its name.
pub fn check_replaceable(path: &Path) -> Result<()> {
    let places = [path.to_path_buf(), path.with_extension("json")];
    let foreign = places.iter().find(|place| place.symlink_metadata().is_ok() && !is_ours(place));
    let Some(foreign) = foreign else { return Ok(()) };
    let what = if foreign == path { "no picture with settings" } else { "no settings of a picture" };
    Err(Error::format(
        foreign,
        format!(
            "is there already and holds {what} of uno-rs, so it is not replaced; move it away, or save under another name"
        ),
    ))
}

/// Writes `picture` to `path`, as PNG or, where the extension says so, as JPEG, with `settings` in its text chunks and EXIF, and as
/// JSON to the same path with the extension `json`. The picture names files without their folders; the JSON has them as they are
/// given. Folders are made as needed. Both files appear complete or not at all. They take the place of an earlier picture of
/// these programs, and of nothing else.
///
/// # Errors
///
/// [`check_replaceable`]; settings that are too long for a JPEG; a folder that cannot be written to.
pub fn save(path: &Path, picture: &RgbImage, settings: &Settings) -> Result<()> {
    check_replaceable(path)?;
    save_over(path, picture, settings)
}

/// The same in place of whatever is there.
///
/// # Errors
///
/// Settings that are too long for a JPEG; a folder that cannot be written to.
pub fn save_over(path: &Path, picture: &RgbImage, settings: &Settings) -> Result<()> {
    let encoded = Encoded::new(path, settings)?;
    write_atomically(path, |file| encoded.write(file, picture))?;
    write_atomically(&path.with_extension("json"), |file| file.write_all(encoded.json.as_bytes()))
}

/// The same where neither of the two files is there; else nothing is written, and the answer is `false`.
///
/// # Errors
///
/// As [`save_over`].
pub fn save_new(path: &Path, picture: &RgbImage, settings: &Settings) -> Result<bool> {
    let encoded = Encoded::new(path, settings)?;
    let json = path.with_extension("json");
    if json.symlink_metadata().is_ok() || !write_new(path, |file| encoded.write(file, picture))? {
        return Ok(false);
    }
    let written = write_new(&json, |file| file.write_all(encoded.json.as_bytes()));
    if !matches!(written, Ok(true)) {
        // It was written a moment ago, and lacks its settings.
        let _ = std::fs::remove_file(path);
    }
    written
}

/// Settings in the forms that go to disk.
struct Encoded<'a> {
    format: PictureFormat,
    settings: &'a Settings,
    /// For the file beside the picture.
    json: String,
    /// For the picture.
    inside: String,
    exif: Vec<u8>,
}

impl<'a> Encoded<'a> {
    fn new(path: &Path, settings: &'a Settings) -> Result<Self> {
        let format = PictureFormat::of(path).unwrap_or(PictureFormat::Png);
        let (json, inside) = (settings.to_json()?, settings.without_folders().to_json()?);
        let exif = exif::block(&settings.prompt, &settings.software, &inside);
        if format == PictureFormat::Jpeg && exif.len() > exif::MAX_IN_JPEG {
            return Err(Error::format(
                path,
                format!(
                    "its settings take {} bytes, a JPEG holds {}; shorten the prompt, or save a PNG",
                    exif.len(),
                    exif::MAX_IN_JPEG
                ),
            ));
        }
        Ok(Self { format, settings, json, inside, exif })
    }

    fn write(&self, out: &mut dyn Write, picture: &RgbImage) -> std::io::Result<()> {
        match self.format {
            PictureFormat::Png => self.write_png(out, picture).map_err(|e| match e {
                png::EncodingError::IoError(e) => e,
                other => std::io::Error::other(other),
            }),
            PictureFormat::Jpeg => self.write_jpeg(out, picture).map_err(|e| match e {
                image::ImageError::IoError(e) => e,
                other => std::io::Error::other(other),
            }),
        }
    }

    fn write_png(&self, out: &mut dyn Write, picture: &RgbImage) -> Result<(), png::EncodingError> {
        let mut info = png::Info::with_size(picture.width(), picture.height());
        info.color_type = png::ColorType::Rgb;
        info.bit_depth = png::BitDepth::Eight;
        info.exif_metadata = Some(self.exif.as_slice().into());
        let mut encoder = png::Encoder::with_info(out, info)?;
        encoder.add_itxt_chunk("Description".into(), self.settings.prompt.clone())?;
        encoder.add_itxt_chunk("Software".into(), self.settings.software.clone())?;
        encoder.add_itxt_chunk(KEYWORD.into(), self.inside.clone())?;
        let mut writer = encoder.write_header()?;
        writer.write_image_data(picture.as_raw())?;
        writer.finish()
    }

    fn write_jpeg(&self, out: &mut dyn Write, picture: &RgbImage) -> image::ImageResult<()> {
        let mut encoder = JpegEncoder::new_with_quality(out, JPEG_QUALITY);
        encoder.set_exif_metadata(self.exif.clone()).map_err(image::ImageError::Unsupported)?;
        encoder.encode_image(picture)
    }
}

/// Pictures side by side on black, top-aligned: the official `--concat_refs`.
pub fn concat_horizontally(pictures: &[&RgbImage]) -> RgbImage {
    let width = pictures.iter().map(|p| p.width()).sum();
    let height = pictures.iter().map(|p| p.height()).max().unwrap_or(0);
    let mut joined = RgbImage::new(width, height);
    let mut x = 0;
    for picture in pictures {
        image::imageops::replace(&mut joined, *picture, x, 0);
        x += i64::from(picture.width());
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        let request = Request::new("../é \"quoted\" 猫").with_seed(u64::MAX);
        Settings::new(&request, &request.samples[0], [32, 16])
    }

    #[test]
    fn settings_come_back_from_the_png_and_from_the_json() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/er/0_0.png");
        save(&path, &RgbImage::new(32, 16), &settings()).unwrap();
        assert_eq!(Settings::read(&path).unwrap(), settings());
        assert_eq!(Settings::read(path.with_extension("json")).unwrap(), settings());
        assert_eq!(
            std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
            2,
            "no temporary file is left"
        );
    }

    #[test]
    fn other_decoders_read_the_picture_and_its_exif() {
        use image::ImageDecoder;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.png");
        let picture = RgbImage::from_fn(8, 4, |x, y| image::Rgb([x as u8 * 30, y as u8 * 60, 7]));
        save(&path, &picture, &settings()).unwrap();
        let bytes = std::io::Cursor::new(std::fs::read(&path).unwrap());
        let mut decoder = image::codecs::png::PngDecoder::new(bytes).unwrap();
        let exif = decoder.exif_metadata().unwrap().unwrap();
        assert!(exif.starts_with(b"II*\0") && exif.windows(8).any(|w| w == b"UNICODE\0"));
        assert_eq!(image::open(&path).unwrap().into_rgb8(), picture);
    }

    #[test]
    fn a_jpeg_carries_its_settings_too() {
        let folder = tempfile::tempdir().unwrap();
        let picture = RgbImage::from_fn(64, 48, |x, y| image::Rgb([x as u8 * 4, y as u8 * 5, 7]));
        for name in ["x.jpg", "y.JPEG"] {
            let path = folder.path().join(name);
            save(&path, &picture, &settings()).unwrap();
            assert_eq!(Settings::read(&path).unwrap(), settings());
            assert_eq!(image::ImageReader::open(&path).unwrap().into_dimensions().unwrap(), (64, 48));
            let read = image::open(&path).unwrap().into_rgb8();
            let differences = read.as_raw().iter().zip(picture.as_raw()).map(|(a, b)| a.abs_diff(*b));
            assert!(differences.max().unwrap() < 16);
        }
        let path = folder.path().join("long.jpg");
        let long = Settings { prompt: "word ".repeat(10_000), ..settings() };
        assert!(check_writable(&path, &long).unwrap_err().to_string().contains("save a PNG"));
        assert!(save(&path, &picture, &long).is_err() && !path.exists());
        save(&path.with_extension("png"), &picture, &long).unwrap();
    }

    /// Settings that name files with folders.
    fn with_files() -> Settings {
        let file = |path: &str| FileRecord { path: path.into(), sha256: "0".repeat(64) };
        let model = |part: &str, path: &str| ModelRecord {
            part: part.into(),
            path: path.into(),
            fingerprint: "1".repeat(64),
        };
        Settings {
            references: vec![ReferenceRecord {
                file: file("/home/me/secret/cup.png"),
                width: 64,
                height: 48,
            }],
            noise_file: Some(file(r"C:\Users\me\secret\noise.safetensors")),
            model: vec![model("dit", "/data/secret/flux1-dev.safetensors"), model("t5", "secret/t5/")],
            ..settings()
        }
    }

    #[test]
    fn what_leaves_the_machine_names_no_folders() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["x.png", "x.jpg"] {
            let path = folder.path().join(name);
            save(&path, &RgbImage::new(32, 16), &with_files()).unwrap();
            let bytes = std::fs::read(&path).unwrap();
            let wide: Vec<u8> = "secret".encode_utf16().flat_map(u16::to_le_bytes).collect();
            for words in [b"secret".as_slice(), &wide] {
                assert!(!bytes.windows(words.len()).any(|window| window == words), "{name}");
            }
            let read = Settings::read(&path).unwrap();
            assert_eq!(read, with_files().without_folders());
            assert_eq!(read.references[0].file.path, Path::new("cup.png"));
            assert_eq!(read.noise_file.unwrap().path, Path::new("noise.safetensors"));
            assert_eq!(read.model[1].path, Path::new("t5"));
            // The file beside it stays, and is asked for the folders.
            assert_eq!(Settings::read(path.with_extension("json")).unwrap(), with_files());
            assert_eq!(Settings::read_with_folders(&path).unwrap(), with_files());
        }
        let other = Settings { seed: 1, ..with_files() };
        std::fs::write(folder.path().join("x.json"), other.to_json().unwrap()).unwrap();
        let read = Settings::read_with_folders(folder.path().join("x.png")).unwrap();
        assert_eq!(read, with_files().without_folders(), "the file beside is of another picture");
    }

    #[test]
    fn tiles_are_recorded_and_older_settings_say_nothing_of_them() {
        let read =
            |settings: &Settings| serde_json::from_str::<Settings>(&settings.to_json().unwrap()).unwrap();
        for tiling in [VaeTiling::Auto, VaeTiling::Whole, VaeTiling::Tiles(48)] {
            let settings = Settings { vae_tiling: tiling, ..settings() };
            assert_eq!(read(&settings), settings);
            assert_eq!(settings.to_json().unwrap().contains("vae_tile"), tiling != VaeTiling::Auto);
        }
        let whole = Settings { vae_tiling: VaeTiling::Whole, ..settings() };
        assert!(whole.to_json().unwrap().contains("\"vae_tile\": null"));
    }

    #[test]
    fn what_makes_no_other_picture_makes_no_difference() {
        let tiled = |tile| Settings { vae_tiling: VaeTiling::Tiles(tile), width: 1024, ..settings() };
        let whole = Settings { vae_tiling: VaeTiling::Whole, width: 1024, ..settings() };
        let unknown = Settings { vae_tiling: VaeTiling::Auto, ..whole.clone() };
        assert!(whole.answers(&whole) && tiled(48).answers(&tiled(48)));
        assert!(whole.answers(&tiled(48)), "the exact picture is the better one");
        assert!(unknown.answers(&tiled(48)) && unknown.answers(&whole));
        assert!(!tiled(48).answers(&whole) && !tiled(48).answers(&tiled(64)));
        assert!(tiled(128).answers(&whole), "it fits in one tile");
        let moved = with_files().without_folders();
        assert!(moved.answers(&with_files()));
        let merged = Settings { lora_merged: true, device: "Flex".into(), ..settings() };
        assert!(merged.answers(&Settings { device: "cpu".into(), ..settings() }));
        assert!(!settings().answers(&Settings { seed: 1, ..settings() }));
        let mut other = with_files();
        other.references[0].file.sha256 = "2".repeat(64);
        assert!(!other.answers(&with_files()));
    }

    #[test]
    fn only_files_of_ours_are_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let picture = RgbImage::new(32, 16);
        let path = folder.path().join("x.png");
        let json = path.with_extension("json");
        save(&path, &picture, &settings()).unwrap();
        save(&path, &picture, &with_files()).unwrap();
        // Of another version's form.
        std::fs::write(&json, r#"{"form": 7, "software": "uno-rs 9.0.0"}"#).unwrap();
        save(&path, &picture, &settings()).unwrap();
        for foreign in [
            "",
            "[]",
            "no JSON",
            r#"{"prompt": "a scene", "seed": 1}"#,
            r#"{"form": 1, "software": "other"}"#,
        ] {
            std::fs::write(&json, foreign).unwrap();
            let before = std::fs::read(&path).unwrap();
            let error = save(&path, &picture, &with_files()).unwrap_err().to_string();
            assert!(error.contains("x.json") && error.contains("not replaced"), "{error}");
            assert_eq!(std::fs::read(&path).unwrap(), before);
            assert_eq!(std::fs::read_to_string(&json).unwrap(), foreign);
        }
        save_over(&path, &picture, &settings()).unwrap();
        assert_eq!(Settings::read(&json).unwrap(), settings());
        picture.save(&path).unwrap();
        assert!(save(&path, &picture, &settings()).unwrap_err().to_string().contains("x.png"));
        assert!(!save_new(&path, &picture, &settings()).unwrap());
        // A name of which one of the two files is taken is taken.
        std::fs::remove_file(&path).unwrap();
        assert!(!save_new(&path, &picture, &settings()).unwrap() && !path.exists());
        std::fs::remove_file(&json).unwrap();
        assert!(save_new(&path, &picture, &settings()).unwrap());
        #[cfg(unix)]
        {
            // A link that leads nowhere is somebody's, too.
            std::fs::remove_file(&json).unwrap();
            std::os::unix::fs::symlink("nowhere", &json).unwrap();
            assert!(save(&path, &picture, &settings()).is_err());
        }
    }

    #[test]
    fn a_png_of_someone_else_holds_no_settings() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.png");
        RgbImage::new(2, 2).save(&path).unwrap();
        assert!(Settings::read(&path).unwrap_err().to_string().contains("no settings"));
        std::fs::write(&path, b"not a png").unwrap();
        assert!(Settings::read(&path).is_err());
    }

    #[test]
    fn a_changed_reference_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ref.png");
        std::fs::write(&path, b"one").unwrap();
        let record = FileRecord::of(&path).unwrap();
        record.verify().unwrap();
        std::fs::write(&path, b"two").unwrap();
        assert!(record.verify().unwrap_err().to_string().contains("has changed"));
    }
}
