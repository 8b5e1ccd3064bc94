//! What a person sees while it trains: on standard error, so that standard output stays for results.

use std::io::Write;
use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};

use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use uno_models::checkpoint::{HubPart, Progress};
use uno_models::train::{TrainEvent, TrainObserver};

use super::stop::{Stop, say};

/// Steps between two lines where there is no terminal for a bar.
const LINE_EVERY: u64 = 10;

/// A bar on a terminal, lines elsewhere.
pub struct Bars {
    bar: Mutex<Option<ProgressBar>>,
    json: bool,
    stop: Stop,
}

impl Bars {
    /// Bars of a run that ends after the step that is being computed once `stop` is set.
    pub fn new(json: bool, stop: Stop) -> Self {
        Self { bar: Mutex::new(None), json, stop }
    }

    /// A line for people.
    pub fn say(&self, text: &str) {
        self.end_bar();
        say(text);
    }

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
        if let Some(bar) = self.bar.lock().unwrap_or_else(PoisonError::into_inner).take() {
            bar.finish_and_clear();
        }
    }

    fn on_terminal() -> bool {
        !ProgressDrawTarget::stderr().is_hidden()
    }

    fn print_json(&self, value: &serde_json::Value) {
        if self.json {
            // Nobody reads any more: the run goes on all the same.
            let _ = writeln!(std::io::stdout(), "{value}");
        }
    }
}

impl TrainObserver for Bars {
    fn on_event(&self, event: &TrainEvent<'_>) -> ControlFlow<()> {
        match event {
            TrainEvent::Begins { what } => self.say(&format!("{what} ...")),
            TrainEvent::Advances { done, total } if Self::on_terminal() => {
                let template = "{bar:30} {pos}/{len}  {eta} left";
                self.with_bar(*total as u64, template, |bar| bar.set_position(*done as u64));
            }
            TrainEvent::DataErrors { errors } => {
                self.say(&format!("note: {} entries of the data are left out:", errors.len()));
                errors.iter().take(20).for_each(|error| self.say(&format!("  {error}")));
            }
            TrainEvent::Step(report) => {
                let (step, steps) = (report.step, report.steps);
                self.print_json(&serde_json::json!({
                    "step": step, "steps": steps, "loss": report.loss, "gradient_norm": report.gradient_norm,
                    "learning_rate": report.learning_rate, "seconds": report.seconds, "epoch": report.epoch,
                }));
                let text = format!(
                    "loss {:.4}  gradient {:.3}  {:.2} s/step",
                    report.loss, report.gradient_norm, report.seconds
                );
                if Self::on_terminal() {
                    self.with_bar(steps, "{bar:30} step {pos}/{len}  {msg}  {eta} left", |bar| {
                        bar.set_message(text);
                        bar.set_position(step);
                    });
                } else if step % LINE_EVERY == 0 || step == 1 || step == steps {
                    let left = HumanDuration(std::time::Duration::from_secs_f64(report.seconds_left()));
                    say(format_args!("step {step}/{steps}  {text}  {left} left"));
                }
                if step == steps {
                    self.end_bar();
                }
            }
            TrainEvent::Saved { folder } => {
                self.print_json(&serde_json::json!({ "checkpoint": folder }));
                self.say(&format!("saved {}", folder.display()));
            }
            TrainEvent::Notice { text } => self.say(&format!("note: {text}")),
            _ => {}
        }
        if self.stop.is_set() {
            self.say("stopping, with a checkpoint once there is a step to save; Ctrl-C again stops at once");
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }
}

impl Progress for Bars {
    fn plan(&self, parts: &[HubPart]) -> bool {
        for part in parts {
            let (bytes, licence) = (HumanBytes(part.bytes), &part.licence);
            let (part, repo) = (part.part, &part.repo);
            self.say(&format!(
                "download {part}: {bytes} of {repo}; licence: {}, {}",
                licence.name, licence.url
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
