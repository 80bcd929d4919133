#!/usr/bin/env bash
# The table of docs/methods/dra.md: DRA, its controls and the baselines, base-to-new on icons. About half an hour on two cores.
# Needs: pip install "steadyclip[icons]". The same command again goes on where it stopped. Usage: recipes/dra-ablation.sh [OUT]
set -euo pipefail
steadyclip bench base-to-new --data icons --seeds 1 2 3 --jobs 2 --out "${1:-runs/ablation}" --methods \
  zero-shot lora full bottleneck dra \
  "dra[assignment=uniform]" "dra[assignment=inverse]" "dra[assignment=random]" \
  "dra[channel=off]" "dra[l1=off]" "dra[towers=image]" "dra[towers=text]"
