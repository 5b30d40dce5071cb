"""The smallest honest pairs on each engine (benches/engines): mutual TLS, nothing else of a mesh."""

import os
from pathlib import Path

from application import PORT
from bed import PROXY_CPU, SERVER

from . import Pair


def start_hyper_h1(bed, authority):
    return _start(bed, authority, "hyper-h1", 11401, "hyper", "http1")


def start_hyper_mux(bed, authority):
    return _start(bed, authority, "hyper-mux", 11501, "hyper", "http2")


def start_pingora(bed, authority):
    return _start(bed, authority, "pingora", 11601, "pingora", "http1")


def _start(bed, authority, name, port, engine, leg):
    program = Path(os.environ["BENCH_ENGINES"]) / f"engine-{engine}"

    def side(which, listen, upstream, own, peer, server):
        command = [program, which, "--listen", listen, "--upstream", upstream, "--leg", leg, "--root", authority.root,
                   "--certificate", own.certificate, "--key", own.key, "--peer", peer.spiffe_id]
        return bed.start(f"{name}-{which}", command, cpu=PROXY_CPU, server=server)

    mesh = f"{SERVER}:{port + 5}"
    inbound = side("inbound", mesh, f"127.0.0.1:{PORT}", authority.inbound, authority.outbound, True)
    outbound = side("outbound", f"127.0.0.1:{port}", mesh, authority.outbound, authority.inbound, False)
    return Pair(name, ("127.0.0.1", port), outbound, inbound)
