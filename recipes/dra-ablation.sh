#!/usr/bin/env bash
# The tables of docs/methods/dra.md: DRA, its controls, its options and the baselines, base to new. The controls on the twelve data
# sets of the laboratory, which take hours; what else was tried on lab-things. --precision bf16 is for processors that multiply
# bf16 by themselves; on others leave it out. Needs: pip install . ./lab. The same command again goes on where it stopped; what
# recipes/suite.sh left in the same folder is not trained again. Usage: recipes/dra-ablation.sh [OUT]
set -euo pipefail
cd "$(dirname "$0")/.."
out="${1:-runs/suite}"
bench() { steadyclip bench base-to-new --jobs 2 --precision bf16 --out "$out" "$@"; }
# the controls, seed after seed, so that there is a whole table early
for seeds in "1" "1 2" "1 2 3"; do
  # shellcheck disable=SC2086
  bench --data suite --seeds $seeds --methods zero-shot lora full dra \
    "dra[assignment=uniform]" "dra[assignment=inverse]" "dra[assignment=random]" \
    "dra[channel=off]" "dra[l1=off]" "dra[towers=image]" "dra[towers=text]"
done
# what else was tried
bench --data lab-things --methods zero-shot dra "dra[score=received]" "dra[score=learned]" "dra[channel=squeeze_excite]" \
  "dra[first_block=1]" "dra[l1=delta]" "dra[l1_weight=0.1]" "dra[l1_weight=1]" "dra[ranks=64:8:1]" \
  "dra[ranks=64:8:1,assignment=inverse]" "dra[ranks=32,channel=off]" bottleneck
python recipes/records.py keep "$out" suite
python recipes/tables.py
