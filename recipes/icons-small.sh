#!/usr/bin/env bash
# icons-small: fetch the drawings, pretrain it on those of the pretraining half, and print the numbers of its card. Needs: npm (a
# download of 104 MB), pip install . "./lab[pretrain]". The card says how long it took on which machine. The same command again
# resumes. Usage: recipes/icons-small.sh [OUT]
set -euo pipefail
out=${1:-runs/icons-small}
cd "$(dirname "$0")/.."

[ -e "$out/drawings/pairs.parquet" ] || bash lab/recipes/drawings.sh "$out/drawings"
steadyclip pretrain --data "$out/drawings/pairs.parquet" --out "$out/run" --augment scenes \
  --teacher-epochs 14 --distil-epochs 10 --text-steps 5000 --joint-epochs 2 \
  --width 256 --heads 4 --vision-layers 6 --text-layers 4 --vocabulary 8192

python benchmarks/icons_small.py --held-out "$out/drawings/held.parquet" "$out/run/model"
python benchmarks/icons_small.py "$out/run/model"
