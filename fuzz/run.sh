#!/usr/bin/env bash
# Fuzzes every target for so many seconds, two at a time: run.sh SECONDS [TARGET...]. libFuzzer guides itself by coverage, for
# which a stable compiler suffices. What it learns stays in target/fuzz/corpus; an input that breaks a target is left in
# target/fuzz/artifacts, and shown.
set -euo pipefail
cd "$(dirname "$0")"

seconds=${1:?usage: run.sh SECONDS [TARGET...]}
shift
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
  mapfile -t targets < <(sed -n 's/^name = "\([a-z_]*\)"$/\1/p' Cargo.toml)
fi
host=$(rustc -vV | sed -n 's/^host: //p')
out=$(cd .. && pwd)/target/fuzz

# With a target of its own, so that build scripts and macros are not instrumented.
RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares" \
  cargo build --locked --release --quiet --target "$host" --target-dir "$out"

fuzz() {
  local name=$1 log=$out/$1.log
  mkdir -p "$out/corpus/$name" "$out/artifacts/$name"
  local seeds=()
  if [ -d "seeds/$name" ]; then seeds=("seeds/$name"); fi
  if "$out/$host/release/$name" "$out/corpus/$name" "${seeds[@]}" -artifact_prefix="$out/artifacts/$name/" \
    -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=8192 -print_final_stats=1 >"$log" 2>&1; then
    local runs edges
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    edges=$(sed -n 's/.*cov: \([0-9]*\).*/\1/p' "$log" | tail -1)
    echo "$name: ok, $runs inputs in $seconds s, $edges edges"
  else
    echo "$name: FAILED"
    tail -n 40 "$log"
    return 1
  fi
}
export -f fuzz
export host out seconds
printf '%s\n' "${targets[@]}" | xargs -P 2 -I {} bash -c 'fuzz {}'
