"""The methods give the numbers that the first house gave: loss terms of five steps and the logits after them."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from steadyclip.heads import FeatureTask
from steadyclip.methods import get_method
from steadyclip.models.huggingface import HuggingFace
from steadyclip.models.testing import FAMILIES, installed_families, tiny
from steadyclip.objectives import Batch, features
from steadyclip.training.step import Step

GOLDEN = Path(__file__).parent / "golden"
_spec = importlib.util.spec_from_file_location("golden_record", GOLDEN / "record.py")
record = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(record)

KNOBS = {name: dict(knobs) for name, knobs in record.METHODS.items()}


def tokenize_as_then(self, texts, context=None):
    """SigLIP got punctuation and, where its tokenizer made one, a mask; it was not trained so, and that is mended."""
    texts = [text.lower() for text in texts] if self.family == "siglip2" else list(texts)
    more = {"return_attention_mask": True} if self.family == "siglip2" else {}
    return dict(
        self.tokenizer(
            texts, padding="max_length", truncation=True, max_length=self.context, return_tensors="pt", **more
        )
    )


def run(family, name, seed):
    """The terms of each step, and the logits after them, as the recorder took them."""
    model, method = tiny(family, seed), get_method(name, KNOBS[name])
    torch.manual_seed(seed)
    method.attach(model, record.NAMES)
    terms = []
    if method.head.solves:
        found, labels = record.solve_data(model.embed_dim, seed)
        task = FeatureTask(lambda split, views: (found[:, None], labels), None, model.logit_scale)
        model.head.solve(task, seed)
    elif method.recipe is not None:
        model.eval()
        model.adapters.train()
        step = Step(method, model, record.NAMES, record.TEMPLATES)
        optimizer = torch.optim.SGD(step.trained.values(), lr=0.02)
        for number in range(record.STEPS):
            data = record.data(model, seed, number)
            optimizer.zero_grad()
            found = step.gradients(
                Batch(data["labels_B"], data["keys"], data["images_BCHW"], streams=data["streams"]), data["seed"]
            )
            optimizer.step()
            terms.append([float(term) for term in found.values()])
    model.eval()
    planner = method.planner(model)
    batch = Batch(torch.zeros(record.BATCH, dtype=torch.long), images_BCHW=record.images(model, 7))
    f = planner.features(record.NAMES, record.TEMPLATES, batch, scoring=True)
    planner.fill(f, planner.canonical([features.Image(), *model.head.reads(scoring=True)]))
    with torch.no_grad():
        return terms, f.logits()


# the tiny models' first weights come from torch and transformers, and other versions draw others
@pytest.mark.newest
@pytest.mark.parametrize("name", KNOBS)
@pytest.mark.parametrize("family", FAMILIES)
def test_golden(family, name, monkeypatch):
    if family not in installed_families():
        pytest.skip(f"{family} is not installed")
    monkeypatch.setattr(features, "cutout", record.fixed_cutout)
    if family.startswith("siglip"):
        monkeypatch.setattr(HuggingFace, "tokenize", tokenize_as_then)
    golden = json.loads((GOLDEN / f"{family}.json").read_text())[name]
    for seed in record.SEEDS:
        terms, logits = run(family, name, seed)
        expected = golden[str(seed)]
        assert len(terms) == len(expected["terms"])
        for mine, theirs in zip(terms, expected["terms"], strict=True):
            assert mine == pytest.approx(list(theirs.values()), rel=1e-5, abs=1e-6)
        assert F.l1_loss(logits, torch.tensor(expected["logits"])) < 2e-5 * logits.abs().max()
