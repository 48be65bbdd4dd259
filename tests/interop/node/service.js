// The interop service's definition, loaded from the proto file named by INTEROP_PROTO, and what the
// client and the server share.
'use strict';

const grpc = require('@grpc/grpc-js');
const protoLoader = require('@grpc/proto-loader');

const definition = protoLoader.loadSync(process.env.INTEROP_PROTO, { keepCase: true, defaults: true });
const testing = grpc.loadPackageDefinition(definition).grpc.testing;

const INITIAL = 'x-grpc-test-echo-initial';
const TRAILING = 'x-grpc-test-echo-trailing-bin';

const payload = (size) => ({ type: 'COMPRESSABLE', body: Buffer.alloc(size) });

module.exports = { grpc, testing, INITIAL, TRAILING, payload };
