"""What a pair costs while nothing happens: memory, processor, wake-ups; and the memory of each idle connection."""

import socket
import time

from application import HOST, SMALL
from bed import Failed

# Seconds of silence: what was in use a moment ago has come to rest; then so long is watched: as long as from one
# heartbeat of a sidecar to the next.
REST, WATCH = 1, 10
# Connections that are opened, or closed, before the others get a turn.
BATCH = 100


def idle(pair, connections):
    """Idle figures of both proxies, and by how much the outbound one grows with idle client connections."""
    time.sleep(REST)
    processes = pair.processes()
    before = [(process.cpu_ns(), process.switches()) for process in processes]
    time.sleep(WATCH)
    after = [(process.cpu_ns(), process.switches()) for process in processes]
    figures = {"idle_cpu_ms_per_s": max(b[0] - a[0] for a, b in zip(before, after)) / 1e6 / WATCH,
               "idle_wakeups_per_s": max(woken(a[1], b[1]) for a, b in zip(before, after)) / WATCH}
    rest = [process.memory_kib() for process in processes]
    for side, (rss, heap) in zip(("outbound", "inbound"), rest):
        figures |= {f"rss_{side}_mb": rss * 1024 / 1e6, f"heap_{side}_mb": heap * 1024 / 1e6}
    figures["rss_mb"] = max(figures["rss_outbound_mb"], figures["rss_inbound_mb"])
    opened = []
    try:
        for _ in range(connections):
            opened.append(_ask(pair.target))
        time.sleep(REST)
        heap = processes[0].memory_kib()[1]
        figures |= {"connections": connections, "kib_per_connection": (heap - rest[0][1]) / connections}
    finally:
        for each in opened:
            each.close()
    return figures


def woken(before, after):
    """Wake-ups between two moments, from what each thread had at both: one that is new began with none, and what one
    that has ended did in between is not known."""
    return sum(count - before.get(thread, 0) for thread, count in after.items())


def _ask(target):
    """A connection that has had one answer and stays open."""
    connection = socket.create_connection(target, timeout=5)
    connection.sendall(f"GET {SMALL} HTTP/1.1\r\nhost: {HOST}\r\n\r\n".encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        if not (more := connection.recv(65536)):
            raise Failed("an idle connection was closed before its answer")
        answer += more
    if not answer.startswith(b"HTTP/1.1 200"):
        raise Failed(f"an idle connection was answered {answer[:60]!r}")
    return connection
