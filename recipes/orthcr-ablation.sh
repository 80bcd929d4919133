#!/usr/bin/env bash
# The table of docs/methods/orthcr.md: OrthCR, OrthSR, their controls and the baselines, base-to-new on lab-things. A quarter of an hour on
# two cores that multiply bf16 by themselves; on others leave --precision bf16 out. Needs: pip install . ./lab. The same
# command again goes on where it stopped; what recipes/laboratory.sh left in the same folder is not trained again.
# Usage: recipes/orthcr-ablation.sh [OUT]
set -euo pipefail
# rank 82 on fc1 and fc2 has as many parameters as the four blocks of each map: 82 (192 + 768) 2 = 157,440 against 156,672 a block
steadyclip bench base-to-new --data lab-things --seeds 1 2 3 --jobs 2 --precision bf16 --out "${1:-runs/laboratory}" --methods \
  zero-shot lora full "lora[layers=fc1:fc2,rank=82,alpha=41,learning_rate=1e-3]" "lora[cutout=0.5]" "full[cutout=0.5]" \
  orthcr orthsr "orthcr[constraint=none]" "orthcr[constraint=none,learning_rate=1e-4]" "orthcr[l1=0,l2=0]" "orthcr[cross=ce]" "orthcr[cut=off]" \
  "orthcr[towers=image]" "orthcr[towers=text]" "orthcr[layers=q:k:v:out]"
