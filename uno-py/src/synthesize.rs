//! Synthesis of training data, as a configuration file says.

use std::ops::ControlFlow;
use std::path::PathBuf;

use pyo3::prelude::*;
use pyo3::types::PyDict;
use uno_models::Error;
use uno_models::synthesis::{Stage, Synthesis, SynthesisConfig, SynthesisEvent};

use crate::detach::{self, Watcher};
use crate::error;

/// Items that could not be worked on, with the reason.
type Failed = Vec<(String, String)>;

/// Does what waits of `stages` (all, if there are none) for the share `shard` of the items, and with `write_results` writes lists and
/// report. Returns the results as JSON, and items that could not be worked on with the reason.
#[pyfunction]
#[pyo3(signature = (config, stages, shard="0/1", count=None, write_results=true, on_event=None))]
pub(crate) fn synthesize(
    py: Python<'_>,
    config: PathBuf,
    stages: Vec<String>,
    shard: &str,
    count: Option<usize>,
    write_results: bool,
    on_event: Option<Py<PyAny>>,
) -> PyResult<(Option<String>, Failed)> {
    let shard = shard.parse().map_err(error::models)?;
    let asked: uno_models::Result<Vec<Stage>> = stages.iter().map(|stage| stage.parse()).collect();
    let asked = asked.map_err(error::models)?;
    let stages = if asked.is_empty() { Stage::ALL.to_vec() } else { asked };
    detach::run(py, on_event, error::models, |watcher| {
        let mut config = SynthesisConfig::read(&config)?;
        config.count = count.unwrap_or(config.count);
        let synthesis = Synthesis::open(config)?;
        let watch = |event: SynthesisEvent<'_>| {
            if watcher.attached(|py| watcher.observe_synthesis(py, event)) && !watcher.has_raised() {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        };
        let failed = synthesis.run(&stages, shard, &watch)?;
        let results = match write_results {
            true => Some(synthesis.write_results()?),
            false => None,
        };
        let json = results.map(|results| serde_json::to_string(&results)).transpose();
        Ok((json.map_err(|e| Error::request("results", e, "numbers that JSON can hold"))?, failed))
    })
}

impl Watcher {
    fn observe_synthesis(&self, py: Python<'_>, event: SynthesisEvent<'_>) -> PyResult<()> {
        py.check_signals()?;
        let payload = PyDict::new(py);
        let kind = match event {
            SynthesisEvent::Begins { stage, items } => {
                payload.set_item("name", stage.name())?;
                payload.set_item("items", items)?;
                "stage"
            }
            SynthesisEvent::Advances { stage, item, done, total, .. } => {
                payload.set_item("stage", stage.name())?;
                payload.set_item("item", item)?;
                payload.set_item("done", done)?;
                payload.set_item("total", total)?;
                "synthesis"
            }
            SynthesisEvent::Failed { item, reason } => {
                payload.set_item("text", format!("{item}: {reason}"))?;
                "notice"
            }
            _ => return Ok(()),
        };
        self.call(py, kind, payload)
    }
}
