"""A WebSocket server. Argument: the file in which it writes its port. How each connection ended it writes to standard
output, a line each.
"""

import os
import pathlib
import sys

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import serve


def refuse(connection, request):
    if request.path == "/refused":
        return connection.respond(403, "not for you\n")


def converse(connection):
    """Sends back what it is sent, but for a few words that it obeys."""
    path = connection.request.path
    try:
        for message in connection:
            match message.split(" ") if isinstance(message, str) else []:
                case ["ping"]:
                    answered = connection.ping(b"from the server").wait(20)
                    connection.send("pong" if answered else "no pong")
                case ["close", code, reason]:
                    connection.close(int(code), reason)
                case ["peer"]:
                    connection.send(connection.request.headers["x-forwarded-client-cert"])
                case _:
                    connection.send(message)
    except ConnectionClosed:
        pass
    print(f"{path} closed {connection.close_code} {connection.close_reason}", flush=True)


with serve(converse, "127.0.0.1", 0, process_request=refuse, max_size=None) as server:
    # Whole or not at all: it is read as soon as it is there.
    partial = pathlib.Path(sys.argv[1] + ".partial")
    partial.write_text(str(server.socket.getsockname()[1]))
    os.replace(partial, sys.argv[1])
    server.serve_forever()
