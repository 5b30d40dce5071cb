"""Counts the instructions of each decision and of a whole request, and holds them to a baseline:
`python3 benches/instructions`, as `make bench-instructions` does; `--write` makes the baseline anew."""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from callgrind import Failed, per_call
from mesh import Mesh

ROOT = Path(__file__).resolve().parents[2]
BASELINE = Path(__file__).with_name("baseline.json")
# By how much a count may grow. A whole request meets a clock and a kernel; a decision does not.
DECISION, REQUEST = 0.01, 0.03


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="make what is counted the new baseline")
    parser.add_argument("--programs", type=Path, default=ROOT / "target/release", help="where our binaries are")
    options = parser.parse_args()
    if not shutil.which("valgrind"):
        raise Failed("valgrind is missing: run benches/setup.sh instructions")
    # The settings of a mesh that this shell may operate are not those of the one that is counted.
    for variable in [each for each in os.environ if each.startswith("OUTRIGGER_")]:
        del os.environ[variable]
    with tempfile.TemporaryDirectory() as directory:
        counts = count(options.programs, Path(directory))
    if options.write:
        rounded = {name: round(each, 1) for name, each in counts.items()}
        BASELINE.write_text(json.dumps({"built with": toolchain(), "instructions": rounded}, indent=2) + "\n")
        print("\n".join(f"{name:<44} {number(each)}" for name, each in rounded.items()) + f"\nwritten: {BASELINE}")
        return 0
    return compare(counts, json.loads(BASELINE.read_text()))


def count(programs, directory):
    """Everything, by name."""
    decide = programs / "decide"
    names = subprocess.run([decide], capture_output=True, text=True, check=True).stdout.splitlines()
    # Where a table has its entries depends on the seed of each process: the middle one of three.
    counts = {name: median(per_call(directory / "decide.callgrind", decide, name) for _ in range(3)) for name in names}
    mesh = Mesh(programs, directory)
    try:
        return counts | mesh.per_request()
    finally:
        mesh.stop()


def compare(counts, baseline):
    """Prints a table; returns 1 if a count grew too much, or has no baseline, or is gone."""
    before, wrong = baseline["instructions"], 0
    for name in [*counts, *(name for name in before if name not in counts)]:
        now, then = counts.get(name), before.get(name)
        if now is None or then is None:
            verdict, bad = "gone" if now is None else "without a baseline", True
        else:
            limit = REQUEST if name.startswith("request:") else DECISION
            bad = now > then * (1 + limit)
            verdict = f"{now / then - 1:+.1%}" + (f", more than {limit:.0%}" if bad else "")
        wrong += bad
        print(f"{name:<44} {number(then)} {number(now)}   {verdict}")
    if wrong:
        print(f"\n{wrong} wrong. If that is meant: make bench-instructions-baseline, and say why in the commit.")
        if baseline["built with"] != toolchain():
            print(f"The baseline was built with {baseline['built with']}; this with {toolchain()}.")
    return 1 if wrong else 0


def number(value):
    return f"{value:>12,.1f}" if value is not None else " " * 12


def toolchain():
    """What changes counts without a change of ours."""
    rustc = subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    return f"{rustc}, {' '.join(platform.libc_ver())}, {platform.machine()}"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as failure:
        sys.exit(f"bench: {failure}")
