//! The database as a file: whether it is this program's, of which version and folder, and sound.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Transaction, TransactionBehavior};

use crate::folder::{FolderId, IN_USE};

/// Says that a database is this program's ("unow").
const APPLICATION: i32 = 0x756e_6f77;
/// Version of the tables.
const VERSION: i32 = 2;

/// The tables of version 1.
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

/// What version 2 has beside them.
const SINCE_2: &str = "
    CREATE TABLE folder (id TEXT NOT NULL) STRICT;       -- one row: whose database it is
    CREATE TABLE removal (job TEXT PRIMARY KEY) STRICT;  -- jobs whose pictures are still to be removed";

/// What a file of the database's name is.
#[derive(Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing is in it yet.
    Blank,
    /// This program's.
    Own {
        /// The data folder that it belongs to; version 1 does not say.
        folder: Option<FolderId>,
        /// How many jobs it has.
        jobs: usize,
    },
    /// Damaged, or no database.
    Garbled(String),
}

/// Opens the file at `path`, which is made if it is not there and `may_create`.
pub fn connect(path: &Path, may_create: bool) -> rusqlite::Result<Connection> {
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    flags.set(OpenFlags::SQLITE_OPEN_CREATE, may_create);
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(Duration::from_secs(1))?;
    Ok(connection)
}

/// Looks at a database without changing it.
///
/// # Errors
///
/// One of another program or of a newer version; one that another server holds.
pub fn inspect(connection: &Connection) -> Result<Kind> {
    match look(connection) {
        Ok(kind) => Ok(kind),
        Err(error) => {
            match error.downcast_ref::<rusqlite::Error>().and_then(rusqlite::Error::sqlite_error_code) {
                Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
                    Ok(Kind::Garbled(error.to_string()))
                }
                // Servers of before version 2 hold it so that nobody else may even read.
                Some(ErrorCode::DatabaseBusy) => bail!("{IN_USE}"),
                _ => Err(error),
            }
        }
    }
}

fn look(connection: &Connection) -> Result<Kind> {
    let pragma = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    let count = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    let (application, version) = (pragma("application_id")?, pragma("user_version")?);
    if (application, version) == (0, 0) && count("SELECT count(*) FROM sqlite_master")? == 0 {
        return Ok(Kind::Blank);
    }
    ensure!(
        application == APPLICATION,
        "it is the database of another program (application_id {application:#x}, wanted {APPLICATION:#x}); move it away, or give \
         another folder"
    );
    ensure!(
        (1..=VERSION).contains(&version),
        "it is of version {version}, wanted {VERSION} at most; use the uno-web that made it, or a newer one"
    );
    let check: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if check != "ok" {
        return Ok(Kind::Garbled(check));
    }
    let folder = match version {
        1 => None,
        _ => connection.query_row("SELECT id FROM folder", [], |row| row.get::<_, String>(0)).optional()?,
    };
    let folder = folder.map(|id| id.parse()).transpose();
    let Ok(folder) = folder else { return Ok(Kind::Garbled("its folder has no proper id".into())) };
    Ok(Kind::Own { folder, jobs: count("SELECT count(*) FROM job")? as usize })
}

/// Makes or completes the tables, and lets the database be that of the folder `id`.
///
/// # Errors
///
/// A disk that cannot be written to.
pub fn prepare(connection: &Connection, id: &FolderId) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // What a client was promised is on disk, even if the machine fails.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", "ON")?;
    let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
    let version = transaction.pragma_query_value(None, "user_version", |row| row.get::<_, i32>(0))?;
    if version < 1 {
        transaction.execute_batch(TABLES)?;
        transaction.pragma_update(None, "application_id", APPLICATION)?;
    }
    if version < 2 {
        transaction.execute_batch(SINCE_2)?;
    }
    // A write in any case: what cannot be written to shows now.
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.execute("DELETE FROM folder", [])?;
    transaction.execute("INSERT INTO folder (id) VALUES (?1)", [id.as_str()])?;
    transaction.commit()
}

/// Whether it can be written to: writes what is there anyway.
pub fn write_same(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "user_version", VERSION)
}

/// Writes a copy of a sound database to `path`, an empty file, while others may work at it.
///
/// # Errors
///
/// A name that is no UTF-8; a disk that cannot be written to.
pub fn copy_to(connection: &Connection, path: &Path) -> Result<()> {
    let name = path
        .to_str()
        .with_context(|| format!("{}: the name is no UTF-8, which SQLite wants", path.display()))?;
    connection.execute("VACUUM INTO ?1", [name])?;
    Ok(())
}
