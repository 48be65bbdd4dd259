// The client of the gRPC interop tests on grpc-js: one case a run, exit 0 if it holds.
// The cases are those of the public interop test descriptions, which name their sizes and texts.
'use strict';

const assert = require('node:assert/strict');
const { parseArgs } = require('node:util');
const { grpc, testing, INITIAL, TRAILING, payload } = require('./service.js');

const { status } = grpc;
const REQUEST_SIZE = 271828;
const RESPONSE_SIZE = 314159;
const STREAM_REQUEST_SIZES = [27182, 8, 1828, 45904];
const STREAM_RESPONSE_SIZES = [31415, 9, 2653, 58979];
const TRAILING_VALUE = Buffer.from([0xab, 0xab, 0xab]);
const SPECIAL_MESSAGE = '\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n';
const CASE_TIMEOUT_MS = 20000;
const SOAK_ITERATIONS = 20;
const GZIP = { 'grpc.default_compression_algorithm': 2 };

const deadline = () => ({ deadline: Date.now() + CASE_TIMEOUT_MS });
const largeRequest = (more = {}) => ({ response_size: RESPONSE_SIZE, payload: payload(REQUEST_SIZE), ...more });
const streamRequest = (responseSize, requestSize) => ({
  response_parameters: [{ size: responseSize }],
  payload: payload(requestSize),
});

// A unary call as a promise of { error, response, headers, trailers }.
function unary(client, method, request, metadata = new grpc.Metadata()) {
  return new Promise((resolve) => {
    const result = {};
    const call = client[method](request, metadata, deadline(), (error, response) => {
      Object.assign(result, { error, response });
    });
    call.on('metadata', (headers) => Object.assign(result, { headers }));
    call.on('status', (end) => setImmediate(() => resolve({ ...result, trailers: end.metadata })));
  });
}

// Collects a stream's responses: a promise of { responses, end, headers }; `onData(response, call)` may write.
function collect(call, onData = () => {}) {
  return new Promise((resolve) => {
    const result = { responses: [] };
    call.on('metadata', (headers) => Object.assign(result, { headers }));
    call.on('data', (response) => {
      result.responses.push(response);
      onData(response, call);
    });
    call.on('error', () => {}); // the status says it
    call.on('status', (end) => setImmediate(() => resolve({ ...result, end })));
  });
}

const sizes = (responses) => responses.map((response) => response.payload.body.length);

function wantLarge(result) {
  assert.ifError(result.error);
  assert.ok(result.response.payload.body.equals(Buffer.alloc(RESPONSE_SIZE)), 'the payload is not all zeros');
}

async function largeUnary(client) {
  wantLarge(await unary(client, 'UnaryCall', largeRequest()));
}

async function sendAll(client, more = {}) {
  return new Promise((resolve, reject) => {
    const call = client.StreamingInputCall(deadline(), (error, response) => (error ? reject(error) : resolve(response)));
    for (const size of STREAM_REQUEST_SIZES) {
      call.write({ payload: payload(size), ...more });
    }
    call.end();
  });
}

async function clientStreaming(client, more) {
  const response = await sendAll(client, more);
  assert.equal(response.aggregated_payload_size, 74922);
}

async function serverStreaming(client, wanted, more = () => ({})) {
  const request = { response_parameters: wanted.map((size, index) => ({ size, ...more(index) })) };
  const { responses, end } = await collect(client.StreamingOutputCall(request, deadline()));
  assert.equal(end.code, status.OK, end.details);
  assert.deepEqual(sizes(responses), wanted);
}

async function pingPong(client) {
  const call = client.FullDuplexCall(deadline());
  let turn = 0;
  const next = () => {
    if (turn === STREAM_REQUEST_SIZES.length) {
      call.end();
    } else {
      call.write(streamRequest(STREAM_RESPONSE_SIZES[turn], STREAM_REQUEST_SIZES[turn]));
      turn += 1;
    }
  };
  const done = collect(call, next);
  next();
  const { responses, end } = await done;
  assert.equal(end.code, status.OK, end.details);
  assert.deepEqual(sizes(responses), STREAM_RESPONSE_SIZES);
}

async function emptyStream(client) {
  const call = client.FullDuplexCall(deadline());
  const done = collect(call);
  call.end();
  const { responses, end } = await done;
  assert.equal(end.code, status.OK, end.details);
  assert.deepEqual(responses, []);
}

async function timeoutOnSleepingServer(client) {
  const call = client.FullDuplexCall({ deadline: Date.now() + 1 });
  const done = collect(call);
  call.write({ response_parameters: [{ size: 31415, interval_us: 1000000 }], payload: payload(27182) });
  const { end } = await done;
  assert.equal(end.code, status.DEADLINE_EXCEEDED, end.details);
}

async function cancelAfterBegin(client) {
  const error = await new Promise((resolve) => {
    const call = client.StreamingInputCall(deadline(), resolve);
    call.cancel();
  });
  assert.equal(error.code, status.CANCELLED, error.details);
}

async function cancelAfterFirstResponse(client) {
  const call = client.FullDuplexCall(deadline());
  const done = collect(call, () => call.cancel());
  call.write(streamRequest(31415, 27182));
  const { responses, end } = await done;
  assert.equal(end.code, status.CANCELLED, end.details);
  assert.deepEqual(sizes(responses), [31415]);
}

async function statusCodeAndMessage(client) {
  const response_status = { code: status.UNKNOWN, message: 'test status message' };
  const { error } = await unary(client, 'UnaryCall', { response_status });
  assert.deepEqual([error?.code, error?.details], [status.UNKNOWN, response_status.message]);
  const call = client.FullDuplexCall(deadline());
  const done = collect(call);
  call.write({ response_status });
  call.end();
  const { end } = await done;
  assert.deepEqual([end.code, end.details], [status.UNKNOWN, response_status.message]);
}

async function specialStatusMessage(client) {
  const response_status = { code: status.UNKNOWN, message: SPECIAL_MESSAGE };
  const { error } = await unary(client, 'UnaryCall', { response_status });
  assert.deepEqual([error?.code, error?.details], [status.UNKNOWN, SPECIAL_MESSAGE]);
}

async function unimplemented(client) {
  const { error } = await unary(client, 'UnimplementedCall', {});
  assert.equal(error?.code, status.UNIMPLEMENTED, error?.details);
}

function wantMetadata(headers, trailers) {
  assert.deepEqual(headers?.get(INITIAL), ['test_initial_metadata_value']);
  assert.deepEqual(trailers.get(TRAILING), [TRAILING_VALUE]);
}

async function customMetadata(client) {
  const metadata = new grpc.Metadata();
  metadata.set(INITIAL, 'test_initial_metadata_value');
  metadata.set(TRAILING, TRAILING_VALUE);
  const result = await unary(client, 'UnaryCall', largeRequest(), metadata);
  wantLarge(result);
  wantMetadata(result.headers, result.trailers);
  const call = client.FullDuplexCall(metadata, deadline());
  const done = collect(call);
  call.write(streamRequest(RESPONSE_SIZE, REQUEST_SIZE));
  call.end();
  const { responses, end, headers } = await done;
  assert.equal(end.code, status.OK, end.details);
  assert.deepEqual(sizes(responses), [RESPONSE_SIZE]);
  wantMetadata(headers, end.metadata);
}

// grpc-js compresses per channel: one with gzip and one without.
async function clientCompressedUnary(client, open, probe) {
  if (probe) {
    const { error } = await unary(client, 'UnaryCall', largeRequest({ expect_compressed: { value: true } }));
    assert.equal(error?.code, status.INVALID_ARGUMENT, error?.details);
  }
  const compressing = open(GZIP);
  wantLarge(await unary(compressing, 'UnaryCall', largeRequest({ expect_compressed: { value: true } })));
  wantLarge(await unary(client, 'UnaryCall', largeRequest({ expect_compressed: { value: false } })));
}

async function serverCompressedUnary(client) {
  for (const value of [true, false]) {
    wantLarge(await unary(client, 'UnaryCall', largeRequest({ response_compressed: { value } })));
  }
}

async function soak(run, iterations) {
  for (let index = 0; index < iterations; index += 1) {
    await run();
  }
}

// `open(options, service)` gives a client on a channel of its own.
const CASES = {
  empty_unary: async (client) => assert.ifError((await unary(client, 'EmptyCall', {})).error),
  large_unary: largeUnary,
  client_streaming: (client) => clientStreaming(client),
  server_streaming: (client) => serverStreaming(client, STREAM_RESPONSE_SIZES),
  ping_pong: pingPong,
  empty_stream: emptyStream,
  timeout_on_sleeping_server: timeoutOnSleepingServer,
  cancel_after_begin: cancelAfterBegin,
  cancel_after_first_response: cancelAfterFirstResponse,
  status_code_and_message: statusCodeAndMessage,
  special_status_message: specialStatusMessage,
  unimplemented_method: unimplemented,
  unimplemented_service: (client, open) => unimplemented(open({}, testing.UnimplementedService)),
  custom_metadata: customMetadata,
  client_compressed_unary: (client, open) => clientCompressedUnary(client, open, true),
  client_compressed_unary_noprobe: (client, open) => clientCompressedUnary(client, open, false),
  client_compressed_streaming_noprobe: (client, open) =>
    clientStreaming(open(GZIP), { expect_compressed: { value: true } }),
  server_compressed_unary: serverCompressedUnary,
  server_compressed_streaming: (client) =>
    serverStreaming(client, [31415, 92653], (index) => ({ compressed: { value: index === 0 } })),
  rpc_soak: (client, open, iterations) => soak(() => largeUnary(client), iterations),
  channel_soak: (client, open, iterations) =>
    soak(() => largeUnary(open({ 'grpc.use_local_subchannel_pool': 1 })), iterations),
  // Not an official case: many ping_pongs at once on one channel.
  concurrent_ping_pong: (client) => Promise.all(Array.from({ length: SOAK_ITERATIONS }, () => pingPong(client))),
};

async function main() {
  const { values } = parseArgs({
    options: {
      server_host: { type: 'string', default: '127.0.0.1' },
      server_port: { type: 'string' },
      test_case: { type: 'string' },
      soak_iterations: { type: 'string', default: `${SOAK_ITERATIONS}` },
    },
  });
  const run = CASES[values.test_case];
  if (run === undefined) {
    console.error(`--test_case: ${values.test_case} is not allowed; cases: ${Object.keys(CASES).join(', ')}`);
    process.exit(2);
  }
  const opened = [];
  const open = (options = {}, service = testing.TestService) => {
    const client = new service(`${values.server_host}:${values.server_port}`, grpc.credentials.createInsecure(), options);
    opened.push(client);
    return client;
  };
  try {
    await run(open(), open, Number(values.soak_iterations));
  } catch (error) {
    console.error(`${values.test_case} failed:`, error);
    process.exitCode = 1;
  } finally {
    opened.forEach((client) => client.close());
  }
}

main();
