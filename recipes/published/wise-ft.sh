#!/usr/bin/env bash
# WiSE-FT: averages of pretrained and fine-tuned weights at points between them, in distribution and under shift.
# After imagenet-finetuning.sh, in its folder: nothing is trained. Usage: recipes/published/wise-ft.sh DATA [OUT]
#
# Needs: what imagenet-finetuning.sh needs below DATA, the folder that it left, one GPU of 16 GB.
# Time: ESTIMATE, never run here: 80 minutes on an H100. Reckoning: recipes/README.md.
#
# Expected, ViT-B/16 (ImageNet | V2 / R / A / Sketch / ObjectNet | mean of five), as VRF (NeurIPS 2024) quotes it [S]:
#   FT               81.3 | 70.6 / 65.6 / 36.6 / 45.1 / 50.5 | 53.7
#   FT, averaged     82.5 | 73.1 / 75.1 / 47.6 / 51.6 / 55.7 | 60.6 at the alpha that is best in distribution
# That alpha is not printed there, and ImageNet has no validation images to choose it on: the curve is shown, and nothing is chosen.
# The papers average FT, which is `ft`, tower and head; its head names no other classes, so the ten other data sets have only
# `full[towers=image]`, which keeps the head at the prompts.
set -euo pipefail
root=${1:?name the folder that holds the data sets}
steadyclip bench robust --root "$root" --out "${2:-runs/published-imagenet}" --seeds 1 --data imagenet \
  --targets imagenet-v2 imagenet-r imagenet-a imagenet-sketch objectnet \
  caltech101 flowers102 food101 sun397 dtd fgvcaircraft stanfordcars oxfordpets eurosat ucf101 \
  --model openai/clip-vit-base-patch16 --recipes published --precision bf16 --workers 8 \
  --wise-alphas 0.1 0.2 0.3 0.4 0.5 0.6 0.7 0.8 0.9 \
  --methods zero-shot "ft[smallest_crop=0.9]" "full[towers=image,epochs=10,batch_size=512,warmup_steps=500]"
