// An SDK's first message: it connects, subscribes, has something published by the server API, and prints what it receives.
// Usage: first-message.mjs HOST:PORT API_KEY TOKEN

import { Centrifuge } from 'centrifuge';
import WebSocket from 'ws';

const [, , server, key, token] = process.argv;
const client = new Centrifuge(`ws://${server}/connection/websocket`, { websocket: WebSocket, token });
const subscription = client.newSubscription('news');
subscription.on('subscribed', async () => {
  const answer = await fetch(`http://${server}/api/publish`, {
    method: 'POST',
    headers: { 'X-API-Key': key },
    body: JSON.stringify({ channel: 'news', data: 'hello' }),
  });
  if (!answer.ok) throw new Error(`publish: ${answer.status}`);
});
subscription.on('publication', ({ data }) => {
  console.log(data);
  client.disconnect();
});
for (const part of [client, subscription]) part.on('error', ({ error }) => { throw new Error(error.message); });
subscription.subscribe();
client.connect();
