//! Training, as a configuration file says.

use std::ops::ControlFlow;
use std::path::PathBuf;

use pyo3::prelude::*;
use pyo3::types::PyDict;
use uno_models::train::{Start, TrainConfig, TrainEvent, TrainObserver, open_model, train};

use crate::detach::{self, Watcher};
use crate::error;

/// Trains UNO's LoRA as the file `config` says. `resume` is None, "latest" or a checkpoint. Returns the last checkpoint and
/// whether all stages are done.
#[pyfunction]
#[pyo3(signature = (config, resume=None, output=None, on_event=None))]
pub(crate) fn train_lora(
    py: Python<'_>,
    config: PathBuf,
    resume: Option<PathBuf>,
    output: Option<PathBuf>,
    on_event: Option<Py<PyAny>>,
) -> PyResult<(PathBuf, bool)> {
    let start = match resume {
        None => Start::Fresh,
        Some(path) if path.as_os_str() == "latest" => Start::Latest,
        Some(path) => Start::Checkpoint(path),
    };
    detach::run(py, on_event, error::models, |watcher| {
        let mut config = TrainConfig::read(&config)?;
        config.output = output.unwrap_or(config.output);
        let source = open_model(&config, watcher)?;
        let finished = train(&config, &source, &start, watcher)?;
        Ok((finished.checkpoint, finished.is_complete))
    })
}

impl Watcher {
    fn observe_training(&self, py: Python<'_>, event: &TrainEvent<'_>) -> PyResult<()> {
        py.check_signals()?;
        let payload = PyDict::new(py);
        let kind = match event {
            TrainEvent::Begins { what } => {
                payload.set_item("name", what)?;
                "stage"
            }
            TrainEvent::Advances { done, total } => {
                payload.set_item("done", done)?;
                payload.set_item("total", total)?;
                "advance"
            }
            TrainEvent::DataErrors { errors } => {
                let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
                payload.set_item("text", format!("entries that are left out:\n{}", lines.join("\n")))?;
                "notice"
            }
            TrainEvent::Notice { text } => {
                payload.set_item("text", text)?;
                "notice"
            }
            TrainEvent::Saved { folder } => {
                payload.set_item("folder", folder)?;
                "checkpoint"
            }
            TrainEvent::Step(report) => {
                payload.set_item("step", report.step)?;
                payload.set_item("total", report.steps)?;
                payload.set_item("loss", report.loss)?;
                payload.set_item("gradient_norm", report.gradient_norm)?;
                payload.set_item("learning_rate", report.learning_rate)?;
                payload.set_item("seconds", report.seconds)?;
                payload.set_item("epoch", report.epoch)?;
                "train_step"
            }
            _ => return Ok(()),
        };
        self.call(py, kind, payload)
    }
}

impl TrainObserver for Watcher {
    fn on_event(&self, event: &TrainEvent<'_>) -> ControlFlow<()> {
        if self.attached(|py| self.observe_training(py, event)) && !self.has_raised() {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    }
}
