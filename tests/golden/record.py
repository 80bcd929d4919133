"""Records golden numbers on the code as it was before the second plan of the house (commit fda699b).

    python tests/golden/record.py FAMILY ...

For each method and three seeds: the loss terms of five steps of SGD and the logits after them. Random draws that the
new house makes elsewhere are fixed: the square of Cutout depends on its place in the batch, dropout is off.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch import Tensor

NAMES = ("cat", "dog", "sea lion", "owl")
TEMPLATES = ("a photo of a {}.", "an icon of a {}.")
SEEDS, STEPS, BATCH = (1, 2, 3), 5, 6
METHODS: dict[str, dict[str, object]] = {
    "zero-shot": {}, "linear-probe": {}, "full": {}, "lora": {"dropout": 0.0}, "bottleneck": {}, "dra": {},
    "orthcr": {}, "orthsr": {}, "flyp": {}, "arf": {},
}  # fmt: skip


def fixed_cutout(images_BCHW: Tensor, side: float, seeds: object = None) -> Tensor:
    """A square of ``side`` whose corner moves with the place in the batch."""
    height, width = images_BCHW.shape[-2:]
    pixels, cut = round(side * min(height, width)), images_BCHW.clone()
    for i in range(len(cut)):
        top, left = (3 * i) % (height - pixels), (5 * i) % (width - pixels)
        cut[i, :, top : top + pixels, left : left + pixels] = 0
    return cut


def images(model: object, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(BATCH, 3, *model.preprocess.size, generator=generator)  # type: ignore[attr-defined]


def data(model: object, seed: int, step: int) -> dict[str, object]:
    """The images, labels, keys, streams and seed of one step."""
    number = 100 * seed + step
    labels_B = torch.arange(BATCH) % len(NAMES)
    captions = tuple(f"{'one' if i % 2 else 'a big'} {NAMES[i % len(NAMES)]}" for i in range(BATCH))
    return {
        "images_BCHW": images(model, number),
        "labels_B": labels_B,
        "keys": tuple(f"{i}.png" for i in range(BATCH)),
        "seed": number,
        "streams": {
            "captions": {"texts": captions},
            "pairs": {"images_BCHW": images(model, number + 50), "texts": tuple(f"{c} {step}" for c in captions)},
        },
    }


def solve_data(width: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features_ND = torch.randn(40, width, generator=generator)
    return torch.nn.functional.normalize(features_ND, dim=-1), torch.arange(40) % len(NAMES)


def record(family: str, name: str, knobs: dict[str, object], seed: int) -> dict[str, object]:
    from steadyclip.methods import Batch, get_method
    from steadyclip.models.testing import tiny

    model, method = tiny(family, seed), get_method(name, knobs)
    torch.manual_seed(seed)
    method.adapt(model, NAMES)
    terms = []
    if method.uses_frozen_features:
        features = solve_data(model.embed_dim, seed)
        method.solve(model, features, features, seed)
    elif method.recipe is not None:
        model.eval()
        model.adapters.train()
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.02)
        for step in range(STEPS):
            prompts = model.tokenize([TEMPLATES[0].replace("{}", n) for n in NAMES])
            batch = Batch(prompts=prompts, step=step, classes=NAMES, templates=TEMPLATES, **data(model, seed, step))
            found = method.loss(model, batch)
            optimizer.zero_grad()
            torch.stack([t.float() for t in found.values()]).sum().backward()
            optimizer.step()
            terms.append({k: float(v.detach()) for k, v in found.items()})
    model.eval()
    with torch.no_grad():
        head = method.head(model, NAMES, TEMPLATES)
        logits_BC = head.logits(model.encode_image(images(model, 7)))
    return {"terms": terms, "logits": logits_BC.tolist()}


def main() -> None:
    from steadyclip.methods import orthcr

    orthcr.cutout = fixed_cutout
    torch.set_num_threads(1)
    for family in sys.argv[1:]:
        found = {
            name: {str(seed): record(family, name, knobs, seed) for seed in SEEDS} for name, knobs in METHODS.items()
        }
        Path(__file__).with_name(f"{family}.json").write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
