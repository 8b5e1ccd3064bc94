//! Connections: accepted, given limits of time, and ended in good order.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_io_timeout::TimeoutStream;
use tracing::{debug, info, warn};

/// Most connections at a time; further ones wait for one to end.
const CONNECTIONS: usize = 512;
/// Most event streams among them.
pub const STREAMS: usize = 256;
/// Longest time for the headers of a request, and for a connection without one.
const HEADERS: Duration = Duration::from_secs(15);
/// Longest time that a client may take none of what is sent to it.
const WRITE: Duration = Duration::from_secs(30);
/// Longest time for answers that are under way when the server stops.
const CLOSE: Duration = Duration::from_secs(5);
/// Largest headers of a request in bytes, and how many.
const HEADER_BYTES: usize = 32 << 10;
const HEADER_COUNT: usize = 64;

/// Answers requests until `closing` is true, and lets answers under way be finished.
///
/// # Errors
///
/// A listener that fails.
pub async fn run(listener: TcpListener, router: Router, mut closing: watch::Receiver<bool>) -> Result<()> {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .max_headers(HEADER_COUNT)
        .max_buf_size(HEADER_BYTES);
    let (connections, graceful) = (Arc::new(Semaphore::new(CONNECTIONS)), GracefulShutdown::new());
    loop {
        let accepted = async {
            let permit = connections.clone().acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            accepted = accepted => accepted,
            _ = closing.wait_for(|closing| *closing) => break,
        };
        let permit = permit.context("connections are counted no more")?;
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Too many open files, or a client that left before it was let in.
                warn!("a connection was not accepted: {error}");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(router.clone());
        let connection = graceful.watch(http.serve_connection(TokioIo::new(limited(stream)), service));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!("a connection ended: {error}");
            }
            drop(permit);
        });
    }
    drop(listener);
    if timeout(CLOSE, graceful.shutdown()).await.is_err() {
        info!("connections that did not end in {} s are cut off", CLOSE.as_secs());
    }
    Ok(())
}

/// A connection that fails if nothing can be written to it for a time.
fn limited(stream: TcpStream) -> std::pin::Pin<Box<TimeoutStream<TcpStream>>> {
    // Events are small, and wanted at once.
    if let Err(error) = stream.set_nodelay(true) {
        debug!("no delay cannot be set: {error}");
    }
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE));
    Box::pin(stream)
}
