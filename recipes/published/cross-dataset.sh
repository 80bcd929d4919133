#!/usr/bin/env bash
# Trained on all classes of ImageNet, 16 shots, scored unchanged on ten other data sets with their own names and templates.
# Usage: recipes/published/cross-dataset.sh DATA [OUT]
#
# Needs: the eleven data sets below DATA (docs/datasets.md; `steadyclip data check DATA`), one GPU of 24 GB.
# Time: ESTIMATE, never run here: 5 hours on an H100 (or half an hour after domain-generalization.sh with the same OUT: the
# trainings are the same). Reckoning: recipes/README.md.
#
# Expected, ViT-B/16 (ImageNet / mean of ten):
#   zero-shot            66.72 / 65.12  [S]
#   lora, orthcr, orthsr, dra  not known: none of their numbers in this table could be obtained. The field around them:
#                        CoOp 71.51 / 63.88, CoCoOp 71.02 / 65.74, PromptSRC 71.27 / 65.81, MMRL - / 67.25 [S]; MaPLe 70.72 / 66.30 and MMA
#                        71.00 / 66.61 are widely quoted and were not checked against their papers
#
# Not public, so ours: the recipes of orthcr, orthsr and dra (`steadyclip methods NAME`; many papers take a shorter training for this table than
# for base to new, here it is the same). ImageNet's sample is not CoOp's, which depends on the disk (docs/datasets.md).
# lora[alpha=1.414] is CLIP-LoRA with the factor of its authors' code; they write "a photo of a {}." on all data sets.
set -euo pipefail
root=${1:?name the folder that holds the data sets}
steadyclip bench cross-dataset --root "$root" --out "${2:-runs/published}" --seeds 1 2 3 --data imagenet \
  --targets caltech101 oxfordpets stanfordcars flowers102 food101 fgvcaircraft sun397 dtd eurosat ucf101 \
  --model openai/clip-vit-base-patch16 --recipes published --precision bf16 --workers 8 \
  --methods zero-shot "lora[alpha=1.414]" orthcr orthsr dra
