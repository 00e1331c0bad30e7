#!/usr/bin/env bash
# Measure the operations that users wait for on a GPU, in under ten minutes on one:
#
#   benchmarks/gpu.sh DATA OUT
#
# DATA holds cifar10/*.parquet; OUT gets a log of each part, which ends with its exit status, and
# summary.txt. A part that fails, misses its limit (status 1) or runs out of time (124) does not stop
# the others; the script's own status is then 1. It installs nothing and uses python3, or PYTHON,
# which must have the project's dependencies, pytest and pytest-timeout (without which pytest refuses
# the project's settings). SMOKE=1 runs everything at tiny size on a CPU in about a minute, which says
# nothing about speed.
set -euo pipefail

if (( $# != 2 )); then
  echo "usage: [SMOKE=1] [PYTHON=python3] $0 DATA OUT" >&2
  exit 2
fi
mkdir -p "$2"
data=$(realpath "$1")
out=$(realpath "$2")
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1
python=${PYTHON:-python3}
budget=570 # seconds for all parts together
failed=()

if [[ ${SMOKE:-0} == 1 ]]; then
  device=cpu
  step=(--modes eager --batch 8 --repeats 2 --warmup 1)
  at=(--student resnet8)
  kd=(--student resnet8 --teacher resnet8)
  attack=(--network resnet8 --images 4 --batch 4 --chunk 4 --epochs 1 --train-images 64)
  attack+=(--graph-sizes 4 --wanted 0 --most-overhead 1e9)
else
  device=cuda
  step=()
  at=(--student wrn-28-10)
  kd=(--student resnet20 --teacher resnet56 --batch 64 --repeats 100)
  attack=(--network wrn-28-10 --images 512 --batch 512 --chunk 256 --epochs 8)
  attack+=(--graph-sizes 16 32 64 128 192 256)
fi

# part NAME SECONDS COMMAND...: run a command for at most SECONDS, within the budget.
part() {
  local name=$1 most=$2 log=$out/$1.log began=$SECONDS status=0
  shift 2
  if (( most > budget - SECONDS )); then most=$(( budget - SECONDS )); fi
  if (( most > 0 )); then
    timeout --kill-after=5 "$most" "$@" > "$log" 2>&1 || status=$?
  else
    status=124
  fi
  echo "exit status $status" >> "$log"
  if (( status )); then failed+=("$name ($status)"); fi
  printf '\n== %s: status %d after %d s\n' "$name" "$status" $(( SECONDS - began ))
  tail -n 15 "$log"
}

main() {
  # -k: tests that need a GPU have "gpu" or "cuda" in their names.
  part tests 90 "$python" -m pytest -p no:cacheprovider -rs -k "gpu or cuda" \
    tests/harness/data/test_loader.py tests/harness/evaluation/speed/test_graphs.py \
    tests/harness/training/test_build.py
  part distillation-step 90 "$python" benchmarks/step.py --device "$device" --method ikl-kd \
    "${kd[@]}" "${step[@]}"
  part adversarial-step 150 "$python" benchmarks/step.py --device "$device" --method ikl \
    "${at[@]}" "${step[@]}"
  # Last, with all the remaining time; each side is logged when it ends.
  part autoattack "$budget" "$python" benchmarks/autoattack.py --device "$device" --workers 1 \
    --data-root "$data" --cache "$out/cache" "${attack[@]}"
  if (( ${#failed[@]} )); then
    printf '\nfailed: %s\n' "${failed[*]}"
    return 1
  fi
  printf '\nall parts passed\n'
}

# Not in a pipe, whose subshell would not pass on the list of failures.
status=0
main > "$out/summary.txt" 2>&1 || status=$?
cat "$out/summary.txt"
exit "$status"
