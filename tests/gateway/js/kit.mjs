// What the suites share: clients, tokens, the server API, and waiting.

import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';

import * as json from 'centrifuge';
import * as binary from 'centrifuge/build/protobuf';
import { EventSource } from 'eventsource';
import WebSocket from 'ws';

export const [, , url, apiUrl, apiKey, secret, protocol, ...more] = process.argv;
const protobuf = protocol === 'protobuf';

// What connections are made over: websocket, sse or http_stream.
export const transport = process.env.TRANSPORT ?? 'websocket';

const base = new URL(apiUrl).origin;
const over = {
  websocket: url,
  sse: [{ transport: 'sse', endpoint: `${base}/connection/sse` }],
  http_stream: [{ transport: 'http_stream', endpoint: `${base}/connection/http_stream` }],
}[transport];

// Two builds of the package, which know nothing of each other.
export const { Centrifuge, UnauthorizedError } = protobuf ? binary : json;

// Far beyond what a loaded machine needs for one step.
export const PATIENCE_MS = 240_000;

const encoder = new TextEncoder();
const decoder = new TextDecoder();

// Payloads are JSON values in JSON, and bytes (here: of JSON) in Protobuf.
export const pack = (value) => (protobuf ? encoder.encode(JSON.stringify(value)) : value);
export const unpack = (data) => (protobuf ? JSON.parse(decoder.decode(data)) : data);

export function token(claims) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const text = `${part({ alg: 'HS256', typ: 'JWT' })}.${part(claims)}`;
  return `${text}.${createHmac('sha256', secret).update(text).digest('base64url')}`;
}

export const soon = (seconds) => Math.floor(Date.now() / 1000) + seconds;

// Browsers make each event of a socket a task of its own. The package relies on that: it hands
// messages on in promises. Where `ws` has inflated a message and the connection is gone already,
// 'close' follows within the same task, and the message would be handed on to nobody.
class Socket extends WebSocket {
  get onclose() { return super.onclose; }

  set onclose(listener) {
    super.onclose = listener && ((event) => setImmediate(() => listener.call(this, event)));
  }
}

const open = new Set();

export function client(options = {}) {
  const made = new Centrifuge(over, {
    websocket: Socket,
    eventsource: EventSource,
    emulationEndpoint: `${base}/emulation`,
    minReconnectDelay: 20,
    maxReconnectDelay: 200,
    timeout: PATIENCE_MS,
    ...options,
  });
  open.add(made);
  return made;
}

export async function connected(user, options = {}) {
  const made = client({ token: token({ sub: user }), ...options });
  const context = next(made, 'connected');
  made.connect();
  await context;
  return made;
}

export async function subscribed(centrifuge, channel, options = {}) {
  const sub = centrifuge.newSubscription(channel, options);
  sub.seen = [];
  sub.on('publication', ({ data, ...rest }) => sub.seen.push({ data: unpack(data), ...rest }));
  const context = next(sub, 'subscribed');
  sub.subscribe();
  sub.begun = await context;
  return sub;
}

// The next event of a kind. Error events before it are none of its business.
export function next(emitter, name) {
  return within(new Promise((resolve) => { emitter.once(name, resolve); }), name);
}

export async function within(promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited in vain for ${what}`)), PATIENCE_MS);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

export async function until(what, holds) {
  const end = Date.now() + PATIENCE_MS;
  while (!holds()) {
    assert.ok(Date.now() < end, `waited in vain for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

export async function api(method, parameters) {
  const response = await fetch(`${apiUrl}/${method}`, {
    method: 'POST',
    headers: { 'X-API-Key': apiKey },
    body: JSON.stringify(parameters),
  });
  assert.equal(response.status, 200);
  const { result, error } = await response.json();
  assert.equal(error, undefined, `${method}: ${JSON.stringify(error)}`);
  return result;
}

export function closeAll() {
  for (const one of open) one.disconnect();
  open.clear();
}

let channels = 0;

// A channel that no other check uses, nor another run at this server.
export const fresh = (namespace) => `${namespace}:${protocol}-${process.pid}-${(channels += 1)}`;
