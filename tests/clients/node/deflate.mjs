// Compressed messages by Node's `ws`, without a connection: what its sender writes and what its
// receiver reads. `node deflate.mjs <cases> <answers>`: a JSON object a line in both.
//
// {answer, write: [{data, cuts, ping}], text}   → {bytes}: frames of a client that got that answer
// {answer, read: bytes}                         → {messages: [data]}: what such a client receives
//
// `node deflate.mjs --echo URL`: connections to a server that compresses.
//
// All bytes are hexadecimal. `answer` is our value of Sec-WebSocket-Extensions.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';

import WebSocket from 'ws';

const require = createRequire(import.meta.url);
const PerMessageDeflate = require('./node_modules/ws/lib/permessage-deflate.js');
const Receiver = require('./node_modules/ws/lib/receiver.js');
const Sender = require('./node_modules/ws/lib/sender.js');
const extension = require('./node_modules/ws/lib/extension.js');

const agree = (answer) => {
  const deflate = new PerMessageDeflate({ threshold: 0 }, false);
  // It refuses what it did not offer and what it does not understand.
  deflate.offer();
  deflate.accept(extension.parse(answer)['permessage-deflate']);
  return deflate;
};

const write = async ({ answer, write, text }) => {
  const chunks = [];
  const socket = {
    cork() {},
    uncork() {},
    write(chunk, done) {
      chunks.push(Buffer.from(chunk));
      if (done) done();
      return true;
    },
  };
  const sender = new Sender(socket, { 'permessage-deflate': agree(answer) });
  for (const { data, cuts, ping } of write) {
    const bytes = Buffer.from(data, 'hex');
    const ends = [...cuts, bytes.length];
    for (const [index, end] of ends.entries()) {
      const fin = index === ends.length - 1;
      const part = bytes.subarray(index === 0 ? 0 : ends[index - 1], end);
      const options = { fin, compress: true, binary: !text, mask: true };
      await new Promise((done) => sender.send(part, options, done));
      if (ping && !fin) await new Promise((done) => sender.ping(Buffer.from('p'), true, done));
    }
  }
  return { bytes: Buffer.concat(chunks).toString('hex') };
};

const read = ({ answer, read }) =>
  new Promise((resolve, reject) => {
    const messages = [];
    const extensions = { 'permessage-deflate': agree(answer) };
    const receiver = new Receiver({ binaryType: 'nodebuffer', extensions, isServer: false });
    receiver.on('message', (data) => messages.push(data.toString('hex')));
    receiver.on('error', reject);
    receiver.on('conclude', () => resolve({ messages }));
    receiver.write(Buffer.from(read, 'hex'));
  });

// Echoes of a server that compresses, for each window that a client may ask for.
const echo = async (url) => {
  let echoes = 0;
  for (const serverMaxWindowBits of [undefined, 9, 10, 11, 12, 13, 14, 15]) {
    const perMessageDeflate = { threshold: 0, serverMaxWindowBits };
    const socket = new WebSocket(url, { perMessageDeflate });
    await once(socket, 'open');
    assert.equal(socket.extensions, 'permessage-deflate');
    for (const size of [0, 1, 255, 256, 1000, 40_000, 1 << 20]) {
      for (const binary of [false, true]) {
        const message = Buffer.alloc(size, `{"n":${size},"x":[1,22,333]} `);
        const answer = once(socket, 'message');
        socket.send(message, { binary });
        const [data, isBinary] = await answer;
        assert.equal(isBinary, binary);
        assert.ok(message.equals(data));
        echoes += 1;
      }
    }
    socket.close();
    await once(socket, 'close');
  }
  console.log(`echoes=${echoes}`);
};

if (process.argv[2] === '--echo') {
  await echo(process.argv[3]);
  process.exit(0);
}

const lines = readFileSync(process.argv[2], 'utf8').trim().split('\n');
const answers = [];
for (const line of lines) {
  const task = JSON.parse(line);
  answers.push(JSON.stringify(task.write ? await write(task) : await read(task)));
}
writeFileSync(process.argv[3], answers.join('\n') + '\n');
console.log(`cases=${answers.length}`);
