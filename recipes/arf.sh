#!/usr/bin/env bash
# The table of docs/methods/arf.md: ARF, its controls, FLYP, full and WiSE curves, robust fine-tuning on lab-robust: all training images,
# then test images in distribution, under five shifts, and of five other data sets. How long it took stands there. Without a
# processor that multiplies bf16 by itself leave --precision bf16 out. Needs: pip install . ./lab. The same command again goes
# on where it stopped; what recipes/laboratory.sh left in the same folder is not trained again. Usage: recipes/arf.sh [OUT]
set -euo pipefail
cd "$(dirname "$0")/.."
out="${1:-runs/laboratory}"
anchors="$out/anchors"
steadyclip anchors embed lab-pool --text-column caption --out "$anchors/pool"
nearest="$anchors/lab-robust.parquet" random="$anchors/random.parquet"
[ -e "$nearest" ] || steadyclip anchors retrieve --data lab-robust --pool "$anchors/pool" --out "$nearest"
[ -e "$random" ] || steadyclip anchors retrieve --data lab-robust --pool "$anchors/pool" --random-like "$nearest" --out "$random"
bench=(steadyclip bench robust --data lab-robust --seeds 1 2 3 --jobs 2 --precision bf16 --out "$out")
arf="arf[anchors=$nearest]"
# robust-lab-robust.* has what was asked for last; arf.html has all of it
"${bench[@]}" --methods zero-shot full flyp "$arf" "arf[l_r=0]" "arf[l_c=0,anchors=$nearest]" "arf[l_c=0,anchors=$random]"
"${bench[@]}" --methods zero-shot full flyp "$arf" --wise-alphas 0.3 0.6
python recipes/records.py keep "$out" others
python recipes/tables.py
steadyclip report "$out"/zero-shot-lab-robust-*/records/*-all*.json "$out"/{full,flyp,arf}*-lab-robust-all-all-*/ --out "$out/arf.html"
