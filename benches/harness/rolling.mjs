// Some of the clients of rolling.py: each counts the numbers of its channel.

import { createHmac } from 'node:crypto';
import { createInterface } from 'node:readline';

import { Centrifuge } from 'centrifuge';
import WebSocket from 'ws';

const plan = JSON.parse(process.argv[2]);
const counted = {
  delivered: 0, lost: 0, doubled: 0, 'out of order': 0, recovered: 0, 'not recovered': 0, ended: 0, refused: 0,
  reconnects: 0,
};

function token(user) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const text = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({ sub: user })}`;
  return `${text}.${createHmac('sha256', plan.secret).update(text).digest('base64url')}`;
}

// Browsers make each event of a socket a task of its own, which the package relies on.
class Socket extends WebSocket {
  get onclose() { return super.onclose; }

  set onclose(listener) {
    super.onclose = listener && ((event) => setImmediate(() => listener.call(this, event)));
  }
}

const last = [];
const clients = [];
let waiting = plan.count;

function begin(number) {
  const port = plan.ports[number % plan.ports.length];
  const channel = number % plan.channels;
  const client = new Centrifuge(`ws://127.0.0.1:${port}/connection/websocket`, {
    websocket: Socket, token: token(`${number}`), timeout: 60_000, minReconnectDelay: 20, maxReconnectDelay: 1000,
  });
  const subscription = client.newSubscription(`room:${channel}`);
  let first = true;
  last[number] = 0;
  client.on('connecting', ({ code }) => { if (code !== 0) counted.reconnects += 1; });
  client.on('disconnected', ({ code }) => { if (code !== 0) counted.ended += 1; });
  // A connection that the server does not take: nobody listens, or it is closed before it is one.
  client.on('error', ({ error }) => { if (error.code === 2) counted.refused += 1; });
  subscription.on('unsubscribed', ({ code }) => { if (code !== 0) counted.ended += 1; });
  subscription.on('subscribed', ({ wasRecovering, recovered }) => {
    if (wasRecovering) counted[recovered ? 'recovered' : 'not recovered'] += 1;
    if (first && (waiting -= 1) === 0) console.log('subscribed');
    first = false;
  });
  subscription.on('publication', ({ data }) => {
    counted.delivered += 1;
    const missing = data.n - last[number] - 1;
    if (missing > 0) counted.lost += missing;
    if (missing === -1) counted.doubled += 1;
    if (missing < -1) counted['out of order'] += 1;
    last[number] = Math.max(last[number], data.n);
  });
  subscription.subscribe();
  client.connect();
  clients.push(client);
}

for (let number = plan.first; number < plan.first + plan.count; number += 1) begin(number);

// The last numbers of all channels: what has not come soon after is lost, too.
for await (const line of createInterface({ input: process.stdin })) {
  const numbers = JSON.parse(line);
  const behind = () => {
    let sum = 0;
    for (let number = plan.first; number < plan.first + plan.count; number += 1) {
      sum += Math.max(0, numbers[number % plan.channels] - last[number]);
    }
    return sum;
  };
  const end = Date.now() + 30_000;
  while (behind() > 0 && Date.now() < end) await new Promise((done) => { setTimeout(done, 100); });
  counted.lost += behind();
  console.log(JSON.stringify(counted));
  for (const client of clients) client.disconnect();
  process.exit(0);
}
