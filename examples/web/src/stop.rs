//! The end: what happens between the first signal and the last line.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::queue::Queue;

/// How long the worker gets to stop at its next step, once the time for its picture is over.
const LAST_STEP: Duration = Duration::from_secs(3);
/// How often the worker is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Waits for a signal, lets the picture under way be finished within `grace` seconds, else its job goes back into the queue, and
/// then lets connections be closed. A second signal ends the program at once.
pub async fn on_signal(queue: Arc<Queue>, worker: JoinHandle<()>, grace: u64, close: watch::Sender<bool>) {
    signal().await;
    info!("stopping; the picture under way gets {grace} s, a second signal ends the program at once");
    tokio::spawn(async {
        signal().await;
        warn!(
            "ended by a second signal; the running job begins anew at its last picture when the server is started next"
        );
        std::process::exit(1);
    });
    queue.stop();
    if !ends_within(&worker, Duration::from_secs(grace)).await {
        queue.interrupt();
        if !ends_within(&worker, LAST_STEP).await {
            // A step of a large model takes longer than anybody waits.
            queue.abandon();
        }
    }
    queue.mark_stopped();
    // The receiver is gone if the listener has failed; then the end is near in any case.
    let _ = close.send(true);
}

async fn ends_within(worker: &JoinHandle<()>, time: Duration) -> bool {
    let until = Instant::now() + time;
    while !worker.is_finished() && Instant::now() < until {
        sleep(LOOK).await;
    }
    worker.is_finished()
}

/// The next signal that asks for an end: Ctrl-C, or a service manager's SIGTERM.
async fn signal() {
    let interrupt = async {
        if let Err(error) = tokio::signal::ctrl_c().await {
            warn!("Ctrl-C is not heard: {error}");
            std::future::pending::<()>().await;
        }
    };
    #[cfg(unix)]
    let terminate = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signals) => drop(signals.recv().await),
            Err(error) => {
                warn!("SIGTERM is not heard: {error}");
                std::future::pending::<()>().await;
            }
        }
    };
    #[cfg(not(unix))]
    let terminate = std::future::pending::<()>();
    tokio::select! {
        () = interrupt => {}
        () = terminate => {}
    }
}
