"""One trained direction for each class, between its images and its texts: a head, a term, a stream and a method.

Shapes: B samples in a batch, C classes, D feature width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from steadyclip.heads import Head, HeadSpec
from steadyclip.methods import Method, Recipe
from steadyclip.objectives import Classes, CrossEntropy, Term, Text, TextsOfStream
from steadyclip.objectives.streams import StreamSpec


class Descriptions(StreamSpec):
    """Sentences about the classes, with their labels: a batch of them at every step."""

    patterns: tuple[str, ...] = ("this is a {}.", "one {}.", "many of the kind {}.")

    def build(self, model, task):
        return _Sentences([(pattern.replace("{}", name), label)
                           for label, name in enumerate(task.classes) for pattern in self.patterns])  # fmt: skip


class _Sentences:
    def __init__(self, pairs):
        self.pairs = pairs

    def __len__(self):
        return len(self.pairs)

    def item(self, index, rng):
        return dict(zip(("text", "label"), self.pairs[index], strict=True))

    def collate(self, items):
        labels_B = torch.tensor([item["label"] for item in items])
        return {"texts": tuple(item["text"] for item in items), "labels_B": labels_B}


class PrototypeHead(HeadSpec):
    """scale * cos(sample, w_c): w_c starts as the class text and is trained. It knows no further names."""

    what = "a head of prototypes"

    @property
    def solves(self):
        return True

    def build(self, model, classes):
        return _PrototypeHead(classes, self, model.embed_dim)


class _PrototypeHead(Head):
    def __init__(self, classes, spec, width):
        super().__init__(classes, spec)
        self.rows_CD = nn.Parameter(torch.zeros(len(classes), width))
        self.register_buffer("start_CD", torch.zeros(len(classes), width))

    def check_names(self, names):
        self.places(names)

    @torch.no_grad()
    def solve(self, data, seed):
        self.start_CD.copy_(F.normalize(data.text(Classes()), dim=-1))
        self.rows_CD.copy_(self.start_CD)
        return {"start": "class texts"}

    def outputs(self, f, sample):
        weight_CD, _ = self.rows(f)
        return {"logits": f[sample] @ weight_CD.T}

    def rows(self, f):
        return f.scale() * F.normalize(self.rows_CD[self.places(f.names)], dim=-1), None


class StayNearTexts(Term):
    """The mean squared distance of the prototypes to where they started."""

    needs_head = True

    def __call__(self, f):
        return (f.head.rows_CD - f.head.start_CD).square().sum(-1).mean()


class Prototypes(Method):
    """Cross-entropy of images and of sentences against the prototypes, which are held near the class texts."""

    name = "prototypes"
    summary = "a trained direction for each class, between its images and its texts"
    source = "an example; the nearest relative is the cross-modal linear probe (Lin et al. 2023)"

    head = PrototypeHead()
    recipe = Recipe(learning_rate=1e-2, epochs=20, batch_size=32, views=4)
    hold: float = 1.0
    """Weight of the distance to the class texts."""

    def __post_init__(self):
        self.require("hold", self.hold >= 0, "0 or more")

    def objective(self):
        sentences = CrossEntropy(Text(TextsOfStream(stream="descriptions")))
        return CrossEntropy() + sentences + self.hold * StayNearTexts()

    def streams(self):
        return {"descriptions": Descriptions()}
