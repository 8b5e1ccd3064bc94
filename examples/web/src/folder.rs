//! The data folder: whose it is, what lies in it, and how something is put aside.
//!
//! Only what this program has made and somebody has asked it to remove is ever removed. What it does not know stays where it is;
//! what is in the way is moved to `quarantine/`.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use tracing::warn;
use uno_models::output::write_atomically;

use crate::disk::{Trouble, Unwritable};
use crate::job::{JobId, is_hex};

/// The database's name in the folder.
pub const DATABASE: &str = "uno-web.sqlite";
/// What SQLite keeps beside a database; each belongs to it.
pub const DATABASE_PARTS: [&str; 3] = ["uno-web.sqlite-wal", "uno-web.sqlite-shm", "uno-web.sqlite-journal"];
/// The marker: says that a folder is this program's.
const MARKER: &str = "uno-web.json";
/// Held by the server that uses the folder.
const LOCK: &str = "uno-web.lock";
const PICTURES: &str = "pictures";
const REFERENCES: &str = "references";
const QUARANTINE: &str = "quarantine";
/// Version of the marker's form.
const FORM: u32 = 1;
/// Largest marker that is read, in bytes.
const MAX_MARKER: u64 = 1 << 16;
/// What systems leave in folders by themselves; a folder with nothing else in it is empty.
const OF_THE_SYSTEM: [&str; 7] =
    ["lost+found", ".DS_Store", "Thumbs.db", "desktop.ini", ".snapshot", ".gitkeep", ".gitignore"];
/// Most pictures of a job that are looked for.
pub const MOST_PICTURES: usize = 1000;
/// How many names a message lists.
const NAMES: usize = 5;

/// Name of a data folder, by chance: 32 hexadecimal digits. Marker and database both hold it.
pub type FolderId = JobId;

/// What the marker says.
#[derive(Serialize, Deserialize)]
struct Marker {
    program: String,
    form: u32,
    id: String,
}

/// What lies in a data folder.
#[derive(Default)]
pub struct Contents {
    /// Folders with pictures of jobs.
    pub jobs: Vec<JobId>,
    /// Files that are named as references are.
    pub references: Vec<String>,
    /// What is not this program's, relative to the folder.
    pub foreign: Vec<String>,
}

/// A data folder in use: nobody else can use it until this is dropped.
pub struct Folder {
    path: PathBuf,
    /// Says in so many letters whether a server is at work or has stopped in good order. Both are as long, so that a disk that is
    /// full takes either.
    lock: File,
    was_stopped: bool,
}

const AT_WORK: &[u8; 8] = b"running\n";
const STOPPED: &[u8; 8] = b"stopped\n";

impl Folder {
    /// Takes the folder at `path`, which is there.
    ///
    /// # Errors
    ///
    /// A folder that another server uses, or that cannot be written to.
    pub fn take(path: PathBuf) -> Result<Self> {
        let lock =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path.join(LOCK));
        let lock = lock.map_err(|error| unwritable(&path, error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!("{IN_USE}"),
            Err(TryLockError::Error(error)) => {
                return Err(error).context("it cannot be locked for this server alone");
            }
        }
        let mut state = Vec::new();
        (&lock).take(STOPPED.len() as u64).read_to_end(&mut state)?;
        Ok(Self { path, lock, was_stopped: state == STOPPED })
    }

    /// Whether the last server stopped in good order.
    pub fn was_stopped(&self) -> bool {
        self.was_stopped
    }

    /// Work begins.
    pub fn mark_at_work(&self) -> io::Result<()> {
        self.write_state(AT_WORK)
    }

    /// Work has stopped in good order, even if the disk takes nothing else any more.
    pub fn mark_stopped(&self) -> io::Result<()> {
        self.write_state(STOPPED)
    }

    fn write_state(&self, state: &[u8]) -> io::Result<()> {
        let mut file = &self.lock;
        file.rewind()?;
        file.write_all(state)?;
        file.sync_all()
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn references(&self) -> PathBuf {
        self.path.join(REFERENCES)
    }

    /// The folder with the pictures of a job.
    pub fn pictures_of(&self, id: &JobId) -> PathBuf {
        self.path.join(PICTURES).join(id.as_str())
    }

    /// Removes the pictures of a job, and its folder unless somebody has put something else there.
    ///
    /// # Errors
    ///
    /// A file that cannot be removed.
    pub fn remove_pictures(&self, id: &JobId) -> io::Result<()> {
        let folder = self.pictures_of(id);
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        let mut others = Vec::new();
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_own = picture_number(&name).is_some() || is_temporary(&name);
            if is_own && !entry.file_type()?.is_dir() {
                fs::remove_file(entry.path())?;
            } else {
                others.push(name);
            }
        }
        if others.is_empty() {
            return fs::remove_dir(&folder);
        }
        warn!(
            "{}: kept, since it holds what this program has not made: {}",
            folder.display(),
            listed(&others)
        );
        Ok(())
    }

    /// Moves files and folders, given relative to this one, into a new folder of the quarantine; those that are not there are left
    /// out. The new folder, `None` if nothing was there.
    ///
    /// # Errors
    ///
    /// A folder that cannot be written to.
    pub fn put_aside(&self, names: &[PathBuf], why: &str) -> io::Result<Option<PathBuf>> {
        let there: Vec<_> =
            names.iter().filter(|name| self.path.join(name).symlink_metadata().is_ok()).collect();
        if there.is_empty() {
            return Ok(None);
        }
        let aside = self.new_quarantine()?;
        for name in &there {
            let to = aside.join(name);
            fs::create_dir_all(to.parent().unwrap_or(&aside))?;
            fs::rename(self.path.join(name), to)?;
        }
        let names: Vec<_> = there.iter().map(|name| name.display().to_string()).collect();
        warn!(count = names.len(), "moved to {}, because {why}: {}", aside.display(), names.join(", "));
        Ok(Some(aside))
    }

    fn new_quarantine(&self) -> io::Result<PathBuf> {
        let quarantine = self.path.join(QUARANTINE);
        make_private_folder(&quarantine)?;
        let date = date(std::time::SystemTime::now());
        for n in 1.. {
            let folder = quarantine.join(if n == 1 { date.clone() } else { format!("{date}-{n}") });
            match fs::create_dir(&folder) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                result => return result.map(|()| folder),
            }
        }
        Err(ErrorKind::AlreadyExists.into())
    }

    /// Writes the marker.
    ///
    /// # Errors
    ///
    /// A folder that cannot be written to.
    pub fn mark(&self, id: &FolderId) -> Result<()> {
        let marker = Marker { program: "uno-web".into(), form: FORM, id: id.to_string() };
        let json = serde_json::to_string_pretty(&marker)?;
        let path = self.path.join(MARKER);
        write_atomically(&path, |file| writeln!(file, "{json}"))?;
        Ok(sync(&path)?)
    }
}

/// Lets a file that was written survive a failure of the machine, with its name.
///
/// # Errors
///
/// A disk that fails.
pub fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()?;
    // Elsewhere folders cannot be opened.
    #[cfg(unix)]
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// Why a folder cannot be used that another server has.
pub const IN_USE: &str = "another server uses this folder; stop it, or give another folder";

/// What the marker in a folder says; `None` if there is none.
///
/// # Errors
///
/// One that cannot be read, or is of another program or a newer version.
pub fn marker_of(folder: &Path) -> Result<Option<FolderId>> {
    let path = folder.join(MARKER);
    let mut text = String::new();
    match File::open(&path).and_then(|file| file.take(MAX_MARKER).read_to_string(&mut text)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        result => result.with_context(|| format!("{MARKER} cannot be read"))?,
    };
    // What a failure of the machine leaves of a marker that was just written.
    if text.trim_matches('\0').is_empty() {
        return Ok(None);
    }
    let marker = serde_json::from_str::<Marker>(&text).ok().filter(|marker| marker.program == "uno-web");
    let Some(marker) = marker else {
        bail!(
            "{MARKER} is not the marker that this program writes into its data folder; move it away, then the database says whose \
             folder this is, or give another folder"
        )
    };
    ensure!(
        marker.form <= FORM,
        "{MARKER} is of form {}, wanted {FORM} at most; use the uno-web that made it, or a newer one",
        marker.form
    );
    let id = marker.id.parse();
    id.map(Some)
        .map_err(|_| anyhow::anyhow!("{MARKER}: got the id {:?}, wanted 32 hexadecimal digits", marker.id))
}

/// What lies in a folder.
///
/// # Errors
///
/// A folder that cannot be read.
pub fn survey(folder: &Path) -> io::Result<Contents> {
    let mut contents = Contents::default();
    let own = [DATABASE, MARKER, LOCK, PICTURES, REFERENCES, QUARANTINE];
    for name in names_in(folder)? {
        let is_known = own.contains(&name.as_str())
            || DATABASE_PARTS.contains(&name.as_str())
            || OF_THE_SYSTEM.contains(&name.as_str());
        if !is_known {
            contents.foreign.push(name);
        }
    }
    for name in names_in(&folder.join(PICTURES))? {
        let id = name.parse::<JobId>().ok();
        match id {
            // A folder without pictures is what is left of a job that was removed.
            Some(id) => {
                if !pictures_in(&folder.join(PICTURES).join(id.as_str())).is_empty() {
                    contents.jobs.push(id);
                }
            }
            None if OF_THE_SYSTEM.contains(&name.as_str()) => {}
            None => contents.foreign.push(format!("{PICTURES}/{name}")),
        }
    }
    for name in names_in(&folder.join(REFERENCES))? {
        if is_hex(&name, 64) {
            contents.references.push(name);
        } else if !OF_THE_SYSTEM.contains(&name.as_str()) && !is_temporary(&name) {
            contents.foreign.push(format!("{REFERENCES}/{name}"));
        }
    }
    Ok(contents)
}

/// The numbers of the pictures in a job's folder, in order.
pub fn pictures_in(folder: &Path) -> Vec<usize> {
    let names = names_in(folder).unwrap_or_default();
    let is_picture = |name: &&String| name.ends_with(".png");
    let mut numbers: Vec<_> =
        names.iter().filter(is_picture).filter_map(|name| picture_number(name)).collect();
    numbers.sort_unstable();
    numbers
}

/// The number in the name of a picture or of its settings.
fn picture_number(name: &str) -> Option<usize> {
    let stem = name.strip_suffix(".png").or_else(|| name.strip_suffix(".json"))?;
    let number: usize = stem.parse().ok()?;
    // `007.png` and `+7.png` are none of ours.
    (number < MOST_PICTURES && stem == number.to_string()).then_some(number)
}

/// Whether a name is that of a file under way, which a server leaves that ends while it writes.
fn is_temporary(name: &str) -> bool {
    name.strip_prefix(".tmp")
        .is_some_and(|rest| rest.len() == 6 && rest.bytes().all(|b| b.is_ascii_alphanumeric()))
}

/// Names in a folder, in order; of a folder that is not there none.
fn names_in(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        entries => entries?,
    };
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names = names.collect::<io::Result<Vec<_>>>()?;
    names.sort_unstable();
    Ok(names)
}

/// Some of the names, and how many more there are.
pub fn listed<T: ToString>(names: &[T]) -> String {
    let some: Vec<_> = names.iter().take(NAMES).map(ToString::to_string).collect();
    match names.len().saturating_sub(NAMES) {
        0 => some.join(", "),
        more => format!("{} and {more} more", some.join(", ")),
    }
}

/// Makes a folder that is for this user alone, if it is not there: prompts and pictures are private.
///
/// # Errors
///
/// A folder that cannot be made.
pub fn make_private_folder(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

/// An error of the operating system in this folder, with what to do where the disk is its cause.
pub fn unwritable(folder: &Path, error: io::Error) -> anyhow::Error {
    match Trouble::of_io(&error) {
        Some(trouble) => Unwritable::new(folder, trouble).into(),
        None => error.into(),
    }
}

/// A time in UTC for a name: `2026-01-31T23-59-59Z`.
fn date(time: std::time::SystemTime) -> String {
    let seconds = time.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // The civil calendar in years that begin with March, in eras of 400 years.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}-{:02}-{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00-00-00Z"),
            (951_782_399, "2000-02-28T23-59-59Z"),
            (951_868_799, "2000-02-29T23-59-59Z"),
            (1_798_761_599, "2026-12-31T23-59-59Z"),
            (4_107_542_400, "2100-03-01T00-00-00Z"),
        ] {
            assert_eq!(date(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn what_is_put_aside_keeps_its_name_and_meets_nothing() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::take(root.path().to_owned()).unwrap();
        let name = PathBuf::from("pictures/a/0.png");
        let mut places = Vec::new();
        for text in ["one", "two"] {
            fs::create_dir_all(root.path().join("pictures/a")).unwrap();
            fs::write(root.path().join(&name), text).unwrap();
            places.push(folder.put_aside(&[name.clone(), "not there".into()], "of a test").unwrap().unwrap());
            assert!(!root.path().join(&name).exists());
        }
        assert_ne!(places[0], places[1]);
        assert_eq!(fs::read_to_string(places[0].join(&name)).unwrap(), "one");
        assert_eq!(fs::read_to_string(places[1].join(&name)).unwrap(), "two");
        assert_eq!(folder.put_aside(&["not there".into()], "of a test").unwrap(), None);
    }

    #[test]
    fn removing_pictures_leaves_what_others_have_put_there() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::take(root.path().to_owned()).unwrap();
        let (plain, mixed) = (JobId::random().unwrap(), JobId::random().unwrap());
        for id in [&plain, &mixed] {
            fs::create_dir_all(folder.pictures_of(id)).unwrap();
            for name in ["0.png", "0.json", "1.png", ".tmpAb12Cd"] {
                fs::write(folder.pictures_of(id).join(name), "").unwrap();
            }
        }
        for name in ["notes.txt", "007.png", "cover.png", "99999.png"] {
            fs::write(folder.pictures_of(&mixed).join(name), "mine").unwrap();
        }
        folder.remove_pictures(&plain).unwrap();
        folder.remove_pictures(&mixed).unwrap();
        assert!(!folder.pictures_of(&plain).exists());
        let left = names_in(&folder.pictures_of(&mixed)).unwrap();
        assert_eq!(left, ["007.png", "99999.png", "cover.png", "notes.txt"]);
        folder.remove_pictures(&plain).unwrap();
    }

    #[test]
    fn a_survey_tells_own_from_foreign() {
        let root = tempfile::tempdir().unwrap();
        let id = JobId::random().unwrap();
        let hash = "0".repeat(64);
        for name in [
            "lost+found/x",
            "Documents/letter.txt",
            "uno-web.sqlite-wal",
            "references/thesis.pdf",
            "pictures/holiday/1.png",
            "pictures/ABCDEF00000000000000000000000000/0.png",
            &format!("pictures/{id}/0.png"),
            &format!("pictures/{}/notes.txt", "1".repeat(32)),
            &format!("references/{hash}"),
        ] {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let contents = survey(root.path()).unwrap();
        assert_eq!((contents.jobs, contents.references), (vec![id], vec![hash]));
        let foreign = [
            "Documents",
            "pictures/ABCDEF00000000000000000000000000",
            "pictures/holiday",
            "references/thesis.pdf",
        ];
        assert_eq!(contents.foreign, foreign);
    }

    #[test]
    fn markers_come_back_and_others_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::take(root.path().to_owned()).unwrap();
        assert_eq!(marker_of(root.path()).unwrap(), None);
        let id = JobId::random().unwrap();
        folder.mark(&id).unwrap();
        assert_eq!(marker_of(root.path()).unwrap(), Some(id));
        fs::write(root.path().join(MARKER), "").unwrap();
        assert_eq!(marker_of(root.path()).unwrap(), None, "cut off by a failure of the machine");
        for (text, words) in [
            ("a note of mine", "not the marker"),
            ("{\"program\": \"other\", \"form\": 1, \"id\": \"\"}", "not the marker"),
            ("{\"program\": \"uno-web\", \"form\": 2, \"id\": \"\"}", "newer"),
            ("{\"program\": \"uno-web\", \"form\": 1, \"id\": \"../..\"}", "32 hexadecimal"),
        ] {
            fs::write(root.path().join(MARKER), text).unwrap();
            let error = marker_of(root.path()).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
