"""What an export is measured by: a head that is wrong is found, however small its logits are."""

import numpy as np
import pytest
from PIL import Image

from steadyclip.deploy.checking import EXACT, ExportFailed, Pictures, Reference, compare, need


def reference(size: float) -> Reference:
    rng = np.random.default_rng(0)
    features = rng.normal(0, 1, (8, 5)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    logits = size * rng.normal(0, 1, (8, 3)).astype(np.float32)
    pictures = Pictures((Image.new("RGB", (2, 2)),), made=True)
    return Reference(pictures, np.empty(0), np.empty(0), features, logits, (), np.empty((0, 5)))


@pytest.mark.parametrize("size", [1e-6, 1e-3, 1.0, 100.0])
def test_a_wrong_head_is_found_whatever_its_logits(size: float) -> None:
    own = reference(size)
    need("right", compare(own, own.features, own.logits * np.float32(1 + 1e-6)), EXACT)
    for wrong in (own.logits[:, ::-1], own.logits * 1.5, np.full_like(own.logits, np.nan)):
        with pytest.raises(ExportFailed, match="wrong"):
            need("wrong", compare(own, own.features, wrong), EXACT)


def test_logits_that_are_all_the_same() -> None:
    own = reference(0.0)
    need("right", compare(own, own.features, own.logits), EXACT)
    with pytest.raises(ExportFailed):
        need("wrong", compare(own, own.features, own.logits + 0.1), EXACT)
