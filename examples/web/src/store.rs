//! The database: jobs and references, as they survive the end of the program.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};
use tracing::warn;

use crate::disk::{Disk, Trouble, Unwritable};
use crate::folder::{Folder, listed, survey};
use crate::job::{Job, JobId, JobSettings, Reference, State, now};

pub mod database;
mod open;

pub use open::settings_of;

/// How often work at the same picture may end with the whole server.
const MOST_ATTEMPTS: i64 = 2;

const COLUMNS: &str = "id, state, created, started, finished, settings, pictures, notices, error";

/// Shorthand for results of the database.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// Why something was not read or recorded.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk does not take it; later it may.
    #[error(transparent)]
    Unwritable(#[from] Unwritable),
    /// Something else.
    #[error("database: {0}")]
    Database(rusqlite::Error),
}

/// The database of one data folder.
pub struct Store {
    connection: Mutex<Connection>,
    folder: Folder,
    disk: Disk,
    strays: Mutex<Strays>,
}

/// What was found in the folder that the database does not know. It is left as it is.
#[derive(Debug, Default)]
pub struct Strays {
    /// Jobs that have pictures, and no row.
    pub jobs: Vec<JobId>,
    /// References without a record.
    pub references: Vec<String>,
    /// References that pictures of these jobs were made with.
    pub wanted: BTreeSet<String>,
}

/// Whether a job was put into the database.
#[derive(Debug, PartialEq, Eq)]
pub enum Inserted {
    Yes,
    /// This reference is not there (any more).
    NoReference(String),
}

impl Store {
    /// Opens the database in a folder, which is made if it is not there. Nobody else can open it until this is dropped. With
    /// `rebuild` it may be a new one beside pictures, and what is no sound database is put aside.
    ///
    /// # Errors
    ///
    /// A folder that is not this program's, that cannot be written to, or that another server uses; a database that is lost,
    /// damaged, or of another folder, program or version.
    pub fn open(given: &Path, rebuild: bool) -> anyhow::Result<Self> {
        open::open(given, rebuild).map_err(|error| match error.downcast::<Unwritable>() {
            Ok(unwritable) => Unwritable::new(given, unwritable.trouble).into(),
            Err(error) => match error.downcast_ref::<rusqlite::Error>().and_then(Trouble::of_sqlite) {
                Some(trouble) => Unwritable::new(given, trouble).into(),
                None => error.context(format!("--data {}: cannot be used", given.display())),
            },
        })
    }

    /// The data folder.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// The state of the disk that it is on.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// What the database does not know, as of the last look.
    pub fn strays(&self) -> MutexGuard<'_, Strays> {
        self.strays.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks for what the database does not know.
    ///
    /// # Errors
    ///
    /// A folder that cannot be read.
    pub fn look_for_strays(&self) -> anyhow::Result<()> {
        let contents = survey(self.folder.path())?;
        let strays = open::strays(&self.folder, &self.connection(), &contents)?;
        *self.strays() = strays;
        Ok(())
    }

    /// Looks whether the disk takes what is written to it.
    pub fn look_at_disk(&self) {
        self.disk.look(|| {
            let written = database::write_same(&self.connection());
            written.map_err(|error| {
                Trouble::of_sqlite(&error).unwrap_or_else(|| Trouble::Failing(error.to_string()))
            })
        });
    }

    /// Finishes what a server has left that ended while it removed jobs, and says what is unknown.
    pub fn tidy(&self) -> Result<()> {
        for id in self.with(|connection| removals(connection))? {
            self.remove_pictures(&id);
        }
        let strays = self.strays();
        let Strays { jobs, references, .. } = &*strays;
        if !jobs.is_empty() {
            warn!(
                count = jobs.len(),
                "pictures of jobs that the database does not know are left as they are; --rebuild takes them into the history: {}",
                listed(jobs)
            );
        }
        if !references.is_empty() {
            warn!(
                count = references.len(),
                "references that the database does not know are left as they are: {}",
                listed(references)
            );
        }
        Ok(())
    }

    /// Removes the pictures of a job that was removed; what cannot be removed now is when the server starts next.
    pub fn remove_pictures(&self, id: &JobId) {
        let removed = self.folder.remove_pictures(id);
        let forget = || {
            self.with(|connection| {
                connection.execute("DELETE FROM removal WHERE job = ?1", [id.as_str()]).map(drop)
            })
        };
        match removed {
            Err(error) => {
                warn!("pictures of {id} cannot be removed: {error}; they are when the server starts next")
            }
            Ok(()) => {
                if let Err(error) = forget() {
                    warn!("{error}; pictures of {id} are looked for again when the server starts next");
                }
            }
        }
    }

    /// Does something with the database; an error that is the disk's is noted there.
    pub fn with<T>(&self, f: impl FnOnce(&mut Connection) -> rusqlite::Result<T>) -> Result<T> {
        f(&mut self.connection()).map_err(|error| match Trouble::of_sqlite(&error) {
            Some(trouble) => self.disk.note(trouble).into(),
            None => StoreError::Database(error),
        })
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
    ) -> Result<Inserted> {
        self.with(|connection| {
            let json = to_json(settings)?;
            let transaction = connection.transaction()?;
            transaction.execute(
                "INSERT INTO job (id, state, created, settings, attached) VALUES (?1, 'queued', ?2, ?3, ?4)",
                params![id.as_str(), created, json, attached],
            )?;
            let number = transaction.last_insert_rowid();
            for reference in &settings.references {
                let known = transaction.execute(
                    "UPDATE reference SET used = ?2 WHERE id = ?1",
                    params![reference.id, created],
                )?;
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
        })
    }

    /// Records jobs that have ended, with references that they were made with: what is found beside pictures.
    pub fn insert_found(&self, jobs: &[Job]) -> Result<()> {
        self.with(|connection| {
            let transaction = connection.transaction()?;
            for job in jobs {
                transaction.execute(
                    "INSERT INTO job (id, state, created, started, finished, settings, pictures, notices, attached)
                        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 0)",
                    params![
                        job.id.as_str(),
                        job.state.name(),
                        job.created,
                        job.started,
                        job.finished,
                        to_json(&job.settings)?,
                        job.pictures.len() as i64,
                        to_json(&job.notices)?
                    ],
                )?;
                let number = transaction.last_insert_rowid();
                for Reference { id, width, height } in &job.settings.references {
                    transaction.execute(
                        "INSERT OR IGNORE INTO reference (id, width, height, used) VALUES (?1, ?2, ?3, ?4)",
                        params![id, width, height, now()],
                    )?;
                    transaction.execute(
                        "INSERT OR IGNORE INTO job_reference (job, reference) VALUES (?1, ?2)",
                        params![number, id],
                    )?;
                }
            }
            transaction.commit()
        })
    }

    /// One job; what only a running server knows of it is left out.
    pub fn job(&self, id: &JobId) -> Result<Option<Job>> {
        let sql = format!("SELECT {COLUMNS} FROM job WHERE id = ?1");
        self.with(|connection| connection.prepare_cached(&sql)?.query_row([id.as_str()], read_job).optional())
    }

    /// At most `limit` jobs, newest first, older than `before`, and whether there are more; `None` if `before` is not there.
    pub fn jobs(&self, limit: usize, before: Option<&JobId>) -> Result<Option<(Vec<Job>, bool)>> {
        self.with(|connection| {
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
        })
    }

    /// Puts in order what a server left that ended in the midst of work, and gives the jobs that wait, oldest first.
    pub fn recover(&self) -> Result<Vec<Job>> {
        let reason = format!(
            "the server ended {MOST_ATTEMPTS} times while it worked at this picture (it ran out of memory, crashed or was \
             killed), so it is not tried again; its log may say why"
        );
        self.with(|connection| {
            let transaction = connection.transaction()?;
            if self.folder.was_stopped() {
                // The disk did not take that they were handed back.
                transaction.execute("UPDATE job SET attempts = 0 WHERE state = 'running'", [])?;
            }
            transaction.execute(
                "UPDATE job SET state = 'cancelled', finished = ?1 WHERE state IN ('queued', 'running') AND attached",
                [now()],
            )?;
            transaction.execute(
                "UPDATE job SET state = 'failed', finished = ?1, error = ?3 WHERE state = 'running' AND attempts >= ?2",
                params![now(), MOST_ATTEMPTS, reason],
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
        })
    }

    /// Work at a job begins.
    pub fn begin(&self, id: &JobId, started: f64) -> Result<()> {
        self.update(
            "UPDATE job SET state = 'running', started = coalesce(started, ?2), attempts = attempts + 1 WHERE id = ?1",
            params![id.as_str(), started],
        )
    }

    /// So many pictures of a job are finished.
    pub fn set_pictures(&self, id: &JobId, count: usize) -> Result<()> {
        // A picture that is finished shows that the server survives this job; the next one starts from 1.
        self.update(
            "UPDATE job SET pictures = ?2, attempts = 1 WHERE id = ?1",
            params![id.as_str(), count as i64],
        )
    }

    /// What was noticed of a job.
    pub fn set_notices(&self, id: &JobId, notices: &[String]) -> Result<()> {
        let json = to_json(notices).map_err(StoreError::Database)?;
        self.update("UPDATE job SET notices = ?2 WHERE id = ?1", params![id.as_str(), json])
    }

    /// A running job goes back into the queue, to its old place.
    pub fn hand_back(&self, id: &JobId) -> Result<()> {
        self.update(
            "UPDATE job SET state = 'queued', attempts = 0 WHERE id = ?1 AND state = 'running'",
            params![id.as_str()],
        )
    }

    /// A job has ended.
    pub fn end(&self, id: &JobId, state: State, error: Option<&str>, finished: f64) -> Result<()> {
        self.update(
            "UPDATE job SET state = ?2, error = ?3, finished = ?4, attached = 0 WHERE id = ?1",
            params![id.as_str(), state.name(), error, finished],
        )
    }

    /// Removes a job; its references count as used until now. That its pictures are to be removed is recorded with it.
    pub fn remove_job(&self, id: &JobId) -> Result<()> {
        self.with(|connection| {
            let transaction = connection.transaction()?;
            transaction.execute(
                "UPDATE reference SET used = ?2 WHERE id IN
                    (SELECT reference FROM job_reference JOIN job ON job.number = job_reference.job WHERE job.id = ?1)",
                params![id.as_str(), now()],
            )?;
            transaction.execute("DELETE FROM job WHERE id = ?1", [id.as_str()])?;
            transaction.execute("INSERT OR IGNORE INTO removal (job) VALUES (?1)", [id.as_str()])?;
            transaction.commit()
        })
    }

    /// Records a reference, or that it is of use again.
    pub fn insert_reference(&self, reference: &Reference) -> Result<()> {
        let Reference { id, width, height } = reference;
        self.update(
            "INSERT INTO reference (id, width, height, used) VALUES (?1, ?2, ?3, ?4)
                ON CONFLICT (id) DO UPDATE SET used = excluded.used",
            params![id, width, height, now()],
        )
    }

    /// A reference, which counts as used now, if the disk can take that.
    pub fn use_reference(&self, id: &str) -> Result<Option<Reference>> {
        let read = |row: &Row<'_>| Ok(Reference { id: row.get(0)?, width: row.get(1)?, height: row.get(2)? });
        let used = self.with(|connection| {
            let sql = "UPDATE reference SET used = ?2 WHERE id = ?1 RETURNING id, width, height";
            connection.query_row(sql, params![id, now()], read).optional()
        });
        match used {
            Err(StoreError::Unwritable(_)) => self.with(|connection| {
                let sql = "SELECT id, width, height FROM reference WHERE id = ?1";
                connection.query_row(sql, [id], read).optional()
            }),
            used => used,
        }
    }

    /// References that no job has and that were not used since `before`.
    pub fn idle_references(&self, before: f64) -> Result<Vec<String>> {
        self.with(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT id FROM reference WHERE used < ?1 AND id NOT IN (SELECT reference FROM job_reference)",
            )?;
            let ids = statement.query_map([before], |row| row.get(0))?;
            ids.collect()
        })
    }

    /// Forgets a reference that no job has and that was not used since `before`; whether it is forgotten.
    pub fn forget_reference(&self, id: &str, before: f64) -> Result<bool> {
        self.with(|connection| {
            let sql = "DELETE FROM reference WHERE id = ?1 AND used < ?2 AND id NOT IN (SELECT reference FROM job_reference)";
            Ok(connection.prepare_cached(sql)?.execute(params![id, before])? > 0)
        })
    }

    fn update(&self, sql: &str, values: &[&dyn rusqlite::ToSql]) -> Result<()> {
        self.with(|connection| connection.prepare_cached(sql)?.execute(values).map(drop))
    }
}

/// Jobs whose pictures are still to be removed.
fn removals(connection: &Connection) -> rusqlite::Result<Vec<JobId>> {
    let mut statement = connection.prepare("SELECT job FROM removal")?;
    let ids = statement.query_map([], |row| row.get::<_, String>(0))?;
    Ok(ids.collect::<rusqlite::Result<Vec<_>>>()?.iter().filter_map(|id| id.parse().ok()).collect())
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
