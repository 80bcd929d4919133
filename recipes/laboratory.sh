#!/usr/bin/env bash
# Few shots, other data sets, other domains and robust fine-tuning, seeds 1-3: tables of docs/results.md. How long it took stands
# there. --precision bf16, for training and scoring, more than halves the time where the processor multiplies bf16 by itself (AMX,
# AVX512-BF16); elsewhere leave it out.
# Needs: pip install . ./lab. The same command again goes on where it stopped. Usage: recipes/laboratory.sh [OUT]
set -euo pipefail
cd "$(dirname "$0")/.."
out="${1:-runs/laboratory}"
anchors="$out/anchors"
# What ARF reads: for each training image the pair of the pool that is nearest to it
steadyclip anchors embed lab-pool --text-column caption --out "$anchors/pool"
bench() {  # protocol, data
  local near="$anchors/$2.parquet"
  [ -e "$near" ] || steadyclip anchors retrieve --data "$2" --pool "$anchors/pool" --out "$near"
  steadyclip bench "$1" --data "$2" --seeds 1 2 3 --jobs 2 --precision bf16 --out "$out" --methods \
    zero-shot linear-probe full lora bottleneck dra orthcr orthsr flyp "arf[anchors=$near]"
}
for protocol in few-shot cross-dataset; do bench "$protocol" lab-things; done
for protocol in domain-generalization robust; do bench "$protocol" lab-robust; done
python recipes/records.py keep "$out" others
python recipes/tables.py
