#!/usr/bin/env bash
# Trained on all classes of ImageNet, 16 shots, scored on four data sets of its classes in other styles. ImageNet-A and -R are scored
# among their own 200 classes, which their records say. Usage: recipes/published/domain-generalization.sh DATA [OUT]
#
# Needs: ImageNet, ImageNet-V2, -Sketch, -A and -R below DATA (docs/datasets.md; `steadyclip data check DATA`), one GPU of 24 GB.
# Time: ESTIMATE, never run here: 5 hours on an H100 (or half an hour after cross-dataset.sh with the same OUT: the trainings are
# the same). Reckoning: recipes/README.md.
#
# Expected, ViT-B/16 (ImageNet | V2 / Sketch / A / R | mean of the four):
#   zero-shot  66.73 | 60.83 / 46.15 / 47.77 / 73.96 | 57.18  [S], widely quoted, not checked against its paper
#   lora, orthcr, orthsr, dra  not known: none of their numbers in this table could be obtained. The field around them:
#              CoOp 71.51 | 64.20 / 47.99 / 49.71 / 75.21 | 59.28, PromptSRC 71.27 | 64.35 / 49.55 / 50.90 / 77.80 | 60.65,
#              MMRL 72.03 | 64.47 / 49.17 / 51.20 / 77.53 | 60.59 [S]
#
# Not public, so ours: the recipes of orthcr, orthsr and dra (`steadyclip methods NAME`). ImageNet's sample is not CoOp's, which depends on the
# disk (docs/datasets.md).
# lora[alpha=1.414] is CLIP-LoRA with the factor of its authors' code; they write "a photo of a {}." on all data sets.
set -euo pipefail
root=${1:?name the folder that holds the data sets}
steadyclip bench domain-generalization --root "$root" --out "${2:-runs/published}" --seeds 1 2 3 --data imagenet \
  --targets imagenet-v2 imagenet-sketch imagenet-a imagenet-r \
  --model openai/clip-vit-base-patch16 --recipes published --precision bf16 --workers 8 \
  --methods zero-shot "lora[alpha=1.414]" orthcr orthsr dra
