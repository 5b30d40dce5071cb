"""The whole path of a request: the built binaries, of which the two sidecars run under callgrind."""

import json
import subprocess

from callgrind import Counted, Failed, eventually
from peers import Client, application

WARM_UP, REQUESTS = 100, 1_000
# Any port that is free.
FREE = "127.0.0.1:0"

SERVICE = """
apiVersion: outrigger.dev/v1alpha1
kind: Service
metadata: {name: price, namespace: demo}
spec:
  ports: [{port: 80, name: http, protocol: HTTP}]
---
apiVersion: outrigger.dev/v1alpha1
kind: Route
metadata: {name: price, namespace: demo}
spec:
  parentRefs: [{name: price}]
  rules:
"""
RULE = "  - matches: [{{path: {{type: PathPrefix, value: /v{index}}}}}]\n"
RULES = 10


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
        documents = SERVICE + "".join(RULE.format(index=index) for index in range(RULES))
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
        """Instructions of each sidecar for one request on a connection that has had others."""
        client = Client(self.target)
        client.ask(WARM_UP)
        return {f"request: {name}": sidecar.during(lambda: client.ask(REQUESTS)) / REQUESTS
                for name, sidecar in (("outbound", self.outbound), ("inbound", self.inbound))}

    def stop(self):
        for sidecar in (self.outbound, self.inbound):
            if sidecar:
                sidecar.stop()
        if self.control_plane:
            self.control_plane.kill()
            self.control_plane.wait()
