"""The server API over gRPC, as grpcio calls it.

Arguments: host:port of the API, its key, the folder of api.proto, what to do (`calls`, `secure`
with the authority's file, `open`). Prints how often each check held; the exit status is the result.
"""

import json
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_tools import protoc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from google.protobuf.descriptor_pool import DescriptorPool

target, key, protos, what = sys.argv[1:5]
counts = {}


def held(check, condition, detail=""):
    assert condition, f"{check}: {detail}"
    counts[check] = counts.get(check, 0) + 1


def compiled():
    """The messages and stubs that protoc makes of our description."""
    folder = tempfile.mkdtemp()
    arguments = ["protoc", f"-I{protos}", f"--python_out={folder}", f"--grpc_python_out={folder}"]
    assert protoc.main(arguments + [os.path.join(protos, "api.proto")]) == 0
    sys.path.insert(0, folder)
    import api_pb2
    import api_pb2_grpc

    return api_pb2, api_pb2_grpc


api, stubs = compiled()
KEY = [("authorization", f"apikey {key}")]
LIMIT = 120


def status_of(call):
    try:
        call()
    except grpc.RpcError as error:
        return error.code()
    return None


def calls(stub):
    ask = {"metadata": KEY, "timeout": LIMIT}
    # Who may not.
    for metadata in (None, [("authorization", key)], [("authorization", "apikey wrong")]):
        refused = status_of(lambda: stub.Info(api.InfoRequest(), metadata=metadata, timeout=LIMIT))
        held("refused", refused == grpc.StatusCode.UNAUTHENTICATED, refused)
    # Publications and what is kept of them.
    epoch = ""
    for number in range(3):
        answer = stub.Publish(
            api.PublishRequest(channel="kept:a", data=json.dumps({"n": number}).encode(), tags={"t": "1"}),
            **ask,
        )
        epoch = answer.result.epoch
        held("publish", answer.result.offset == number + 1 and epoch, answer)
    history = stub.History(api.HistoryRequest(channel="kept:a", limit=-1), **ask).result
    held("history", [it.offset for it in history.publications] == [1, 2, 3], history)
    held("history", history.publications[2].data == b'{"n": 2}' and dict(history.publications[2].tags) == {"t": "1"})
    held("history", history.epoch == epoch and history.offset == 3)
    since = api.StreamPosition(offset=1, epoch=epoch)
    later = stub.History(api.HistoryRequest(channel="kept:a", limit=1, since=since), **ask).result
    held("history", [it.offset for it in later.publications] == [2], later)
    broadcast = stub.Broadcast(
        api.BroadcastRequest(channels=["kept:b", "", "none:c"], b64data="eyJiIjoxfQ=="), **ask
    ).result.responses
    held("broadcast", broadcast[0].result.offset == 1, broadcast)
    held("broadcast", [it.error.code for it in broadcast] == [0, 107, 102], broadcast)
    stub.HistoryRemove(api.HistoryRemoveRequest(channel="kept:a"), **ask)
    history = stub.History(api.HistoryRequest(channel="kept:a", limit=-1), **ask).result
    held("history_remove", not history.publications, history)
    # The connection of user 42, which the test made.
    presence = stub.Presence(api.PresenceRequest(channel="kept:room"), **ask).result.presence
    held("presence", [it.user for it in presence.values()] == ["42"], presence)
    held("presence", list(presence) == [next(iter(presence.values())).client])
    stats = stub.PresenceStats(api.PresenceStatsRequest(channel="kept:room"), **ask).result
    held("presence_stats", (stats.num_clients, stats.num_users) == (1, 1), stats)
    channels = stub.Channels(api.ChannelsRequest(pattern="kept:r*"), **ask).result.channels
    held("channels", {name: it.num_clients for name, it in channels.items()} == {"kept:room": 1}, channels)
    subscribe = api.SubscribeRequest(user="42", channel="kept:more", data=b'{"d": 1}')
    held("subscribe", not stub.Subscribe(subscribe, **ask).HasField("error"))
    unsubscribe = api.UnsubscribeRequest(user="42", channel="kept:more")
    held("unsubscribe", not stub.Unsubscribe(unsubscribe, **ask).HasField("error"))
    held("refresh", not stub.Refresh(api.RefreshRequest(user="42"), **ask).HasField("error"))
    node = stub.Info(api.InfoRequest(), **ask).result.nodes[0]
    held("info", node.name == "here" and node.num_clients == 1 and node.process.rss > 0, node)
    held("rpc", stub.RPC(api.RPCRequest(method="m"), **ask).error.code == 104)
    # Errors, in the answer or as statuses.
    for request, code in (
        (api.PublishRequest(data=b"{}"), 107),
        (api.PublishRequest(channel="none:a", data=b"{}"), 102),
        (api.PublishRequest(channel="kept:a", data=b"no json"), 107),
        (api.PublishRequest(channel="kept:a"), 107),
    ):
        answer = stub.Publish(request, **ask)
        held("errors", answer.error.code == code and not answer.HasField("result"), answer)
    try:
        metadata = KEY + [("x-centrifugo-error-mode", "transport")]
        stub.Publish(api.PublishRequest(channel="none:a", data=b"{}"), metadata=metadata, timeout=LIMIT)
        held("statuses", False)
    except grpc.RpcError as error:
        held("statuses", error.code() == grpc.StatusCode.NOT_FOUND, error.code())
        details = dict(error.trailing_metadata())["grpc-status-details-bin"]
        held("statuses", b"centrifugal.centrifugo.api.Error" in details, details)
    # Many in one, in order and at once.
    for parallel in (False, True):
        commands = [
            api.Command(publish=api.PublishRequest(channel="kept:c", data=b"1")) for _ in range(100)
        ]
        commands += [api.Command(), api.Command(presence=api.PresenceRequest())]
        commands += [api.Command(refresh=api.RefreshRequest(user="nobody"))]
        replies = stub.Batch(api.BatchRequest(commands=commands, parallel=parallel), **ask).replies
        offsets = [it.publish.offset for it in replies[:100]]
        held("batch", sorted(offsets) == list(range(min(offsets), min(offsets) + 100)), offsets)
        held("batch", parallel or offsets == sorted(offsets))
        held("batch", [it.error.code for it in replies[100:102]] == [104, 107], replies[100:])
        held("batch", replies[102].HasField("refresh"), replies[102])
    # Bounds: a message, commands, calls at once.
    big = api.PublishRequest(channel="kept:big", data=b'"' + b"x" * (1 << 20) + b'"')
    held("bounds", status_of(lambda: stub.Publish(big, **ask)) == grpc.StatusCode.RESOURCE_EXHAUSTED)
    fits = api.PublishRequest(channel="kept:big", data=b'"' + b"x" * 900_000 + b'"')
    held("bounds", stub.Publish(fits, **ask).result.offset == 1)
    many = api.BatchRequest(commands=[api.Command()] * 10_001)
    held("bounds", status_of(lambda: stub.Batch(many, **ask)) == grpc.StatusCode.INTERNAL)
    long = {"metadata": KEY + [("x", "y" * 9000)], "timeout": LIMIT}
    held("bounds", status_of(lambda: stub.Info(api.InfoRequest(), **long)) is not None)
    held("bounds", status_of(lambda: stub.Info(api.InfoRequest(), **ask)) is None)
    with ThreadPoolExecutor(64) as pool:
        publish = api.PublishRequest(channel="kept:crowd", data=b"1")
        offsets = list(pool.map(lambda _: stub.Publish(publish, **ask).result.offset, range(500)))
    held("crowd", sorted(offsets) == list(range(1, 501)), len(offsets))
    # What is not here.
    other = grpc_channel.unary_unary("/centrifugal.centrifugo.api.CentrifugoApi/Connections")
    held("unknown", status_of(lambda: other(b"", **ask)) == grpc.StatusCode.UNIMPLEMENTED)
    other = grpc_channel.unary_unary("/other.Service/Method")
    held("unknown", status_of(lambda: other(b"", **ask)) == grpc.StatusCode.UNIMPLEMENTED)
    garbage = grpc_channel.unary_unary("/centrifugal.centrifugo.api.CentrifugoApi/Publish")
    held("unknown", status_of(lambda: garbage(b"\xff\xff", **ask)) == grpc.StatusCode.INTERNAL)


def reflected():
    """What a tool without our description finds out."""
    database = ProtoReflectionDescriptorDatabase(grpc_channel)
    services = database.get_services()
    held("reflection", "centrifugal.centrifugo.api.CentrifugoApi" in services, services)
    pool = DescriptorPool(database)
    service = pool.FindServiceByName("centrifugal.centrifugo.api.CentrifugoApi")
    methods = {method.name for method in service.methods}
    held("reflection", {"Batch", "Publish", "RPC", "Channels"} <= methods, methods)
    publish = pool.FindMessageTypeByName("centrifugal.centrifugo.api.PublishRequest")
    held("reflection", publish.fields_by_name["version_epoch"].number == 9)
    # Too long a question has no answer.
    question = reflection_pb2.ServerReflectionRequest(file_containing_symbol="x" * 5000)
    asking = reflection_pb2_grpc.ServerReflectionStub(grpc_channel)
    answers = []
    status_of(lambda: answers.extend(asking.ServerReflectionInfo(iter([question]), timeout=LIMIT)))
    held("reflection", answers == [], answers)
    # Until the last word of the stream.
    for number in range(20):
        held("reflection", database.FindFileByName("api.proto").package == "centrifugal.centrifugo.api", number)


if what == "secure":
    with open(sys.argv[5], "rb") as authority:
        credentials = grpc.ssl_channel_credentials(authority.read())
    grpc_channel = grpc.secure_channel(target, credentials)
    stub = stubs.CentrifugoApiStub(grpc_channel)
    answer = stub.Publish(api.PublishRequest(channel="kept:a", data=b"1"), metadata=KEY, timeout=LIMIT)
    held("secure", answer.result.offset == 1, answer)
    refused = status_of(lambda: stub.Info(api.InfoRequest(), timeout=LIMIT))
    held("secure", refused == grpc.StatusCode.UNAUTHENTICATED, refused)
else:
    grpc_channel = grpc.insecure_channel(target)
    stub = stubs.CentrifugoApiStub(grpc_channel)
    if what == "open":
        held("open", len(stub.Info(api.InfoRequest(), timeout=LIMIT).result.nodes) == 1)
        hidden = status_of(lambda: ProtoReflectionDescriptorDatabase(grpc_channel).get_services())
        held("open", hidden == grpc.StatusCode.UNIMPLEMENTED, hidden)
    else:
        calls(stub)
        reflected()

for check, count in counts.items():
    print(f"{check}={count}")
