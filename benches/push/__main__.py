"""How fast a policy is in force: `outrigger apply --wait` against a control plane and proxies of this machine.

For each size of mesh, one route is changed again and again; a push counts when every proxy has said that it applied it. Also
what the control plane holds in memory while nothing happens. Python's standard library only; `make bench-push`.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Between two pushes: longer than the control plane gathers changes that follow each other closely.
PAUSE = 0.25
# Seconds within which a process must serve.
START = 60
# (proxies, pushes, all in one process, bound in ms on the 99th percentile)
MESHES = [(3, 200, False, 50), (200, 50, True, 500)]
# MB that an idle control plane may hold, with three proxies.
CONTROL_PLANE_MB = 30

SERVICE = """
apiVersion: outrigger.dev/v1alpha1
kind: Service
metadata: {name: price, namespace: demo}
spec:
  ports: [{port: 80, name: http, protocol: HTTP}]
"""
ROUTE = """
apiVersion: outrigger.dev/v1alpha1
kind: Route
metadata: {{name: price, namespace: demo}}
spec:
  parentRefs: [{{name: price}}]
  rules:
  - filters:
    - type: ResponseHeaderModifier
      responseHeaderModifier: {{set: [{{name: x-push, value: "{number}"}}]}}
"""


def percentile(values, share):
    """The smallest value that at least `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * share // 100) - 1)]


def eventually(what, probe):
    deadline = time.monotonic() + START
    while time.monotonic() < deadline:
        if answer := probe():
            return answer
        time.sleep(0.02)
    sys.exit(f"no {what} within {START} s")


class Mesh:
    """A control plane, and as many proxies as are asked for."""

    def __init__(self, directory, programs):
        self.directory, self.programs, self.children = directory, programs, []
        state = directory / "control-plane"
        self.control_plane = self.start([programs / "outrigger-control-plane", "--state-dir", state, "--policy-listen",
                                         "127.0.0.1:0", "--discovery-listen", "127.0.0.1:0", "--health-listen",
                                         "127.0.0.1:0", "--allow-loopback"])
        file = state / "addresses.json"
        eventually("control plane", file.exists)
        addresses = json.loads(file.read_text())
        self.policy, self.discovery = addresses["policy"], addresses["discovery"]

    def start(self, command, **more):
        child = subprocess.Popen([str(word) for word in command], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                 cwd=self.directory, **more)
        self.children.append(child)
        return child

    def operate(self, *arguments, text=None):
        command = [self.programs / "outrigger", "--server", self.policy, "--credential",
                   self.directory / "control-plane" / "admin", *arguments]
        done = subprocess.run([str(word) for word in command], input=text, capture_output=True, text=True, timeout=60)
        if done.returncode != 0:
            sys.exit(f"{' '.join(arguments)}: exit {done.returncode}: {done.stderr}")
        return done.stdout

    def token(self, name, directory):
        directory.mkdir(exist_ok=True)
        file = directory / f"{name}.token"
        self.operate("token", "create", "--namespace", "demo", "--service-account", "front", "--output", str(file))
        return file

    def join(self, proxies, together):
        """Starts proxies that have each asked for `price` once."""
        names = [f"front-{number}" for number in range(proxies)]
        tokens = {name: self.token(name, self.directory / "tokens") for name in names}
        if together:
            swarm = self.start([self.programs / "swarm", "--control-plane", self.discovery, "--tokens",
                                self.directory / "tokens", "--state", self.directory / "proxies"],
                               stdout=subprocess.PIPE, text=True)
            if swarm.stdout.readline().strip() != "ready":
                sys.exit("the swarm did not start")
            return
        for name in names:
            state = self.directory / "proxies" / name
            state.parent.mkdir(exist_ok=True)
            self.start([self.programs / "outrigger-proxy", "--instance", name, "--join-token-file", tokens[name],
                        "--control-plane", self.discovery, "--state-dir", state, "--outbound-listen", "127.0.0.1:0",
                        "--health-listen", "127.0.0.1:0"])
            eventually(f"proxy {name}", (state / "addresses.json").exists)
            outbound = json.loads((state / "addresses.json").read_text())["outbound"]
            ask = ["curl", "--silent", "--output", "/dev/null", "--proxy", f"http://{outbound}", "--write-out",
                   "%{http_code}", "http://price.demo/"]
            # No instance backs it, which the proxy knows once it was told of the service.
            reason = b"503"
            eventually("answer", lambda: subprocess.run(ask, capture_output=True).stdout == reason)

    def resident_mb(self):
        status = Path(f"/proc/{self.control_plane.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024 / 1e6

    def stop(self):
        for child in reversed(self.children):
            child.stdin.close()
            child.terminate()
        for child in self.children:
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()


def measure(proxies, pushes, together, programs):
    directory = Path(tempfile.mkdtemp(prefix="outrigger-push-"))
    directory.chmod(0o700)
    mesh = Mesh(directory, programs)
    try:
        mesh.operate("apply", "-f", "-", text=SERVICE)
        mesh.join(proxies, together)
        eventually("subscription of all", lambda: push(mesh, 0)[2] == proxies)
        # What gathers changes that follow each other closely forgets those.
        time.sleep(5)
        resident = mesh.resident_mb()
        walls, spreads = [], []
        for number in range(1, pushes + 1):
            time.sleep(PAUSE)
            wall, spread, concerned = push(mesh, number)
            if concerned != proxies:
                sys.exit(f"push {number} concerned {concerned} of {proxies} proxies")
            walls.append(wall)
            spreads.append(spread)
        return walls, spreads, resident
    finally:
        mesh.stop()
        shutil.rmtree(directory, ignore_errors=True)


def push(mesh, number):
    """Milliseconds of the whole command, and from the commit to the last proxy; and how many proxies it concerned."""
    begin = time.monotonic()
    told = mesh.operate("apply", "--wait", "-o", "json", "-f", "-", text=ROUTE.format(number=number))
    wall = (time.monotonic() - begin) * 1e3
    applied = json.loads(told)["applied"]
    return wall, applied["milliseconds"], applied["proxies"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=Path, default=ROOT / "target" / "dist")
    parser.add_argument("--short", action="store_true", help="a tenth of the pushes")
    arguments = parser.parse_args()
    holds = True
    print("| proxies | pushes | command p50 ms | p99 ms | commit to last proxy p50 ms | p99 ms | bar ms | control plane MB |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for proxies, pushes, together, bound in MESHES:
        pushes = pushes // 10 if arguments.short else pushes
        walls, spreads, resident = measure(proxies, pushes, together, arguments.programs)
        figures = [percentile(walls, 50), percentile(walls, 99), percentile(spreads, 50), percentile(spreads, 99)]
        print(f"| {proxies} | {pushes} | " + " | ".join(f"{figure:.1f}" for figure in figures)
              + f" | {bound} | {resident:.1f} |", flush=True)
        holds &= figures[1] <= bound and (proxies > 3 or resident <= CONTROL_PLANE_MB)
    print("all bars hold" if holds else "a bar does not hold")
    sys.exit(0 if holds else 1)


if __name__ == "__main__":
    main()
