//! Connections: accepted, given limits of time, and ended in good order.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_io_timeout::TimeoutStream;
use tracing::{debug, info, warn};

use crate::connections::{Activity, ConnectionLimits, Connections, Place};

/// Most event streams.
pub const STREAMS: usize = 256;
/// Longest time for the headers of a request, and for a connection without one.
const HEADERS: Duration = Duration::from_secs(15);
/// Longest time that a client may take none of what is sent to it.
const WRITE: Duration = Duration::from_secs(30);
/// Longest time for answers that are under way when the server stops.
const CLOSE: Duration = Duration::from_secs(5);
/// Pause after a connection that could not be accepted: with one closed for it, and without.
const RETRY: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(100)];
/// Largest headers of a request in bytes, and how many.
const HEADER_BYTES: usize = 32 << 10;
const HEADER_COUNT: usize = 64;

/// Answers requests until `closing` is true, and lets answers under way be finished.
pub async fn run(
    listener: TcpListener,
    router: Router,
    limits: ConnectionLimits,
    mut closing: watch::Receiver<bool>,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .max_headers(HEADER_COUNT)
        .max_buf_size(HEADER_BYTES);
    let (connections, graceful) = (Arc::new(Connections::new(limits)), GracefulShutdown::new());
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &connections) => accepted,
            _ = closing.wait_for(|closing| *closing) => break,
        };
        let Some((stream, address)) = accepted else { continue };
        let place = connections.admit(address.ip());
        let service = service_fn({
            let (router, activity, crowd) =
                (TowerToHyperService::new(router.clone()), place.activity.clone(), place.crowd);
            move |request: hyper::Request<Incoming>| {
                let mut request = receive(request, &activity);
                crowd.map(|crowd| request.extensions_mut().insert(crowd));
                answer(&router, request, &activity)
            }
        });
        let io = TokioIo::new(limited(stream, &place));
        let connection = graceful.watch(http.serve_connection(io, service));
        tokio::spawn(async move {
            let place: Place = place;
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    debug!("a connection ended: {error}");
                },
                () = place.activity.closed() => debug!("a silent connection was closed for another one"),
            }
        });
    }
    drop(listener);
    if timeout(CLOSE, graceful.shutdown()).await.is_err() {
        info!("connections that did not end in {} s are cut off", CLOSE.as_secs());
    }
}

/// The next connection; `None` if it could not be accepted.
async fn accept(listener: &TcpListener, connections: &Connections) -> Option<(TcpStream, SocketAddr)> {
    match listener.accept().await {
        Ok(accepted) => Some(accepted),
        Err(error) => {
            // The process or the system has as many open files as it may, by the numbers of Unix; or a client left before it
            // was let in.
            let is_full = matches!(error.raw_os_error(), Some(23 | 24));
            let has_room = is_full && connections.close_one();
            if !has_room {
                warn!("a connection was not accepted: {error}");
            }
            sleep(RETRY[usize::from(!has_room)]).await;
            None
        }
    }
}

/// A connection that tells what happens on it, and fails if nothing can be written to it for a time.
fn limited(stream: TcpStream, place: &Place) -> Pin<Box<TimeoutStream<Watched>>> {
    // Events are small, and wanted at once.
    if let Err(error) = stream.set_nodelay(true) {
        debug!("no delay cannot be set: {error}");
    }
    let mut stream = TimeoutStream::new(Watched { stream, activity: place.activity.clone() });
    stream.set_write_timeout(Some(WRITE));
    Box::pin(stream)
}

/// A connection that tells when bytes come and go.
struct Watched {
    stream: TcpStream,
    activity: Arc<Activity>,
}

impl Watched {
    fn wrote(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.activity.sent(result.is_pending());
        result
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if buffer.filled().len() > before {
            self.activity.heard();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.wrote(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.wrote(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// A request whose body tells when it is awaited no more.
fn receive(request: hyper::Request<Incoming>, activity: &Arc<Activity>) -> Request {
    request.map(|body| {
        activity.set_receiving(!body.is_end_stream());
        Body::new(Told { body, when_done: WhenDone(activity.clone(), Activity::set_receiving) })
    })
}

/// The answer to a request, whose body tells when it is sent.
fn answer(
    router: &TowerToHyperService<Router>,
    request: Request,
    activity: &Arc<Activity>,
) -> impl Future<Output = Result<Response, Infallible>> + use<> {
    activity.set_answering(true);
    let when_done = WhenDone(activity.clone(), Activity::set_answering);
    let answered = router.call(request);
    async move {
        let response = answered.await?;
        Ok(response.map(|body| Body::new(Told { body, when_done })))
    }
}

/// Takes a mark from a connection when it is dropped.
struct WhenDone(Arc<Activity>, fn(&Activity, bool));

impl Drop for WhenDone {
    fn drop(&mut self) {
        self.1(&self.0, false);
    }
}

/// A body at whose end something is done.
struct Told<B> {
    body: B,
    when_done: WhenDone,
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for Told<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if self.body.is_end_stream() || !matches!(frame, Some(Ok(_))) {
            let WhenDone(activity, set) = &self.when_done;
            set(activity, false);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
