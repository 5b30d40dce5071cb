"""The whole path of a request: the built binaries, of which the two sidecars run under callgrind."""

import json
import subprocess
from pathlib import Path

from callgrind import PATIENCE, Counted, Failed, eventually
from peers import HOST, Client, application

WARM_UP, REQUESTS = 100, 1_000
# Any port that is free.
FREE = "127.0.0.1:0"

POLICIES = Path(__file__).resolve().parents[1] / "policy.yaml"


class Mesh:
    """A control plane, and a sidecar on each side of one hop."""

    def __init__(self, programs, directory):
        self.programs, self.directory = programs, directory
        self.control_plane = self.inbound = self.outbound = None
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self):
        state = self.directory / "control-plane"
        with open(self.directory / "control-plane.log", "wb") as log:
            self.control_plane = subprocess.Popen(
                [self.programs / "outrigger-control-plane", "--state-dir", state, "--policy-listen", FREE,
                 "--discovery-listen", FREE, "--health-listen", FREE, "--allow-loopback"], stderr=log)
        listening = self._addresses("control-plane")
        operate = [self.programs / "outrigger", "--server", listening["policy"], "--credential", state / "admin"]
        documents = POLICIES.read_text()
        subprocess.run([*operate, "apply", "-f", "-"], input=documents, text=True, check=True, capture_output=True)

        def sidecar(account, *arguments):
            token = self.directory / f"{account}.token"
            subprocess.run([*operate, "token", "create", "--namespace", "demo", "--service-account", account,
                            "--output", token], check=True, capture_output=True)
            return Counted(account, self.directory, [
                self.programs / "outrigger-proxy", "--instance", account, "--join-token-file", token,
                "--control-plane", listening["discovery"], "--state-dir", self.directory / account,
                "--outbound-listen", FREE, "--health-listen", FREE, *arguments])

        self.inbound = sidecar("price", "--inbound", f"{FREE}={application()},name=http,protocol=http1")
        self.outbound = sidecar("front")
        self.target = self._addresses("front")["outbound"]
        eventually("answer through the mesh", self._serves)

    def _addresses(self, name):
        """What a binary of ours writes once it listens."""
        def read():
            try:
                return json.loads((self.directory / name / "addresses.json").read_text())
            except (OSError, ValueError):
                return None
        return eventually(f"addresses of {name}", read)

    def _serves(self):
        try:
            Client(self.target).ask(1)
        except (OSError, Failed):
            return False
        return True

    def per_request(self):
        """Instructions of each sidecar for one request on a connection that has had others; over HTTP/2, the few of a
        new connection count as well."""
        client = Client(self.target)
        counts = {}
        for protocol, ask in (("HTTP/1.1", client.ask), ("HTTP/2", self._ask_http2)):
            ask(WARM_UP)
            for name, sidecar in (("outbound", self.outbound), ("inbound", self.inbound)):
                counts[f"request: {protocol}, {name}"] = sidecar.during(lambda: ask(REQUESTS)) / REQUESTS
        return counts

    def _ask_http2(self, times):
        """So many requests, one after the other, on a connection of their own."""
        done = subprocess.run(["h2load", "--requests", str(times), "--clients", "1", "--max-concurrent-streams", "1",
                               "--header", f":authority: {HOST}", f"http://{self.target}/v9/item"],
                              capture_output=True, text=True, timeout=PATIENCE)
        if f"status codes: {times} 2xx" not in done.stdout:
            raise Failed(f"h2load: {done.stdout[-500:]}{done.stderr[-200:]}")

    def stop(self):
        for sidecar in (self.outbound, self.inbound):
            if sidecar:
                sidecar.stop()
        if self.control_plane:
            self.control_plane.kill()
            self.control_plane.wait()
