// Echo with Bun's own WebSocket server. Below /fanout, what one client sends is published to all.
// With files of a certificate and its key, over TLS. With PACKED in the environment, compressed.
const [port, cert, key] = process.argv.slice(2);
const compress = Boolean(process.env.PACKED);

Bun.serve({
  hostname: "127.0.0.1",
  port: Number(port),
  tls: cert && { cert: Bun.file(cert), key: Bun.file(key) },
  fetch(request, server) {
    const fanout = new URL(request.url).pathname.startsWith("/fanout");
    if (server.upgrade(request, { data: { fanout } })) return undefined;
    return new Response("WebSocket only", { status: 426 });
  },
  websocket: {
    perMessageDeflate: compress,
    maxPayloadLength: 64 * 1024 * 1024,
    backpressureLimit: 64 * 1024 * 1024,
    closeOnBackpressureLimit: false,
    open(socket) {
      if (socket.data.fanout) socket.subscribe("all");
    },
    message(socket, message) {
      if (!socket.data.fanout) {
        socket.send(message, compress);
        return;
      }
      // publish() leaves out the sender.
      socket.publish("all", message, compress);
      socket.send(message, compress);
    },
  },
});
console.log(`listening on ${cert ? "wss" : "ws"}://127.0.0.1:${port}`);
