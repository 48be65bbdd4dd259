//! The client of the gRPC interop tests on tonic: one case a run, exit 0 if it holds.
//! The cases are those of the public interop test descriptions, which name their sizes and texts.

use std::time::Duration;

use evenstream_interop::testing::test_service_client::TestServiceClient;
use evenstream_interop::testing::unimplemented_service_client::UnimplementedServiceClient;
use evenstream_interop::testing::*;
use evenstream_interop::{argument, payload, INITIAL, TRAILING};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::CompressionEncoding::Gzip;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

const REQUEST_SIZE: usize = 271828;
const RESPONSE_SIZE: i32 = 314159;
const STREAM_REQUEST_SIZES: [usize; 4] = [27182, 8, 1828, 45904];
const STREAM_RESPONSE_SIZES: [i32; 4] = [31415, 9, 2653, 58979];
const INITIAL_VALUE: &str = "test_initial_metadata_value";
const TRAILING_VALUE: &[u8] = b"\xab\xab\xab";
const SPECIAL_MESSAGE: &str = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n";
const CASE_TIMEOUT: Duration = Duration::from_secs(20);
const SOAK_ITERATIONS: usize = 20;

type Client = TestServiceClient<Channel>;
type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

macro_rules! want {
    ($what:expr, $got:expr, $wanted:expr) => {
        let (got, wanted) = (&$got, &$wanted);
        if got != wanted {
            return Err(format!("{}: got {got:?}, wanted {wanted:?}", $what).into());
        }
    };
}

fn large_request() -> SimpleRequest {
    SimpleRequest { response_size: RESPONSE_SIZE, payload: payload(REQUEST_SIZE), ..Default::default() }
}

fn want_large(response: SimpleResponse) -> Outcome {
    want!("payload is all zeros", response.payload == payload(RESPONSE_SIZE as usize), true);
    Ok(())
}

fn stream_request(response_size: i32, request_size: usize) -> StreamingOutputCallRequest {
    StreamingOutputCallRequest {
        response_parameters: vec![ResponseParameters { size: response_size, ..Default::default() }],
        payload: payload(request_size),
        ..Default::default()
    }
}

fn size(response: &StreamingOutputCallResponse) -> i32 {
    response.payload.as_ref().map_or(0, |payload| payload.body.len() as i32)
}

/// The error of a call that must not succeed.
fn failure<T>(result: Result<T, Status>) -> Result<Status, String> {
    result.err().ok_or_else(|| "the call succeeded".to_owned())
}

async fn large_unary(mut client: Client) -> Outcome {
    want_large(client.unary_call(large_request()).await?.into_inner())
}

async fn client_streaming(mut client: Client, expect_compressed: Option<BoolValue>) -> Outcome {
    let requests =
        STREAM_REQUEST_SIZES.map(|size| StreamingInputCallRequest { payload: payload(size), expect_compressed });
    let response = client.streaming_input_call(tokio_stream::iter(requests)).await?.into_inner();
    want!("aggregated size", response.aggregated_payload_size, 74922);
    Ok(())
}

async fn server_streaming(mut client: Client) -> Outcome {
    let response_parameters =
        STREAM_RESPONSE_SIZES.map(|size| ResponseParameters { size, ..Default::default() }).to_vec();
    let request = StreamingOutputCallRequest { response_parameters, ..Default::default() };
    let mut responses = client.streaming_output_call(request).await?.into_inner();
    let mut sizes = Vec::new();
    while let Some(response) = responses.message().await? {
        sizes.push(size(&response));
    }
    want!("response sizes", sizes, STREAM_RESPONSE_SIZES.to_vec());
    Ok(())
}

async fn ping_pong(mut client: Client) -> Outcome {
    let (sender, receiver) = mpsc::channel(1);
    let mut turns = STREAM_RESPONSE_SIZES.into_iter().zip(STREAM_REQUEST_SIZES);
    let (response_size, request_size) = turns.next().expect("there are four turns");
    sender.send(stream_request(response_size, request_size)).await?;
    let mut responses = client.full_duplex_call(ReceiverStream::new(receiver)).await?.into_inner();
    let first = responses.message().await?.ok_or("the stream ended early")?;
    want!("response size", size(&first), response_size);
    for (response_size, request_size) in turns {
        sender.send(stream_request(response_size, request_size)).await?;
        let response = responses.message().await?.ok_or("the stream ended early")?;
        want!("response size", size(&response), response_size);
    }
    drop(sender);
    want!("a message after half-close", responses.message().await?.is_some(), false);
    Ok(())
}

async fn empty_stream(mut client: Client) -> Outcome {
    let mut responses = client.full_duplex_call(tokio_stream::empty()).await?.into_inner();
    want!("a message", responses.message().await?.is_some(), false);
    Ok(())
}

/// Dropping a call cancels it; tonic reports no status then, so what must hold is that the channel goes on.
async fn cancel_after_begin(mut client: Client) -> Outcome {
    let (sender, receiver) = mpsc::channel::<StreamingInputCallRequest>(1);
    let mut other = client.clone();
    let call = client.streaming_input_call(ReceiverStream::new(receiver));
    // The call has begun once another on the same connection has been answered.
    tokio::select! {
        _ = call => return Err("the call ended by itself".into()),
        answered = other.empty_call(Empty {}) => { answered?; }
    }
    drop(sender);
    other.empty_call(Empty {}).await?;
    Ok(())
}

async fn cancel_after_first_response(mut client: Client) -> Outcome {
    let (sender, receiver) = mpsc::channel(1);
    sender.send(stream_request(31415, 27182)).await?;
    let mut responses = client.full_duplex_call(ReceiverStream::new(receiver)).await?.into_inner();
    let first = responses.message().await?.ok_or("the stream ended early")?;
    want!("response size", size(&first), 31415);
    drop((responses, sender));
    client.empty_call(Empty {}).await?;
    Ok(())
}

async fn want_echoed_status(mut client: Client, message: &str, streaming: bool) -> Outcome {
    let response_status = Some(EchoStatus { code: Code::Unknown as i32, message: message.to_owned() });
    let request = SimpleRequest { response_status: response_status.clone(), ..Default::default() };
    let status = failure(client.unary_call(request).await)?;
    want!("unary status", (status.code(), status.message()), (Code::Unknown, message));
    if streaming {
        let request = StreamingOutputCallRequest { response_status, ..Default::default() };
        let status = match client.full_duplex_call(tokio_stream::once(request)).await {
            Err(status) => status,
            Ok(response) => failure(response.into_inner().message().await)?,
        };
        want!("full duplex status", (status.code(), status.message()), (Code::Unknown, message));
    }
    Ok(())
}

fn add_metadata<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(INITIAL, MetadataValue::from_static(INITIAL_VALUE));
    request.metadata_mut().insert_bin(TRAILING, MetadataValue::from_bytes(TRAILING_VALUE));
    request
}

fn want_initial(metadata: &MetadataMap) -> Outcome {
    want!("initial metadata", metadata.get(INITIAL).map(|v| v.as_bytes()), Some(INITIAL_VALUE.as_bytes()));
    Ok(())
}

fn want_trailing(metadata: &MetadataMap) -> Outcome {
    let value = metadata.get_bin(TRAILING).ok_or("no trailing metadata")?.to_bytes()?;
    want!("trailing metadata", value.as_ref(), TRAILING_VALUE);
    Ok(())
}

async fn custom_metadata(mut client: Client) -> Outcome {
    let response = client.unary_call(add_metadata(large_request())).await?;
    want_initial(response.metadata())?; // tonic merges a unary call's trailers into its metadata
    want_trailing(response.metadata())?;
    want_large(response.into_inner())?;
    let requests = tokio_stream::once(stream_request(RESPONSE_SIZE, REQUEST_SIZE));
    let response = client.full_duplex_call(add_metadata(requests)).await?;
    want_initial(response.metadata())?;
    let mut responses = response.into_inner();
    let first = responses.message().await?.ok_or("the stream ended early")?;
    want!("response size", size(&first), RESPONSE_SIZE);
    want!("a second message", responses.message().await?.is_some(), false);
    want_trailing(&responses.trailers().await?.ok_or("no trailers")?)
}

async fn client_compressed_unary(client: Client, probe: bool) -> Outcome {
    let request = |value| SimpleRequest { expect_compressed: Some(BoolValue { value }), ..large_request() };
    if probe {
        let status = failure(client.clone().unary_call(request(true)).await)?;
        want!("status of an announcement not kept", status.code(), Code::InvalidArgument);
    }
    // grpc-go answers as it was asked, compressed.
    let mut compressing = client.clone().send_compressed(Gzip).accept_compressed(Gzip);
    want_large(compressing.unary_call(request(true)).await?.into_inner())?;
    want_large(client.clone().unary_call(request(false)).await?.into_inner())
}

async fn server_compressed_unary(client: Client) -> Outcome {
    for value in [true, false] {
        let request = SimpleRequest { response_compressed: Some(BoolValue { value }), ..large_request() };
        let response = client.clone().accept_compressed(Gzip).unary_call(request).await?;
        if value {
            want!("encoding", response.metadata().get("grpc-encoding").map(|v| v.as_bytes()), Some("gzip".as_bytes()));
        }
        want_large(response.into_inner())?;
    }
    Ok(())
}

async fn server_compressed_streaming(client: Client) -> Outcome {
    let parameters = |size, value| ResponseParameters { size, interval_us: 0, compressed: Some(BoolValue { value }) };
    let response_parameters = vec![parameters(31415, true), parameters(92653, false)];
    let request = StreamingOutputCallRequest { response_parameters, ..Default::default() };
    let response = client.accept_compressed(Gzip).streaming_output_call(request).await?;
    want!("encoding", response.metadata().get("grpc-encoding").map(|v| v.as_bytes()), Some("gzip".as_bytes()));
    let mut responses = response.into_inner();
    for wanted in [31415, 92653] {
        let response = responses.message().await?.ok_or("the stream ended early")?;
        want!("response size", size(&response), wanted);
    }
    want!("a third message", responses.message().await?.is_some(), false);
    Ok(())
}

async fn concurrent_ping_pong(client: Client) -> Outcome {
    let runs: Vec<_> = (0..SOAK_ITERATIONS).map(|_| tokio::spawn(ping_pong(client.clone()))).collect();
    for run in runs {
        run.await??;
    }
    Ok(())
}

async fn run_case(case: &str, endpoint: Endpoint) -> Outcome {
    let channel = endpoint.connect().await?;
    let mut client = TestServiceClient::new(channel.clone());
    match case {
        "empty_unary" => client.empty_call(Empty {}).await.map(|_| ())?,
        "large_unary" => large_unary(client).await?,
        "client_streaming" => client_streaming(client, None).await?,
        "server_streaming" => server_streaming(client).await?,
        "ping_pong" => ping_pong(client).await?,
        "empty_stream" => empty_stream(client).await?,
        "cancel_after_begin" => cancel_after_begin(client).await?,
        "cancel_after_first_response" => cancel_after_first_response(client).await?,
        "status_code_and_message" => want_echoed_status(client, "test status message", true).await?,
        "special_status_message" => want_echoed_status(client, SPECIAL_MESSAGE, false).await?,
        "unimplemented_method" => {
            let status = failure(client.unimplemented_call(Empty {}).await)?;
            want!("status", status.code(), Code::Unimplemented);
        }
        "unimplemented_service" => {
            let mut client = UnimplementedServiceClient::new(channel);
            let status = failure(client.unimplemented_call(Empty {}).await)?;
            want!("status", status.code(), Code::Unimplemented);
        }
        "custom_metadata" => custom_metadata(client).await?,
        "client_compressed_unary" => client_compressed_unary(client, true).await?,
        "client_compressed_unary_noprobe" => client_compressed_unary(client, false).await?,
        "client_compressed_streaming_noprobe" => {
            let client = client.send_compressed(Gzip).accept_compressed(Gzip);
            client_streaming(client, Some(BoolValue { value: true })).await?
        }
        "server_compressed_unary" => server_compressed_unary(client).await?,
        "server_compressed_streaming" => server_compressed_streaming(client).await?,
        "rpc_soak" => {
            for _ in 0..SOAK_ITERATIONS {
                large_unary(client.clone()).await?;
            }
        }
        "channel_soak" => {
            for _ in 0..SOAK_ITERATIONS {
                large_unary(TestServiceClient::new(endpoint.connect().await?)).await?;
            }
        }
        // Not an official case: many ping_pongs at once on one channel.
        "concurrent_ping_pong" => concurrent_ping_pong(client).await?,
        _ => return Err(format!("--test_case: {case:?} is not a case of this client").into()),
    }
    Ok(())
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Outcome {
    let host = argument("server_host").unwrap_or_else(|| "127.0.0.1".to_owned());
    let port = argument("server_port").ok_or("--server_port is missing")?;
    let case = argument("test_case").ok_or("--test_case is missing")?;
    let endpoint = Endpoint::from_shared(format!("http://{host}:{port}"))?;
    tokio::time::timeout(CASE_TIMEOUT, run_case(&case, endpoint)).await?
}
