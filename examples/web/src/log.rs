//! The log, on standard error.

use tracing::Level;

use crate::arguments::LogForm;

/// Begins to log, as text or as one JSON object a line.
pub fn start(form: LogForm) {
    let log =
        tracing_subscriber::fmt().with_max_level(Level::INFO).with_writer(std::io::stderr).with_target(false);
    match form {
        LogForm::Text => log.with_ansi(false).init(),
        LogForm::Json => log.json().flatten_event(true).init(),
    }
    // A panic is caught where it happens; that it did belongs into the log.
    std::panic::set_hook(Box::new(|panic| tracing::error!("panic: {panic}")));
}
