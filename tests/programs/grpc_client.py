"""A gRPC client without generated code. Arguments: the target, and what to do. It prints what came of it as JSON.

Its channel goes where the variable grpc_proxy says.
"""

import collections
import itertools
import json
import queue
import sys

import grpc

TARGET, WHAT = sys.argv[1:3]
PATIENCE = 20
LARGE = 16 * 1024 * 1024

channel = grpc.insecure_channel(
    TARGET, options=[("grpc.max_receive_message_length", LARGE), ("grpc.max_send_message_length", LARGE)]
)
unary = channel.unary_unary("/test.Words/Unary")


def metadata(pairs):
    return {name: value.hex() if isinstance(value, bytes) else value for name, value in pairs}


def failure(error):
    return {
        "code": error.code().name,
        "details": error.details(),
        "trailers": metadata(error.trailing_metadata() or ()),
    }


def failed(method, request, **how):
    """What a call fails with."""
    try:
        answer = channel.unary_unary(f"/test.Words/{method}")(request, **how)
    except grpc.RpcError as error:
        return failure(error)
    return {"code": "OK", "answer": answer.decode()}


def kinds():
    """Unary and the three kinds of streams."""
    answer, call = unary.with_call(b"one", timeout=PATIENCE)
    count = channel.unary_stream("/test.Words/Count")(b"1000", timeout=PATIENCE)
    gather = channel.stream_unary("/test.Words/Gather")
    return {
        "unary": answer.decode(),
        "trailers": metadata(call.trailing_metadata()),
        "count": [message.decode() for message in count],
        "gather": gather((str(number).encode() for number in range(300)), timeout=PATIENCE).decode(),
        "no messages": gather(iter(()), timeout=PATIENCE).decode(),
    }


def converse():
    """Two conversations in turns: no message is sent before the answer to the one before it is there."""
    words = [queue.SimpleQueue(), queue.SimpleQueue()]
    method = channel.stream_stream("/test.Words/Converse")
    calls = [method(iter(each.get, None), timeout=PATIENCE) for each in words]
    heard = []
    for number in range(20):
        for which, (word, call) in enumerate(zip(words, calls)):
            word.put(f"{which}-{number}".encode())
            heard.append(next(call).decode().split(":")[1])
    for word in words:
        word.put(None)
    rest = [list(call) for call in calls]
    return {"heard": heard, "rest": rest, "codes": [call.code().name for call in calls]}


def large():
    """4 MiB each way, in one message and in a stream of them."""
    message = bytes(range(256)) * (4 * 1024 * 4)
    answer = unary(message, timeout=PATIENCE)
    call = channel.stream_stream("/test.Words/Converse")(iter([message] * 3), timeout=PATIENCE)
    return {
        "unary": answer == message and len(answer),
        "stream": [each.split(b":", 1)[1] == message for each in call],
    }


def statuses():
    """Every code but OK, and a method that is not there."""
    codes = {number: failed("Fail", f"{number} no: {number} % ü".encode(), timeout=PATIENCE) for number in range(1, 17)}
    return {"codes": codes, "unknown": failed("Nothing", b"", timeout=PATIENCE)}


def deadlines():
    """What the server is told of one, and what the client is told when it passes."""
    return {
        "seen": failed("Deadline", b"", timeout=5),
        "unlimited": failed("Deadline", b""),
        "passed": failed("Hang", b"deadline", timeout=0.3),
    }


def cancel():
    """Gives up when the server says that the call has begun (the test tells, on standard input)."""
    call = channel.unary_unary("/test.Words/Hang").future(b"cancel", timeout=PATIENCE)
    sys.stdin.readline()
    call.cancel()
    return {"code": call.code().name}


def split(calls=200):
    """Who answers, one call after the other on this one channel."""
    who = collections.Counter()
    for _ in range(calls):
        _, call = unary.with_call(b"who", timeout=PATIENCE)
        who[metadata(call.initial_metadata())["server"]] += 1
    return who


def together(calls=64):
    """Who answers, when as many conversations are open on this one channel at once."""
    words, who = queue.SimpleQueue(), collections.Counter()
    method = channel.stream_stream("/test.Words/Converse")
    begun = [method(itertools.chain([b"who"], iter(words.get, None)), timeout=PATIENCE) for _ in range(calls)]
    for call in begun:
        who[next(call).decode().split(":")[0]] += 1
    for _ in begun:
        words.put(None)
    return {"who": who, "rest": [message for call in begun for message in call]}


def rounds():
    """For each line on standard input, `GROUPS SIZE`, so many calls at once and so often; what came of them, in a line."""
    for line in sys.stdin:
        groups, size = map(int, line.split())
        outcomes = collections.Counter()
        for _ in range(groups):
            calls = [unary.future(b"who", timeout=PATIENCE) for _ in range(size)]
            for call in calls:
                error = call.exception()
                outcomes[str(failure(error)) if error else metadata(call.initial_metadata())["server"]] += 1
        print(json.dumps(outcomes), flush=True)


print(json.dumps(globals()[WHAT]()), flush=True)
channel.close()
