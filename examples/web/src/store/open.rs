//! Opening a data folder: which ones are used, which are refused, and what is said then.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, Result, ensure};
use rusqlite::{Connection, OptionalExtension};
use tracing::{info, warn};
use uno_models::output::Settings;

use super::database::{self, Kind};
use super::{Store, Strays, removals};
use crate::disk::Disk;
use crate::folder::{
    Contents, DATABASE, DATABASE_PARTS, Folder, FolderId, listed, make_private_folder, marker_of,
    pictures_in, survey, unwritable,
};
use crate::job::JobId;

const REBUILD: &str = "start with --rebuild, which makes the history anew from the settings beside the pictures (jobs that \
    waited are not in it)";

/// See [`Store::open`].
pub fn open(given: &Path, rebuild: bool) -> Result<Store> {
    make_private_folder(given).map_err(|error| unwritable(given, error))?;
    let path = std::path::absolute(given)?;

    // 1. Nothing is written before it is known whose folder this is.
    let marker = marker_of(&path)?;
    let contents = survey(&path).map_err(|error| unwritable(&path, error))?;
    let has_database = check_database_file(&path, &contents, marker.is_some(), rebuild)?;

    // 2. The folder is ours alone from here on.
    let folder = Folder::take(path.clone())?;
    let (connection, id) = if has_database {
        open_database(&folder, marker.as_ref(), &contents, rebuild)?
    } else {
        // A log without its database is of no use to the new one, and SQLite would delete it.
        put_database_aside(&folder, "its database was missing")?;
        let id = marker.clone().map_or_else(JobId::random, Ok)?;
        (database::connect(&path.join(DATABASE), true)?, id)
    };
    database::prepare(&connection, &id)?;
    if marker.is_none() {
        folder.mark(&id)?;
    }

    // 3. What the database does not know of it.
    let strays = strays(&folder, &connection, &contents)?;
    if !contents.foreign.is_empty() {
        info!(
            count = contents.foreign.len(),
            "{}: what this program has not made is left as it is: {}",
            given.display(),
            listed(&contents.foreign)
        );
    }
    Ok(Store {
        connection: Mutex::new(connection),
        folder,
        disk: Disk::new(given),
        strays: Mutex::new(strays),
    })
}

/// Whether there is a database with something in it.
///
/// # Errors
///
/// There is none, and a new one must not be made here.
fn check_database_file(path: &Path, contents: &Contents, is_marked: bool, rebuild: bool) -> Result<bool> {
    let size = |name: &str| match path.join(name).metadata() {
        Ok(file) => Ok(Some(file.len())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("{name} cannot be looked at")),
    };
    let (database, [log, _, journal]) = (size(DATABASE)?, DATABASE_PARTS.map(size));
    let has_log = log?.is_some_and(|bytes| bytes > 0) || journal?.is_some_and(|bytes| bytes > 0);
    if database.is_some_and(|bytes| bytes > 0 || has_log) {
        return Ok(true);
    }
    let state = if database.is_some() { "empty" } else { "missing" };
    let mut found = found(contents);
    if has_log {
        found.push(format!("{}, the log of a database that is gone,", DATABASE_PARTS[0]));
    }
    ensure!(
        rebuild || found.is_empty(),
        "{DATABASE} is {state}, but there are {}. Nothing was changed. Put the database back (a copy made with --backup), or {REBUILD}",
        found.join(" and ")
    );
    ensure!(
        is_marked || !found.is_empty() || contents.foreign.is_empty(),
        "it is no data folder of this program and holds other things ({}); give a new or an empty folder, such as --data {}",
        listed(&contents.foreign),
        path.join("uno-web").display()
    );
    Ok(false)
}

/// What there is of this program's, in words.
fn found(contents: &Contents) -> Vec<String> {
    let Contents { jobs, references, .. } = contents;
    let mut found = Vec::new();
    if !jobs.is_empty() {
        found.push(format!("pictures of {} jobs ({})", jobs.len(), listed(jobs)));
    }
    if !references.is_empty() {
        found.push(format!("{} references", references.len()));
    }
    found
}

/// The database of the folder, and the folder's id; a new one where the old one is put aside.
fn open_database(
    folder: &Folder,
    marker: Option<&FolderId>,
    contents: &Contents,
    rebuild: bool,
) -> Result<(Connection, FolderId)> {
    let path = folder.path().join(DATABASE);
    let connection = database::connect(&path, false)?;
    let kind = database::inspect(&connection).context(DATABASE)?;
    let new_id = || marker.cloned().map_or_else(JobId::random, Ok);
    let why = match kind {
        Kind::Own { folder: of, jobs } => match (of, marker) {
            (Some(of), Some(marker)) if of != *marker => {
                ensure!(
                    rebuild,
                    "{DATABASE} belongs to another data folder (its id is {of}, this folder's is {marker}). Nothing was changed. Put \
                     this folder's own database back; or move uno-web.json away, if this one is to be the folder's from now on; or \
                     {REBUILD}"
                );
                "it belongs to another data folder"
            }
            (of, _) => {
                ensure!(
                    rebuild || jobs > 0 || contents.jobs.is_empty() || is_removed(&connection, contents)?,
                    "{DATABASE} has no jobs, but there are {}. Nothing was changed. Put the right database back (a copy made with \
                     --backup), or {REBUILD}",
                    found(contents).join(" and ")
                );
                if marker.is_none() {
                    info!(
                        "{}: taken over from an earlier version, or without its marker",
                        folder.path().display()
                    );
                }
                let id = of.map_or_else(new_id, Ok)?;
                return Ok((connection, id));
            }
        },
        Kind::Blank => {
            let found = found(contents);
            ensure!(
                rebuild || found.is_empty(),
                "{DATABASE} is empty, but there are {}. Nothing was changed. Put the database back (a copy made with --backup), or \
                 {REBUILD}",
                found.join(" and ")
            );
            ensure!(
                marker.is_some() || !found.is_empty() || contents.foreign.is_empty(),
                "it is no data folder of this program and holds other things ({}); give a new or an empty folder",
                listed(&contents.foreign)
            );
            return Ok((connection, new_id()?));
        }
        Kind::Garbled(reason) => {
            ensure!(
                rebuild,
                "{DATABASE} is damaged, or no database ({reason}). Nothing was changed. Put a copy made with --backup in its place, \
                 without uno-web.sqlite-wal and -shm; or {REBUILD}, and the damaged one goes to quarantine/"
            );
            "it is damaged, or no database"
        }
    };
    drop(connection);
    put_database_aside(folder, why)?;
    Ok((database::connect(&path, true)?, new_id()?))
}

/// Whether all pictures that are there are still to be removed.
fn is_removed(connection: &Connection, contents: &Contents) -> Result<bool> {
    let has_table = connection.table_exists(None, "removal")?;
    let removals = if has_table { removals(connection)? } else { Vec::new() };
    Ok(contents.jobs.iter().all(|id| removals.contains(id)))
}

/// Moves a database with all that belongs to it into the quarantine.
fn put_database_aside(folder: &Folder, why: &str) -> Result<()> {
    let names: Vec<PathBuf> = std::iter::once(DATABASE).chain(DATABASE_PARTS).map(PathBuf::from).collect();
    folder.put_aside(&names, why).map_err(|error| unwritable(folder.path(), error))?;
    Ok(())
}

/// What the database does not know of what lies in the folder.
pub fn strays(folder: &Folder, connection: &Connection, contents: &Contents) -> Result<Strays> {
    let is_there = |sql: &str, id: &str| {
        let found = connection.prepare_cached(sql)?.query_row([id], |_| Ok(())).optional()?;
        Ok::<_, rusqlite::Error>(found.is_some())
    };
    let mut strays = Strays::default();
    for id in &contents.jobs {
        let sql = "SELECT 1 FROM job WHERE id = ?1 UNION ALL SELECT 1 FROM removal WHERE job = ?1";
        if !is_there(sql, id.as_str())? {
            strays.wanted.extend(references_of(&folder.pictures_of(id)));
            strays.jobs.push(id.clone());
        }
    }
    for id in &contents.references {
        if !is_there("SELECT 1 FROM reference WHERE id = ?1", id)? {
            strays.references.push(id.clone());
        }
    }
    Ok(strays)
}

/// The references that pictures in a folder were made with.
fn references_of(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for n in pictures_in(folder) {
        match settings_of(folder, n) {
            Ok(settings) => {
                found.extend(settings.references.into_iter().map(|reference| reference.file.sha256))
            }
            Err(error) => warn!("{error}"),
        }
    }
    found
}

/// The settings of a picture: of the file beside it, else its own.
///
/// # Errors
///
/// Neither has any.
pub fn settings_of(folder: &Path, n: usize) -> uno_models::Result<Settings> {
    let path = folder.join(format!("{n}.png"));
    Settings::read(path.with_extension("json")).or_else(|_| Settings::read(&path))
}
