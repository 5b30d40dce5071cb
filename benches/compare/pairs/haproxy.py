"""HAProxy, mutual TLS between the two, no log.

It cannot compare a SPIFFE ID: both sides verify the chain against an authority that signed nothing but the pair.
"""

from application import PORT
from bed import PROXY_CPU, SERVER

from . import Pair

OUTBOUND, INBOUND = 11301, 11306

COMMON = """
global
  nbthread 1
  ssl-default-bind-options ssl-min-ver TLSv1.3
  ssl-default-server-options ssl-min-ver TLSv1.3
defaults
  mode http
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  http-reuse always
"""


def start(bed, authority):
    def side(name, text, server):
        file = bed.directory / f"haproxy-{name}.cfg"
        file.write_text(COMMON + text)
        return bed.start(f"haproxy-{name}", ["haproxy", "-db", "-f", file], cpu=PROXY_CPU, server=server)

    tls = f"ca-file {authority.root} verify required alpn http/1.1"
    inbound = side("inbound", f"""
frontend mesh
  bind {SERVER}:{INBOUND} backlog 4096 ssl crt {authority.inbound.both} {tls}
  default_backend application
backend application
  server nginx 127.0.0.1:{PORT}
""", True)
    outbound = side("outbound", f"""
frontend workload
  bind 127.0.0.1:{OUTBOUND} backlog 4096
  default_backend peer
backend peer
  server inbound {SERVER}:{INBOUND} ssl crt {authority.outbound.both} {tls}
""", False)
    target = ("127.0.0.1", OUTBOUND)
    return Pair("haproxy", target, outbound, inbound, http2_target=target)
