//! A copy of the database while a server works with it.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::folder::DATABASE;
use crate::store::database::{self, Kind};

/// Writes a copy of the database of the data folder `data` to `to`, complete or not at all; how many jobs it has.
///
/// # Errors
///
/// No sound database there; a file at `to`, which is never replaced; a disk that cannot be written to.
pub fn backup(data: &Path, to: &Path) -> Result<usize> {
    let path = data.join(DATABASE);
    let in_folder = || format!("--data {}: {DATABASE}", data.display());
    ensure!(path.exists(), "{} is not there; give the data folder of the server", in_folder());
    ensure!(
        to.symlink_metadata().is_err(),
        "--backup {}: there is something of this name, which is not replaced; give another name, such as one with the date",
        to.display()
    );
    let connection = database::connect(&path, false).with_context(in_folder)?;
    if let Kind::Garbled(reason) = database::inspect(&connection).with_context(in_folder)? {
        bail!("{} is damaged, or no database: {reason}", in_folder());
    }
    let cannot = || format!("--backup {}: cannot be written", to.display());
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let copy = tempfile::NamedTempFile::new_in(parent).with_context(cannot)?;
    database::copy_to(&connection, copy.path()).with_context(cannot)?;
    let jobs = match database::inspect(&database::connect(copy.path(), false)?).with_context(cannot)? {
        Kind::Own { jobs, .. } => jobs,
        Kind::Blank | Kind::Garbled(_) => bail!("{}: the copy is not sound", cannot()),
    };
    copy.as_file().sync_all().with_context(cannot)?;
    copy.persist_noclobber(to).with_context(cannot)?;
    Ok(jobs)
}
