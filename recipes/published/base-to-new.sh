#!/usr/bin/env bash
# Base to new on the field's eleven data sets, 16 shots, seeds 1, 2, 3: the main table of all few-shot papers, as averages and for
# each data set (both are on the page that it writes). Usage: recipes/published/base-to-new.sh DATA [OUT]
#
# Needs: the eleven data sets below DATA (docs/datasets.md; `steadyclip data check DATA`), one GPU of 16 GB.
# Time: ESTIMATE, never run here: 6.5 hours on an H100, of it 4 for lora. Reckoning: recipes/README.md.
#
# Expected, mean of eleven, ViT-B/16 (base / new / H). [S]: stated by the paper or by one that quotes it; [D]: derived.
#   zero-shot  69.34 / 74.22 / 71.70  [S] CLIP, as all tables quote it
#   lora       85.32 / 70.63 / 77.28  [S] CLIP-LoRA, as quoted; alpha=1.414 is the factor of its authors' code, alpha / sqrt(r)
#   orthsr     83.82 / 76.55 / 80.02  [D] / [S] / [S], arXiv 2407.08374 v3
#   orthcr     not known: the means of v1 could not be obtained
#   dra        not known: no number of arXiv 2507.05668 could be obtained. The field around it: MMA 83.20 / 76.80 / 79.87,
#              PromptSRC 84.26 / 76.10 / 79.97, MMRL 85.68 / 77.16 / 81.20 [S]
# Zero-shot for each data set (base / new / H) [S]; if these differ by more than 0.2, look at data and templates first:
#   ImageNet 72.43 / 68.14 / 70.22, Caltech101 96.84 / 94.00 / 95.40, OxfordPets 91.17 / 97.26 / 94.12,
#   StanfordCars 63.37 / 74.89 / 68.65, Flowers102 72.08 / 77.80 / 74.83, Food101 90.10 / 91.22 / 90.66,
#   FGVCAircraft 27.19 / 36.29 / 31.09, SUN397 69.36 / 75.35 / 72.23, DTD 53.24 / 59.90 / 56.37,
#   EuroSAT 56.48 / 64.05 / 60.03, UCF101 70.53 / 77.50 / 73.85
#
# Not public, so ours: how OrthCR and OrthSR are trained (rate, length, batch: `steadyclip methods orthsr`), DRA's recipe (that of MMA,
# its nearest relative; MMA takes batch 128 on ImageNet, this table 16 everywhere, so that a row is one recipe), and parts of
# all three methods (docs/methods/). CLIP-LoRA's authors write "a photo of a {}." on all data sets; here each has its own prompt.
# ImageNet's sample is not CoOp's, which depends on the disk (docs/datasets.md).
set -euo pipefail
root=${1:?name the folder that holds the data sets}
steadyclip bench base-to-new --root "$root" --out "${2:-runs/published}" --seeds 1 2 3 \
  --data imagenet caltech101 oxfordpets stanfordcars flowers102 food101 fgvcaircraft sun397 dtd eurosat ucf101 \
  --model openai/clip-vit-base-patch16 --recipes published --precision bf16 --workers 8 \
  --methods zero-shot "lora[alpha=1.414]" orthcr orthsr dra
