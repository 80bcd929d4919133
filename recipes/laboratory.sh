#!/usr/bin/env bash
# Few shots, other data sets, other domains and robust fine-tuning, seeds 1-3: tables of docs/results.md. How long it took stands
# there. --precision bf16, for training and scoring, more than halves the time where the processor multiplies bf16 by itself (AMX,
# AVX512-BF16); elsewhere leave it out.
# Needs: pip install . ./lab. The same command again goes on where it stopped. Usage: recipes/laboratory.sh [OUT]
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD out=$(realpath -m "${1:-runs/laboratory}")
# What ARF reads: for each training image the pair of the pool that is nearest to it
steadyclip anchors embed lab-pool --text-column caption --out "$out/pool"
bench() {  # protocol, data
  mkdir -p "$out/$1-$2" && cd "$out/$1-$2"  # there, so that rows have short names
  [ -e nearest.parquet ] || steadyclip anchors retrieve --data "$2" --pool "$out/pool" --out nearest.parquet
  steadyclip bench "$1" --data "$2" --seeds 1 2 3 --jobs 2 --precision bf16 --out . --methods \
    zero-shot linear-probe full lora bottleneck dra orthcr orthsr flyp "arf[anchors=nearest.parquet]"
  cd "$root"
  python recipes/records.py keep "$out/$1-$2" "$1-$2"
}
for protocol in few-shot cross-dataset; do bench "$protocol" lab-things; done
for protocol in domain-generalization robust; do bench "$protocol" lab-robust; done
bench robust lab-robust-travel
python recipes/tables.py
