"""Envoy, three times: bare, with the features that Outrigger has on, and bare with a multiplexed mesh leg.

Bare is its router alone, HTTP/1.1 on the mesh leg as Istio has it. "Full" adds a JSON access log, metrics per route,
ten routes, ten rules of authorization by SPIFFE ID, request ids, retries with a budget, and outlier ejection.
"""

import json
import os
import shutil
from pathlib import Path

from application import PORT
from bed import PROXY_CPU, SERVER, Failed

from . import Pair

TYPES = "type.googleapis.com/envoy.extensions"
RULES = 10


def start(bed, authority):
    return _start(bed, authority, "envoy", 11001)


def start_full(bed, authority):
    return _start(bed, authority, "envoy-full", 11101, full=True)


def start_mux(bed, authority):
    return _start(bed, authority, "envoy-mux", 11151, mux=True)


def binary():
    """The program itself: the command of its Python package is a script that starts it."""
    found = os.environ.get("BENCH_ENVOY") or next(
        map(str, Path(os.environ["BENCH_TOOLS"]).glob("**/envoy/_bin/envoy")), None) or shutil.which("envoy")
    if not found:
        raise Failed("envoy is missing: run `make setup-bench`")
    return found


def _start(bed, authority, name, port, full=False, mux=False):
    outbound_port, inbound_port = port, port + 5

    def side(which, configuration, server):
        file = bed.directory / f"{name}-{which}.json"
        file.write_text(json.dumps(configuration, indent=1))
        command = [binary(), "--config-path", file, "--concurrency", "1", "--disable-hot-restart", "--log-level",
                   "error"]
        return bed.start(f"{name}-{which}", command, cpu=PROXY_CPU, server=server)

    to_peer = {"transport_socket": _tls("UpstreamTlsContext", authority.outbound, authority.inbound, authority, mux)}
    if mux:
        to_peer["typed_extension_protocol_options"] = {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": f"{TYPES}.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}}}}
    from_peer = _tls("DownstreamTlsContext", authority.inbound, authority.outbound, authority, mux)
    filters = _rbac(authority) if full else []
    inbound = side("inbound", _proxy(SERVER, inbound_port, "127.0.0.1", PORT, {}, from_peer, full, filters), True)
    outbound = side("outbound", _proxy("127.0.0.1", outbound_port, SERVER, inbound_port, to_peer, None, full, []),
                    False)
    target = ("127.0.0.1", outbound_port)
    return Pair(name, target, outbound, inbound, http2_target=target)


def _proxy(address, port, to, to_port, cluster, tls, full, filters):
    chain = {"filters": [{"name": "http", "typed_config": _http(full, filters)}]}
    if tls:
        chain["transport_socket"] = tls
    cluster = {"name": "next", "type": "STATIC", "connect_timeout": "1s",
               "load_assignment": {"cluster_name": "next", "endpoints": [{"lb_endpoints": [
                   {"endpoint": {"address": _address(to, to_port)}}]}]}, **cluster}
    if full:
        cluster |= {"outlier_detection": {"consecutive_5xx": 7},
                    "circuit_breakers": {"thresholds": [{"retry_budget": {"budget_percent": {"value": 20}}}]}}
    return {"static_resources": {
        "listeners": [{"name": "in", "address": _address(address, port), "tcp_backlog_size": 4096,
                       "filter_chains": [chain]}],
        "clusters": [cluster]}}


def _http(full, filters):
    router = {"name": "envoy.filters.http.router",
              "typed_config": {"@type": f"{TYPES}.filters.http.router.v3.Router"}}
    routes = [{"match": {"prefix": "/"}, "route": {"cluster": "next", "timeout": "0s"}}]
    connection = {"@type": f"{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
                  "stat_prefix": "in", "generate_request_id": full, "http_filters": [*filters, router]}
    if full:
        routes = [{"match": {"prefix": f"/v{index}"},
                   "route": {"cluster": "next", "timeout": "0s",
                             "retry_policy": {"retry_on": "connect-failure,refused-stream", "num_retries": 2}}}
                  for index in range(RULES)]
        connection["access_log"] = [{"name": "log", "typed_config": {
            "@type": f"{TYPES}.access_loggers.file.v3.FileAccessLog", "path": "/dev/null",
            "log_format": {"json_format": _LOG}}}]
    connection["route_config"] = {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]}
    return connection


# The fields of Outrigger's own line.
_LOG = {"time": "%START_TIME%", "downstream": "%DOWNSTREAM_REMOTE_ADDRESS%",
        "downstream_identity": "%DOWNSTREAM_PEER_URI_SAN%", "method": "%REQ(:METHOD)%", "version": "%PROTOCOL%",
        "authority": "%REQ(:AUTHORITY)%", "path": "%REQ(:PATH)%", "request_id": "%REQ(X-REQUEST-ID)%",
        "traceparent": "%REQ(TRACEPARENT)%", "destination": "%UPSTREAM_CLUSTER%", "route": "%ROUTE_NAME%",
        "upstream": "%UPSTREAM_HOST%", "upstream_identity": "%UPSTREAM_PEER_URI_SAN%", "status": "%RESPONSE_CODE%",
        "reason": "%RESPONSE_FLAGS%", "bytes": "%BYTES_SENT%", "duration": "%DURATION%",
        "app": "%RESPONSE_DURATION%", "stream": "%RESPONSE_TX_DURATION%"}


def _rbac(authority):
    """Nine rules for others, and the one that lets the client in: policies are tried in the order of their names."""
    ids = [f"spiffe://bench.mesh/ns/demo/sa/other-{index}" for index in range(RULES - 1)]
    policies = {f"rule-{index}": {
        "permissions": [{"any": True}],
        "principals": [{"authenticated": {"principal_name": {"exact": spiffe_id}}}]}
        for index, spiffe_id in enumerate([*ids, authority.outbound.spiffe_id])}
    return [{"name": "envoy.filters.http.rbac", "typed_config": {
        "@type": f"{TYPES}.filters.http.rbac.v3.RBAC", "rules": {"action": "ALLOW", "policies": policies}}}]


def _tls(kind, own, peer, authority, mux):
    common = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "alpn_protocols": ["h2" if mux else "http/1.1"],
        "tls_certificates": [{"certificate_chain": {"filename": str(own.certificate)},
                              "private_key": {"filename": str(own.key)}}],
        "validation_context": {"trusted_ca": {"filename": str(authority.root)}, "match_typed_subject_alt_names": [
            {"san_type": "URI", "matcher": {"exact": peer.spiffe_id}}]}}
    context = {"@type": f"{TYPES}.transport_sockets.tls.v3.{kind}", "common_tls_context": common}
    if kind == "DownstreamTlsContext":
        context["require_client_certificate"] = True
    return {"name": "tls", "typed_config": context}


def _address(address, port):
    return {"socket_address": {"address": address, "port_value": port}}
