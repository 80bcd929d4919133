#!/usr/bin/env bash
# The tables of docs/methods/orthcr.md: OrthCR, OrthSR, their controls and the baselines, base to new. The controls that the claims
# are about on the twelve data sets of the laboratory, which take hours; the others on lab-things. --precision bf16 is for
# processors that multiply bf16 by themselves; on others leave it out. Needs: pip install . ./lab. The same command again goes on
# where it stopped; what recipes/suite.sh left in the same folder is not trained again. Usage: recipes/orthcr-ablation.sh [OUT]
set -euo pipefail
cd "$(dirname "$0")/.."
out="${1:-runs/suite}"
bench() { steadyclip bench base-to-new --jobs 2 --precision bf16 --out "$out" "$@"; }
for seeds in "1" "1 2" "1 2 3"; do
  # shellcheck disable=SC2086
  bench --data suite --seeds $seeds --methods zero-shot lora full orthcr orthsr "orthcr[constraint=none]" "orthcr[l1=0,l2=0]"
done
# rank 109 on fc1 and fc2 has as many parameters as the four blocks of each map: docs/methods/orthcr.md
bench --data lab-things --methods zero-shot lora full orthcr orthsr \
  "lora[layers=fc1:fc2,rank=109,alpha=54]" "lora[cutout=0.5]" "full[cutout=0.5]" "orthcr[cross=ce]" "orthcr[cut=off]" \
  "orthcr[towers=image]" "orthcr[towers=text]" "orthcr[layers=q:k:v:out]"
python recipes/records.py keep "$out" suite
python recipes/tables.py
