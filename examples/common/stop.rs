//! Ending a program that works for long: by Ctrl-C, a scheduler's SIGTERM, or a terminal that closes (SIGHUP).

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};

/// Set by the first signal; the work at hand looks at it where it can be gone on with later.
#[derive(Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Watches for the signals. A second Ctrl-C ends the program at once, for those who do not want to wait. SIGTERM and SIGHUP
    /// never do: some schedulers send both, or one several times, and end what stays too long by themselves.
    pub fn watch() -> std::io::Result<Self> {
        let stop = Self::default();
        signal_hook::flag::register_conditional_shutdown(SIGINT, 128 + SIGINT, stop.0.clone())?;
        #[cfg(unix)]
        let signals = [SIGINT, SIGTERM, signal_hook::consts::SIGHUP];
        #[cfg(not(unix))]
        let signals = [SIGINT, SIGTERM];
        for signal in signals {
            signal_hook::flag::register(signal, stop.0.clone())?;
        }
        Ok(stop)
    }

    /// Whether there was a signal.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// A line on standard error. `eprintln` panics where nobody reads any more; a closed terminal must not end the work.
pub fn say(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Whether an error is the end that was asked for.
pub fn is_stop(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<uno_models::Error>();
    matches!(error, Some(uno_models::Error::Core(uno_core::Error::Cancelled { .. })))
}
