"""What is at both ends of the counted path: an application that gives the same answer to everything, and a client that
asks the same thing again and again."""

import socket
import threading

from callgrind import PATIENCE, Failed

HOST = "price.demo.mesh"
REQUEST = f"GET /v9/item HTTP/1.1\r\nhost: {HOST}\r\nuser-agent: bench\r\naccept: */*\r\n\r\n".encode()
END = b"\r\n\r\n"
BODY = b"x" * 1024
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 1024\r\n\r\n" + BODY


def application():
    """Starts the application; returns where it listens."""
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_accept, args=(listener,), daemon=True).start()
    return "{}:{}".format(*listener.getsockname())


def _accept(listener):
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_answer, args=(connection,), daemon=True).start()


def _answer(connection):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    seen = b""
    try:
        while more := connection.recv(65536):
            *heads, seen = (seen + more).split(END)
            for _ in heads:
                connection.sendall(ANSWER)
    except ConnectionError:
        connection.close()


class Client:
    """One connection of a client."""

    def __init__(self, target):
        host, port = target.rsplit(":", 1)
        self.connection = socket.create_connection((host, int(port)), timeout=PATIENCE)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, times):
        """So many requests, one after the other; each answer must be whole."""
        for _ in range(times):
            self.connection.sendall(REQUEST)
            received = b""
            while len(received.partition(END)[2]) < len(BODY):
                more = self.connection.recv(65536)
                if not more:
                    raise Failed("the connection was closed before its answer")
                received += more
            head, _, body = received.partition(END)
            if not head.startswith(b"HTTP/1.1 200") or body != BODY:
                raise Failed(f"answered {head[:60]!r} and {len(body)} bytes")
