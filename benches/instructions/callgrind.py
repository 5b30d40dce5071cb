"""Instructions counted by valgrind's callgrind: as many on a busy machine as on a quiet one. The kernel's do not count."""

import re
import subprocess
import time

# Seconds that anything may take; programs run about fifty times slower.
PATIENCE = 120
# Between two looks at what is awaited.
POLL = 0.05


class Failed(Exception):
    """Something that must work did not."""


def command(out, *program):
    """The command line that runs a program under callgrind; `out`: where its counts go."""
    return ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", "--quiet", *map(str, program)]


def per_call(out, *program):
    """Instructions of one call of what `program` does as often as its last argument says: from the difference of two
    runs, so that starting and ending do not count."""
    few, many = 1_000, 11_000
    counted = []
    for times in (few, many):
        done = subprocess.run(command(out, *program, times), capture_output=True, text=True, timeout=PATIENCE)
        if done.returncode != 0:
            raise Failed(f"{program}: exit {done.returncode}: {done.stderr[-300:]}")
        counted.append(total(out))
    return (counted[1] - counted[0]) / (many - few)


def total(out):
    """The instructions in a file of callgrind's."""
    found = re.search(r"^(?:totals|summary): (\d+)", out.read_text(), re.MULTILINE)
    if not found:
        raise Failed(f"{out} has no total")
    return int(found[1])


def eventually(what, probe):
    """Asks until there is an answer."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if answer := probe():
            return answer
        time.sleep(POLL)
    raise Failed(f"no {what} within {PATIENCE} s")


class Counted:
    """A long-running program under callgrind."""

    def __init__(self, name, directory, program):
        self.name, self.out = name, directory / f"{name}.callgrind"
        with open(directory / f"{name}.log", "wb") as log:
            self.child = subprocess.Popen(command(self.out, *program), stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def during(self, work):
        """The instructions that it runs while `work` does its work."""
        self._tell("zero")
        work()
        before = self._dumps()
        self._tell("dump")
        return total(eventually(f"counts of {self.name}", lambda: self._dumps() - before).pop())

    def _dumps(self):
        return set(self.out.parent.glob(f"{self.out.name}.*"))

    def _tell(self, what):
        done = subprocess.run(["vgdb", f"--pid={self.child.pid}", "--wait=10", what], capture_output=True, text=True,
                              timeout=PATIENCE)
        if done.returncode != 0:
            raise Failed(f"vgdb {what}: {done.stdout} {done.stderr}")

    def stop(self):
        self.child.kill()
        self.child.wait()
