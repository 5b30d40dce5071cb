"""The cells: what is asked of every pair, and which figures come of it."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Callable

import application
import load
from application import LARGE, LARGE_BYTES, SMALL, SMALL_BYTES
from bed import Failed
from memory import idle

# Seconds before anything counts: connections are made, and pools filled. A generator needs whole seconds, so what is
# left of its time when the figures are taken is the rest of one second.
RAMP, TAIL = 0.7, 0.3


@dataclass(frozen=True)
class Cell:
    """One kind of load. `steady`: the figure by which *direct* shows whether the machine was quiet. `once`: in the
    first round only, on processes that have done nothing yet; memory does not depend on the neighbours."""

    name: str
    title: str
    generate: Callable | None = None
    http2: bool = False
    steady: str | None = "rps"
    once: bool = False

    def suits(self, pair):
        """Whether the pair does this at all."""
        if self.generate is None:
            return bool(pair.processes())
        return not self.http2 or pair.http2_target is not None


def _wrk(connections, path=SMALL, length=SMALL_BYTES):
    return lambda bed, target, seconds: load.wrk(bed, target, path, length, connections, seconds)


CELLS = [
    Cell("idle", "Idle: memory, processor, wake-ups", steady=None, once=True),
    Cell("h1-1", "HTTP/1.1, 1 connection", _wrk(1)),
    Cell("h1-32", "HTTP/1.1, 32 connections", _wrk(32)),
    Cell("h1-256", "HTTP/1.1, 256 connections", _wrk(256)),
    Cell("h2", "HTTP/2, 4 connections of 25 streams",
         lambda bed, target, seconds: load.h2load(bed, target, SMALL, SMALL_BYTES, 4, 25, seconds), http2=True),
    Cell("large", "HTTP/1.1, bodies of 10 MiB, 4 connections", _wrk(4, LARGE, LARGE_BYTES)),
    Cell("rate-1000", "HTTP/1.1, 1 000 requests/s, open loop",
         lambda bed, target, seconds: load.open_loop(bed, target, SMALL, SMALL_BYTES, 1000, seconds), steady=None),
]


def measure(cell, bed, pair, seconds, connections):
    """The figures of one cell of one pair."""
    pair.alive()
    if cell.generate is None:
        return idle(pair, connections)
    target = pair.http2_target if cell.http2 else pair.target
    with ThreadPoolExecutor(1) as executor:
        generating = executor.submit(cell.generate, bed, target, round(RAMP + seconds + TAIL))
        time.sleep(RAMP)
        before = _snapshot(pair)
        time.sleep(seconds)
        spent = [later - earlier for later, earlier in zip(_snapshot(pair), before)]
        figures = generating.result()
    pair.alive()
    return figures | _costs(pair, figures, *spent)


def _snapshot(pair):
    """The time, how many requests the application has seen, and the nanoseconds of each proxy."""
    return [time.monotonic(), application.requests(), *(process.cpu_ns() for process in pair.processes())]


def _costs(pair, figures, seconds, requests, *cpu):
    """What happened between two snapshots. Bytes are those of the bodies that a request is for."""
    if requests <= 0:
        raise Failed("the application saw no request")
    costs = {"rps": requests / seconds, "gb_per_s": figures["body_bytes"] * requests / 1e9 / seconds}
    if not pair.processes():
        return costs
    outbound, inbound = (each / 1e3 / requests for each in cpu)
    return costs | {"cpu_outbound_us": outbound, "cpu_inbound_us": inbound, "cpu_us": outbound + inbound,
                    "cpu_s_per_gb": (outbound + inbound) * 1e3 / figures["body_bytes"],
                    "busy": sum(cpu) / 1e9 / seconds}
