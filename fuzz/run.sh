#!/usr/bin/env bash
# Fuzzes each target for a while, and prints a table.
#
# Usage: fuzz/run.sh [TARGET...]      FUZZ_SECONDS (60) is the time for each
#
# What is found lies in fuzz/artifacts/TARGET/; once it is mended, it belongs into
# tests/fuzz/regressions/TARGET/. Needs no nightly compiler.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds="${FUZZ_SECONDS:-60}"
export RUSTC_BOOTSTRAP=1
fuzz() { cargo fuzz "$@" --fuzz-dir fuzz --sanitizer none; }

GLOWPLUG_FUZZ_SEEDS="$PWD/fuzz/corpus" cargo test --quiet --test fuzz seeds_are_written >/dev/null
fuzz build
targets=("$@")
[ $# -gt 0 ] || mapfile -t targets < <(cargo fuzz list --fuzz-dir fuzz)

failed=0
printf '%-26s %12s %10s %8s  %s\n' target runs runs/s features result
for target in "${targets[@]}"; do
  log="$(mktemp)"
  result=ok
  fuzz run "$target" -- -max_total_time="$seconds" -rss_limit_mb=512 -malloc_limit_mb=128 \
    -timeout=10 -print_final_stats=1 >"$log" 2>&1 || { result="FAILED, see $log"; failed=1; }
  stat() { sed -n "s/^stat::$1: *//p" "$log" | tail -1; }
  features="$(sed -n 's/.* ft: \([0-9]*\) .*/\1/p' "$log" | tail -1)"
  printf '%-26s %12s %10s %8s  %s\n' "$target" "$(stat number_of_executed_units)" \
    "$(stat average_exec_per_sec)" "${features:--}" "$result"
  [ "$result" != ok ] || rm "$log"
done
exit "$failed"
