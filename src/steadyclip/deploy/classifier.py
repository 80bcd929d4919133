"""What an export says of its classifier (``classifier.json``), and how sure it must be (``calibration.json``).

Everything here is read without torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from steadyclip.core.errors import DataError
from steadyclip.core.files import sha256_of
from steadyclip.core.schema import Document
from steadyclip.data.pixels import Pixels
from steadyclip.evaluation.records import Fraction, MethodInfo, ModelInfo, Part

CLASSIFIER, CALIBRATION, WEIGHTS = "classifier.json", "calibration.json", "classifier.safetensors"
EXPORT = "export.json"

Names = Literal["any", "fixed"]
"""Whether other class names can be asked for: "any" where the text tower knows them, "fixed" where the rows were
learned."""


class Threshold(Part, frozen=True):
    """Below ``value`` an answer is "unsure"; chosen on validation images.

    Attributes:
        value: of the calibrated probability of the first name.
        rule: how it was chosen, such as "precision 0.9".
        share: of the validation images that were at or above it.
        precision: share of those whose first name was right.
        share95, precision95: Wilson intervals of these.
    """

    value: Fraction
    rule: str
    share: Fraction
    share95: tuple[Fraction, Fraction]
    precision: Fraction
    precision95: tuple[Fraction, Fraction]


class Calibration(Document, frozen=True, kw_only=True):
    """Temperature and threshold, from validation images alone.

    Attributes:
        of: what it belongs to: the run, its class names and prompts, see ``identity_of``.
        temperature: logits are divided by it.
        images: validation images that it was chosen on.
        ece, ece_calibrated: expected calibration error on them before and after.
        threshold: None where no cut reaches what was asked for, or none was asked for.
    """

    SCHEMA: ClassVar[int] = 1
    KIND: ClassVar[str] = "calibration"
    SPELLED: ClassVar[str] = "a calibration"
    REDO: ClassVar[str] = "calibrate again"

    schema: Literal[1] = 1
    kind: Literal["calibration"] = "calibration"
    created: str
    of: str
    temperature: float
    images: int
    ece: Fraction
    ece_calibrated: Fraction
    threshold: Threshold | None

    def lines(self) -> list[str]:
        """For people."""
        lines = [
            f"temperature {self.temperature:.3g} on {self.images} validation images: calibration error "
            f"{100 * self.ece:.1f} -> {100 * self.ece_calibrated:.1f} points"
        ]
        if self.threshold is None:
            return [*lines, "no threshold: no cut reached what was asked for on the validation images"]
        cut = self.threshold
        return [
            *lines,
            f"threshold {cut.value:.3f} ({cut.rule}): {_percent(cut.share, cut.share95)} of them are answered, and "
            f"{_percent(cut.precision, cut.precision95)} of the answers are right; below it the answer is unsure",
        ]


def _percent(share: float, interval: tuple[float, float]) -> str:
    return f"{100 * share:.1f} % ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})"


def identity_of(weights: str, classes: Sequence[str], templates: Sequence[str]) -> str:
    """16 hex digits over what a calibration belongs to; ``weights`` is a hash of the model and what was trained."""
    text = json.dumps([weights, list(classes), list(templates)], ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Classifier(Document, frozen=True, kw_only=True):
    """An exported classifier, less its numbers.

    Attributes:
        weights: hash of the exported model with its head.
        family: of the model, see ``DualEncoder.family``.
        dim: D, the width of the features.
        context: largest number of tokens of a text.
        pad: token that fills a text up; None where the tokenizer is not a file of its own.
        names: see ``Names``.
        pixels: the image transform.
        calibration: None where there were too few validation images.
    """

    SCHEMA: ClassVar[int] = 1
    KIND: ClassVar[str] = "classifier"
    SPELLED: ClassVar[str] = "an exported classifier"
    REDO: ClassVar[str] = "export again"

    schema: Literal[1] = 1
    kind: Literal["classifier"] = "classifier"
    weights: str
    family: str
    dim: int
    context: int
    pad: int | None
    classes: tuple[str, ...]
    templates: tuple[str, ...]
    names: Names
    temperature: float
    threshold: float | None
    pixels: Pixels
    calibration: Calibration | None = None

    @classmethod
    def there(cls, folder: Path) -> bool:
        """Whether ``folder`` is an export."""
        return (folder / CLASSIFIER).is_file()


class ExportInfo(Document, frozen=True, kw_only=True):
    """What an export was made of, and what its checks found. No paths and no names of images or users.

    Attributes:
        training: data set, shots, numbers of images, content hash, steps, seconds, device; None where nothing was
            trained.
        files: SHA-256 of each file.
        checks: figures by reader.
    """

    SCHEMA: ClassVar[int] = 1
    KIND: ClassVar[str] = "export"
    SPELLED: ClassVar[str] = "an export"
    REDO: ClassVar[str] = "export again"

    schema: Literal[1] = 1
    kind: Literal["export"] = "export"
    created: str
    target: str
    dtype: str
    model: ModelInfo
    method: MethodInfo
    recipe: dict[str, Any] | None
    training: dict[str, Any] | None
    versions: dict[str, str]
    commit: str | None
    checks: dict[str, Any]
    files: dict[str, str]

    @classmethod
    def see(cls, folder: Path) -> None:
        """See that the files of an export are those that were written; some may have been left out on the way.

        Raises:
            DataError: one was changed or damaged. (What is being written has no ``export.json`` yet, and is not looked
                at; nor is the card, which people edit.)
        """
        if not (folder / EXPORT).is_file():
            return
        for name, digest in cls.read(folder / EXPORT).files.items():
            path = folder / name
            if path.is_file() and path.suffix != ".md" and sha256_of(path) != digest:
                raise DataError(f"{path} was changed or damaged: {cls.REDO}.")
