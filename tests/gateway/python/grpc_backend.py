"""An application's backend over gRPC, made with grpcio.

Arguments: the folder of proxy.proto, the port (0: a free one). Prints the port, then answers each
question as the last line on standard input says: `right`, `slow`, `wrong`, `garbage`, `error`,
`disconnect`, `refused`, `large`. Each question is printed as JSON.
"""

import json
import os
import sys
import tempfile
import threading
import time
from concurrent import futures

import grpc
from google.protobuf.json_format import MessageToDict
from grpc_tools import protoc

protos, port = sys.argv[1:3]
folder = tempfile.mkdtemp()
arguments = ["protoc", f"-I{protos}", f"--python_out={folder}", f"--grpc_python_out={folder}"]
assert protoc.main(arguments + [os.path.join(protos, "proxy.proto")]) == 0
sys.path.insert(0, folder)

import proxy_pb2 as proxy
import proxy_pb2_grpc as stubs

mode = "right"


def say(value):
    print(json.dumps(value), flush=True)


class Backend(stubs.CentrifugoProxyServicer):
    def told(self, method, request, context):
        metadata = {key: str(value) for key, value in context.invocation_metadata()}
        say({"method": method, "request": MessageToDict(request, preserving_proto_field_name=True), "metadata": metadata})

    def answer(self, method, request, context, response, right):
        self.told(method, request, context)
        if mode == "slow":
            # Until whoever asked has given up.
            over = threading.Event()
            if context.add_callback(over.set):
                over.wait(60)
        if mode == "error":
            return response(error=proxy.Error(code=1000, message="no", temporary=True))
        if mode == "disconnect":
            return response(disconnect=proxy.Disconnect(code=4500, reason="away"))
        if mode == "wrong":
            return response(disconnect=proxy.Disconnect(code=1))
        if mode == "refused":
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "not you")
        return response(result=right)

    def Connect(self, request, context):
        right = proxy.ConnectResult(user="42", channels=["own"], data=b'{"hello": 1}', meta=b'{"m": 1}')
        return self.answer("Connect", request, context, proxy.ConnectResponse, right)

    def Refresh(self, request, context):
        right = proxy.RefreshResult(expire_at=int(time.time()) + 3600)
        return self.answer("Refresh", request, context, proxy.RefreshResponse, right)

    def Subscribe(self, request, context):
        right = proxy.SubscribeResult(data=b'{"sub": 1}', info=b'{"i": 1}')
        return self.answer("Subscribe", request, context, proxy.SubscribeResponse, right)

    def Publish(self, request, context):
        right = proxy.PublishResult(data=b'{"changed": true}', tags={"t": "1"})
        return self.answer("Publish", request, context, proxy.PublishResponse, right)

    def RPC(self, request, context):
        data = b'"' + b"x" * (3 << 20) + b'"' if mode == "large" else b'{"answer": 42}'
        return self.answer("RPC", request, context, proxy.RPCResponse, proxy.RPCResult(data=data))

    def SubRefresh(self, request, context):
        right = proxy.SubRefreshResult(expire_at=int(time.time()) + 3600)
        return self.answer("SubRefresh", request, context, proxy.SubRefreshResponse, right)


server = grpc.server(futures.ThreadPoolExecutor(max_workers=32))
stubs.add_CentrifugoProxyServicer_to_server(Backend(), server)
port = server.add_insecure_port(f"127.0.0.1:{port}")
server.start()
say({"port": port})
for line in sys.stdin:
    mode = line.strip()
    say({"mode": mode})
server.stop(0)
