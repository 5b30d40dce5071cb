"""Outrigger as its users run it: a control plane, two sidecars that joined with tokens, a service and a route of ten
rules, everything at its default. Only what /dev/null is for the access log is not theirs."""

from pathlib import Path

from application import PORT
from bed import LOAD_CPU, PROXY_CPU, SERVER, eventually

from . import Pair

OUTBOUND, INBOUND = 17001, 17006
POLICY, DISCOVERY = "127.0.0.1:17100", f"{SERVER}:17110"

POLICIES = Path(__file__).resolve().parents[2] / "policy.yaml"


def start(bed, _authority):
    state = bed.directory / "outrigger"
    control_plane = bed.start(
        "outrigger-control-plane",
        [bed.programs / "outrigger-control-plane", "--state-dir", state / "control-plane", "--policy-listen", POLICY,
         "--discovery-listen", DISCOVERY], cpu=LOAD_CPU, server=True)
    eventually("control plane", lambda: (state / "control-plane" / "addresses.json").exists())

    def operate(*arguments, text=None):
        return bed.run([bed.programs / "outrigger", "--server", POLICY, "--credential",
                        state / "control-plane" / "admin", *arguments], 30, server=True, text=text)

    def sidecar(account, server, *arguments):
        token = bed.directory / f"{account}.token"
        operate("token", "create", "--namespace", "demo", "--service-account", account, "--output", str(token))
        return bed.start(
            f"outrigger-{account}",
            [bed.programs / "outrigger-proxy", "--instance", account, "--join-token-file", token, "--control-plane",
             DISCOVERY, "--state-dir", state / account, *arguments], cpu=PROXY_CPU, server=server, quiet=True)

    operate("apply", "-f", "-", text=POLICIES.read_text())
    inbound = sidecar("price", True, "--inbound", f"{SERVER}:{INBOUND}=127.0.0.1:{PORT},name=http,protocol=http1")
    outbound = sidecar("front", False)
    target = ("127.0.0.1", OUTBOUND)
    return Pair("outrigger", target, outbound, inbound, http2_target=target, others=[control_plane])
