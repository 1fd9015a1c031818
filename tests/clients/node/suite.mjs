// The echo server as the client of Node's `ws` package meets it.
//
// Usage: node suite.mjs URL
//
// Opens real client connections to URL, compares what comes back with what was sent, and prints
// one line `name=number` for each kind of check with how many were made. Ends with 0 if all held.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';

import WebSocket, { createWebSocketStream } from 'ws';

const url = process.argv[2];

// Far beyond what a loaded machine needs for one check; a check ends early when it is done.
const PATIENCE_MS = 240_000;
const CONNECTS = 1000;
const MESSAGE_MAX = 16 << 20;
// Around the borders of the three length forms, up to the server's default limit.
const SIZES = [0, 1, 2, 125, 126, 127, 65_535, 65_536, 65_537, 1 << 20];
SIZES.push(MESSAGE_MAX - 1, MESSAGE_MAX);
const CLOSE_CODES = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011, 1012, 1013, 3000, 4000, 4999];

function bytes(size) {
  const buffer = Buffer.alloc(size);
  for (let at = 0; at < size; at += 1) buffer[at] = at ^ (at >> 8) ^ (at >> 16);
  return buffer;
}

async function open(protocols = [], options = {}) {
  const socket = new WebSocket(url, protocols, { maxPayload: 2 * MESSAGE_MAX, ...options });
  await once(socket, 'open');
  return socket;
}

async function next(socket) {
  const [data, isBinary] = await once(socket, 'message');
  return isBinary ? data : data.toString();
}

async function echo(socket, message) {
  const answer = next(socket);
  socket.send(message);
  same(await answer, message);
}

// Like deepEqual, without printing 16 MiB where it fails.
function same(answer, message) {
  const equal = typeof message === 'string' ? answer === message : message.equals(answer);
  assert.ok(equal, `${answer.length} (${typeof answer}) came back for ${message.length}`);
}

async function close(socket, code = 1000, reason = '') {
  const closed = once(socket, 'close');
  socket.close(code, reason);
  const [answer] = await closed;
  assert.equal(answer, code);
}

const checks = {
  async text() {
    const samples = ['', 'hello', 'κόσμε', '😀\u{10ffff}\0', '\ufeffmark'];
    for (const size of SIZES) samples.push('€'.repeat(size / 3) + 'x'.repeat(size % 3));
    const socket = await open();
    for (const sample of samples) await echo(socket, sample);
    await close(socket);
    return samples.length;
  },

  async binary() {
    const socket = await open();
    for (const size of SIZES) await echo(socket, bytes(size));
    await close(socket);
    return SIZES.length;
  },

  // `fin: false` sends a message in pieces, each in a frame of its own.
  async fragments() {
    const cases = [
      ['one', ' and ', 'two'],
      ['', '', 'late', ''],
      ['κόσ', 'με'],
      Array(10_000).fill('x'),
      Array(16).fill('m'.repeat(1 << 20)),
    ];
    const socket = await open();
    for (const pieces of cases) {
      for (const binary of [false, true]) {
        const answer = next(socket);
        const last = pieces.length - 1;
        pieces.forEach((piece, at) => socket.send(piece, { binary, fin: at === last }));
        const whole = pieces.join('');
        same(await answer, binary ? Buffer.from(whole) : whole);
      }
    }
    await close(socket);
    return 2 * cases.length;
  },

  // The package's stream interface: what is written comes back to be read.
  async stream() {
    const socket = await open();
    const stream = createWebSocketStream(socket);
    const closed = once(socket, 'close');
    const sent = bytes(8 << 20);
    for (let at = 0; at < sent.length; at += 100_000) stream.write(sent.subarray(at, at + 100_000));
    const pieces = [];
    let received = 0;
    for await (const piece of stream) {
      pieces.push(piece);
      received += piece.length;
      if (received >= sent.length) stream.end();
    }
    same(Buffer.concat(pieces), sent);
    await closed;
    return 1;
  },

  async pings() {
    const socket = await open();
    let rttMax = 0;
    for (let size = 0; size <= 125; size += 1) {
      const start = performance.now();
      const pong = once(socket, 'pong');
      socket.ping(bytes(size));
      const [payload] = await pong;
      same(payload, bytes(size));
      rttMax = Math.max(rttMax, performance.now() - start);
    }
    assert.ok(rttMax < PATIENCE_MS);
    socket.pong('unsolicited');
    await echo(socket, 'no answer to a pong');
    await close(socket);
    return 126;
  },

  async close_codes() {
    for (const code of CLOSE_CODES) await close(await open(), code, 'the reason, žluťoučký');
    const socket = await open();
    const closed = once(socket, 'close');
    socket.close();
    const [code] = await closed;
    assert.ok(code === 1005 || code === 1000, `${code} came back for an empty close frame`);
    return CLOSE_CODES.length + 1;
  },

  // The package reports the code of a close frame that the server sends by itself.
  async faults() {
    const cases = [
      [1009, (socket) => socket.send(Buffer.alloc(MESSAGE_MAX + 1))],
      [1007, (socket) => socket.send(Buffer.of(0xff), { binary: false })],
    ];
    for (const [code, send] of cases) {
      const socket = await open();
      const closed = once(socket, 'close');
      send(socket);
      const [answer] = await closed;
      assert.equal(answer, code);
    }
    return cases.length;
  },

  // Extensions that the package offers are not taken, and it can live with that.
  async offers() {
    const socket = await open([], { perMessageDeflate: true });
    assert.equal(socket.extensions, '');
    assert.equal(socket.protocol, '');
    await echo(socket, 'plain');
    await close(socket);
    return 1;
  },

  async order() {
    const samples = Array.from({ length: 3000 }, (_, number) => `${number}`.repeat(number % 50));
    const socket = await open();
    let at = 0;
    const all = new Promise((resolve, reject) => {
      socket.on('message', (data) => {
        if (data.toString() !== samples[at]) reject(new Error(`message ${at} is out of order`));
        at += 1;
        if (at === samples.length) resolve();
      });
    });
    for (const sample of samples) socket.send(sample);
    await all;
    await close(socket);
    return samples.length;
  },

  // All connect at once; when all are open, each has a message echoed.
  async connects() {
    const sockets = await Promise.all(Array.from({ length: CONNECTS }, () => open()));
    await Promise.all(sockets.map((socket, number) => echo(socket, `${number}`)));
    await Promise.all(sockets.map((socket) => close(socket)));
    return CONNECTS;
  },
};

for (const [name, check] of Object.entries(checks)) {
  const late = new AbortController();
  const limit = delay(PATIENCE_MS, null, { signal: late.signal }).then(
    () => assert.fail(`${name} is not done after ${PATIENCE_MS} ms`),
    () => {}, // the check was in time
  );
  console.log(`${name}=${(await Promise.race([check(), limit])) ?? assert.fail(name)}`);
  late.abort();
}
