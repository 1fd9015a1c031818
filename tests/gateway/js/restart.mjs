// A thousand clients of npm's `centrifuge` that lose their connections, and then their server,
// while publications go on: none of these may be missing or come twice.
//
// Usage: node restart.mjs URL API-URL API-KEY TOKEN-SECRET json|protobuf FLAG-FILE
//
// Writes FLAG-FILE when it wants the server started anew. Streams live in the server's memory, so
// the new one has new epochs: the SDK is told that recovery failed, and does what applications do
// then, which is reading the history from the beginning.

import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';

import { api, closeAll, connected, more, unpack, until } from './kit.mjs';

const CLIENTS = 1000;
// So many words besides its number are in each publication.
const WORDS = Number(process.env.WORDS ?? 0);
const value = (number) => (WORDS ? `${number} ${'words '.repeat(WORDS)}` : number);
const CHANNELS = Array.from({ length: 10 }, (_, n) => `log:restart-${n}`);

// Per channel and epoch: what the server said it has published, by offset.
const published = new Map();
let publishing = true;
let id = 0;
let failures = 0;

function noted(channel, epoch) {
  const key = `${channel} ${epoch}`;
  if (!published.has(key)) published.set(key, new Map());
  return published.get(key);
}

// Of each channel the epoch of what was published last.
const latest = new Map();

// Whether nobody misses more than a recovery gives back, however slow the machine is.
const keptUp = () => followers.every(({ channel, got }) => {
  const epoch = latest.get(channel);
  return epoch === undefined || noted(channel, epoch).size - (got.get(epoch)?.size ?? 0) < 200;
});

async function publishAlways() {
  while (publishing) {
    await until('all to keep up', () => !publishing || keptUp());
    const channel = CHANNELS[(id += 1) % CHANNELS.length];
    try {
      const data = value(id);
      const { offset, epoch } = await api('publish', { channel, data });
      noted(channel, epoch).set(offset, data);
      latest.set(channel, epoch);
    } catch {
      // Nobody knows whether this one is published. It is not asked for, but must not come twice.
      failures += 1;
      await delay(20);
    }
    await delay(5);
  }
}

let late = 0;

// A subscriber that notes what it got, by epoch and offset.
async function follow(number) {
  const channel = CHANNELS[number % CHANNELS.length];
  const centrifuge = await connected(`${number}`, { maxReconnectDelay: 1000 });
  const got = new Map();
  const take = (epoch, { offset, data }) => {
    if (!got.has(epoch)) got.set(epoch, new Map());
    assert.ok(!got.get(epoch).has(offset), `${channel} ${epoch} ${offset} came twice`);
    got.get(epoch).set(offset, data);
  };
  const begin = async ({ streamPosition: { epoch, offset }, wasRecovering, recovered }, sub) => {
    follower.epoch = epoch;
    if (recovered || !wasRecovering && offset === 0) return;
    // What was there before.
    late += 1;
    follower.reading += 1;
    let since = { epoch, offset: 0 };
    while (since.offset < offset) {
      const { publications } = await sub.history({ limit: 300, since });
      assert.ok(publications.length > 0, `${channel}: nothing after ${since.offset} of ${offset}`);
      for (const one of publications) {
        since = { epoch, offset: one.offset };
        if (one.offset > offset || got.get(epoch)?.has(one.offset)) continue;
        take(epoch, { offset: one.offset, data: unpack(one.data) });
      }
    }
    follower.reading -= 1;
  };
  const follower = { centrifuge, channel, got, epoch: '', reading: 0 };
  const sub = centrifuge.newSubscription(channel);
  sub.on('subscribed', (context) => begin(context, sub));
  sub.on('publication', ({ offset, data }) => {
    take(follower.epoch, { offset, data: unpack(data) });
  });
  sub.subscribe();
  await sub.ready();
  return follower;
}

function upToDate(follower) {
  const { channel, epoch, got } = follower;
  const seen = got.get(epoch)?.size ?? 0;
  return follower.reading === 0 && seen >= noted(channel, epoch).size;
}

const everybody = (what) => until(what, () => followers.every(upToDate));

const followers = await Promise.all(Array.from({ length: CLIENTS }, (_, n) => follow(n)));
console.log(`clients=${followers.length}`);
const publisher = publishAlways();
await until('a load', () => id > 100);

// Storms: all connections break at once, by the network and by the server.
let reconnects = 0;
for (const { centrifuge } of followers) centrifuge.on('connecting', () => { reconnects += 1; });
for (const { centrifuge } of followers) centrifuge._transport._transport.terminate();
await until('all to come back', () => reconnects >= CLIENTS
  && followers.every(({ centrifuge }) => centrifuge.state === 'connected'));
await Promise.all(followers.map((_, number) => api('disconnect', {
  user: `${number}`, disconnect: { code: 3000, reason: 'come back' },
})));
await until('all to come back again', () => reconnects >= 2 * CLIENTS
  && followers.every(({ centrifuge }) => centrifuge.state === 'connected'));
assert.equal(late, 0, 'every recovery succeeds');
await until('more load', () => id > 300);

// The restart.
const first = new Map(followers.map(({ channel, epoch }) => [channel, epoch]));
const before = new Map(CHANNELS.map((channel) => [channel, noted(channel, first.get(channel)).size]));
writeFileSync(more[0], 'now');
await until('the new server', () => followers.every(({ channel, epoch, centrifuge }) => (
  epoch !== first.get(channel) && centrifuge.state === 'connected'
)));
assert.ok(reconnects >= 3 * CLIENTS);
const there = id;
await until('a load on the new server', () => id > there + 200);
publishing = false;
await publisher;
await everybody('all publications');

let checked = 0;
for (const { channel, epoch, got } of followers) {
  assert.equal(got.size, 2, `${channel} has had ${got.size} epochs`);
  for (const [which, seen] of got) {
    const said = noted(channel, which);
    const count = which === epoch ? said.size : before.get(channel);
    assert.ok(seen.size >= count, `${channel}: ${seen.size} of ${count} came`);
    for (let offset = 1; offset <= seen.size; offset += 1) {
      assert.ok(seen.has(offset), `${channel} ${which}: ${offset} is missing`);
      if (said.has(offset)) assert.equal(seen.get(offset), said.get(offset));
      checked += 1;
    }
  }
  const ids = [...got.values()].flatMap((seen) => [...seen.values()]);
  assert.equal(new Set(ids).size, ids.length, `${channel}: something came under two numbers`);
}
console.log(`reconnects=${reconnects}\nresynchronised=${late}\npublished=${id}`);
console.log(`failures=${failures}\ndeliveries=${checked}`);
closeAll();
process.exit(0);
