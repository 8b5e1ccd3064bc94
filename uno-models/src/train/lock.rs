//! One run per output folder: a lock file that names the process and the machine.
//!
//! The lock itself is the operating system's, so that it ends with the process, however that ends. Between machines that
//! share a folder such locks do not always hold: there the file's time counts, which a running process renews.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The lock file's name in the output folder.
pub const LOCK: &str = "run.lock";
/// How often a run renews the time of its lock.
const RENEWED_EVERY: Duration = Duration::from_secs(20);
/// A lock of another machine that was not renewed for so long is of a run that has ended.
const STALE_AFTER: Duration = Duration::from_secs(120);

/// Who holds a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Holder {
    process: u32,
    machine: String,
}

/// The right to write to an output folder, until it is dropped.
#[derive(Debug)]
pub struct RunLock {
    path: PathBuf,
    renewal: Option<(Sender<()>, JoinHandle<()>)>,
    /// Holds the operating system's lock.
    _file: File,
}

impl RunLock {
    /// Locks `output`, which is made if it is not there. What a run that was killed left behind is taken over.
    ///
    /// # Errors
    ///
    /// Another run holds it: the message names its process and machine. A folder that cannot be written to.
    pub fn acquire(output: &Path) -> Result<Self> {
        std::fs::create_dir_all(output).map_err(Error::write(output))?;
        let path = output.join(LOCK);
        let mut options = OpenOptions::new();
        let mut file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(Error::write(&path))?;
        let locked = file.try_lock();
        let holder = read(&mut file);
        match locked {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(taken(&path, holder.as_ref(), "")),
            // A file system without locks: the time of the file is all there is.
            Err(TryLockError::Error(e)) if e.kind() == std::io::ErrorKind::Unsupported => {}
            Err(TryLockError::Error(e)) => return Err(Error::write(&path)(e)),
        }
        let machine = machine();
        if let Some(holder) = holder.filter(|holder| holder.machine != machine)
            && age(&file).is_some_and(|age| age < STALE_AFTER)
        {
            let wait = format!(
                " (if that run was killed, its lock counts as left behind {} seconds after its end)",
                STALE_AFTER.as_secs()
            );
            return Err(taken(&path, Some(&holder), &wait));
        }
        let holder = Holder { process: std::process::id(), machine };
        write(&mut file, &holder).map_err(Error::write(&path))?;
        let renewal = file.try_clone().ok().map(renew);
        Ok(Self { path, renewal, _file: file })
    }
}

impl Drop for RunLock {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.renewal.take() {
            drop(stop);
            let _ = thread.join();
        }
        // Removed while it is still locked: nobody can have taken it over.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A thread that renews the file's time until its sender is dropped.
fn renew(file: File) -> (Sender<()>, JoinHandle<()>) {
    let (stop, stopped) = channel::<()>();
    let thread = std::thread::spawn(move || {
        while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(RENEWED_EVERY) {
            // Where the time cannot be set, the operating system's lock still holds.
            let _ = file.set_modified(SystemTime::now());
        }
    });
    (stop, thread)
}

fn read(file: &mut File) -> Option<Holder> {
    let mut text = String::new();
    file.take(4096).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

fn write(file: &mut File, holder: &Holder) -> std::io::Result<()> {
    let json = serde_json::to_string(holder).map_err(std::io::Error::other)?;
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(json.as_bytes())?;
    file.set_modified(SystemTime::now())
}

fn age(file: &File) -> Option<Duration> {
    // A time in the future, by another machine's clock, is a fresh one.
    Some(SystemTime::now().duration_since(file.metadata().ok()?.modified().ok()?).unwrap_or_default())
}

fn machine() -> String {
    sysinfo::System::host_name().unwrap_or_else(|| "unknown".to_owned())
}

fn taken(path: &Path, holder: Option<&Holder>, more: &str) -> Error {
    let who = holder.map_or_else(
        || "another run".to_owned(),
        |holder| format!("process {} on {}", holder.process, holder.machine),
    );
    Error::format(
        path,
        format!("{who} is training into this folder{more}; wait for it, or choose another output folder"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_locked_once_and_free_again_after_its_run() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("run");
        let lock = RunLock::acquire(&output).unwrap();
        let error = RunLock::acquire(&output).unwrap_err().to_string();
        assert!(error.contains(&format!("process {} on", std::process::id())), "{error}");
        drop(lock);
        assert!(!output.join(LOCK).exists());
        RunLock::acquire(&output).unwrap();
    }

    #[test]
    fn a_lock_that_a_killed_run_left_is_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(LOCK);
        let left = |machine: &str, age: Duration| {
            let json = serde_json::to_string(&Holder { process: 1, machine: machine.into() }).unwrap();
            std::fs::write(&path, json).unwrap();
            File::options().write(true).open(&path).unwrap().set_modified(SystemTime::now() - age).unwrap();
        };
        left(&machine(), Duration::ZERO);
        drop(RunLock::acquire(folder.path()).unwrap());
        left("another-machine", STALE_AFTER);
        drop(RunLock::acquire(folder.path()).unwrap());
        // What is no lock of ours is overwritten too: the name is ours.
        std::fs::write(&path, b"\xff").unwrap();
        drop(RunLock::acquire(folder.path()).unwrap());
        left("another-machine", Duration::from_secs(1));
        let error = RunLock::acquire(folder.path()).unwrap_err().to_string();
        assert!(error.contains("process 1 on another-machine") && error.contains("120 seconds"), "{error}");
    }
}
