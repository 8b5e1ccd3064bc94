//! Files that appear complete or not at all, and that take nobody's place.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, ErrorKind, Write};
use std::path::Path;

use tempfile::NamedTempFile;

use crate::error::{Error, Result};

/// Writes a file beside its place, then moves it there; a file that is there is replaced.
///
/// # Errors
///
/// What `write` returns; a folder that cannot be made or written to.
pub fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> Result<()> {
    let file = written_beside(path, write)?;
    file.persist(path).map_err(|e| Error::Write { path: path.to_path_buf(), source: e.error })?;
    Ok(())
}

/// Writes a file beside its place, then moves it there if nothing is there; else nothing is changed, and the answer is `false`. Of
/// two processes that do so at once one gets the place.
///
/// # Errors
///
/// What `write` returns; a folder that cannot be made or written to.
pub fn write_new(path: &Path, write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<bool> {
    let failed = |source| Error::Write { path: path.to_path_buf(), source };
    let error = match written_beside(path, write)?.persist_noclobber(path) {
        Ok(_) => return Ok(true),
        Err(error) => error,
    };
    if error.error.kind() == ErrorKind::AlreadyExists {
        return Ok(false);
    }
    // A file system that cannot move a file to a place only if that is free, such as FAT: an empty file takes the place first.
    match OpenOptions::new().write(true).create_new(true).open(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(false),
        Err(_) => return Err(failed(error.error)),
        Ok(_) => {}
    }
    if let Err(error) = error.file.persist(path) {
        // It is empty, and ours.
        let _ = std::fs::remove_file(path);
        return Err(failed(error.error));
    }
    Ok(true)
}

/// A temporary file in the folder of `path`, which is made if need be.
fn written_beside(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> Result<NamedTempFile<File>> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(folder).map_err(Error::write(folder))?;
    let mut builder = tempfile::Builder::new();
    // Temporary files are private by default; results get the permissions that the user's new files have.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(folder).map_err(Error::write(path))?;
    let mut buffered = BufWriter::new(file.as_file_mut());
    write(&mut buffered).and_then(|()| buffered.flush()).map_err(Error::write(path))?;
    drop(buffered);
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.png");
        std::fs::write(&path, b"good").unwrap();
        assert!(write_atomically(&path, |_| Err(std::io::Error::other("full"))).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"good");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_place_that_is_taken_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/x.png");
        assert!(write_new(&path, |file| file.write_all(b"first")).unwrap());
        assert!(!write_new(&path, |file| file.write_all(b"second")).unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"first");
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn of_many_at_once_one_gets_the_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.png");
        let won = std::thread::scope(|scope| {
            let tries = (0..8).map(|i| {
                scope.spawn({
                    let path = &path;
                    move || write_new(path, |file| file.write_all(&[i])).unwrap()
                })
            });
            tries.collect::<Vec<_>>().into_iter().map(|t| t.join().unwrap()).filter(|won| *won).count()
        });
        assert_eq!((won, std::fs::read(&path).unwrap().len()), (1, 1));
    }
}
