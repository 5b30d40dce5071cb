"""The test bed: two network namespaces joined by a veth, and the processes in them.

The whole bench runs inside namespaces of its own (network, mount, process ids: see `run`), so that nothing can be left
behind, however it ends: with its first process the kernel kills all others, and the namespaces go with the last one.
"""

import os
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

# The generator and the application share one processor, the two proxies the other.
LOAD_CPU, PROXY_CPU = 0, 1
# The client's namespace is the one that this program runs in.
CLIENT, SERVER = "10.91.0.1", "10.91.0.2"
# Seconds within which a process must serve.
START = 20


class Failed(Exception):
    """Something that must work did not."""


def eventually(what, probe, seconds=START):
    """Asks until the answer is neither empty nor an error."""
    deadline = time.monotonic() + seconds
    last = None
    while time.monotonic() < deadline:
        try:
            if answer := probe():
                return answer
        except OSError as error:
            last = error
        time.sleep(0.02)
    raise Failed(f"no {what} within {seconds} s: {last}")


class Process:
    """A process of the bed, with what the kernel says about it."""

    def __init__(self, name, child, log):
        self.name, self.child, self.log = name, child, log

    def alive(self):
        """Fails when it ended by itself."""
        if self.child.poll() is not None:
            raise Failed(f"{self.name} ended with {self.child.returncode}:\n{self.tail()}")

    def tail(self):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:]) if self.log else ""

    def cpu_ns(self):
        """Nanoseconds on a processor, user and kernel, of all threads, also of those that have ended."""
        # The kernel's clock of another process (CPUCLOCK_SCHED), which no name in `time` stands for.
        return time.clock_gettime_ns((~self.child.pid << 3) | 2)

    def switches(self):
        """How often each of its threads was put on a processor, by thread."""
        counts = {}
        for task in Path(f"/proc/{self.child.pid}/task").iterdir():
            try:
                counts[task.name] = int((task / "schedstat").read_text().split()[2])
            except (FileNotFoundError, ProcessLookupError):
                # It has ended since the list was read.
                continue
        return counts

    def memory_kib(self):
        """Resident memory, and the part of it that no file backs, in KiB."""
        status = Path(f"/proc/{self.child.pid}/status").read_text()
        values = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        return tuple(int(values[key].split()[0]) for key in ("VmRSS", "RssAnon"))

    def stop(self):
        if self.child.poll() is None:
            self.child.terminate()
            try:
                self.child.wait(5)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()


class Bed:
    """Two namespaces, a directory in memory, and everything that was started. `programs`: where our own are."""

    def __init__(self, directory, log, programs):
        self.directory, self.log, self.programs = directory, log, programs
        self.processes = []
        self.log.mkdir(parents=True, exist_ok=True)
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self.directory.mkdir(parents=True, exist_ok=True)
        self._call("mount", "-t", "tmpfs", "-o", "mode=0700", "tmpfs", str(directory))
        self.holder = self.start("namespace", ["unshare", "--net", "sleep", "infinity"], cpu=LOAD_CPU)
        own = os.readlink("/proc/self/ns/net")
        theirs = f"/proc/{self.holder.child.pid}/ns/net"
        eventually("second namespace", lambda: os.readlink(theirs) != own)
        self._call("ip", "link", "set", "lo", "up")
        self._call("ip", "link", "add", "client", "type", "veth", "peer", "name", "server",
                   "netns", str(self.holder.child.pid))
        self._call("ip", "address", "add", f"{CLIENT}/24", "dev", "client")
        self._call("ip", "link", "set", "client", "up")
        for command in (["link", "set", "lo", "up"], ["address", "add", f"{SERVER}/24", "dev", "server"],
                        ["link", "set", "server", "up"]):
            self._call(*self._inside("ip", *command))

    def _inside(self, *command):
        return ["nsenter", f"--net=/proc/{self.holder.child.pid}/ns/net", *command]

    @staticmethod
    def _call(*command):
        done = subprocess.run(command, capture_output=True, text=True, timeout=START)
        if done.returncode != 0:
            raise Failed(f"{' '.join(command)}: {done.stderr.strip()}")

    def start(self, name, command, cpu, server=False, environment=None, quiet=False):
        """Starts a process on one processor, in the server's namespace or in the client's. `quiet`: what it writes,
        such as an access log, goes to /dev/null instead of a file."""
        command = ["taskset", "--cpu-list", str(cpu), *map(str, command)]
        log = None if quiet else self.log / f"{name}.log"
        with open(log or os.devnull, "wb") as output:
            child = subprocess.Popen(self._inside(*command) if server else command, stdin=subprocess.DEVNULL,
                                     stdout=output, stderr=output, env={**os.environ, **(environment or {})})
        process = Process(name, child, log)
        self.processes.append(process)
        return process

    def run(self, command, seconds, cpu=LOAD_CPU, server=False, environment=None, text=None):
        """Runs a command to its end and returns what it printed; fails when it does."""
        command = ["taskset", "--cpu-list", str(cpu), *map(str, command)]
        done = subprocess.run(self._inside(*command) if server else command, input=text, capture_output=True,
                              text=True, timeout=seconds, env={**os.environ, **(environment or {})})
        if done.returncode != 0:
            raise Failed(f"{' '.join(command[3:])}: exit {done.returncode}: {done.stdout[-500:]} {done.stderr[-500:]}")
        return done.stdout

    def stop(self):
        for process in reversed(self.processes):
            process.stop()


def enter(arguments):
    """Runs this program again as the first process of namespaces of its own; returns its exit code."""
    for needed in ("setpriv", "unshare", "nsenter", "taskset", "ip"):
        if not shutil.which(needed):
            raise Failed(f"{needed} is missing: run `make setup-bench`")
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    # When this program dies, so does unshare; when unshare dies, so does the first process, and with it all others.
    command = ["setpriv", "--pdeathsig", "KILL", "unshare", *user, "--net", "--mount", "--pid", "--fork",
               "--kill-child", "--mount-proc", *arguments]
    child = subprocess.Popen(command)
    # Ctrl-C reaches the child too, which stops and reports; here it only has to be waited for.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: child.kill())
    return child.wait()
