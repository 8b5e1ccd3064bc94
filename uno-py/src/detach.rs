//! The one doorway for long work: the interpreter lock is released, Ctrl-C and exceptions in callbacks stop the work. Forked
//! processes in which it would hang are turned away.

use std::ops::ControlFlow;
use std::sync::Mutex;

use pyo3::prelude::*;
use pyo3::types::PyDict;
use uno_core::traits::{Event, Observer};
use uno_models::checkpoint::{HubPart, Progress};

use crate::{convert, fork};

/// Runs `work` without the interpreter lock. `on_event` is a Python callable, or None, that is called as
/// `on_event(kind, payload)` while it goes on; what it raises stops the work and comes out unchanged.
pub(crate) fn run<T: Send, E: Send>(
    py: Python<'_>,
    on_event: Option<Py<PyAny>>,
    to_exception: impl FnOnce(E) -> PyErr,
    work: impl FnOnce(&Watcher) -> Result<T, E> + Send,
) -> PyResult<T> {
    fork::check()?;
    let watcher = Watcher { on_event, raised: Mutex::new(None) };
    let result = py.detach(|| work(&watcher));
    let raised = watcher.raised.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    match raised {
        Some(exception) => Err(exception),
        None => result.map_err(to_exception),
    }
}

/// Tells Python of events, and remembers what it raised.
pub(crate) struct Watcher {
    on_event: Option<Py<PyAny>>,
    /// What a callback raised, or a signal.
    raised: Mutex<Option<PyErr>>,
}

impl Watcher {
    fn observe(&self, py: Python<'_>, event: &Event<'_>) -> PyResult<()> {
        py.check_signals()?;
        if self.on_event.is_none() {
            return Ok(());
        }
        let payload = PyDict::new(py);
        let kind = match event {
            Event::Stage { name } => {
                payload.set_item("name", name)?;
                "stage"
            }
            Event::Notice { text } => {
                payload.set_item("text", text)?;
                "notice"
            }
            Event::Step { step, total, t, seconds, reused, latent } => {
                payload.set_item("step", step)?;
                payload.set_item("total", total)?;
                payload.set_item("time", t)?;
                payload.set_item("seconds", seconds)?;
                payload.set_item("reused", reused)?;
                payload.set_item("latents", convert::to_numpy(py, (*latent).clone())?)?;
                "step"
            }
            _ => return Ok(()),
        };
        self.call(py, kind, payload)
    }

    pub(crate) fn call(&self, py: Python<'_>, kind: &str, payload: Bound<'_, PyDict>) -> PyResult<()> {
        match &self.on_event {
            Some(on_event) => on_event.call1(py, (kind, payload)).map(drop),
            None => Ok(()),
        }
    }

    /// Calls into Python; what is raised there is remembered, and `false` returned.
    pub(crate) fn attached(&self, f: impl FnOnce(Python<'_>) -> PyResult<()>) -> bool {
        match Python::attach(f) {
            Ok(()) => true,
            Err(exception) => {
                let mut raised = self.raised.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                raised.get_or_insert(exception);
                false
            }
        }
    }

    pub(crate) fn has_raised(&self) -> bool {
        self.raised.lock().unwrap_or_else(std::sync::PoisonError::into_inner).is_some()
    }
}

impl Observer for Watcher {
    fn on_event(&self, event: &Event<'_>) -> ControlFlow<()> {
        if self.attached(|py| self.observe(py, event)) {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    }
}

impl Progress for Watcher {
    fn plan(&self, parts: &[HubPart]) -> bool {
        let line = |p: &HubPart| {
            let gigabytes = p.bytes as f64 / 1e9;
            format!(
                "{}: {gigabytes:.1} GB of {}; licence: {}, {}",
                p.part, p.repo, p.licence.name, p.licence.url
            )
        };
        self.attached(|py| {
            let payload = PyDict::new(py);
            payload.set_item("parts", parts.iter().map(line).collect::<Vec<_>>())?;
            self.call(py, "download_plan", payload)
        })
    }

    fn advanced(&self, part: &HubPart, file: &str, done: u64, total: u64) {
        self.attached(|py| {
            let payload = PyDict::new(py);
            payload.set_item("file", format!("{}/{file}", part.repo))?;
            payload.set_item("done", done)?;
            payload.set_item("total", total)?;
            self.call(py, "download", payload)
        });
    }

    fn note(&self, message: &str) {
        self.attached(|py| {
            let payload = PyDict::new(py);
            payload.set_item("text", message)?;
            self.call(py, "notice", payload)
        });
    }

    fn cancelled(&self) -> bool {
        !self.attached(|py| py.check_signals()) || self.has_raised()
    }
}
