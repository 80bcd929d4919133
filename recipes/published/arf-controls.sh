#!/usr/bin/env bash
# ARF against its controls: as many random pairs, class prompts in the place of captions, one kind of anchor only, a frozen text tower. No
# result of ARF means much without the first. After imagenet-finetuning.sh, in its folder.
# Usage: recipes/published/arf-controls.sh DATA [OUT]
#
# Needs: what imagenet-finetuning.sh needs, and the folder that it left.
# Time: ESTIMATE, never run here: 43 hours on an H200 (9.5 for each of four rows, 5 for the one without pairs).
# Reckoning: recipes/README.md.
#
# Expected: no published numbers are on file. A follow-up found that the amount of replay explains much of the gain [S], so random pairs
# should come close to retrieved ones.
set -euo pipefail
root=${1:?name the folder that holds the data sets} out=${2:-runs/published-imagenet}
model=openai/clip-vit-base-patch16
captions=captions=$out/captions.parquet anchors=anchors=$out/anchors.parquet

steadyclip anchors retrieve --data imagenet --root "$root" --model "$model" --pool "$out/pool" \
  --random-like "$out/anchors.parquet" --out "$out/random.parquet"

steadyclip bench robust --root "$root" --out "$out" --seeds 1 --data imagenet \
  --targets imagenet-v2 imagenet-r imagenet-a imagenet-sketch objectnet \
  caltech101 flowers102 food101 sun397 dtd fgvcaircraft stanfordcars oxfordpets eurosat ucf101 \
  --model "$model" --recipes published --precision bf16 --workers 8 \
  --methods zero-shot flyp "arf[$captions,$anchors]" "arf[$captions,anchors=$out/random.parquet]" "arf[captions=class,$anchors]" \
  "arf[$captions,l_r=0]" "arf[$anchors,l_c=0]" "arf[$captions,$anchors,towers=image]"
