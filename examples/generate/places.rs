//! Where pictures go: under the name that is given, or under the next free number of a folder.

use std::cell::Cell;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use image::RgbImage;
use uno_models::eval::Shard;
use uno_models::output::{
    PictureFormat, Settings, check_replaceable, check_writable, save, save_new, save_over,
};

use super::arguments::Arguments;
use super::best_of::Choice;

/// Extensions of pictures that are not written; else they would be taken for folders.
const NOT_WRITTEN: [&str; 19] = [
    "avif", "bmp", "exr", "gif", "heic", "heif", "ico", "jfif", "jp2", "jpe", "jxl", "pdf", "ppm", "psd",
    "svg", "tga", "tif", "tiff", "webp",
];

/// All places of a run.
pub struct Places {
    /// The one picture, by its name.
    named: Option<PathBuf>,
    folder: PathBuf,
    /// What the names in the folder begin with.
    prefix: String,
    extension: String,
    /// Whether numbers begin at 0, rather than after those that are there.
    is_fixed: bool,
    /// Whether pictures that are there already are left as they are.
    goes_on: bool,
    replaces_all: bool,
    /// The number of the first prompt.
    first: Cell<usize>,
}

/// The place of one picture.
#[derive(Clone)]
pub enum Place {
    /// A file.
    Named(PathBuf),
    /// A number that is settled when the picture is saved: that of the prompt after those that are there, and the picture's own.
    Numbered { prompt: usize, picture: usize },
}

impl Place {
    /// That no picture is there.
    ///
    /// # Errors
    ///
    /// There is one.
    pub fn check_free(&self) -> Result<()> {
        match self {
            Self::Named(path) if path.symlink_metadata().is_ok() => bail!(
                "{} is there already, with other settings; give another --save_path, or --overwrite to replace it",
                path.display()
            ),
            _ => Ok(()),
        }
    }
}

impl Places {
    /// Places for `total` pictures.
    ///
    /// # Errors
    ///
    /// The name of a picture of a kind that is not written, or of one picture where a list makes several.
    pub fn new(arguments: &Arguments, total: usize) -> Result<Self> {
        let path = &arguments.save_path;
        let is_list = arguments.eval_json_path.is_some() || arguments.shard != Shard::ALL;
        let extension = path.extension().unwrap_or_default().to_string_lossy().into_owned();
        let is_picture = PictureFormat::of(path).is_some() && !path.is_dir();
        if NOT_WRITTEN.contains(&extension.to_ascii_lowercase().as_str()) && !path.is_dir() {
            bail!(
                "--save_path {}: got a picture of the kind {extension}, wanted .png, .jpg or .jpeg, or a folder (make one of this \
                 name first if it is meant)",
                path.display()
            );
        }
        let mut places = Self {
            named: None,
            folder: path.clone(),
            prefix: String::new(),
            extension: "png".into(),
            is_fixed: is_list || arguments.overwrite,
            goes_on: is_list && !arguments.overwrite,
            replaces_all: arguments.overwrite,
            first: Cell::new(0),
        };
        if is_picture {
            if total == 1 {
                places.named = Some(path.clone());
            } else if is_list {
                bail!(
                    "--save_path {}: names one picture, and the list makes {total}; wanted a folder",
                    path.display()
                );
            }
            places.folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
            places.prefix = format!("{}_", path.file_stem().unwrap_or_default().to_string_lossy());
            places.extension = extension;
        }
        Ok(places)
    }

    /// The place of picture `j` of prompt `i`.
    pub fn of(&self, i: usize, j: usize) -> Place {
        match &self.named {
            Some(path) => Place::Named(path.clone()),
            None if self.is_fixed => Place::Named(self.file(i, j)),
            None => Place::Numbered { prompt: i, picture: j },
        }
    }

    fn file(&self, i: usize, j: usize) -> PathBuf {
        self.folder.join(format!("{}{i}_{j}.{}", self.prefix, self.extension))
    }

    /// Whether pictures that are there already are left as they are, so that a run goes on where an earlier one stopped.
    pub fn goes_on(&self) -> bool {
        self.goes_on
    }

    /// Whether pictures are written as JPEG.
    pub fn are_jpeg(&self) -> bool {
        PictureFormat::of(&self.file(0, 0)) == Some(PictureFormat::Jpeg)
    }

    /// That a picture with these settings can be written.
    ///
    /// # Errors
    ///
    /// Settings that are too long for a JPEG.
    pub fn check_settings(&self, settings: &Settings) -> Result<()> {
        Ok(check_writable(&self.file(0, 0), settings)?)
    }

    /// That the folder can be written to, and that no picture would replace what is not ours: before the work and not after it.
    ///
    /// # Errors
    ///
    /// A folder that cannot be written to; a file of somebody else at one of `places`.
    pub fn check<'a>(&self, mut places: impl Iterator<Item = &'a Place>, best_of: bool) -> Result<()> {
        let folder = if self.folder.as_os_str().is_empty() { Path::new(".") } else { &self.folder };
        std::fs::create_dir_all(folder)
            .and_then(|()| tempfile::tempfile_in(folder).map(drop))
            .with_context(|| format!("cannot write to {}; give another --save_path", folder.display()))?;
        self.first.set(self.next_free());
        places.try_for_each(|place| match place {
            Place::Named(path) if !self.replaces_all => {
                check_replaceable(path).map_err(|error| anyhow!("{error}, or give --overwrite"))?;
                if best_of { Choice::check_replaceable(path) } else { Ok(()) }
            }
            _ => Ok(()),
        })
    }

    /// Saves a picture at its place, and says where that is.
    ///
    /// # Errors
    ///
    /// A folder that cannot be written to; a file that somebody else put there meanwhile.
    pub fn save(&self, place: &Place, picture: &RgbImage, settings: &Settings) -> Result<PathBuf> {
        let (prompt, number) = match place {
            Place::Named(path) => {
                match self.replaces_all {
                    true => save_over(path, picture, settings)?,
                    false => save(path, picture, settings)?,
                }
                return Ok(path.clone());
            }
            Place::Numbered { prompt, picture } => (*prompt, *picture),
        };
        loop {
            let path = self.file(self.first.get() + prompt, number);
            if save_new(&path, picture, settings)? {
                return Ok(path);
            }
            // Another run has come first: this prompt and those after it are numbered on from there.
            let free = self.next_free().saturating_sub(prompt);
            self.first.set(free.max(self.first.get() + 1));
        }
    }

    /// The number after all those in the folder.
    fn next_free(&self) -> usize {
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let prompt = |name: &str| {
            let (prompt, rest) = name.strip_prefix(&self.prefix)?.split_once('_')?;
            let (picture, _) = rest.split_once('.')?;
            // Beyond 32 bits it was nobody's number.
            let number: u32 = prompt.parse().ok().filter(|_| is_number(prompt) && is_number(picture))?;
            Some(number as usize + 1)
        };
        let folder = if self.folder.as_os_str().is_empty() { Path::new(".") } else { &self.folder };
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| prompt(entry.file_name().to_str()?)).max().unwrap_or(0)
    }
}
