#!/usr/bin/env bash
# Installs what the tests need and the system lacks: packages of the system, and a Python environment under target/.
# Quick, and without network, when nothing is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

# As "command package test".
NEEDED="
curl            curl           mesh::{clients, nginx} (a stock HTTP client through the forward proxy)
h2load          nghttp2-client mesh::clients (many HTTP/2 streams at once)
nginx           nginx-light    mesh::{clients, nginx} (a stock web server behind an inbound pair)
redis-server    redis-server   mesh::redis (a database that speaks its own protocol)
redis-cli       redis-tools    mesh::redis (its client)
redis-benchmark redis-tools    mesh::redis (its load)
initdb          postgresql     mesh::postgres (a database with sessions and TLS of its own)
psql            postgresql     mesh::postgres (its client)
python3         python3        mesh::{api, grpc, websocket}
ip              iproute2       mesh::vanished (two network namespaces; it has to be run as root)
"
PYTHON="${CARGO_TARGET_DIR:-target}/python"
REQUIREMENTS=tests/programs/requirements.txt

PATH="$PATH:/usr/sbin:/sbin"
# Debian keeps PostgreSQL's own commands apart, by version.
for directory in /usr/lib/postgresql/*/bin; do
  PATH="$PATH:$directory"
done

missing=()
need() {
  echo "setup: $1 is missing (package $2; needed by $3)"
  case " ${missing[*]-} " in *" $2 "*) ;; *) missing+=("$2") ;; esac
}

while read -r command package test; do
  [ -n "$command" ] || continue
  command -v "$command" >/dev/null || need "$command" "$package" "$test"
done <<<"$NEEDED"
if command -v python3 >/dev/null && ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
  need "python3's venv" python3-venv "mesh::{api, grpc, websocket}"
fi
# Debian's python3 comes without it.
case " ${missing[*]-} " in *" python3 "*) missing+=(python3-venv) ;; esac

if [ ${#missing[@]} -ne 0 ]; then
  if ! command -v apt-get >/dev/null; then
    echo "setup: install these with your system's package manager, then run make test again: ${missing[*]}" >&2
    exit 1
  fi
  if [ "$(id -u)" -ne 0 ]; then
    echo "setup: run this once, then make test again: sudo apt-get install --yes --no-install-recommends ${missing[*]}" >&2
    exit 1
  fi
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  # The packages' own services must not start: the tests start what they need, on ports of their own.
  policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
  fi
  apt-get install --yes --no-install-recommends -qq "${missing[@]}" >/dev/null
  echo "setup: installed ${missing[*]}"
fi

# The copy is made last: an environment without it is not whole.
if ! cmp -s "$REQUIREMENTS" "$PYTHON/requirements.txt" || ! "$PYTHON/bin/python" -c '' 2>/dev/null; then
  echo "setup: making $PYTHON"
  python3 -m venv --clear "$PYTHON"
  "$PYTHON/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
    --requirement "$REQUIREMENTS"
  cp "$REQUIREMENTS" "$PYTHON/requirements.txt"
fi
