#!/usr/bin/env bash
# The tables of docs/methods/dra.md: DRA, its controls, its options and the baselines, base-to-new on lab-things. A quarter of an hour on two
# cores that multiply bf16 by themselves; on others leave --precision bf16 out. Needs: pip install . ./lab. The same command
# again goes on where it stopped; what recipes/laboratory.sh left in the same folder is not trained again.
# Usage: recipes/dra-ablation.sh [OUT]
set -euo pipefail
bench=(steadyclip bench base-to-new --data lab-things --seeds 1 2 3 --jobs 2 --precision bf16 --out "${1:-runs/laboratory}" --methods)
# what else was tried
"${bench[@]}" zero-shot dra "dra[score=received]" "dra[score=learned]" "dra[channel=squeeze_excite]" "dra[first_block=1]" \
  "dra[l1=delta]" "dra[l1_weight=0.1]" "dra[l1_weight=1]" "dra[ranks=64:8:1]" "dra[ranks=64:8:1,assignment=inverse]"
# the controls
"${bench[@]}" zero-shot lora full bottleneck dra \
  "dra[assignment=uniform]" "dra[assignment=inverse]" "dra[assignment=random]" \
  "dra[channel=off]" "dra[l1=off]" "dra[ranks=32,channel=off]" "dra[towers=image]" "dra[towers=text]"
