//! What is counted and measured, for Prometheus.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// All metrics.
pub struct Metrics {
    registry: Registry,
    jobs: Family<End, Counter>,
    waiting: Gauge,
    running: Gauge,
    picture: Histogram,
    step: Histogram,
    requests: Family<Answer, Counter>,
    resident: Gauge<u64, AtomicU64>,
    writable: Gauge,
    free: Gauge<u64, AtomicU64>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct End {
    end: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Answer {
    method: String,
    path: String,
    status: u16,
}

impl Default for Metrics {
    fn default() -> Self {
        let seconds = || Histogram::new(exponential_buckets(0.01, 2.0, 20));
        let mut metrics = Self {
            registry: Registry::with_prefix("uno_web"),
            jobs: Family::default(),
            waiting: Gauge::default(),
            running: Gauge::default(),
            picture: seconds(),
            step: seconds(),
            requests: Family::default(),
            resident: Gauge::default(),
            writable: Gauge::default(),
            free: Gauge::default(),
        };
        let registry = &mut metrics.registry;
        registry.register("jobs", "Jobs by how they ended", metrics.jobs.clone());
        registry.register("jobs_waiting", "Jobs that wait", metrics.waiting.clone());
        registry.register("jobs_running", "Jobs that run", metrics.running.clone());
        registry.register_with_unit("picture", "Time for a picture", Unit::Seconds, metrics.picture.clone());
        registry.register_with_unit(
            "step",
            "Time for a step of the sampler",
            Unit::Seconds,
            metrics.step.clone(),
        );
        registry.register("http_requests", "Requests by path and status", metrics.requests.clone());
        let help = "Resident memory of the process";
        registry.register_with_unit("resident_memory", help, Unit::Bytes, metrics.resident.clone());
        let help = "Whether the data folder can be written to";
        registry.register("storage_writable", help, metrics.writable.clone());
        let help = "Space that is free for the data folder";
        registry.register_with_unit("storage_free", help, Unit::Bytes, metrics.free.clone());
        metrics
    }
}

impl Metrics {
    /// A job has ended so.
    pub fn job_ended(&self, end: &'static str) {
        self.jobs.get_or_create(&End { end }).inc();
    }

    /// So many jobs wait and run now.
    pub fn set_queue(&self, waiting: usize, running: usize) {
        self.waiting.set(waiting as i64);
        self.running.set(running as i64);
    }

    /// A picture took so many seconds.
    pub fn picture_made(&self, seconds: f64) {
        self.picture.observe(seconds);
    }

    /// A step took so many seconds.
    pub fn step_done(&self, seconds: f64) {
        self.step.observe(seconds);
    }

    /// A request was answered; `path` is the route's, so that there are not as many as there are jobs.
    pub fn request_answered(&self, method: &str, path: &str, status: u16) {
        let is_usual = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"].contains(&method);
        let method = if is_usual { method } else { "other" };
        let answer = Answer { method: method.to_owned(), path: path.to_owned(), status };
        self.requests.get_or_create(&answer).inc();
    }

    /// Whether the data folder can be written to, and how many bytes are free there, where the system tells.
    pub fn set_disk(&self, is_writable: bool, free: Option<u64>) {
        self.writable.set(i64::from(is_writable));
        self.free.set(free.unwrap_or(0));
    }

    /// Everything in the text format of OpenMetrics.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        self.resident.set(uno_models::memory::resident().unwrap_or(0));
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_written_as_text() {
        let metrics = Metrics::default();
        metrics.job_ended("done");
        metrics.set_queue(3, 1);
        metrics.set_disk(true, Some(4096));
        metrics.picture_made(2.5);
        metrics.step_done(0.1);
        metrics.request_answered("GET", "/api/jobs/{id}", 200);
        let text = metrics.text().unwrap();
        for line in [
            "uno_web_jobs_total{end=\"done\"} 1",
            "uno_web_jobs_waiting 3",
            "uno_web_picture_seconds_sum 2.5",
            "uno_web_storage_writable 1",
            "uno_web_storage_free_bytes 4096",
            "uno_web_step_seconds_count 1",
            "uno_web_http_requests_total{method=\"GET\",path=\"/api/jobs/{id}\",status=\"200\"} 1",
            "# EOF",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert!(text.contains("uno_web_resident_memory_bytes "));
    }
}
