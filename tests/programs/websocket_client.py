"""A WebSocket client. Arguments: the address of a proxy or server, the way to it, and the authority to ask for.

Ways: `connect` (a tunnel through the proxy), `absolute` (the whole URI in the request, as to a proxy), `direct`. It
prints what came of it as JSON.
"""

import json
import socket
import sys

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

ADDRESS, WAY, AUTHORITY = sys.argv[1:4]
PATIENCE = 20


def absolute(sock, protocol, **options):
    """A connection whose request names the whole URI."""
    make = protocol.connect

    def request():
        request = make()
        request.path = f"http://{AUTHORITY}{request.path}"
        return request

    protocol.connect = request
    return ClientConnection(sock, protocol, **options)


def opened(path):
    options = {"open_timeout": PATIENCE, "close_timeout": PATIENCE, "max_size": None, "proxy": None}
    if WAY == "connect":
        options["proxy"] = f"http://{ADDRESS}"
    else:
        host, port = ADDRESS.split(":")
        options["sock"] = socket.create_connection((host, int(port)), PATIENCE)
        if WAY == "absolute":
            options["create_connection"] = absolute
    return connect(f"ws://{AUTHORITY}{path}", **options)


def exchange():
    large = bytes(range(256)) * 4 * 1024
    with opened("/chat") as connection:
        heard = []
        for message in ["text: ü", "", b"\x00\xff", "ping", "peer"]:
            connection.send(message)
            answer = connection.recv(PATIENCE)
            heard.append(answer.hex() if isinstance(answer, bytes) else answer)
        connection.send(large)
        same = connection.recv(PATIENCE) == large
        # Fragments, of which each is sent before the next is made.
        connection.send(str(number) for number in range(100))
        fragments = connection.recv(PATIENCE)
        ponged = connection.ping(b"from the client").wait(PATIENCE)
        connection.close(4002, "enough")
    return {"heard": heard, "large": same, "fragments": fragments, "ponged": ponged}


def closed():
    """What the server closes with."""
    with opened("/closed") as connection:
        connection.send("close 4001 why")
        try:
            connection.recv(PATIENCE)
        except ConnectionClosed as error:
            return {"code": error.rcvd.code, "reason": error.rcvd.reason}


def refused():
    try:
        opened("/refused")
    except InvalidStatus as error:
        return {"status": error.response.status_code, "body": error.response.body.decode()}


print(json.dumps({"exchange": exchange(), "closed": closed(), "refused": refused()}))
