//! The gRPC interop service on tonic: `server --port=N`, on loopback.

mod watched;

use std::pin::Pin;
use std::time::Duration;

use evenstream_interop::testing::test_service_server::{TestService, TestServiceServer};
use evenstream_interop::testing::*;
use evenstream_interop::{argument, payload};
use tokio::sync::mpsc;
use tokio_stream::{wrappers::ReceiverStream, Stream, StreamExt};
use tonic::codec::CompressionEncoding::Gzip;
use tonic::{Code, Request, Response, Status, Streaming};
use watched::{Flags, Watched};

type Answers = Pin<Box<dyn Stream<Item = Result<StreamingOutputCallResponse, Status>> + Send>>;
type Sender = mpsc::Sender<Result<StreamingOutputCallResponse, Status>>;

/// Above the 10 MiB of the case very_large_request.
const MAX_MESSAGE: usize = 16 << 20;

fn flags<T>(request: &Request<T>) -> Flags {
    request.extensions().get::<Flags>().cloned().unwrap_or_default()
}

fn check_compressed(expected: Option<BoolValue>, compressed: bool) -> Result<(), Status> {
    match expected {
        Some(wanted) if wanted.value != compressed => Err(Status::invalid_argument(format!(
            "compressed: announced {}, arrived {compressed}",
            wanted.value
        ))),
        _ => Ok(()),
    }
}

fn asked_status(status: &Option<EchoStatus>) -> Result<(), Status> {
    match status {
        Some(status) => Err(Status::new(Code::from_i32(status.code), &status.message)),
        None => Ok(()),
    }
}

/// Sends what the parameters ask for. Returns false when the caller has gone.
async fn answer(sender: &Sender, parameters: Vec<ResponseParameters>) -> bool {
    for wanted in parameters {
        if wanted.interval_us > 0 {
            tokio::time::sleep(Duration::from_micros(wanted.interval_us as u64)).await;
        }
        let response = StreamingOutputCallResponse { payload: payload(wanted.size as usize) };
        if sender.send(Ok(response)).await.is_err() {
            return false;
        }
    }
    true
}

struct Interop;

#[tonic::async_trait]
impl TestService for Interop {
    type StreamingOutputCallStream = Answers;
    type FullDuplexCallStream = Answers;
    type HalfDuplexCallStream = Answers;

    async fn empty_call(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        Ok(Response::new(Empty {}))
    }

    async fn unary_call(&self, request: Request<SimpleRequest>) -> Result<Response<SimpleResponse>, Status> {
        let compressed = flags(&request).take();
        let request = request.into_inner();
        check_compressed(request.expect_compressed, compressed)?;
        asked_status(&request.response_status)?;
        let mut response = Response::new(SimpleResponse { payload: payload(request.response_size as usize) });
        if !request.response_compressed.is_some_and(|wanted| wanted.value) {
            response.disable_compression();
        }
        Ok(response)
    }

    async fn streaming_output_call(
        &self,
        request: Request<StreamingOutputCallRequest>,
    ) -> Result<Response<Answers>, Status> {
        let request = request.into_inner();
        asked_status(&request.response_status)?;
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move { answer(&sender, request.response_parameters).await });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn streaming_input_call(
        &self,
        request: Request<Streaming<StreamingInputCallRequest>>,
    ) -> Result<Response<StreamingInputCallResponse>, Status> {
        let flags = flags(&request);
        let mut requests = request.into_inner();
        let mut total = 0;
        while let Some(request) = requests.try_next().await? {
            check_compressed(request.expect_compressed, flags.take())?;
            total += request.payload.map_or(0, |payload| payload.body.len());
        }
        Ok(Response::new(StreamingInputCallResponse { aggregated_payload_size: total as i32 }))
    }

    async fn full_duplex_call(
        &self,
        request: Request<Streaming<StreamingOutputCallRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let mut requests = request.into_inner();
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            while let Some(Ok(request)) = requests.next().await {
                if let Err(status) = asked_status(&request.response_status) {
                    let _ = sender.send(Err(status)).await;
                    return;
                }
                if !answer(&sender, request.response_parameters).await {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn half_duplex_call(
        &self,
        request: Request<Streaming<StreamingOutputCallRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let mut requests = request.into_inner();
        let mut parameters = Vec::new();
        while let Some(request) = requests.try_next().await? {
            parameters.extend(request.response_parameters);
        }
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move { answer(&sender, parameters).await });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn unimplemented_call(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        Err(Status::unimplemented("UnimplementedCall is not implemented"))
    }
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let port = argument("port").ok_or("--port is missing")?;
    let service = TestServiceServer::new(Interop)
        .accept_compressed(Gzip)
        .send_compressed(Gzip)
        .max_decoding_message_size(MAX_MESSAGE);
    tonic::transport::Server::builder()
        .add_service(Watched(service))
        .serve(format!("127.0.0.1:{port}").parse()?)
        .await?;
    Ok(())
}
