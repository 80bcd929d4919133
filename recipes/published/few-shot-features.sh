#!/usr/bin/env bash
# The few-shot curve of the methods that train on features of the frozen model, and of PromptSRC: all classes of the eleven data sets,
# 1, 2, 4, 8, 16 shots. Its rows join those of few-shot.sh where OUT is the same. Usage: recipes/published/few-shot-features.sh DATA [OUT]
#
# Needs: what few-shot.sh needs.
# Time: ESTIMATE, never run here: 9 hours on an H100, of it 7 for promptsrc and 1 to encode augmented images. Reckoning:
# recipes/README.md.
#
# Expected: the published curves of these methods are for ResNet-50 or are not on file here, so no number is given.
#
# Settings that the authors choose for each data set have one value here: Tip-Adapter's alpha and beta are searched on validation images
# (their code looks at test images for ImageNet, and keeps Tip-Adapter-F's best epoch on test images; here it is the last one),
# cross-modal has one of their settings, promptsrc those of base to new but for 50 epochs with the average around the 30th. lp++ chooses
# its iteration on at most 4 validation images a class, its authors on as many as shots.
set -euo pipefail
root=${1:?name the folder that holds the data sets}
steadyclip bench few-shot --root "$root" --out "${2:-runs/published}" --seeds 1 2 3 --shots 1 2 4 8 16 \
  --data caltech101 oxfordpets stanfordcars flowers102 food101 fgvcaircraft sun397 dtd eurosat ucf101 \
  --model openai/clip-vit-base-patch16 --recipes published --precision bf16 --workers 8 \
  --methods zero-shot "tip-adapter[search=true,smallest_crop=0.5]" "tip-adapter-f[smallest_crop=0.5]" clip-adapter taskres zs-lp clap \
  cross-modal "lp++[smallest_crop=0.5]" "promptsrc[epochs=50,mean=30,std=30]"
