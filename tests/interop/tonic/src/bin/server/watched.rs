//! What tonic's handlers cannot do themselves, done around them: echo metadata into headers and trailers, and
//! tell which messages arrived compressed.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use evenstream_interop::{INITIAL, TRAILING};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body as HttpBody, Frame};
use tonic::body::Body;
use tonic::Status;
use tower::Service;

/// The compressed-flags of a request's messages in their order, as far as they have arrived.
#[derive(Clone, Default)]
pub struct Flags(Arc<Mutex<VecDeque<bool>>>);

impl Flags {
    /// The flag of the next message that a handler was given; false if there was none.
    pub fn take(&self) -> bool {
        self.0.lock().unwrap().pop_front().unwrap_or(false)
    }
}

#[derive(Clone)]
pub struct Watched<S>(pub S);

impl<S: tonic::server::NamedService> tonic::server::NamedService for Watched<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Watched<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let initial = request.headers().get(INITIAL).cloned();
        let trailing = request.headers().get(TRAILING).cloned();
        // tonic compresses a whole stream or none of it; only the methods of the compression cases may.
        let path = request.uri().path();
        if !path.ends_with("/UnaryCall") && !path.ends_with("/StreamingOutputCall") {
            request.headers_mut().remove("grpc-accept-encoding");
        }
        let flags = Flags::default();
        request.extensions_mut().insert(flags.clone());
        let request = request.map(|body| Body::new(FlagReader { body, flags, prefix: 0, left: 0, length: 0 }));
        let answered = self.0.call(request);
        Box::pin(async move {
            let mut response = answered.await?;
            if let Some(value) = initial {
                response.headers_mut().insert(INITIAL, value);
            }
            Ok(match trailing {
                Some(value) => response.map(|body| Body::new(MoreTrailers { body, value })),
                None => response,
            })
        })
    }
}

/// Passes a request body on and notes the first byte of each message's five-byte prefix.
struct FlagReader {
    body: Body,
    flags: Flags,
    prefix: usize, // bytes seen of the prefix under way
    left: usize,   // bytes of the message under way still to come
    length: usize, // the length read so far from the prefix
}

impl FlagReader {
    fn scan(&mut self, mut data: &[u8]) {
        while let Some((&byte, rest)) = data.split_first() {
            if self.left > 0 {
                let skipped = self.left.min(data.len());
                self.left -= skipped;
                data = &data[skipped..];
                continue;
            }
            if self.prefix == 0 {
                self.flags.0.lock().unwrap().push_back(byte == 1);
            } else {
                self.length = self.length << 8 | usize::from(byte);
            }
            self.prefix += 1;
            if self.prefix == 5 {
                (self.left, self.prefix, self.length) = (self.length, 0, 0);
            }
            data = rest;
        }
    }
}

impl HttpBody for FlagReader {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            if let Some(data) = frame.data_ref() {
                self.scan(data);
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

/// Adds the echoed trailer to the response's trailers.
struct MoreTrailers {
    body: Body,
    value: HeaderValue,
}

impl HttpBody for MoreTrailers {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        polled.map_ok(|frame| match frame.into_trailers() {
            Ok(trailers) => Frame::trailers(with(trailers, self.value.clone())),
            Err(frame) => frame,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

fn with(mut trailers: HeaderMap, value: HeaderValue) -> HeaderMap {
    trailers.insert(TRAILING, value);
    trailers
}
