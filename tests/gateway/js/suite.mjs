// The gateway as npm's `centrifuge` meets it.
//
// Usage: node suite.mjs URL API-URL API-KEY TOKEN-SECRET json|protobuf
//
// TRANSPORT=sse or http_stream makes the same checks over these; sse knows only JSON.
// Prints one line `name=number` for each kind of check with how many were made. Ends with 0 if all
// of them held. CHECKS=name,name makes only these.

import assert from 'node:assert/strict';

import {
  UnauthorizedError, api, client, closeAll, connected, fresh, next, pack, soon, subscribed, token,
  transport, unpack, until, within,
} from './kit.mjs';

const fails = (promise, code) => assert.rejects(promise, (error) => {
  assert.equal(error.code, code);
  return true;
});

const datas = (sub) => sub.seen.map(({ data }) => data);
const numbers = (count, from = 1) => Array.from({ length: count }, (_, n) => n + from);

// The connection breaks as by a cut network, and comes back.
async function broken(centrifuge, meanwhile) {
  const lost = next(centrifuge, 'connecting');
  const back = next(centrifuge, 'connected');
  if (transport === 'websocket') centrifuge._transport._transport.terminate();
  else centrifuge._transport.close();
  await lost;
  await meanwhile?.();
  await back;
}

const checks = {
  async connect() {
    const plain = client();
    const [context] = await Promise.all([next(plain, 'connected'), plain.connect()]);
    assert.match(context.client, /^[0-9a-f-]{36}$/);
    assert.equal(context.transport, transport);
    const left = next(plain, 'disconnected');
    plain.disconnect();
    assert.equal((await left).code, 0);
    // Again, with the same object.
    const again = next(plain, 'connected');
    plain.connect();
    assert.notEqual((await again).client, context.client);
    await connected('42', { name: 'suite', version: '1', data: pack({ a: 1 }) });
    return 3;
  },

  async publish() {
    const channel = fresh('room');
    const [one, two] = [await connected('1'), await connected('2')];
    const subs = [await subscribed(one, channel), await subscribed(two, channel)];
    const values = [0, 'text', [1, [2]], { 'žluť': '\u{1f600}' }, null, '', false, 'x'.repeat(50_000)];
    for (const value of values) await subs[0].publish(pack(value));
    await two.publish(channel, pack('from the client'));
    for (const sub of subs) {
      await until('publications', () => sub.seen.length === values.length + 1);
      assert.deepEqual(datas(sub), [...values, 'from the client']);
      assert.deepEqual(sub.seen.map(({ info }) => info.user), [...values.map(() => '1'), '2']);
    }
    const left = next(subs[1], 'unsubscribed');
    subs[1].unsubscribe();
    assert.equal((await left).code, 0);
    await subs[0].publish(pack('alone'));
    await until('the last', () => subs[0].seen.length === values.length + 2);
    assert.equal(subs[1].seen.length, values.length + 1);
    await Promise.all([next(subs[1], 'subscribed'), subs[1].subscribe()]);
    await subs[0].publish(pack('together'));
    await until('the very last', () => datas(subs[1]).at(-1) === 'together');
    return values.length + 3;
  },

  async presence() {
    const channel = fresh('room');
    const info = { name: 'Ann' };
    const one = await connected('1', { token: token({ sub: '1', info }) });
    const sub = await subscribed(one, channel);
    await subscribed(await connected('2'), channel);
    await subscribed(await connected('2'), channel);
    const { clients } = await sub.presence();
    const users = Object.values(clients).map(({ user }) => user).sort();
    assert.deepEqual(users, ['1', '2', '2']);
    for (const [id, { client: own }] of Object.entries(clients)) assert.equal(id, own);
    const me = Object.values(clients).find(({ user }) => user === '1');
    assert.deepEqual(unpack(me.connInfo), info);
    assert.deepEqual(await one.presenceStats(channel), { numClients: 3, numUsers: 2 });
    await fails(one.presence('elsewhere'), 108);
    return 5;
  },

  async joins() {
    const channel = fresh('room');
    const sub = (await connected('1')).newSubscription(channel);
    const log = [];
    sub.on('join', ({ info }) => log.push(`+${info.user}`));
    sub.on('leave', ({ info }) => log.push(`-${info.user}`));
    await Promise.all([next(sub, 'subscribed'), sub.subscribe()]);
    await until('my own join', () => log.length === 1);
    const two = await connected('2');
    (await subscribed(two, channel)).unsubscribe();
    await until('a leave', () => log.length === 3);
    await subscribed(await connected('3'), channel);
    await until('another join', () => log.length === 4);
    const four = await connected('4');
    await subscribed(four, channel);
    four.disconnect();
    await until('the end', () => log.length === 6);
    assert.deepEqual(log, ['+1', '+2', '-2', '+3', '+4', '-4']);
    return log.length;
  },

  async history() {
    const channel = fresh('log');
    const sub = await subscribed(await connected('1'), channel);
    for (const n of numbers(10)) await sub.publish(pack(n));
    const read = async (options) => {
      const result = await sub.history(options);
      assert.equal(result.offset, 10);
      return [result.publications.map(({ data }) => unpack(data)), result.epoch];
    };
    const [none, epoch] = await read({});
    assert.deepEqual(none, []);
    const cases = [
      [{ limit: -1 }, numbers(10)],
      [{ limit: 3 }, [1, 2, 3]],
      [{ limit: 3, reverse: true }, [10, 9, 8]],
      [{ limit: -1, since: { offset: 7, epoch } }, [8, 9, 10]],
      [{ limit: 2, since: { offset: 4, epoch }, reverse: true }, [3, 2]],
    ];
    for (const [options, expected] of cases) {
      assert.deepEqual((await read(options))[0], expected);
    }
    await fails(sub.history({ limit: 1, since: { offset: 1, epoch: 'another' } }), 112);
    return cases.length + 2;
  },

  // What was published while the connection was away comes in order, once.
  async recovery() {
    const channel = fresh('log');
    const centrifuge = await connected('1');
    const sub = await subscribed(centrifuge, channel);
    assert.equal(sub.begun.recoverable, true);
    let published = 0;
    const publish = async () => api('publish', { channel, data: (published += 1) });
    await publish();
    for (let round = 0; round < 5; round += 1) {
      const subscribedAgain = next(sub, 'subscribed');
      await broken(centrifuge, async () => {
        for (let n = 0; n < 20; n += 1) await publish();
      });
      const context = await subscribedAgain;
      assert.ok(context.wasRecovering && context.recovered);
      await publish();
    }
    await until('all', () => sub.seen.length >= published);
    assert.deepEqual(datas(sub), numbers(published));
    assert.deepEqual(sub.seen.map(({ offset }) => offset), numbers(published));
    return published;
  },

  async recovery_fails() {
    const channel = fresh('short');
    const centrifuge = await connected('1');
    const sub = await subscribed(centrifuge, channel);
    const subscribedAgain = next(sub, 'subscribed');
    const lost = next(centrifuge, 'connecting');
    centrifuge.disconnect();
    for (const n of numbers(10)) await api('publish', { channel, data: n });
    centrifuge.connect();
    await lost;
    const context = await subscribedAgain;
    assert.ok(context.wasRecovering && !context.recovered);
    assert.equal(context.streamPosition.offset, 10);
    await api('publish', { channel, data: 11 });
    await until('a live one', () => sub.seen.length === 1);
    assert.deepEqual(datas(sub), [11]);
    // From a position that somebody else knows.
    const since = { offset: 8, epoch: context.streamPosition.epoch };
    const late = await subscribed(await connected('2'), channel, { since });
    await until('since', () => late.seen.length === 3);
    assert.deepEqual(datas(late), [9, 10, 11]);
    return 2;
  },

  async cache() {
    const channel = fresh('cache');
    for (const n of numbers(5)) await api('publish', { channel, data: n });
    const sub = await subscribed(await connected('1'), channel);
    await until('the newest', () => sub.seen.length === 1);
    await api('publish', { channel, data: 6 });
    await until('a live one', () => sub.seen.length === 2);
    assert.deepEqual(datas(sub), [5, 6]);
    return 2;
  },

  async server_side() {
    const channel = fresh('log');
    const centrifuge = client({ token: token({ sub: 'server-side', channels: [channel] }) });
    const seen = [];
    centrifuge.on('publication', (one) => seen.push([one.channel, unpack(one.data)]));
    const both = Promise.all([next(centrifuge, 'subscribed'), next(centrifuge, 'connected')]);
    centrifuge.connect();
    assert.equal((await both)[0].channel, channel);
    await api('publish', { channel, data: 1 });
    await until('a publication', () => seen.length === 1);
    await broken(centrifuge, () => api('publish', { channel, data: 2 }));
    await until('the missed one', () => seen.length === 2);
    const other = fresh('log');
    const begun = next(centrifuge, 'subscribed');
    await api('subscribe', { user: 'server-side', channel: other });
    assert.equal((await begun).channel, other);
    await api('publish', { channel: other, data: 3 });
    await until('the third', () => seen.length === 3);
    const ended = next(centrifuge, 'unsubscribed');
    await api('unsubscribe', { user: 'server-side', channel: other });
    assert.equal((await ended).channel, other);
    assert.deepEqual(seen, [[channel, 1], [channel, 2], [other, 3]]);
    return seen.length + 2;
  },

  async tokens() {
    // Expired: the SDK asks for another.
    let asked = 0;
    const getToken = async () => {
      asked += 1;
      return token({ sub: 'tokens', exp: soon(4) });
    };
    const expired = client({ token: token({ sub: 'tokens', exp: soon(-10) }), getToken });
    await Promise.all([next(expired, 'connected'), expired.connect()]);
    assert.equal(asked, 1);
    // Expiring: it is refreshed, and the connection stays.
    let lost = 0;
    expired.on('connecting', () => { lost += 1; });
    await until('refreshes', () => asked >= 3);
    await expired.publish('plain', pack(1));
    assert.equal(lost, 0);
    // The application says no.
    const refused = client({ getToken: async () => { throw new UnauthorizedError('no'); } });
    const [unauthorized] = await Promise.all([next(refused, 'disconnected'), refused.connect()]);
    assert.equal(unauthorized.code, 1);
    const forged = client({ token: `${token({ sub: '1' })}x` });
    const [end] = await Promise.all([next(forged, 'disconnected'), forged.connect()]);
    assert.deepEqual([end.code, end.reason], [3500, 'invalid token']);
    return asked + 2;
  },

  async subscription_tokens() {
    const channel = `$${fresh('closed')}`;
    const centrifuge = await connected('1');
    let asked = 0;
    const getToken = async ({ channel: wanted }) => {
      asked += 1;
      return token({ sub: '1', channel: wanted, exp: soon(4), info: { role: 'x' } });
    };
    const sub = await subscribed(centrifuge, channel, { getToken });
    let lost = 0;
    sub.on('subscribing', () => { lost += 1; });
    await until('refreshes', () => asked >= 3);
    await api('publish', { channel, data: 1 });
    await until('a publication', () => sub.seen.length === 1);
    assert.equal(lost, 0);
    const foreign = token({ sub: '1', channel });
    const bad = centrifuge.newSubscription(`$${fresh('closed')}`, { token: foreign });
    const end = next(centrifuge, 'disconnected');
    bad.subscribe();
    assert.equal((await end).code, 3500);
    return asked + 1;
  },

  async delta() {
    const channel = fresh('delta');
    const centrifuge = await connected('1');
    const sub = await subscribed(centrifuge, channel, { delta: 'fossil' });
    const plain = await subscribed(await connected('2'), channel);
    // Characters of several bytes that differ in one of them: a patch may cut them apart.
    const words = ['é', 'è', 'ž', '€', '\u{1f600}', '\u{1f601}', 'a', '"', '\\', '\n'];
    const values = numbers(60).map((n) => ({
      text: `${'the same all the time, '.repeat(20)}${words[n % words.length]}${'.'.repeat(n % 7)}`,
      list: numbers(n % 5).map((m) => words[(n + m) % words.length]),
      n,
    }));
    const publish = (value) => api('publish', { channel, data: value });
    for (const value of values.slice(0, 20)) await publish(value);
    await until('live ones', () => sub.seen.length === 20);
    await broken(centrifuge, async () => {
      for (const value of values.slice(20, 40)) await publish(value);
    });
    for (const value of values.slice(40)) await publish(value);
    await until('all', () => sub.seen.length === 60 && plain.seen.length === 60);
    assert.deepEqual(datas(sub), values);
    assert.deepEqual(datas(plain), values);
    const { numDeltaPayloads, numFullPayloads } = sub.deltaStats();
    assert.ok(numDeltaPayloads >= 30, `${numDeltaPayloads} deltas, ${numFullPayloads} in full`);
    return 60;
  },

  async filters() {
    const channel = fresh('tags');
    const tagsFilter = { op: 'or', nodes: [
      { key: 'kind', cmp: 'eq', val: 'goal' },
      { op: 'not', nodes: [{ key: 'minute', cmp: 'lt', val: '90' }] },
    ] };
    const sub = await subscribed(await connected('1'), channel, { tagsFilter });
    const publish = (data, tags) => api('publish', { channel, data, tags });
    await publish(1, { kind: 'goal', minute: '5' });
    await publish(2, { kind: 'pass', minute: '6' });
    await publish(3, { kind: 'pass', minute: '91' });
    await until('two', () => sub.seen.length === 2);
    assert.deepEqual(datas(sub), [1, 3]);
    assert.deepEqual(sub.seen[0].tags, { kind: 'goal', minute: '5' });
    return 3;
  },

  async batches() {
    const centrifuge = client({ token: token({ sub: '1' }) });
    const channels = numbers(100).map(() => fresh('log'));
    const subs = channels.map((channel) => centrifuge.newSubscription(channel));
    const ready = Promise.all(subs.map((sub) => next(sub, 'subscribed')));
    centrifuge.startBatching();
    subs.forEach((sub) => sub.subscribe());
    centrifuge.connect();
    centrifuge.stopBatching();
    await ready;
    centrifuge.startBatching();
    const all = Promise.all(numbers(200).map((n) => subs[n % 100].publish(pack(n))));
    centrifuge.stopBatching();
    await within(all, 'replies');
    return channels.length + 200;
  },

  async errors() {
    const centrifuge = await connected('1');
    await fails(centrifuge.rpc('method', pack({})), 108);
    await fails(centrifuge.publish(fresh('closed'), pack(1)), 103);
    await fails(centrifuge.publish('unknown:a', pack(1)), 102);
    await fails(centrifuge.history('plain', { limit: 1 }), 108);
    const cases = [[fresh('closed'), 103], ['unknown:a', 102], ['$private', 103], ['ž', 107]];
    for (const [channel, code] of cases) {
      const sub = centrifuge.newSubscription(channel);
      const end = next(sub, 'unsubscribed');
      sub.subscribe();
      assert.equal((await end).code, code, channel);
    }
    return 4 + cases.length;
  },

  async ends() {
    // Told to go: for good, or to come back.
    const cases = [[undefined, 3503, false], [4500, 4500, false], [4999, 4999, false],
      [4000, 4000, true], [3000, 3000, true]];
    for (const [asked, code, comesBack] of cases) {
      const centrifuge = await connected('ends');
      const end = next(centrifuge, comesBack ? 'connecting' : 'disconnected');
      const disconnect = asked ? { code: asked, reason: 'by the test' } : undefined;
      await api('disconnect', { user: 'ends', disconnect });
      const context = await end;
      assert.deepEqual([context.code, context.reason],
        [code, asked ? 'by the test' : 'force disconnect']);
      if (comesBack) await next(centrifuge, 'connected');
      centrifuge.disconnect();
    }
    // A subscription that the server ends.
    const channel = fresh('room');
    const sub = await subscribed(await connected('unsubscribed'), channel);
    const end = next(sub, 'unsubscribed');
    await api('unsubscribe', { user: 'unsubscribed', channel });
    assert.deepEqual(await end, { channel, code: 2000, reason: 'server unsubscribe' });
    // More than a message may be.
    const large = await connected('large', { timeout: 6000 });
    const refused = large.publish('plain', pack('x'.repeat(70_000)));
    if (transport === 'websocket') {
      refused.catch(() => {});
      assert.equal((await next(large, 'disconnected')).code, 3);
    } else {
      // The request is answered with 413, and the session goes on.
      await assert.rejects(refused, (error) => error.code === 1);
      await large.publish('plain', pack('small'));
    }
    const send = await connected('send');
    const unavailable = next(send, 'disconnected');
    send.send(pack({})).catch(() => {});
    assert.equal((await unavailable).code, 3508);
    return cases.length + 3;
  },

  // Pings come every 12 s and want an answer within 11 s.
  async pings() {
    const centrifuge = await connected('1', { maxServerPingDelay: 60_000 });
    let pings = 0;
    let lost = 0;
    assert.equal(typeof centrifuge._waitServerPing, 'function');
    const wait = centrifuge._waitServerPing.bind(centrifuge);
    centrifuge._waitServerPing = () => { pings += 1; wait(); };
    centrifuge.on('connecting', () => { lost += 1; });
    await until('pings', () => pings >= 3);
    assert.equal(lost, 0);
    return 3;
  },

  // A thousand at once, each with a subscription and messages long enough to be compressed.
  async crowd() {
    const channel = fresh('log');
    const texts = numbers(10).map((n) => `${n} ${'words '.repeat(20)}`);
    const all = await Promise.all(numbers(1000).map((n) => connected(`${n}`)));
    const subs = await Promise.all(all.map((one) => subscribed(one, channel)));
    for (const data of texts) await api('publish', { channel, data });
    for (const sub of subs) {
      await until('ten', () => sub.seen.length === 10);
      assert.deepEqual(datas(sub), texts);
    }
    return all.length;
  },
};

const wanted = process.env.CHECKS?.split(',') ?? Object.keys(checks);
for (const name of wanted) {
  const count = await checks[name]().catch((error) => {
    throw new Error(`${name}: ${error.message}`, { cause: error });
  });
  console.log(`${name}=${count}`);
  closeAll();
}
process.exit(0);
