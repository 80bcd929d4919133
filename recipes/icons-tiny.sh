#!/usr/bin/env bash
# icons-tiny: pretrain it on the pretraining half of the icon world in three passes, each going on from the last, then
# print the numbers of its card. Needs: pip install . "./lab[pretrain]"; the card says how long it took on which machine, and
# what was different in the first pass. The same command again resumes. Usage: recipes/icons-tiny.sh [OUT]
set -euo pipefail
out=${1:-runs/icons-tiny}
cd "$(dirname "$0")/.."

steadyclip pretrain --data icons --out "$out/1" \
  --teacher-epochs 20 --distil-epochs 30 --text-steps 3000 --joint-epochs 3 --seed 1
steadyclip pretrain --data icons --out "$out/2" --start-from "$out/1" \
  --teacher-epochs 16 --distil-epochs 18 --text-steps 3000 --joint-epochs 3 --seed 1
steadyclip pretrain --data icons --out "$out/3" --start-from "$out/2" \
  --teacher-epochs 0 --distil-epochs 9 --text-steps 0 --joint-epochs 3 --seed 2

python benchmarks/icons_tiny.py "$out/3/model"
