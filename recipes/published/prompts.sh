#!/usr/bin/env bash
# The methods that base-to-new.sh is compared with: base to new on the field's eleven data sets, 16 shots, seeds 1, 2, 3. Its rows join
# those of base-to-new.sh where OUT is the same. Usage: recipes/published/prompts.sh DATA [OUT]
#
# Needs: what base-to-new.sh needs.
# Time: ESTIMATE, never run here: 26 hours on an H100, of it 8 for cocoop, 5 for coop and 5 for prograd. Reckoning: recipes/README.md.
#
# Expected, mean of eleven, ViT-B/16 (base / new / H) [S]:
#   coop       82.69 / 63.22 / 71.66      cocoop     80.47 / 71.69 / 75.83      kgcoop     80.73 / 73.60 / 77.00
#   prograd    82.48 / 70.75 / 76.16, as KgCoOp's authors ran it                tcp        84.13 / 75.36 / 79.51
#   maple      82.28 / 75.14 / 78.55      promptsrc  84.26 / 76.10 / 79.97      mma        83.20 / 76.80 / 79.87
#   mmrl       85.68 / 77.16 / 81.20, with a w chosen for each data set
#   ivlp       82.15 / 74.07 / 77.90      clipood    83.9 / 74.5 / 78.9, with other lengths for some data sets
#
# A row is one recipe. The authors train shorter on ImageNet (coop 50 epochs) or with larger batches (mma 128), tcp half as long on
# ImageNet and SUN397, and prograd with share=0.8 on three data sets. Warm-up epochs of their code are left out; augmented views of
# coop, kgcoop, tcp, prograd and cocoop are drawn once (docs/methods/zoo.md).
set -euo pipefail
root=${1:?name the folder that holds the data sets}
steadyclip bench base-to-new --root "$root" --out "${2:-runs/published}" --seeds 1 2 3 \
  --data imagenet caltech101 oxfordpets stanfordcars flowers102 food101 fgvcaircraft sun397 dtd eurosat ucf101 \
  --model openai/clip-vit-base-patch16 --recipes published --precision bf16 --workers 8 \
  --methods zero-shot coop cocoop kgcoop prograd maple ivlp promptsrc tcp mma mmrl "clipood[smallest_crop=0.7]"
