#!/usr/bin/env bash
# The embedded model: pretrain it on the pretraining half of the icon world, then measure it zero-shot.
# Needs: pip install "steadyclip[icons,pretrain]"; the model card gives time, machine and what this printed.
# The same command again resumes. Usage: recipes/icons-tiny.sh [OUT]
set -euo pipefail
out=${1:-runs/icons-tiny}

steadyclip pretrain --data icons --out "$out" \
  --teacher-epochs 20 --distil-epochs 30 --text-steps 3000 --joint-epochs 3 --seed 1

steadyclip train --data icons --model "$out/model" --method zero-shot --out "$out/zero-shot"
for domain in lines fill duotone solid emoji; do
  steadyclip evaluate "$out/zero-shot" --data icons --domain "$domain"
done
for data in icon-concepts icon-animals icon-food icon-transport icon-nature icon-objects icon-symbols; do
  steadyclip evaluate "$out/zero-shot" --data "$data"
done
steadyclip report "$out/zero-shot" --out "$out/zero-shot.html" --markdown
