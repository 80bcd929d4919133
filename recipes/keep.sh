#!/usr/bin/env bash
# What the repository keeps of a grid, called by the recipes: its records without their pictures, a line for each evaluation, the paired
# differences, and the tables of README and docs. Records of an earlier run elsewhere are taken in, so that the table is whole.
# Usage: recipes/keep.sh OUT NAME
set -euo pipefail
out="$1" name="$2"
python recipes/records.py pack "$out" "results/$name-records.tar.xz"
python recipes/records.py unpack "results/$name-records.tar.xz" "$out"
mkdir -p "$out/charts"
steadyclip report "$out" --results "results/$name.csv" --charts "$out/charts" --out "$out/$name.html"
python recipes/tables.py
