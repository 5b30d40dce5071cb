"""The application: nginx, one process, answering from memory."""

import http.client
import os

from bed import LOAD_CPU, SERVER, eventually

# What every request asks for, through whatever pair, and how much comes back.
SMALL, SMALL_BYTES = "/v9/item", 1024
LARGE, LARGE_BYTES = "/v9/large", 10 * 1024 * 1024
HOST = "price.demo.mesh"
# Loopback, beside the inbound proxy; and the address that a client reaches without a proxy.
PORT, HTTP2_PORT, STATUS_PORT = 8080, 8081, 8082

CONFIGURATION = """
daemon off; master_process off; pid {directory}/nginx.pid; error_log stderr; worker_rlimit_nofile 30000;
events {{ worker_connections 20000; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_timeout 1h; keepalive_requests 1000000000;
  http2_max_requests 1000000000; client_body_temp_path {directory}/b; proxy_temp_path {directory}/p;
  fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
  default_type application/octet-stream;
  server {{
    listen 127.0.0.1:{port} backlog=4096; listen {server}:{port} backlog=4096;
    listen {server}:{http2_port} http2 backlog=4096;
    location / {{ return 200 "{small}"; }}
    location = {large} {{ root {directory}/www; }}
  }}
  server {{ listen {server}:{status_port}; location / {{ stub_status; }} }}
}}
"""


def start(bed):
    """Starts nginx in the server's namespace; returns when it answers."""
    large = bed.directory / "www" / LARGE.lstrip("/")
    large.parent.mkdir(parents=True)
    large.write_bytes(os.urandom(LARGE_BYTES))
    file = bed.directory / "nginx.conf"
    file.write_text(CONFIGURATION.format(
        directory=bed.directory, server=SERVER, port=PORT, http2_port=HTTP2_PORT, status_port=STATUS_PORT,
        small="x" * SMALL_BYTES, large=LARGE))
    process = bed.start("nginx", ["nginx", "-c", file, "-e", "stderr"], cpu=LOAD_CPU, server=True)
    eventually("answer of nginx", lambda: probe((SERVER, PORT), SMALL, SMALL_BYTES))
    return process


def probe(address, path, length):
    """One request over HTTP/1.1: whether the answer is the application's, whole."""
    connection = http.client.HTTPConnection(*address, timeout=5)
    try:
        connection.request("GET", path, headers={"Host": HOST})
        answer = connection.getresponse()
        return answer.status == 200 and len(answer.read()) == length
    finally:
        connection.close()


def requests():
    """How many requests nginx has begun to answer, this question included."""
    connection = http.client.HTTPConnection(SERVER, STATUS_PORT, timeout=5)
    try:
        connection.request("GET", "/")
        return int(connection.getresponse().read().split()[9])
    finally:
        connection.close()
