#!/usr/bin/env bash
# Installs what the tests need and the system lacks. Quick when nothing is missing. As "command package test".
set -euo pipefail

NEEDED="
curl  curl        mesh::clients  (a stock HTTP client through the forward proxy)
nginx nginx-light mesh::clients  (a stock web server behind an inbound pair)
"

missing=()
while read -r command package test; do
  [ -n "$command" ] || continue
  PATH="$PATH:/usr/sbin:/sbin" command -v "$command" >/dev/null && continue
  echo "setup: $command is missing (package $package; needed by $test)"
  missing+=("$package")
done <<<"$NEEDED"

[ ${#missing[@]} -eq 0 ] && exit 0
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
