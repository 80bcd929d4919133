#!/usr/bin/env bash
# The few-shot curve of the baselines: all classes of the eleven data sets, 1, 2, 4, 8, 16 shots (CLIP-LoRA's main table; the linear
# probe is CLIP's). Usage: recipes/published/few-shot.sh DATA [OUT]
#
# Needs: the eleven data sets below DATA (docs/datasets.md; `steadyclip data check DATA`), one GPU of 24 GB.
# Time: ESTIMATE, never run here: 11 hours on an H100, nearly all of it lora. Reckoning: recipes/README.md.
#
# Expected, mean of eleven at 1 / 4 / 16 shots, as newer papers quote it [S]: CLIP-LoRA 72.20 / 77.32 / 82.89. Zero-shot on ImageNet is
# 66.7 [S]. The full curves are not on file here.
#
# lora is CLIP-LoRA: alpha=1.414 makes its factor that of the authors' code, alpha / sqrt(r), and it is trained as they say, AdamW 2e-4,
# batch 32, 500 steps a shot. They write "a photo of a {}." on all data sets; here each has its own prompt. Their learning rate ends at
# 1e-6, ours at 0. ImageNet has no validation images here, so its linear probe takes the middle of the sweep
# (`steadyclip methods linear-probe`); CLIP's own probe is on all training images.
set -euo pipefail
root=${1:?name the folder that holds the data sets}
steadyclip bench few-shot --root "$root" --out "${2:-runs/published}" --seeds 1 2 3 --shots 1 2 4 8 16 \
  --data imagenet caltech101 oxfordpets stanfordcars flowers102 food101 fgvcaircraft sun397 dtd eurosat ucf101 \
  --model openai/clip-vit-base-patch16 --recipes published --precision bf16 --workers 8 \
  --methods zero-shot linear-probe "lora[alpha=1.414]"
