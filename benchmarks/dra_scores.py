"""Do DRA's scores say anything, and do its ranks bind? Looks into a run that was trained on `lab-things`.

    python benchmarks/dra_scores.py runs/laboratory/dra-lab-things-base-16shot-seed1-*

For each adapted image block, over 128 test images: the share of the summary token's attention on patches that the third
of them with the highest scores gets; how many patches of that third show a part of the drawing, beside all; the rank
correlation of score and drawn area. For each adapter: how many directions hold 90 % of the energy of W_up W_down.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from steadyclip import load_data
from steadyclip.adapters import watch_tokens
from steadyclip.training import load_run

# A pixel belongs to the drawing where it differs from the corner by this much, after normalization; a patch, where as
# large a share of its pixels does.
_DIFFERS, _SHARE = 0.3, 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, default=128)
    options = parser.parse_args()
    model, _, _ = load_run(options.run)
    test = load_data("lab-things").test_set("base")
    rows = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[: options.images].tolist()
    images_BCHW = torch.stack([model.preprocess(test.read(row)) for row in rows])
    with torch.no_grad(), watch_tokens(model) as traces:
        model.encode_image(images_BCHW)
    for trace in traces:
        score_BP = trace.scores_BN[:, 1:]  # without the summary token
        drawn_BP = drawn(images_BCHW, score_BP.shape[1])
        third = score_BP.topk(score_BP.shape[1] // 3)
        share = (third.values.sum(dim=1) / score_BP.sum(dim=1)).mean()
        has_BP = (drawn_BP > _SHARE).float()
        print(
            f"block {trace.block + 1}: the upper third of the patches has {share:.0%} of the attention; "
            f"{has_BP.gather(1, third.indices).mean():.0%} of it shows the drawing, of all {has_BP.mean():.0%}; "
            f"rank correlation of score and drawn area {correlation(score_BP, drawn_BP):.2f}"
        )
    for name, adapter in model.adapters.items():
        energy = torch.linalg.svdvals((adapter.up @ adapter.down).detach()).square()
        needed = int((energy.cumsum(0) / energy.sum() < 0.9).sum()) + 1
        print(f"{name}: 90 % of the energy in {needed} directions of {adapter.up.shape[1]}")


def drawn(images_BCHW: Tensor, patches: int) -> Tensor:
    """The share of each patch's pixels that differ from the corner of the image: (B, P)."""
    corner_BC11 = images_BCHW[:, :, :2, :2].mean(dim=(2, 3), keepdim=True)
    differs_BHW = ((images_BCHW - corner_BC11).abs().amax(dim=1) > _DIFFERS).float()
    return torch.nn.functional.adaptive_avg_pool2d(differs_BHW, round(patches**0.5)).flatten(1)


def correlation(a_BP: Tensor, b_BP: Tensor) -> float:
    """Spearman's, mean over images."""
    a_BP, b_BP = (z.argsort(dim=1).argsort(dim=1).float() for z in (a_BP, b_BP))
    a_BP, b_BP = (z - z.mean(dim=1, keepdim=True) for z in (a_BP, b_BP))
    return float(torch.nn.functional.cosine_similarity(a_BP, b_BP, dim=1).mean())


if __name__ == "__main__":
    main()
