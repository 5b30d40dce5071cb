"""A bare TCP relay on both sides: reads one socket, writes the other. No TLS, no HTTP: the floor."""

from application import PORT
from bed import PROXY_CPU, SERVER

from . import Pair

OUTBOUND, INBOUND = 11201, 11206


def start(bed, _authority):
    program = bed.programs / "relay"
    inbound = bed.start("relay-inbound", [program, f"{SERVER}:{INBOUND}", f"127.0.0.1:{PORT}"], cpu=PROXY_CPU,
                        server=True)
    outbound = bed.start("relay-outbound", [program, f"127.0.0.1:{OUTBOUND}", f"{SERVER}:{INBOUND}"], cpu=PROXY_CPU)
    return Pair("relay", ("127.0.0.1", OUTBOUND), outbound, inbound)
