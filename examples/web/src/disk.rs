//! Whether the data folder takes what is written to it: a full disk, a read-only one, and how each is told.
//!
//! Trouble is noted where a write fails, and looked for once a second. It is over when a write of some size succeeds.

use std::fmt;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::ErrorCode;
use tracing::{info, warn};

use crate::metrics::Metrics;
use crate::store::Store;

/// With less than this the disk counts as full, in bytes: a job takes some kilobytes before its pictures do.
pub const LEAST: u64 = 1 << 20;

/// How often it is looked for trouble and for its end.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What keeps the data folder from being written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// No space is left, or no more of a quota.
    Full,
    /// The file system is mounted read-only.
    ReadOnly,
    /// This user may not write.
    Denied,
    /// The disk fails.
    Failing(String),
}

impl Trouble {
    /// What an error of the operating system says of the disk; `None` if it has another cause.
    pub fn of_io(error: &std::io::Error) -> Option<Self> {
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Some(Self::Full),
            ErrorKind::ReadOnlyFilesystem => Some(Self::ReadOnly),
            ErrorKind::PermissionDenied => Some(Self::Denied),
            // A path that leads nowhere, which no waiting mends.
            ErrorKind::NotFound
            | ErrorKind::NotADirectory
            | ErrorKind::IsADirectory
            | ErrorKind::AlreadyExists
            | ErrorKind::InvalidFilename => None,
            _ => error.raw_os_error().map(|_| Self::Failing(error.to_string())),
        }
    }

    /// What an error of SQLite says of the disk.
    pub fn of_sqlite(error: &rusqlite::Error) -> Option<Self> {
        match error.sqlite_error_code()? {
            ErrorCode::DiskFull => Some(Self::Full),
            ErrorCode::ReadOnly => Some(Self::ReadOnly),
            ErrorCode::PermissionDenied => Some(Self::Denied),
            ErrorCode::SystemIoFailure | ErrorCode::CannotOpen => Some(Self::Failing(error.to_string())),
            _ => None,
        }
    }

    /// What says of the disk that a file could not be written.
    pub fn of_write(error: &uno_models::Error) -> Option<Self> {
        match error {
            uno_models::Error::Write { source, .. } => Self::of_io(source),
            _ => None,
        }
    }

    /// Its name in JSON.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::ReadOnly => "read_only",
            Self::Denied => "denied",
            Self::Failing(_) => "failing",
        }
    }
}

/// A data folder that cannot be written to, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unwritable {
    pub trouble: Trouble,
    folder: PathBuf,
    free: Option<u64>,
}

impl Unwritable {
    /// `folder` is the data folder.
    pub fn new(folder: &Path, trouble: Trouble) -> Self {
        Self { trouble, folder: folder.to_owned(), free: free_bytes(folder) }
    }
}

impl fmt::Display for Unwritable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--data {}: ", self.folder.display())?;
        let free =
            self.free.map_or_else(|| "free space unknown".to_owned(), |free| format!("{} free", size(free)));
        match &self.trouble {
            Trouble::Full => {
                write!(f, "the disk is full ({free}, wanted at least {}); free some space", size(LEAST))
            }
            Trouble::ReadOnly => write!(
                f,
                "the file system is read-only ({free}); mount it writable (see the system's log if it was not mounted so on \
                 purpose), or start with another folder"
            ),
            Trouble::Denied => write!(
                f,
                "this user may not write there ({free}); give the folder and what is in it to the user of the server (chown, \
                 chmod), or start with another folder"
            ),
            Trouble::Failing(error) => {
                write!(
                    f,
                    "the disk cannot be written to ({error}; {free}); see the system's log, and check the disk"
                )
            }
        }
    }
}

impl std::error::Error for Unwritable {}

/// Bytes for people.
pub fn size(bytes: u64) -> String {
    let unit = [("GiB", 30), ("MiB", 20), ("KiB", 10)].into_iter().find(|(_, bits)| bytes >> bits > 0);
    match unit {
        Some((unit, bits)) => format!("{:.1} {unit}", bytes as f64 / (1u64 << bits) as f64),
        None => format!("{bytes} bytes"),
    }
}

/// Bytes that this user may still write there; `None` where the system does not tell.
pub fn free_bytes(folder: &Path) -> Option<u64> {
    #[cfg(unix)]
    return rustix::fs::statvfs(folder).ok().map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize));
    #[cfg(not(unix))]
    return None;
}

fn is_mounted_read_only(folder: &Path) -> bool {
    #[cfg(unix)]
    return rustix::fs::statvfs(folder)
        .is_ok_and(|disk| disk.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
    #[cfg(not(unix))]
    return false;
}

/// Looks at the disk, for as long as the program runs.
pub async fn look_for_ever(store: Arc<Store>, metrics: Arc<Metrics>) {
    loop {
        let (store, metrics) = (store.clone(), metrics.clone());
        let look = move || {
            store.look_at_disk();
            let disk = store.disk();
            metrics.set_disk(disk.trouble().is_none(), disk.free());
        };
        if let Err(error) = tokio::task::spawn_blocking(look).await {
            warn!("the disk cannot be looked at: {error}");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The state of the disk under one data folder.
pub struct Disk {
    /// As it was given, for messages.
    folder: PathBuf,
    state: Mutex<State>,
}

/// What the last look has shown.
#[derive(Clone, Default)]
struct State {
    trouble: Option<Trouble>,
    free: Option<u64>,
}

impl Disk {
    pub fn new(folder: &Path) -> Self {
        let state = State { trouble: None, free: free_bytes(folder) };
        Self { folder: folder.to_owned(), state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What keeps the folder from being written to, as of the last look; the disk is not asked.
    pub fn trouble(&self) -> Option<Trouble> {
        self.state().trouble.clone()
    }

    /// Bytes that are free, as of the last look; the disk is not asked.
    pub fn free(&self) -> Option<u64> {
        self.state().free
    }

    /// The same as an error, with the space that is free now.
    pub fn unwritable(&self) -> Option<Unwritable> {
        self.trouble().map(|trouble| self.describe(trouble))
    }

    pub fn describe(&self, trouble: Trouble) -> Unwritable {
        Unwritable::new(&self.folder, trouble)
    }

    /// The folder, as it was given.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A write has failed for this reason.
    pub fn note(&self, trouble: Trouble) -> Unwritable {
        // SQLite tells little: of a disk that has become read-only, or has no space for shared memory, no more than that it fails.
        let trouble = match trouble {
            Trouble::Failing(_) => self.probe().err().unwrap_or(trouble),
            told => told,
        };
        self.set(Some(trouble.clone()));
        self.describe(trouble)
    }

    /// Looks at the disk; `write` is asked whether writing is possible, where that is in doubt.
    pub fn look(&self, write: impl FnOnce() -> Result<(), Trouble>) {
        let free = free_bytes(&self.folder);
        self.state().free = free;
        if is_mounted_read_only(&self.folder) {
            return self.set(Some(Trouble::ReadOnly));
        }
        let is_low = free.is_some_and(|free| free < LEAST);
        if is_low || self.trouble().is_some() {
            // The superuser may have more space than is said to be free: only a write tells.
            let result = self.probe().and_then(|()| write());
            self.set(result.err());
        }
    }

    /// Writes as much as must be free, to a file that is gone at once.
    fn probe(&self) -> Result<(), Trouble> {
        let written = tempfile::tempfile_in(&self.folder).and_then(|mut file| {
            for _ in 0..LEAST >> 16 {
                file.write_all(&[0x55; 1 << 16])?;
            }
            file.sync_all()
        });
        written.map_err(|error| Trouble::of_io(&error).unwrap_or_else(|| Trouble::Failing(error.to_string())))
    }

    fn set(&self, now: Option<Trouble>) {
        let before = std::mem::replace(&mut self.state().trouble, now.clone());
        match now {
            Some(trouble) if before.as_ref() != Some(&trouble) => {
                warn!("{}; jobs wait, and new ones are refused until then", self.describe(trouble));
            }
            None if before.is_some() => info!("--data {}: can be written to again", self.folder.display()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_apart_by_what_the_system_says() {
        let os = |code| std::io::Error::from_raw_os_error(code);
        // ENOSPC, EDQUOT, EROFS, EACCES, EIO.
        let found = [28, 122, 30, 13, 5].map(|code| Trouble::of_io(&os(code)).unwrap().name());
        assert_eq!(found, ["full", "full", "read_only", "denied", "failing"]);
        assert_eq!(Trouble::of_io(&std::io::Error::other("a damaged picture")), None);
        let sqlite = |code| rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None);
        let found = [13, 8, 10, 14].map(|code| Trouble::of_sqlite(&sqlite(code)).unwrap().name());
        assert_eq!(found, ["full", "read_only", "failing", "failing"]);
        assert_eq!(Trouble::of_sqlite(&sqlite(11)), None, "a damaged database is no matter of the disk");
        let write = |code| uno_models::Error::Write { path: "0.png".into(), source: os(code) };
        assert_eq!(Trouble::of_write(&write(28)), Some(Trouble::Full));
        // ENOENT, ENOTDIR.
        assert_eq!([2, 20].map(|code| Trouble::of_write(&write(code))), [None, None]);
    }

    #[test]
    fn trouble_names_the_folder_the_space_and_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        for (trouble, words) in [
            (Trouble::Full, "free some space"),
            (Trouble::ReadOnly, "mount it writable"),
            (Trouble::Denied, "chown"),
            (Trouble::Failing("EIO".into()), "EIO"),
        ] {
            let text = Unwritable::new(folder.path(), trouble).to_string();
            let name = folder.path().display().to_string();
            assert!(text.contains(words) && text.contains(&name) && text.contains(" free"), "{text}");
        }
        assert_eq!([size(0), size(1536), size(1 << 30)], ["0 bytes", "1.5 KiB", "1.0 GiB"]);
    }

    #[test]
    fn trouble_ends_when_a_write_succeeds() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::new(folder.path());
        disk.look(|| panic!("nothing is in doubt"));
        assert_eq!(disk.trouble(), None);
        disk.note(Trouble::Denied);
        disk.look(|| Err(Trouble::ReadOnly));
        assert_eq!(disk.trouble(), Some(Trouble::ReadOnly));
        disk.look(|| Ok(()));
        assert_eq!(disk.trouble(), None);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left of a look");
    }
}
