//! Forks: the threads that compute exist in the process that started them, and in none that is forked from it.

use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use pyo3::prelude::*;

use crate::error::UnoError;

/// The process that computes, once one does. A forked one inherits the number, and has another itself.
static COMPUTES: AtomicU32 = AtomicU32::new(0);

/// To be called before anything that may compute: the threads for it are started by the first process that does, and whoever
/// waited for them in a process forked from it would wait for ever.
///
/// # Errors
///
/// `UnoError`: this process was forked from one that has computed.
pub(crate) fn check() -> PyResult<()> {
    let this = process::id();
    match COMPUTES.compare_exchange(0, this, Ordering::Relaxed, Ordering::Relaxed) {
        Err(other) if other != this => Err(UnoError::new_err(format!(
            "process {this} was forked from process {other}, in which uno_rs had been used; the threads that compute are in that \
             one only. Start processes anew: multiprocessing.set_start_method(\"spawn\"), multiprocessing_context=\"spawn\" for \
             torch's DataLoader. Or fork before uno_rs is used, and load the model in each process: gunicorn without --preload"
        ))),
        _ => Ok(()),
    }
}
