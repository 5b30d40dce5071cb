"""Compares pairs of proxies: `python3 benches/compare [--pairs ..] [--cells ..]`, as `make bench` does.

Environment: BENCH_ROUNDS (9), BENCH_SECONDS of each cell (2), BENCH_CONNECTIONS that lie idle (5000). Raw figures,
machine, commit, command and tables go to benches/results/<date>-<commit>/; those of a whole run also to the page.
"""

import argparse
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import application
import authority
import bed
import cells
import figures
import machine
import pairs
import profiling
import report
import rounds
from pairs import envoy

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "target/bench"
PAGE = ROOT / "docs/performance.md"
PAIRS = ["direct", "relay", "envoy", "envoy-full", "envoy-mux", "haproxy", "outrigger"]
CELLS = [cell.name for cell in cells.CELLS]
# Fewer rounds are a look, not a result.
ROUNDS = 9
# Set for the run inside the namespaces, to the commit that is measured.
INSIDE = "BENCH_INSIDE"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", nargs="+", default=PAIRS, metavar="PAIR")
    parser.add_argument("--cells", nargs="+", default=CELLS, choices=CELLS, metavar="CELL", help=", ".join(CELLS))
    parser.add_argument("--programs", type=Path, default=ROOT / "target/dist", help="where our own binaries are")
    parser.add_argument("--results", type=Path, default=ROOT / "benches/results")
    parser.add_argument("--name", default="", help="appended to the name of the result")
    parser.add_argument("--profile", metavar="PAIR", help="profile this pair in the cells, instead of comparing")
    return parser.parse_args()


def whole_number(variable, default):
    text = os.environ.get(variable, str(default))
    if not text.isdigit() or int(text) == 0:
        raise bed.Failed(f"{variable} is {text!r}: write a number from 1")
    return int(text)


def main():
    options = arguments()
    numbers = {key: whole_number(f"BENCH_{key.upper()}", default)
               for key, default in (("rounds", ROUNDS), ("seconds", 2), ("connections", 5000))}
    if INSIDE not in os.environ:
        os.environ[INSIDE] = machine.commit(ROOT)
        return bed.enter([sys.executable, *sys.argv])
    # The settings of a mesh that this shell may operate are not those of the one that is measured.
    for variable in [each for each in os.environ if each.startswith("OUTRIGGER_")]:
        del os.environ[variable]
    os.environ.setdefault("BENCH_TOOLS", str(WORK))
    os.environ.setdefault("BENCH_ENGINES", str(ROOT / "benches/engines/target/release"))
    return compare(options, **numbers)


def compare(options, seconds, connections, **numbers):
    """Starts everything, measures, reports, stops everything."""
    chosen = [cell for cell in cells.CELLS if cell.name in options.cells]
    results = options.results / f"{time.strftime('%Y-%m-%d')}-{os.environ[INSIDE]}{options.name}"
    results.mkdir(parents=True, exist_ok=True)
    about = machine.describe(os.environ[INSIDE], shlex.join(["python3", "benches/compare", *sys.argv[1:]]), versions())
    about |= {"seconds": seconds, "connections": connections, **numbers}
    machine.save(results / "machine.json", about)
    measured = figures.Results(numbers["rounds"])
    world = bed.Bed(WORK / "run", WORK / "logs", options.programs)
    try:
        application.start(world)
        certificates = authority.make(world)
        started = [pairs.start(name, world, certificates) for name in options.pairs]
        for pair in started:
            serving(pair)
        if options.profile:
            for cell in chosen:
                profiling.record(world, started[options.pairs.index(options.profile)], cell, seconds, results)
            return 0
        rounds.run(lambda cell, pair: cells.measure(cell, world, pair, seconds, connections), started, chosen,
                   measured, results / "raw.jsonl", say)
    finally:
        world.stop()
    return conclude(options, measured, chosen, seconds, results, about)


def conclude(options, measured, chosen, seconds, results, about):
    """Prints and writes the tables; returns the exit code."""
    tables = report.render(measured, chosen, options.pairs, seconds)
    (results / "tables.md").write_text(tables)
    print(f"\n{tables}\nresults: {results}")
    failed = any("failed" in line for line in measured.lines)
    if options.pairs == PAIRS and options.cells == CELLS and measured.rounds >= ROUNDS:
        report.publish(PAGE, about, tables, os.path.relpath(results, ROOT))
        print(f"page: {PAGE}")
    return 1 if failed else 0


def serving(pair):
    """Waits until the pair's answer is the application's."""
    def answered():
        pair.alive()
        return application.probe(pair.target, application.SMALL, application.SMALL_BYTES)
    bed.eventually(f"answer through {pair.name}", answered)


def say(line):
    keys = ("failed", "rps", "p50_us", "p99_us", "cpu_us", "cpu_s_per_gb", "rss_mb", "kib_per_connection")
    shown = " ".join(f"{key}={line[key]:.4g}" if isinstance(line[key], float) else f"{key}={line[key]}"
                     for key in keys if key in line)
    print(f"{line['at']} round {line['round']} {line['cell']:<10} {line['pair']:<11} {shown}", flush=True)


def versions():
    """What each program says of itself."""
    found = {}
    for name, command in {"envoy": [envoy.binary(), "--version"], "haproxy": ["haproxy", "-v"],
                          "nginx": ["nginx", "-v"], "wrk": ["wrk", "-v"], "h2load": ["h2load", "--version"]}.items():
        said = subprocess.run(command, capture_output=True, text=True)
        line = next((line for line in (said.stdout + said.stderr).splitlines() if line.strip()), "")
        # Some say where they are, too.
        found[name] = line.replace(command[0], name, 1).strip()
    return found


if __name__ == "__main__":
    try:
        sys.exit(main())
    except bed.Failed as failure:
        sys.exit(f"bench: {failure}")
    except KeyboardInterrupt:
        sys.exit(130)
