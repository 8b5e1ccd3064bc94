//! The queue: which jobs wait, which one runs, and who is told of changes.
//!
//! Handlers put jobs in and take them out; one worker takes them one after the other. Both sides go through one lock, under which
//! the database is changed and changes are told, so that everybody sees them in the same order.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::broadcast;
use tracing::{error, info, warn};

use crate::disk::Trouble;
use crate::error::{ApiError, Result};
use crate::halt::{Halt, Reason};
use crate::job::{Job, JobId, JobSettings, Preview, Progress, State, now};
use crate::metrics::Metrics;
use crate::store::{Inserted, Store, StoreError};

/// Changes that a slow listener may be behind; then it is told that it has missed some.
const UPDATES: usize = 256;
/// How long the worker waits after an error of the database.
const PAUSE: Duration = Duration::from_secs(5);
/// How often the worker looks whether the disk takes what it has to write.
pub const LOOK: Duration = Duration::from_millis(500);
/// Seconds until a full queue may have room, where nothing was measured yet.
const UNKNOWN_WAIT: f64 = 10.0;

/// A change that listeners are told.
#[derive(Clone, Debug)]
pub enum Update {
    /// A job as it is now.
    Job(Arc<Job>),
    /// Positions of waiting jobs are others now.
    Moved,
    /// A job was removed.
    Removed(JobId),
    /// A running picture looks like this.
    Preview(Arc<Preview>),
}

/// How work at a job ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    Cancelled,
    Failed(String),
    /// It goes back to its place in the queue, with the pictures that are finished.
    HandedBack,
}

/// The jobs that have not ended, over the database of all.
pub struct Queue {
    store: Arc<Store>,
    metrics: Arc<Metrics>,
    most: usize,
    jobs: Mutex<Jobs>,
    /// There is work, or an end of it.
    work: Condvar,
    updates: broadcast::Sender<Update>,
}

#[derive(Default)]
struct Jobs {
    waiting: VecDeque<Job>,
    running: Option<Running>,
    is_stopping: bool,
    /// Seconds that a job took, a moving average.
    seconds_per_job: Option<f64>,
}

struct Running {
    job: Job,
    halt: Arc<Halt>,
    since: Instant,
    /// Whether a notice is not in the database yet.
    has_news: bool,
}

impl Queue {
    /// The queue with what an earlier server left in the database; at most so many jobs wait.
    ///
    /// # Errors
    ///
    /// A database that cannot be read or written to.
    pub fn open(store: Arc<Store>, metrics: Arc<Metrics>, most: usize) -> Result<Self, StoreError> {
        let waiting = VecDeque::from(store.recover()?);
        if !waiting.is_empty() {
            info!(jobs = waiting.len(), "the queue of the last time goes on");
        }
        if let Err(error) = store.folder().mark_at_work() {
            warn!("that work begins cannot be recorded: {error}; a crash may count as a stop");
        }
        metrics.set_queue(waiting.len(), 0);
        Ok(Self {
            store,
            metrics,
            most,
            jobs: Mutex::new(Jobs { waiting, ..Jobs::default() }),
            work: Condvar::new(),
            updates: broadcast::channel(UPDATES).0,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells listeners; that there may be none is fine.
    fn tell(&self, update: Update) {
        let _ = self.updates.send(update);
    }

    fn tell_moved(&self, jobs: &Jobs) {
        self.metrics.set_queue(jobs.waiting.len(), usize::from(jobs.running.is_some()));
        if !jobs.waiting.is_empty() {
            self.tell(Update::Moved);
        }
    }

    // What handlers do.

    /// Puts a job at the end of the queue. `attached` says that it is of no use once its client has gone.
    ///
    /// # Errors
    ///
    /// A full queue, a server that stops, references that have gone in the meantime, a disk that cannot be written to.
    pub fn submit(&self, settings: JobSettings, attached: bool) -> Result<Job> {
        let id = JobId::random()?;
        let mut jobs = self.lock();
        if jobs.is_stopping {
            return Err(ApiError::is_stopping());
        }
        if jobs.waiting.len() >= self.most {
            return Err(ApiError::queue_is_full(jobs.waiting.len(), jobs.seconds_until_room()));
        }
        if let Some(unwritable) = self.store.disk().unwritable() {
            return Err(unwritable.into());
        }
        let created = now();
        if let Inserted::NoReference(id) = self.store.insert_job(&id, &settings, created, attached)? {
            return Err(ApiError::invalid(format!("references: {id} is gone; upload it again"))
                .with_param("references"));
        }
        jobs.waiting.push_back(Job {
            id,
            state: State::Queued,
            created,
            started: None,
            finished: None,
            settings,
            position: None,
            progress: None,
            pictures: Vec::new(),
            notices: Vec::new(),
            error: None,
        });
        let job =
            jobs.waiting_at(jobs.waiting.len() - 1).ok_or_else(|| ApiError::internal("a job is lost"))?;
        self.metrics.set_queue(jobs.waiting.len(), usize::from(jobs.running.is_some()));
        self.tell(Update::Job(Arc::new(job.clone())));
        self.work.notify_one();
        Ok(job)
    }

    /// A job as it is now.
    ///
    /// # Errors
    ///
    /// There is none of this name.
    pub fn job(&self, id: &JobId) -> Result<Job> {
        self.find(&self.lock(), id)
    }

    fn find(&self, jobs: &Jobs, id: &JobId) -> Result<Job> {
        if let Some(job) = jobs.unfinished(id) {
            return Ok(job);
        }
        self.store.job(id)?.ok_or_else(|| ApiError::not_found("no such job"))
    }

    /// At most `limit` jobs, newest first, older than `before`, and whether there are more.
    ///
    /// # Errors
    ///
    /// `before` is not there.
    pub fn list(&self, limit: usize, before: Option<&JobId>) -> Result<(Vec<Job>, bool)> {
        let jobs = self.lock();
        let unknown = || ApiError::invalid("before: there is no such job").with_param("before");
        let (mut listed, more) = self.store.jobs(limit, before)?.ok_or_else(unknown)?;
        for job in listed.iter_mut().filter(|job| !job.state.has_ended()) {
            if let Some(now) = jobs.unfinished(&job.id) {
                *job = now;
            }
        }
        Ok((listed, more))
    }

    /// Takes a waiting job from the queue, or stops the running one, which then ends at its next step.
    ///
    /// # Errors
    ///
    /// It has ended, or is not there.
    pub fn cancel(&self, id: &JobId) -> Result<Job> {
        let mut jobs = self.lock();
        if let Some(running) = jobs.running.as_mut().filter(|running| running.job.id == *id) {
            running.halt.set(Reason::Cancelled);
            if let Some(progress) = &mut running.job.progress {
                "cancelling".clone_into(&mut progress.stage);
                progress.seconds_left = None;
            }
            let job = running.job.clone();
            self.tell(Update::Job(Arc::new(job.clone())));
            return Ok(job);
        }
        let Some(place) = jobs.waiting.iter().position(|job| job.id == *id) else {
            let job = self.find(&jobs, id)?;
            return Err(ApiError::conflict(format!("the job has ended ({})", job.state.name())));
        };
        let finished = now();
        self.store.end(id, State::Cancelled, None, finished)?;
        let job = jobs.waiting.remove(place).ok_or_else(|| ApiError::internal("a job is lost"))?;
        let job = Job { state: State::Cancelled, finished: Some(finished), ..job };
        self.metrics.job_ended(job.state.name());
        self.tell(Update::Job(Arc::new(job.clone())));
        self.tell_moved(&jobs);
        Ok(job)
    }

    /// Removes a job that has ended, with its pictures.
    ///
    /// # Errors
    ///
    /// It has not ended, or is not there.
    pub fn remove(&self, id: &JobId) -> Result<()> {
        let jobs = self.lock();
        let job = self.find(&jobs, id)?;
        if !job.state.has_ended() {
            return Err(ApiError::conflict(format!("the job is {}; cancel it first", job.state.name())));
        }
        if let Err(error) = self.store.remove_job(id) {
            let StoreError::Unwritable(unwritable) = &error else { return Err(error.into()) };
            if unwritable.trouble != Trouble::Full {
                return Err(error.into());
            }
            // Even to forget a job takes space: its pictures, which are to go anyway, make some.
            self.store.folder().remove_pictures(id)?;
            self.store.remove_job(id)?;
        }
        self.tell(Update::Removed(id.clone()));
        drop(jobs);
        self.store.remove_pictures(id);
        Ok(())
    }

    /// The jobs that have not ended, the running one first, and what changes from then on.
    pub fn follow(&self) -> (Vec<Job>, broadcast::Receiver<Update>) {
        let jobs = self.lock();
        let running = jobs.running.iter().map(|running| running.job.clone());
        (running.chain(jobs.all_waiting()).collect(), self.updates.subscribe())
    }

    /// One job, and what changes from then on.
    ///
    /// # Errors
    ///
    /// There is none of this name.
    pub fn follow_job(&self, id: &JobId) -> Result<(Job, broadcast::Receiver<Update>)> {
        let jobs = self.lock();
        Ok((self.find(&jobs, id)?, self.updates.subscribe()))
    }

    /// The jobs that wait, in their order.
    pub fn waiting(&self) -> Vec<Job> {
        self.lock().all_waiting().collect()
    }

    // What the worker does.

    /// Waits for the next job, and begins it; `None` if the server stops.
    pub fn next(&self) -> Option<(Job, Arc<Halt>)> {
        let mut jobs = self.lock();
        loop {
            if jobs.is_stopping {
                return None;
            }
            let Some(job) = jobs.waiting.front() else {
                jobs = self.work.wait(jobs).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            if self.store.disk().trouble().is_some() {
                jobs = self.wait(jobs, LOOK);
                continue;
            }
            let started = job.started.unwrap_or_else(now);
            match self.store.begin(&job.id, started) {
                Ok(()) => {}
                Err(StoreError::Unwritable(_)) => continue,
                Err(error) => {
                    error!("{error}; the queue waits");
                    jobs = self.wait(jobs, PAUSE);
                    continue;
                }
            }
            let Some(job) = jobs.waiting.pop_front() else { continue };
            let job = Job { state: State::Running, started: Some(started), ..job };
            let halt = Arc::new(Halt::default());
            let since = Instant::now();
            jobs.running = Some(Running { job: job.clone(), halt: halt.clone(), since, has_news: false });
            self.metrics.set_queue(jobs.waiting.len(), 1);
            self.tell(Update::Job(Arc::new(job.clone())));
            return Some((job, halt));
        }
    }

    fn wait<'a>(&self, jobs: MutexGuard<'a, Jobs>, time: Duration) -> MutexGuard<'a, Jobs> {
        self.work.wait_timeout(jobs, time).unwrap_or_else(PoisonError::into_inner).0
    }

    /// The running job has come so far.
    pub fn set_progress(&self, progress: Progress) {
        let mut jobs = self.lock();
        let Some(running) = &mut jobs.running else { return };
        // Of a job that is being stopped it is enough to know that.
        if running.halt.get() != Some(Reason::Cancelled) {
            running.job.progress = Some(progress);
            self.tell(Update::Job(Arc::new(running.job.clone())));
        }
    }

    /// Whether anybody listens, so that previews are worth their while.
    pub fn is_followed(&self) -> bool {
        self.updates.receiver_count() > 0
    }

    /// The running picture looks like this.
    pub fn show(&self, preview: Preview) {
        self.tell(Update::Preview(Arc::new(preview)));
    }

    /// Something was noticed of the running job; the same text is kept once.
    pub fn notice(&self, text: &str) -> Result<()> {
        let mut jobs = self.lock();
        let Some(running) = &mut jobs.running else { return Ok(()) };
        if running.job.notices.iter().any(|known| known == text) {
            return Ok(());
        }
        running.job.notices.push(text.to_owned());
        match self.store.set_notices(&running.job.id, &running.job.notices) {
            // It is recorded with the next picture.
            Err(StoreError::Unwritable(_)) => running.has_news = true,
            result => result?,
        }
        self.tell(Update::Job(Arc::new(running.job.clone())));
        Ok(())
    }

    /// So many pictures of the running job are finished and on disk.
    ///
    /// # Errors
    ///
    /// A database that cannot be written to.
    pub fn set_pictures(&self, count: usize) -> Result<(), StoreError> {
        let mut jobs = self.lock();
        let Some(running) = &mut jobs.running else { return Ok(()) };
        if running.has_news {
            self.store.set_notices(&running.job.id, &running.job.notices)?;
            running.has_news = false;
        }
        self.store.set_pictures(&running.job.id, count)?;
        running.job.pictures = Job::pictures_of(&running.job.id, &running.job.settings, count);
        self.tell(Update::Job(Arc::new(running.job.clone())));
        Ok(())
    }

    /// Work at the running job has ended. Waits until the disk takes that, or the server stops.
    pub fn finish(&self, outcome: &Outcome) {
        let finished = now();
        let mut jobs = self.lock();
        loop {
            let Some(Running { job, has_news, .. }) = &jobs.running else { return };
            let news = if *has_news { self.store.set_notices(&job.id, &job.notices) } else { Ok(()) };
            let recorded = news.and_then(|()| match outcome {
                Outcome::HandedBack => self.store.hand_back(&job.id),
                Outcome::Done => self.store.end(&job.id, State::Done, None, finished),
                Outcome::Cancelled => self.store.end(&job.id, State::Cancelled, None, finished),
                Outcome::Failed(error) => self.store.end(&job.id, State::Failed, Some(error), finished),
            });
            match recorded {
                Err(StoreError::Unwritable(_)) if !jobs.is_stopping => jobs = self.wait(jobs, LOOK),
                recorded => break self.log(recorded),
            }
        }
        let Some(Running { mut job, since, .. }) = jobs.running.take() else { return };
        job.progress = None;
        let (state, error) = match outcome {
            Outcome::HandedBack => {
                job.state = State::Queued;
                jobs.waiting.push_front(job);
                if let Some(job) = jobs.waiting_at(0) {
                    self.tell(Update::Job(Arc::new(job)));
                }
                return self.tell_moved(&jobs);
            }
            Outcome::Done => (State::Done, None),
            Outcome::Cancelled => (State::Cancelled, None),
            Outcome::Failed(error) => (State::Failed, Some(error.clone())),
        };
        if state == State::Done {
            let seconds = since.elapsed().as_secs_f64();
            let before = jobs.seconds_per_job.unwrap_or(seconds);
            jobs.seconds_per_job = Some(0.7 * before + 0.3 * seconds);
        }
        (job.state, job.error, job.finished) = (state, error, Some(finished));
        self.metrics.job_ended(state.name());
        self.tell(Update::Job(Arc::new(job)));
        self.tell_moved(&jobs);
    }

    fn log(&self, result: Result<(), StoreError>) {
        if let Err(error) = result {
            error!("{error}; the job is as it was when the server is started next");
        }
    }

    // What happens when the server stops.

    /// Takes no more jobs, and begins none.
    pub fn stop(&self) {
        self.lock().is_stopping = true;
        self.work.notify_all();
    }

    /// Whether no more jobs are taken.
    pub fn is_stopping(&self) -> bool {
        self.lock().is_stopping
    }

    /// Stops the running job at its next step; it goes back into the queue.
    pub fn interrupt(&self) {
        if let Some(running) = &self.lock().running {
            running.halt.set(Reason::Stopping);
        }
    }

    /// Records that the server has stopped in good order, so that jobs it worked at do not count as its end.
    pub fn mark_stopped(&self) {
        if let Err(error) = self.store.folder().mark_stopped() {
            warn!("that the server stops cannot be recorded: {error}; it may count as a crash");
        }
    }

    /// Lets the running job be a waiting one for the server that comes next, though its worker is still at it.
    pub fn abandon(&self) {
        if let Some(running) = &self.lock().running {
            self.log(self.store.hand_back(&running.job.id));
        }
    }
}

impl Jobs {
    /// A waiting job with its position.
    fn waiting_at(&self, place: usize) -> Option<Job> {
        let position = Some(place + usize::from(self.running.is_some()));
        Some(Job { position, ..self.waiting.get(place)?.clone() })
    }

    fn all_waiting(&self) -> impl Iterator<Item = Job> {
        (0..self.waiting.len()).filter_map(|place| self.waiting_at(place))
    }

    /// A job that has not ended, as it is now.
    fn unfinished(&self, id: &JobId) -> Option<Job> {
        if let Some(running) = self.running.as_ref().filter(|running| running.job.id == *id) {
            return Some(running.job.clone());
        }
        self.waiting_at(self.waiting.iter().position(|job| job.id == *id)?)
    }

    /// Seconds until the next job is begun, which makes room for another.
    fn seconds_until_room(&self) -> u64 {
        let told = self.running.as_ref().and_then(|running| running.job.progress.as_ref()?.seconds_left);
        let usual = || {
            let passed = self.running.as_ref().map_or(0.0, |running| running.since.elapsed().as_secs_f64());
            self.seconds_per_job.map_or(UNKNOWN_WAIT, |seconds| seconds - passed)
        };
        told.unwrap_or_else(usual).ceil().clamp(1.0, 3600.0) as u64
    }
}

#[cfg(test)]
mod tests;
