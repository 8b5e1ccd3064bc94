//! The database: jobs and references, as they survive the end of the program.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use rusqlite::types::Type;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, Transaction, params};
use tracing::warn;

use crate::job::{Job, JobId, JobSettings, Reference, State, now};

/// Says that a database is this program's ("unow").
const APPLICATION: i32 = 0x756e_6f77;
/// Version of the tables.
const VERSION: i32 = 1;
/// How often work at the same picture may end with the whole server.
const MOST_ATTEMPTS: i64 = 2;

const TABLES: &str = "
    CREATE TABLE job (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        state TEXT NOT NULL,
        created REAL NOT NULL,
        started REAL,
        finished REAL,
        settings TEXT NOT NULL,
        pictures INTEGER NOT NULL DEFAULT 0,  -- finished ones; they are made in order
        notices TEXT NOT NULL DEFAULT '[]',
        error TEXT,
        attempts INTEGER NOT NULL DEFAULT 0,  -- how often work at the next picture began
        attached INTEGER NOT NULL             -- whether a client waits for its end
    ) STRICT;
    CREATE INDEX job_state ON job (state);
    CREATE TABLE reference (
        id TEXT PRIMARY KEY,
        width INTEGER NOT NULL,
        height INTEGER NOT NULL,
        used REAL NOT NULL                    -- when it was last of use
    ) STRICT;
    CREATE TABLE job_reference (
        job INTEGER NOT NULL REFERENCES job (number) ON DELETE CASCADE,
        reference TEXT NOT NULL REFERENCES reference (id),
        PRIMARY KEY (job, reference)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX job_reference_reference ON job_reference (reference);";

const COLUMNS: &str = "id, state, created, started, finished, settings, pictures, notices, error";

/// The database of one data folder.
pub struct Store {
    connection: Mutex<Connection>,
    folder: PathBuf,
}

/// Whether a job was put into the database.
#[derive(Debug, PartialEq, Eq)]
pub enum Inserted {
    Yes,
    /// This reference is not there (any more).
    NoReference(String),
}

impl Store {
    /// Opens the database in a folder, which is made if it is not there. Nobody else can open it until this is dropped.
    ///
    /// # Errors
    ///
    /// A folder that cannot be written to, that another server uses, or whose database is of another program or version.
    pub fn open(folder: &Path) -> anyhow::Result<Self> {
        let cannot = || format!("--data {}: cannot be used", folder.display());
        make_private_folder(folder).with_context(cannot)?;
        let folder = std::path::absolute(folder).with_context(cannot)?;
        let path = folder.join("uno-web.sqlite");
        let connection = Connection::open(&path).with_context(cannot)?;
        prepare(&connection).map_err(|error| match error.downcast_ref::<rusqlite::Error>() {
            Some(e) if e.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => anyhow::anyhow!(
                "--data {}: another server uses this folder; stop it, or give another folder",
                folder.display()
            ),
            _ => error.context(format!("{}: cannot be used as the database of this program", path.display())),
        })?;
        Ok(Self { connection: Mutex::new(connection), folder })
    }

    /// The data folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder with the pictures of a job.
    pub fn pictures_of(&self, id: &JobId) -> PathBuf {
        self.folder.join("pictures").join(id.as_str())
    }

    /// Removes pictures without a job, which a server leaves that ends while it removes one.
    pub fn remove_strays(&self) -> rusqlite::Result<()> {
        for entry in std::fs::read_dir(self.folder.join("pictures")).into_iter().flatten().flatten() {
            let is_known = match entry.file_name().to_str().and_then(|name| name.parse().ok()) {
                Some(id) => self.has_job(&id)?,
                // Not made by this program.
                None => true,
            };
            if !is_known && let Err(error) = std::fs::remove_dir_all(entry.path()) {
                warn!("{} cannot be removed: {error}", entry.path().display());
            }
        }
        Ok(())
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a job into the queue. `attached` says that it is of no use once its client has gone.
    pub fn insert_job(
        &self,
        id: &JobId,
        settings: &JobSettings,
        created: f64,
        attached: bool,
    ) -> rusqlite::Result<Inserted> {
        let json = to_json(settings)?;
        let mut connection = self.connection();
        let transaction = connection.transaction()?;
        transaction.execute(
            "INSERT INTO job (id, state, created, settings, attached) VALUES (?1, 'queued', ?2, ?3, ?4)",
            params![id.as_str(), created, json, attached],
        )?;
        let number = transaction.last_insert_rowid();
        for reference in &settings.references {
            let known = transaction
                .execute("UPDATE reference SET used = ?2 WHERE id = ?1", params![reference.id, created])?;
            if known == 0 {
                return Ok(Inserted::NoReference(reference.id.clone()));
            }
            transaction.execute(
                "INSERT OR IGNORE INTO job_reference (job, reference) VALUES (?1, ?2)",
                params![number, reference.id],
            )?;
        }
        transaction.commit()?;
        Ok(Inserted::Yes)
    }

    /// One job; what only a running server knows of it is left out.
    pub fn job(&self, id: &JobId) -> rusqlite::Result<Option<Job>> {
        let sql = format!("SELECT {COLUMNS} FROM job WHERE id = ?1");
        self.connection().prepare_cached(&sql)?.query_row([id.as_str()], read_job).optional()
    }

    /// At most `limit` jobs, newest first, older than `before`, and whether there are more; `None` if `before` is not there.
    pub fn jobs(&self, limit: usize, before: Option<&JobId>) -> rusqlite::Result<Option<(Vec<Job>, bool)>> {
        let connection = self.connection();
        let number = match before {
            None => i64::MAX,
            Some(id) => {
                let number = connection
                    .query_row("SELECT number FROM job WHERE id = ?1", [id.as_str()], |row| row.get(0))
                    .optional()?;
                let Some(number) = number else { return Ok(None) };
                number
            }
        };
        let sql = format!("SELECT {COLUMNS} FROM job WHERE number < ?1 ORDER BY number DESC LIMIT ?2");
        let mut statement = connection.prepare_cached(&sql)?;
        let rows = statement.query_map(params![number, limit as i64 + 1], read_job)?;
        let mut jobs = rows.collect::<rusqlite::Result<Vec<_>>>()?;
        let more = jobs.len() > limit;
        jobs.truncate(limit);
        Ok(Some((jobs, more)))
    }

    /// Puts in order what a server left that ended in the midst of work, and gives the jobs that wait, oldest first.
    pub fn recover(&self) -> rusqlite::Result<Vec<Job>> {
        let mut connection = self.connection();
        let transaction = connection.transaction()?;
        transaction.execute(
            "UPDATE job SET state = 'cancelled', finished = ?1 WHERE state IN ('queued', 'running') AND attached",
            [now()],
        )?;
        transaction.execute(
            "UPDATE job SET state = 'failed', finished = ?1, error = ?3 WHERE state = 'running' AND attempts >= ?2",
            params![
                now(),
                MOST_ATTEMPTS,
                format!(
                    "the server ended {MOST_ATTEMPTS} times while it worked at this picture (it ran out of memory, crashed or was \
                     killed), so it is not tried again; its log may say why"
                )
            ],
        )?;
        transaction.execute("UPDATE job SET state = 'queued' WHERE state = 'running'", [])?;
        let waiting = {
            let sql = format!("SELECT {COLUMNS} FROM job WHERE state = 'queued' ORDER BY number");
            let mut statement = transaction.prepare(&sql)?;
            let rows = statement.query_map([], read_job)?;
            rows.collect::<rusqlite::Result<Vec<_>>>()?
        };
        transaction.commit()?;
        Ok(waiting)
    }

    /// Work at a job begins.
    pub fn begin(&self, id: &JobId, started: f64) -> rusqlite::Result<()> {
        self.update(
            "UPDATE job SET state = 'running', started = coalesce(started, ?2), attempts = attempts + 1 WHERE id = ?1",
            params![id.as_str(), started],
        )
    }

    /// So many pictures of a job are finished.
    pub fn set_pictures(&self, id: &JobId, count: usize) -> rusqlite::Result<()> {
        // A picture that is finished shows that the server survives this job; the next one starts from 1.
        self.update(
            "UPDATE job SET pictures = ?2, attempts = 1 WHERE id = ?1",
            params![id.as_str(), count as i64],
        )
    }

    /// What was noticed of a job.
    pub fn set_notices(&self, id: &JobId, notices: &[String]) -> rusqlite::Result<()> {
        self.update("UPDATE job SET notices = ?2 WHERE id = ?1", params![id.as_str(), to_json(notices)?])
    }

    /// A running job goes back into the queue, to its old place.
    pub fn hand_back(&self, id: &JobId) -> rusqlite::Result<()> {
        self.update(
            "UPDATE job SET state = 'queued', attempts = 0 WHERE id = ?1 AND state = 'running'",
            params![id.as_str()],
        )
    }

    /// A job has ended.
    pub fn end(&self, id: &JobId, state: State, error: Option<&str>, finished: f64) -> rusqlite::Result<()> {
        self.update(
            "UPDATE job SET state = ?2, error = ?3, finished = ?4, attached = 0 WHERE id = ?1",
            params![id.as_str(), state.name(), error, finished],
        )
    }

    /// Removes a job; its references count as used until now.
    pub fn remove_job(&self, id: &JobId) -> rusqlite::Result<()> {
        let mut connection = self.connection();
        let transaction = connection.transaction()?;
        transaction.execute(
            "UPDATE reference SET used = ?2 WHERE id IN
                (SELECT reference FROM job_reference JOIN job ON job.number = job_reference.job WHERE job.id = ?1)",
            params![id.as_str(), now()],
        )?;
        transaction.execute("DELETE FROM job WHERE id = ?1", [id.as_str()])?;
        transaction.commit()
    }

    /// Whether there is such a job.
    pub fn has_job(&self, id: &JobId) -> rusqlite::Result<bool> {
        let found = self.connection().query_row("SELECT 1 FROM job WHERE id = ?1", [id.as_str()], |_| Ok(()));
        Ok(found.optional()?.is_some())
    }

    /// Records a reference, or that it is of use again.
    pub fn insert_reference(&self, reference: &Reference) -> rusqlite::Result<()> {
        let Reference { id, width, height } = reference;
        self.update(
            "INSERT INTO reference (id, width, height, used) VALUES (?1, ?2, ?3, ?4)
                ON CONFLICT (id) DO UPDATE SET used = excluded.used",
            params![id, width, height, now()],
        )
    }

    /// A reference, which counts as used now.
    pub fn use_reference(&self, id: &str) -> rusqlite::Result<Option<Reference>> {
        let sql = "UPDATE reference SET used = ?2 WHERE id = ?1 RETURNING id, width, height";
        let read = |row: &Row<'_>| Ok(Reference { id: row.get(0)?, width: row.get(1)?, height: row.get(2)? });
        self.connection().query_row(sql, params![id, now()], read).optional()
    }

    /// Forgets references that no job has and that were not used since `before`; those that are forgotten.
    pub fn forget_references(&self, before: f64) -> rusqlite::Result<Vec<String>> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(
            "DELETE FROM reference WHERE used < ?1 AND id NOT IN (SELECT reference FROM job_reference) RETURNING id",
        )?;
        let ids = statement.query_map([before], |row| row.get(0))?;
        ids.collect()
    }

    /// Whether a reference is known.
    pub fn has_reference(&self, id: &str) -> rusqlite::Result<bool> {
        let found = self.connection().query_row("SELECT 1 FROM reference WHERE id = ?1", [id], |_| Ok(()));
        Ok(found.optional()?.is_some())
    }

    fn update(&self, sql: &str, values: &[&dyn rusqlite::ToSql]) -> rusqlite::Result<()> {
        self.connection().prepare_cached(sql)?.execute(values).map(drop)
    }
}

/// A folder that is for this user alone: prompts and pictures are private.
fn make_private_folder(folder: &Path) -> std::io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

/// Locks the database and makes its tables.
fn prepare(connection: &Connection) -> anyhow::Result<()> {
    connection.busy_timeout(Duration::from_secs(1))?;
    // Exclusive: the lock is held from the first access to the end, so that no second server works at the same queue.
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // What a client was promised is on disk, even if the machine fails.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", "ON")?;
    let transaction = Transaction::new_unchecked(connection, rusqlite::TransactionBehavior::Exclusive)?;
    let pragma = |name: &str| transaction.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    match (pragma("application_id")?, pragma("user_version")?) {
        (0, 0) => {
            transaction.execute_batch(TABLES)?;
            transaction.pragma_update(None, "application_id", APPLICATION)?;
            transaction.pragma_update(None, "user_version", VERSION)?;
        }
        (APPLICATION, VERSION) => {}
        (APPLICATION, version) => {
            anyhow::bail!("it is of version {version}, wanted {VERSION}; use the program that made it")
        }
        (other, _) => ensure!(other == APPLICATION, "it is of another program"),
    }
    transaction.commit()?;
    Ok(())
}

fn read_job(row: &Row<'_>) -> rusqlite::Result<Job> {
    let wrong = |column: usize, error: &dyn std::error::Error| {
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error.to_string().into())
    };
    let json = |column: usize| row.get::<_, String>(column);
    let id: JobId = json(0)?.parse().map_err(|_| wrong(0, &std::fmt::Error))?;
    let state = State::from_name(&json(1)?).ok_or_else(|| wrong(1, &std::fmt::Error))?;
    let settings: JobSettings = serde_json::from_str(&json(5)?).map_err(|e| wrong(5, &e))?;
    let pictures = usize::try_from(row.get::<_, i64>(6)?).unwrap_or(0);
    Ok(Job {
        pictures: Job::pictures_of(&id, &settings, pictures),
        id,
        state,
        created: row.get(2)?,
        started: row.get(3)?,
        finished: row.get(4)?,
        settings,
        position: None,
        progress: None,
        notices: serde_json::from_str(&json(7)?).map_err(|e| wrong(7, &e))?,
        error: row.get(8)?,
    })
}

fn to_json<T: serde::Serialize + ?Sized>(value: &T) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

#[cfg(test)]
pub mod tests;
