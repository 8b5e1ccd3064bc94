//! What a person sees while it works: on standard error, so that standard output stays for results.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use uno_core::traits::{Event, Observer};
use uno_models::checkpoint::{HubPart, Progress};
use uno_models::memory;
use uno_models::output::Settings;

/// A bar on a terminal, lines elsewhere.
pub struct Bars {
    bar: Mutex<Option<ProgressBar>>,
    json: bool,
    /// Stages of the generation so far, each with the memory that it took at its peak.
    peaks: Mutex<Vec<(String, Option<u64>)>>,
}

impl Bars {
    pub fn new(json: bool) -> Self {
        Self { bar: Mutex::new(None), json, peaks: Mutex::default() }
    }

    fn on_terminal() -> bool {
        !ProgressDrawTarget::stderr().is_hidden()
    }

    /// The running bar, or a new one of `length`.
    fn with_bar(&self, length: u64, template: &str, f: impl FnOnce(&ProgressBar)) {
        let mut bar = self.bar.lock().unwrap_or_else(PoisonError::into_inner);
        let bar = bar.get_or_insert_with(|| {
            let style =
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(length).with_style(style)
        });
        f(bar);
    }

    fn end_bar(&self) {
        let mut bar = self.bar.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bar) = bar.take() {
            bar.finish_and_clear();
        }
    }

    /// A line for people.
    pub fn say(&self, text: &str) {
        self.end_bar();
        eprintln!("{text}");
    }

    /// Memory counts from here.
    pub fn start_measuring(&self) {
        self.peaks.lock().unwrap_or_else(PoisonError::into_inner).clear();
        memory::reset_peak();
    }

    /// A stage begins; the one before has taken what the system counted since.
    fn begin_stage(&self, name: &str) {
        let mut peaks = self.peaks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, peak)) = peaks.last_mut() {
            *peak = memory::peak();
        }
        memory::reset_peak();
        peaks.push((name.to_owned(), None));
    }

    /// What the generation took, stage by stage.
    pub fn say_measured(&self) {
        let mut peaks = std::mem::take(&mut *self.peaks.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some((_, peak)) = peaks.last_mut() {
            *peak = memory::peak();
        }
        let gib = |bytes: u64| format!("{:.2} GiB", bytes as f64 / f64::from(1 << 30));
        let Some(highest) = peaks.iter().filter_map(|(_, peak)| *peak).max() else { return };
        let stages = peaks.iter().filter_map(|(name, peak)| Some(format!("{name} {}", gib((*peak)?))));
        self.say(&format!("measured peak: {} ({})", gib(highest), stages.collect::<Vec<_>>().join(", ")));
    }

    /// A picture is on disk.
    pub fn saved(&self, path: &Path, settings: &Settings, seconds: f64, notices: &[String]) -> Result<()> {
        self.end_bar();
        let mut out = std::io::stdout().lock();
        if self.json {
            let line = serde_json::json!({
                "path": path, "seconds": seconds, "notices": notices, "settings": settings,
            });
            writeln!(out, "{line}")?;
        } else {
            writeln!(out, "{} (seed {}, {seconds:.1} s)", path.display(), settings.seed)?;
        }
        Ok(())
    }
}

impl Observer for Bars {
    fn on_event(&self, event: &Event<'_>) -> ControlFlow<()> {
        match event {
            Event::Stage { name } => {
                self.end_bar();
                self.begin_stage(name);
                eprintln!("{name} ...");
            }
            Event::Notice { text } => self.say(&format!("note: {text}")),
            Event::Step { step, total, seconds, .. } => {
                if Self::on_terminal() {
                    let template = "{bar:30} step {pos}/{len}  {msg}  {eta} left";
                    self.with_bar(*total as u64, template, |bar| {
                        bar.set_message(format!("{seconds:.2} s/step"));
                        bar.set_position(*step as u64);
                    });
                } else {
                    let left = seconds * (total - step) as f64;
                    eprintln!("step {step}/{total}  {seconds:.2} s/step  {left:.0} s left");
                }
                if step == total {
                    self.end_bar();
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

impl Progress for Bars {
    fn plan(&self, parts: &[HubPart]) -> bool {
        for part in parts {
            let bytes = HumanBytes(part.bytes);
            let (licence, url) = (part.licence.name, part.licence.url);
            self.say(&format!(
                "download {}: {} of {}; licence: {licence}, {url}",
                part.part, bytes, part.repo
            ));
        }
        true
    }

    fn starting(&self, part: &HubPart, file: &str, bytes: u64) {
        self.say(&format!("downloading {}/{file} ({})", part.repo, HumanBytes(bytes)));
    }

    fn advanced(&self, _: &HubPart, _: &str, done: u64, total: u64) {
        let template = "{bar:30} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left";
        self.with_bar(total, template, |bar| bar.set_position(done));
    }

    fn finished(&self, _: &HubPart, file: &str) {
        self.say(&format!("{file} is complete"));
    }

    fn note(&self, message: &str) {
        self.say(message);
    }
}
