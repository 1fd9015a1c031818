// Echo with ws on Node. Below /fanout, what one client sends is sent to all of them. With files of a
// certificate and its key, over TLS. With PACKED in the environment, compressed.
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createServer as createSecureServer } from "node:https";
import { WebSocketServer } from "ws";

const [port, cert, key] = process.argv.slice(2);
const http = cert
  ? createSecureServer({ cert: readFileSync(cert), key: readFileSync(key) })
  : createServer();
const server = new WebSocketServer({
  server: http,
  perMessageDeflate: process.env.PACKED ? { threshold: 256 } : false,
  maxPayload: 64 * 1024 * 1024,
});
const subscribers = new Set();

server.on("connection", (socket, request) => {
  socket.on("error", () => {});
  if (!request.url.startsWith("/fanout")) {
    socket.on("message", (data, binary) => socket.send(data, { binary }));
    return;
  }
  subscribers.add(socket);
  socket.on("close", () => subscribers.delete(socket));
  socket.on("message", (data, binary) => {
    for (const subscriber of subscribers) subscriber.send(data, { binary });
  });
});

// Node sets TCP_NODELAY on a server's sockets by default.
http.listen({ host: "127.0.0.1", port: Number(port), backlog: 65535 }, () => {
  console.log(`listening on ${cert ? "wss" : "ws"}://127.0.0.1:${port}`);
});
