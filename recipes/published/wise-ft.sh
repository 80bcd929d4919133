#!/usr/bin/env bash
# WiSE-FT: averages of pretrained and fine-tuned weights, at eleven points between them, in distribution and under shift.
# After imagenet-finetuning.sh, in its folder. Usage: recipes/published/wise-ft.sh DATA [OUT]
#
# Needs: ImageNet and its five variants below DATA (docs/datasets.md), the folder that imagenet-finetuning.sh left, one GPU of 16 GB.
# Time: ESTIMATE, never run here: 45 minutes on an H100. Reckoning: recipes/README.md.
#
# Expected, ViT-B/16 (ImageNet | V2 / R / A / Sketch / ObjectNet | mean of five), as VRF (NeurIPS 2024) quotes it [S]:
#   full             81.3 | 70.6 / 65.6 / 36.6 / 45.1 / 50.5 | 53.7
#   full, averaged   82.5 | 73.1 / 75.1 / 47.6 / 51.6 / 55.7 | 60.6 at the alpha that is best in distribution
# That alpha is not printed, and ImageNet has no validation images to choose it on: the curve is shown, and nothing is chosen.
# How `full` differs from the papers' FT stands in imagenet-finetuning.sh.
set -euo pipefail
root=${1:?name the folder that holds the data sets} out=${2:-runs/published-imagenet}
for run in "$out"/full-*-ImageNet-all-all-seed1-*; do
  for data in imagenet imagenet-v2 imagenet-r imagenet-a imagenet-sketch objectnet; do
    steadyclip evaluate "$run" --data "$data" --root "$root" --wise-curve --workers 8
  done
done
