// The gRPC interop service on grpc-js: `server.js --port=N`, on loopback.
// grpc-js compresses no responses, so response_compressed is not served.
'use strict';

const { parseArgs } = require('node:util');
const { setTimeout: delay } = require('node:timers/promises');
const { grpc, testing, INITIAL, TRAILING, payload } = require('./service.js');

// Sends the initial metadata that is to be echoed; returns the trailing metadata.
function echoMetadata(call) {
  const initial = call.metadata.get(INITIAL);
  if (initial.length > 0) {
    const headers = new grpc.Metadata();
    headers.set(INITIAL, initial[0]);
    call.sendMetadata(headers);
  }
  const trailers = new grpc.Metadata();
  for (const value of call.metadata.get(TRAILING)) {
    trailers.add(TRAILING, value);
  }
  return trailers;
}

function askedStatus(request, trailers) {
  const status = request.response_status;
  return status ? { code: status.code, details: status.message, metadata: trailers } : null;
}

// Writes honour the reader's pace.
function write(call, message) {
  return new Promise((resolve) => {
    if (call.write(message)) {
      resolve();
    } else {
      call.once('drain', resolve);
    }
  });
}

// The requests of a stream; the end of them must not close the writing half, as plain iteration would.
function incoming(call) {
  return call.iterator({ destroyOnReturn: false });
}

async function answer(call, request) {
  for (const wanted of request.response_parameters) {
    if (wanted.interval_us > 0) {
      await delay(wanted.interval_us / 1000);
    }
    if (call.cancelled) {
      return;
    }
    await write(call, { payload: payload(wanted.size) });
  }
}

function emptyCall(call, callback) {
  callback(null, {}, echoMetadata(call));
}

function unaryCall(call, callback) {
  const trailers = echoMetadata(call);
  const status = askedStatus(call.request, trailers);
  if (status) {
    callback(status);
  } else {
    callback(null, { payload: payload(call.request.response_size) }, trailers);
  }
}

async function streamingOutputCall(call) {
  const trailers = echoMetadata(call);
  const status = askedStatus(call.request, trailers);
  if (status) {
    call.emit('error', status);
    return;
  }
  await answer(call, call.request);
  call.end(trailers);
}

function streamingInputCall(call, callback) {
  const trailers = echoMetadata(call);
  let total = 0;
  call.on('data', (request) => {
    total += request.payload ? request.payload.body.length : 0;
  });
  call.on('end', () => callback(null, { aggregated_payload_size: total }, trailers));
}

async function fullDuplexCall(call) {
  const trailers = echoMetadata(call);
  call.on('error', () => {}); // the caller went away
  for await (const request of incoming(call)) {
    const status = askedStatus(request, trailers);
    if (status) {
      call.emit('error', status);
      return;
    }
    await answer(call, request);
  }
  call.end(trailers);
}

async function halfDuplexCall(call) {
  const trailers = echoMetadata(call);
  call.on('error', () => {}); // the caller went away
  const requests = [];
  for await (const request of incoming(call)) {
    requests.push(request);
  }
  for (const request of requests) {
    await answer(call, request);
  }
  call.end(trailers);
}

const { values } = parseArgs({ options: { port: { type: 'string' } } });
// Iterating over a stream that is cancelled throws; that ends the handler and nothing else.
process.on('unhandledRejection', (error) => console.error('a stream ended:', error));

// Above the 10 MiB of the case very_large_request.
const server = new grpc.Server({ 'grpc.max_receive_message_length': 16 << 20 });
server.addService(testing.TestService.service, {
  EmptyCall: emptyCall,
  UnaryCall: unaryCall,
  StreamingOutputCall: streamingOutputCall,
  StreamingInputCall: streamingInputCall,
  FullDuplexCall: fullDuplexCall,
  HalfDuplexCall: halfDuplexCall,
});
server.bindAsync(`127.0.0.1:${values.port}`, grpc.ServerCredentials.createInsecure(), (error) => {
  if (error) {
    console.error(error);
    process.exit(1);
  }
});
