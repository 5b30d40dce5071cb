"""Load generators. Each returns what the clients saw, or fails: an answer that is not 2xx, or not whole, makes a cell
worthless. Their latencies are those of the whole run, its first second included."""

import json
import re
from pathlib import Path

from application import HOST
from bed import Failed

HERE = Path(__file__).parent
# Seconds that a generator may take beyond the time of its load.
GRACE = 30


def wrk(bed, target, path, length, connections, seconds):
    """Closed loop, HTTP/1.1: each connection sends its next request when it has the last answer."""
    command = ["wrk", "--threads", "1", "--connections", connections, "--duration", f"{seconds}s", "--timeout", "10s",
               "--script", HERE / "wrk.lua", "--header", f"Host: {HOST}", f"http://{target[0]}:{target[1]}{path}"]
    said = json.loads(bed.run(command, seconds + GRACE).splitlines()[-1])
    bad = {kind: count for kind, count in said["errors"].items() if count}
    if bad:
        raise Failed(f"wrk counted {bad}")
    whole(said["requests"], said["bytes"], length)
    return {"requests": said["requests"], "body_bytes": length, "p50_us": said["p50_us"], "p99_us": said["p99_us"]}


def h2load(bed, target, path, length, connections, streams, seconds):
    """Closed loop, HTTP/2 with prior knowledge: each connection keeps so many streams busy."""
    log = bed.directory / "h2load.tsv"
    log.unlink(missing_ok=True)
    said = bed.run(["h2load", "--clients", connections, "--max-concurrent-streams", streams, "--duration", seconds,
                    "--log-file", log, "--header", f":authority: {HOST}", f"http://{target[0]}:{target[1]}{path}"],
                   seconds + GRACE)
    counts = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", said)
    status = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", said)
    data = re.search(r"\((\d+)\) data", said)
    if not (counts and status and data):
        raise Failed(f"h2load said {said[-300:]}")
    succeeded, *bad = map(int, counts.groups())
    answered, *wrong = map(int, status.groups())
    if any(bad) or any(wrong) or succeeded == 0:
        raise Failed(f"h2load counted {counts[0]}, {status[0]}")
    # Streams that the end of the time cut off have sent data, and are not counted.
    whole(succeeded, int(data[1]), length)
    took = sorted(int(line.split("\t")[2]) for line in log.read_text().splitlines())
    return {"requests": succeeded, "body_bytes": length, "p50_us": quantile(took, 0.50),
            "p99_us": quantile(took, 0.99)}


def open_loop(bed, target, path, length, rate, seconds):
    """Requests that are due at a fixed rate, whether or not others were answered; latency counts from then."""
    program = bed.programs / "open-loop"
    said = json.loads(bed.run([program, f"{target[0]}:{target[1]}", "--path", path, "--host", HOST, "--rate", rate,
                               "--seconds", seconds, "--length", length], seconds + GRACE))
    if said["failed"]:
        raise Failed(f"{said['failed']} of {said['requests']} requests failed: {said['first_failure']}")
    return {"requests": said["requests"], "body_bytes": length, "p50_us": said["p50_us"], "p99_us": said["p99_us"]}


def whole(requests, received, length):
    """Bodies are at least as long as they should be, all together."""
    if requests == 0 or received < requests * length:
        raise Failed(f"{received} bytes for {requests} answers of {length}: some were short")


def quantile(ordered, share):
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
