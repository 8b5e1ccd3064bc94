//! The rest of a body that nobody reads, because the answer was known before its end.
//!
//! A connection that is closed over unread data is reset, and the client may never see the answer; and one that is closed without a
//! word takes the client's next request with it. So the rest is read and thrown away, as long as it is not too much.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::header;
use bytes::Bytes;
use futures_util::StreamExt;
use http_body::{Frame, SizeHint};

/// Most bytes that are thrown away.
const MOST: usize = 64 << 20;
/// Longest time for it.
const TIME: Duration = Duration::from_secs(10);

/// Lets the rest of the body be read when it is dropped.
pub async fn rest(request: Request) -> Request {
    // Who waits for permission to send the body has not sent it, and need not.
    if request.headers().contains_key(header::EXPECT) {
        return request;
    }
    request.map(|body| Body::new(Drained(body)))
}

struct Drained(Body);

impl HttpBody for Drained {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.0).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

impl Drop for Drained {
    fn drop(&mut self) {
        if self.0.is_end_stream() {
            return;
        }
        let body = std::mem::take(&mut self.0);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(tokio::time::timeout(TIME, read(body)));
        }
    }
}

async fn read(body: Body) {
    let mut stream = body.into_data_stream();
    let mut left = MOST;
    while let Some(Ok(piece)) = stream.next().await {
        let Some(rest) = left.checked_sub(piece.len()) else { return };
        left = rest;
    }
}
