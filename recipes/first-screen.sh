#!/usr/bin/env bash
# The table and the chart of README.md: base to new on lab-things, 16 shots, seeds 1-3. An hour on two cores that multiply bf16 by
# themselves (AMX, AVX512-BF16); on others leave --precision bf16 out. Needs: pip install . ./lab. The same command again goes on
# where it stopped, and recipes/suite.sh goes on from there. Usage: recipes/first-screen.sh [OUT]
set -euo pipefail
cd "$(dirname "$0")/.."
out="${1:-runs/suite}"
steadyclip bench base-to-new --data lab-things --seeds 1 2 3 --jobs 2 --precision bf16 --out "$out" --methods zero-shot full lora dra orthcr
steadyclip report "$out"/*-lab-things-* --results results/things.csv --charts "$out/things" --out "$out/things.html"
mkdir -p "$out/things"
# what is gained on the trained classes against what it costs on the others
find "$out/things" -name "exchange-*.svg" -exec cp {} docs/gain.svg \;
python recipes/tables.py
