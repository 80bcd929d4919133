#!/usr/bin/env bash
# The tables of docs/methods/arf.md: ARF, its controls, FLYP, full and WiSE curves, robust fine-tuning on lab-robust-travel and on
# lab-robust: all training images, then test images in distribution, under shifts, and of five other data sets. Without a processor
# that multiplies bf16 by itself leave --precision bf16 out. Needs: pip install . ./lab. The same command again goes on where it
# stopped. Usage: recipes/arf.sh [OUT]
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD out=$(realpath -m "${1:-runs/laboratory}")
pool="$out/pool"
steadyclip anchors embed lab-pool --text-column caption --out "$pool"
arf="arf[anchors=nearest.parquet]"
for seeds in "1" "1 2 3"; do  # so that there is a whole table early
  for data in lab-robust-travel lab-robust; do
    mkdir -p "$out/robust-$data" && cd "$out/robust-$data"  # there, so that rows have short names
    [ -e nearest.parquet ] || steadyclip anchors retrieve --data $data --pool "$pool" --out nearest.parquet
    [ -e random.parquet ] || steadyclip anchors retrieve --data $data --pool "$pool" --random-like nearest.parquet --out random.parquet
    [ -e nearest-8.parquet ] || steadyclip anchors retrieve --data $data --pool "$pool" --k 8 --out nearest-8.parquet
    # shellcheck disable=SC2206
    bench=(steadyclip bench robust --data $data --seeds $seeds --jobs 2 --precision bf16 --out .)
    "${bench[@]}" --methods zero-shot full flyp "$arf" "arf[l_r=0]" "arf[l_c=0,anchors=nearest.parquet]" "arf[l_c=0,anchors=random.parquet]" \
      "arf[l_c=0,anchors=nearest-8.parquet]"
    "${bench[@]}" --methods zero-shot full flyp "$arf" --wise-alphas 0.3 0.6
    cd "$root"
    python recipes/records.py keep "$out/robust-$data" "robust-$data"
  done
done
python recipes/tables.py
