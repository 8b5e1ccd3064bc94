//! Scores of pictures, and evaluation of prompt lists.

use std::ops::ControlFlow;
use std::path::PathBuf;

use pyo3::exceptions::PyUserWarning;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use uno_models::eval::{self, Evaluation, EvaluationEvent, ScorerFiles, read_prompts};
use uno_models::{Error, Result};

use crate::convert::{self, RawPicture};
use crate::pipeline::open_device;
use crate::{detach, error};

/// What is evaluated; the keys of a dictionary.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct EvaluateArguments {
    prompts: PathBuf,
    pictures: PathBuf,
    out: PathBuf,
    per_prompt: usize,
    shard: String,
}

/// Computes DreamBench's scores.
#[pyclass(frozen, module = "uno_rs._uno_rs")]
pub(crate) struct Scorer(eval::Scorer);

#[pymethods]
impl Scorer {
    #[new]
    #[pyo3(signature = (dino, clip, clip_tokenizer=None, views="given", device="cpu"))]
    fn new(
        py: Python<'_>,
        dino: PathBuf,
        clip: PathBuf,
        clip_tokenizer: Option<PathBuf>,
        views: &str,
        device: &str,
    ) -> PyResult<Self> {
        let views = views.parse().map_err(error::models)?;
        let device = open_device(device)?;
        let files = ScorerFiles { dino, clip, clip_tokenizer };
        detach::run(py, None, error::models, |_| eval::Scorer::open(&files, views, &device)).map(Self)
    }

    /// The scores of a picture as JSON; references are files.
    fn score(
        &self,
        py: Python<'_>,
        picture: RawPicture<'_>,
        prompt: &str,
        references: Vec<PathBuf>,
    ) -> PyResult<String> {
        let picture = convert::picture(picture)?;
        let work = |_: &_| json(&self.0.score(&picture, prompt, &references)?);
        detach::run(py, None, error::models, work)
    }

    /// What the scores depend on, as JSON.
    fn protocol(&self) -> PyResult<String> {
        json(self.0.protocol()).map_err(error::models)
    }

    /// Scores the pictures of a prompt list in a folder. When all of them are scored, writes result.json and report.html and
    /// returns the result as JSON.
    #[pyo3(signature = (arguments, on_event=None))]
    fn evaluate(
        &self,
        py: Python<'_>,
        arguments: EvaluateArguments,
        on_event: Option<Py<PyAny>>,
    ) -> PyResult<Option<String>> {
        detach::run(py, on_event, error::models, |watcher| {
            let EvaluateArguments { prompts, pictures, out, per_prompt, shard } = arguments;
            let mut remarks = Vec::new();
            let entries = read_prompts(&prompts, &mut |remark| remarks.push(remark.to_owned()))?;
            for remark in remarks {
                let warned = watcher.attached(|py| {
                    let remark = std::ffi::CString::new(remark)?;
                    PyErr::warn(py, &py.get_type::<PyUserWarning>(), &remark, 1)
                });
                if !warned {
                    return Ok(None);
                }
            }
            let evaluation = Evaluation { entries, pictures, per_prompt, shard: shard.parse()?, out };
            let observer = |event: EvaluationEvent| {
                let EvaluationEvent::Scored { done, total, .. } = event else {
                    return ControlFlow::Continue(());
                };
                let told = watcher.attached(|py| {
                    py.check_signals()?;
                    let payload = PyDict::new(py);
                    payload.set_item("done", done)?;
                    payload.set_item("total", total)?;
                    watcher.call(py, "score", payload)
                });
                if told { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            };
            if evaluation.run(&self.0, None, &observer)? < evaluation.total() {
                return Ok(None);
            }
            let report = evaluation.report()?;
            report.write(&evaluation.out.join("result.json"))?;
            report.write_html(&evaluation.out.join("report.html"))?;
            json(&report).map(Some)
        })
    }
}

fn json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::request("scores", e, "numbers that JSON can hold"))
}
