"""A gRPC server without generated code: messages are bytes. Arguments: its name, and the file in which it writes its port.

What it sees of its calls' ends it writes to standard output, a line each.
"""

import concurrent.futures
import os
import pathlib
import sys
import threading

import grpc

NAME = sys.argv[1]


def say(line):
    print(line, flush=True)


def named(context):
    context.send_initial_metadata((("server", NAME),))


def unary(request, context):
    named(context)
    context.set_trailing_metadata((("length", str(len(request))), ("sum-bin", bytes(range(256)))))
    return request


def fail(request, context):
    """The request is `NUMBER MESSAGE`."""
    number, message = request.decode().split(" ", 1)
    context.set_trailing_metadata((("why", "asked to"),))
    code = next(code for code in grpc.StatusCode if code.value[0] == int(number))
    context.abort(code, message)


def deadline(request, context):
    """Answers with the seconds that are left; without a deadline gRPC says a very long time."""
    return str(context.time_remaining()).encode()


def hang(request, context):
    """Waits for the end of the call, and says that it came."""
    over = threading.Event()
    context.add_callback(over.set)
    say(f"begun {request.decode()}")
    over.wait()
    say(f"over {request.decode()}")
    return b""


def count(request, context):
    """As many messages as the request says."""
    named(context)
    for number in range(int(request)):
        yield str(number).encode()


def gather(requests, context):
    """How many messages came, and all of them as one."""
    messages = list(requests)
    return str(len(messages)).encode() + b":" + b"".join(messages)


def converse(requests, context):
    """Each message as it comes."""
    named(context)
    for request in requests:
        yield NAME.encode() + b":" + request


METHODS = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
    "Deadline": grpc.unary_unary_rpc_method_handler(deadline),
    "Hang": grpc.unary_unary_rpc_method_handler(hang),
    "Count": grpc.unary_stream_rpc_method_handler(count),
    "Gather": grpc.stream_unary_rpc_method_handler(gather),
    "Converse": grpc.stream_stream_rpc_method_handler(converse),
}
LARGE = 16 * 1024 * 1024

server = grpc.server(
    concurrent.futures.ThreadPoolExecutor(100),
    options=[("grpc.max_receive_message_length", LARGE), ("grpc.max_send_message_length", LARGE)],
)
server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Words", METHODS)])
port = server.add_insecure_port("127.0.0.1:0")
server.start()
# Whole or not at all: it is read as soon as it is there.
partial = pathlib.Path(sys.argv[2] + ".partial")
partial.write_text(str(port))
os.replace(partial, sys.argv[2])
server.wait_for_termination()
