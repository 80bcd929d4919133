#!/usr/bin/env bash
# All five protocols on the icon world, every method, seeds 1-3: the tables of README.md and docs/results.md. How long it took stands
# there. --precision bf16, for training and scoring, more than halves the time where the processor multiplies bf16 by itself (AMX,
# AVX512-BF16); elsewhere leave it out.
# Needs: pip install . ./lab. The same command again goes on where it stopped. Usage: recipes/icon-world.sh [OUT]
set -euo pipefail
out="${1:-runs/icon-world}"
anchors="$out/anchors"
# What ARF reads: for each training image the pair of the pretraining half that is nearest to it
steadyclip anchors embed icons --text-column caption --out "$anchors/pool"
[ -e "$anchors/retrieved.parquet" ] || steadyclip anchors retrieve --data icons --pool "$anchors/pool" --out "$anchors/retrieved.parquet"
for protocol in base-to-new few-shot cross-dataset domain-generalization robust; do
  steadyclip bench "$protocol" --data icons --seeds 1 2 3 --jobs 2 --precision bf16 --out "$out" --methods \
    zero-shot linear-probe full lora bottleneck dra orthcr orthsr flyp "arf[anchors=$anchors/retrieved.parquet]"
done
