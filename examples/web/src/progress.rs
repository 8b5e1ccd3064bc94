//! What a running job tells while it runs: stages, steps, the time that is left, and what the picture looks like so far.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use burn::tensor::{FloatDType, Tensor};
use image::RgbImage;
use tracing::warn;
use uno_core::latents::unpack;
use uno_core::preview::{LatentPreview, expected_clean};
use uno_core::sampling::{SequenceLength, schedule};
use uno_core::traits::{Event, Observer};

use crate::disk::Trouble;
use crate::halt::Halt;
use crate::job::{Job, JobId, Preview, Progress};
use crate::metrics::Metrics;
use crate::model::Model;
use crate::png::encode_png;
use crate::queue::Queue;

/// Steps are told no more often than this.
const BETWEEN_STEPS: Duration = Duration::from_millis(100);
/// Previews are made no more often than this.
const BETWEEN_PREVIEWS: Duration = Duration::from_millis(250);

/// Watches the pipeline at one job, tells the queue, and stops where that is asked for.
pub struct Watch {
    queue: Arc<Queue>,
    metrics: Arc<Metrics>,
    model: Arc<Model>,
    halt: Arc<Halt>,
    id: JobId,
    pictures: usize,
    steps: usize,
    /// Rows and columns of the latent.
    grid: [usize; 2],
    /// The time after each step, that of the noise first.
    times: Vec<f32>,
    state: Mutex<State>,
}

struct State {
    picture: usize,
    stage: String,
    step: usize,
    pace: Pace,
    /// When the stage under way began.
    since: Instant,
    told: Option<Instant>,
    shown: Option<Instant>,
    /// The latent before the last step.
    before: Option<Tensor<3>>,
}

/// How long things took in this job.
#[derive(Default)]
struct Pace {
    steps: usize,
    seconds: f64,
    /// From the last step of a picture to the beginning of the next.
    between: Option<f64>,
}

impl Pace {
    /// Seconds for so many more steps and ends of pictures; `None` before the first step.
    fn seconds_for(&self, steps: usize, pictures: usize) -> Option<f64> {
        let step = (self.steps > 0).then(|| self.seconds / self.steps as f64)?;
        Some(step * steps as f64 + self.between.unwrap_or(step) * pictures as f64)
    }
}

impl Watch {
    /// Watches a job that begins.
    ///
    /// # Errors
    ///
    /// Settings without a step.
    pub fn new(
        queue: Arc<Queue>,
        metrics: Arc<Metrics>,
        model: Arc<Model>,
        job: &Job,
        halt: Arc<Halt>,
    ) -> Result<Self> {
        let settings = &job.settings;
        let (_, factor) = model.codec();
        // The schedule that the pipeline follows: requests of this program keep its defaults.
        let length = SequenceLength::default().of(settings.width, settings.height);
        let state = State {
            picture: job.pictures.len(),
            stage: String::new(),
            step: 0,
            pace: Pace::default(),
            since: Instant::now(),
            told: None,
            shown: None,
            before: None,
        };
        Ok(Self {
            queue,
            metrics,
            model,
            halt,
            id: job.id.clone(),
            pictures: settings.num_images,
            steps: settings.num_steps,
            grid: [settings.height / factor, settings.width / factor],
            times: schedule(settings.num_steps, length, true)?,
            state: Mutex::new(state),
        })
    }

    /// Work at a picture begins.
    pub fn begin_picture(&self, picture: usize) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.stage == "decoding" {
            state.pace.between = Some(state.since.elapsed().as_secs_f64());
        }
        (state.picture, state.step, state.before) = (picture, 0, None);
    }

    /// A finished picture waits for the disk.
    pub fn wait_for_disk(&self, trouble: &Trouble) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.stage = match trouble {
            Trouble::Full => "waiting for space on the disk".to_owned(),
            _ => "waiting for the disk".to_owned(),
        };
        self.tell(&mut state);
    }

    fn tell(&self, state: &mut State) {
        state.told = Some(Instant::now());
        let left = self.pictures - state.picture;
        // The end of a picture counts as one more step.
        let done = state.picture * (self.steps + 1) + state.step;
        self.queue.set_progress(Progress {
            picture: state.picture,
            stage: state.stage.clone(),
            step: state.step,
            steps: self.steps,
            fraction: done as f64 / (self.pictures * (self.steps + 1)) as f64,
            seconds_left: state.pace.seconds_for(left * self.steps - state.step, left),
        });
    }

    /// Shows what the picture looks like after a step that began at time `t`.
    fn show(&self, state: &mut State, preview: &LatentPreview, latent: &Tensor<3>, t: f32) -> Result<()> {
        let latent = latent.clone().cast(FloatDType::F32);
        // At the first step there is nothing to tell the velocity from.
        let clean = match (&state.before, self.times.get(state.step)) {
            (Some(before), Some(&t_next)) => {
                expected_clean(before.clone().cast(FloatDType::F32), latent, t, t_next)
            }
            _ => latent,
        };
        let pixels = preview.picture(unpack(clean, self.grid)?)?;
        let picture = RgbImage::from_raw(pixels.width as u32, pixels.height as u32, pixels.rgb);
        let png = encode_png(&picture.context("a preview without pixels")?)?;
        state.shown = Some(Instant::now());
        self.queue.show(Preview {
            id: self.id.clone(),
            picture: state.picture,
            step: state.step,
            steps: self.steps,
            image: format!("data:image/png;base64,{}", BASE64_STANDARD.encode(png)),
        });
        Ok(())
    }
}

/// Whether so much time has passed.
fn is_due(last: Option<Instant>, between: Duration) -> bool {
    last.is_none_or(|last| last.elapsed() >= between)
}

impl Observer for Watch {
    fn on_event(&self, event: &Event<'_>) -> ControlFlow<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *state;
        match event {
            Event::Stage { name } => {
                (*name).clone_into(&mut state.stage);
                state.since = Instant::now();
                self.tell(state);
            }
            Event::Step { step, total, t, seconds, latent, .. } => {
                self.metrics.step_done(*seconds);
                state.step = *step;
                state.pace.steps += 1;
                state.pace.seconds += seconds;
                if is_due(state.told, BETWEEN_STEPS) || step == total {
                    self.tell(state);
                }
                let is_wanted = is_due(state.shown, BETWEEN_PREVIEWS) && self.queue.is_followed();
                if let Some(preview) = self.model.preview().filter(|_| is_wanted)
                    && let Err(error) = self.show(state, preview, latent, *t)
                {
                    warn!("no preview: {error:#}");
                }
                state.before = Some((*latent).clone());
            }
            Event::Notice { text } => {
                if let Err(error) = self.queue.notice(text) {
                    warn!("a notice is lost: {text}: {}", error.message());
                }
            }
            _ => {}
        }
        if self.halt.get().is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_follows_from_what_was_measured() {
        let mut pace = Pace::default();
        assert_eq!(pace.seconds_for(10, 1), None);
        (pace.steps, pace.seconds) = (4, 8.0);
        assert_eq!(pace.seconds_for(10, 1), Some(22.0));
        pace.between = Some(5.0);
        assert_eq!(pace.seconds_for(10, 2), Some(30.0));
    }
}
