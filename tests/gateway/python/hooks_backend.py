"""An application's backend for all hooks, over HTTP or, made with grpcio, over gRPC.

Arguments: `http` or `grpc`, the folder of proxy.proto, the port (0: a free one). Prints the port, then
answers each question as the last line on standard input says: `right`; `late`, which is right once
another line has come; `slow`, which is never; `garbage`, `wrong`, `status`, `cut` and `large`, none of
which is an answer; `error` and `disconnect`, which are; of streams `empty`, which ends before it has
begun. Each question is printed as JSON.

Over gRPC it feeds subscriptions, too. A line of JSON on standard input is for the streams of a
channel: `{"channel": "a", "tell": {"n": 1}, "tags": {}, "times": 1}`, where `N` in what is told counts
from 1; `"bytes"` tells such a text, JSON or not; `"end"` ends them well, `"fail"` with a status, and
`"junk"` says what is no message. What comes on them is printed, and that one was cancelled. Streams of
channels that begin with `deaf` are not read.
"""

import base64
import json
import os
import queue
import sys
import tempfile
import threading
import time
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

way, protos, port = sys.argv[1:4]
METHODS = ["Connect", "Refresh", "Subscribe", "Publish", "RPC", "SubRefresh"]
# More than any proxy takes.
LARGE = "x" * (3 << 20)

mode = "right"
changed = threading.Condition()
# Streams by channel: what each has to say.
streams = {}
printing = threading.Lock()


def say(value):
    with printing:
        print(json.dumps(value), flush=True)


def right(method, channel):
    """What is said where all is well."""
    if method == "Connect":
        return {"user": "42", "channels": ["own"], "data": {"hello": 1}, "meta": {"m": 1}}
    if method == "Subscribe":
        return {"data": {"sub": 1}, "info": {"i": 1}}
    if method == "Publish":
        # What is published there tells by itself that nothing is missing.
        return {} if channel.startswith("steady:") else {"data": {"changed": True}, "tags": {"t": "1"}}
    if method == "RPC":
        return {"data": {"answer": 42}}
    return {"expire_at": int(time.time()) + 3600}


def answer(method, channel):
    """The answer in the current mode, as JSON has it; or a word for what is none."""
    with changed:
        changed.wait_for(lambda: mode != "late")
        now = mode
    about = "data" if method in ("Publish", "RPC") else "info"
    if now == "right":
        return {"result": right(method, channel)}
    if now == "large":
        return {"result": {**right(method, channel), about: LARGE}}
    if now == "wrong":
        plain = {key: value for key, value in right(method, channel).items() if key != about}
        return {"result": {**plain, "b64" + about: "%"}}
    if now == "error":
        return {"error": {"code": 1000, "message": "no", "temporary": True}}
    if now == "disconnect":
        return {"disconnect": {"code": 4500, "reason": "away"}}
    return now


class Http(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        request = json.loads(body)
        # Those who come by a name all come to one path.
        method = self.path.strip("/")
        if method == "any":
            method = "RPC" if "method" in request else "Publish" if "data" in request else "Subscribe"
        say({"method": method, "request": request, "metadata": {key.lower(): value for key, value in self.headers.items()}})
        said = answer(method, request.get("channel", ""))
        if said == "slow":
            # Until whoever asked has given up.
            self.connection.recv(1)
            self.close_connection = True
            return
        if said == "status":
            self.send_response(500)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = b"<html>" if said == "garbage" else json.dumps(said).encode()
        self.send_response(200)
        if said == "cut":
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"result":')
            self.close_connection = True
            return
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


def serve_http():
    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

    server = Server(("127.0.0.1", int(port)), Http)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


def serve_grpc():
    import grpc
    from google.protobuf.json_format import MessageToDict, ParseDict
    from grpc_tools import protoc

    folder = tempfile.mkdtemp()
    arguments = ["protoc", f"-I{protos}", f"--python_out={folder}"]
    assert protoc.main(arguments + [os.path.join(protos, "proxy.proto")]) == 0
    sys.path.insert(0, folder)
    import proxy_pb2 as proxy

    def message(method, said):
        """JSON as the message that it stands for; payloads are bytes there."""
        result = said.get("result")
        for key in ("data", "info", "meta"):
            if result and key in result:
                result[key] = base64.b64encode(json.dumps(result[key]).encode()).decode()
        return ParseDict(said, getattr(proxy, f"{method}Response")()).SerializeToString()

    def of(method):
        def handle(request, context):
            metadata = {key: str(value) for key, value in context.invocation_metadata()}
            say({"method": method, "request": MessageToDict(request, preserving_proto_field_name=True), "metadata": metadata})
            said = answer(method, getattr(request, "channel", ""))
            if said == "slow":
                # Until whoever asked has given up.
                over = threading.Event()
                if context.add_callback(over.set):
                    over.wait(60)
                return b""
            if said == "status":
                context.abort(grpc.StatusCode.PERMISSION_DENIED, "not you")
            if said == "cut":
                context.abort(grpc.StatusCode.UNAVAILABLE, "going away")
            return b"\xff\xff\xff" if said == "garbage" else message(method, said)

        decode = getattr(proxy, f"{method}Request").FromString
        return grpc.unary_unary_rpc_method_handler(handle, request_deserializer=decode)

    def feed(method, request, context, rest):
        """One stream, from its question to its end."""
        metadata = {key: str(value) for key, value in context.invocation_metadata()}
        say({"method": method, "request": MessageToDict(request, preserving_proto_field_name=True), "metadata": metadata})
        channel = request.channel
        said = answer("Subscribe", channel)
        if said == "slow":
            over = threading.Event()
            if context.add_callback(over.set):
                over.wait(60)
            return
        if said == "status":
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "not you")
        if said == "cut":
            context.abort(grpc.StatusCode.UNAVAILABLE, "going away")
        if said == "empty":
            return
        if said == "garbage":
            yield b"\xff\xff\xff"
            return
        # Before anybody can know that it is there.
        mine = queue.SimpleQueue()
        cancelled = object()
        ended = threading.Event()

        def over():
            # Also where this is not asked for a message any more.
            mine.put(cancelled)
            if not ended.is_set():
                say({"method": "Cancelled", "channel": channel})

        with changed:
            streams.setdefault(channel, []).append(mine)
        if not context.add_callback(over):
            over()
        if rest is not None and not channel.startswith("deaf"):

            def hear():
                try:
                    for more in rest:
                        say({"method": "Publication", "channel": channel, "data": more.publication.data.decode(), "first": more.HasField("subscribe_request")})
                except grpc.RpcError:
                    pass

            threading.Thread(target=hear, daemon=True).start()
        first = message("Subscribe", said)
        yield proxy.StreamSubscribeResponse(subscribe_response=proxy.SubscribeResponse.FromString(first)).SerializeToString()
        while True:
            order = mine.get()
            if order is cancelled:
                return
            if "end" in order:
                ended.set()
                return
            if "fail" in order:
                ended.set()
                context.abort(grpc.StatusCode.INTERNAL, "on purpose")
            if "junk" in order:
                yield b"\xff\xff\xff"
                continue
            for n in range(order.get("times", 1)):
                data = order["bytes"] if "bytes" in order else json.dumps(order["tell"]).replace('"N"', str(n + 1))
                told = proxy.Publication(data=data.encode(), tags=order.get("tags", {}))
                yield proxy.StreamSubscribeResponse(publication=told).SerializeToString()

    server = grpc.server(futures.ThreadPoolExecutor(max_workers=64))
    handlers = {method: of(method) for method in METHODS}
    handlers["SubscribeUnidirectional"] = grpc.unary_stream_rpc_method_handler(
        lambda request, context: feed("SubscribeUnidirectional", request, context, None),
        request_deserializer=proxy.SubscribeRequest.FromString,
    )
    handlers["SubscribeBidirectional"] = grpc.stream_stream_rpc_method_handler(
        lambda requests, context: feed("SubscribeBidirectional", next(requests).subscribe_request, context, requests),
        request_deserializer=proxy.StreamSubscribeRequest.FromString,
    )
    name = proxy.DESCRIPTOR.services_by_name["CentrifugoProxy"].full_name
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
    at = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    # Kept as long as the process.
    serve_grpc.server = server
    return at


say({"port": serve_http() if way == "http" else serve_grpc()})
for line in sys.stdin:
    if line.startswith("{"):
        order = json.loads(line)
        with changed:
            here = streams.get(order["channel"], [])
            if "end" in order or "fail" in order:
                streams.pop(order["channel"], None)
        for one in here:
            one.put(order)
        say({"told": len(here)})
        continue
    with changed:
        mode = line.strip()
        changed.notify_all()
    say({"mode": mode})
os._exit(0)
