//! How a running job is stopped: its worker looks at this at each step.

use std::sync::atomic::{AtomicU8, Ordering};

/// Whether a running job is to be stopped, and what becomes of it.
#[derive(Default)]
pub struct Halt(AtomicU8);

/// Why a running job is stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// Somebody cancelled it.
    Cancelled = 1,
    /// The server stops; the job goes back into the queue.
    Stopping = 2,
}

impl Halt {
    /// Asks for an end; the first reason holds.
    pub fn set(&self, reason: Reason) {
        let _ = self.0.compare_exchange(0, reason as u8, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Why it is to end, if it is.
    pub fn get(&self) -> Option<Reason> {
        match self.0.load(Ordering::Relaxed) {
            1 => Some(Reason::Cancelled),
            2 => Some(Reason::Stopping),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_holds() {
        let halt = Halt::default();
        assert_eq!(halt.get(), None);
        halt.set(Reason::Cancelled);
        halt.set(Reason::Stopping);
        assert_eq!(halt.get(), Some(Reason::Cancelled));
    }
}
