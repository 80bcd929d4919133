"""Further data of a training, beside its labeled images."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from steadyclip.core.spec import Spec

if TYPE_CHECKING:
    from steadyclip.data import ImageTask
    from steadyclip.models import DualEncoder


class Stream(Protocol):
    """A source of training data: the trainer draws one batch from it at every step, in a seeded order.

    A stream with an attribute ``of_images`` that is True has one item for each training image, in their order, and
    gives the items of the step's images. A batch may hold ``images_BCHW``, ``texts`` and ``labels_B``.
    """

    def __len__(self) -> int: ...

    def item(self, index: int, rng: random.Random) -> dict[str, Any]:
        """One sample; ``rng`` is seeded from (seed, stream, epoch or step, index)."""
        ...

    def collate(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]: ...


class StreamSpec(Spec):
    """The knobs of a stream. A value: it opens nothing before ``build``."""

    def build(self, model: DualEncoder, task: ImageTask) -> Stream:
        """The stream for one training.

        Raises:
            UsageError: something was not named.
            DataError: a file is missing, of another kind, or of other images.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement build()")

    def example(self, model: DualEncoder, task: ImageTask) -> Stream:
        """A stand-in with batches of the same kind, for ``check_method``; by default the stream itself. To be given
        where ``build`` needs files."""
        return self.build(model, task)
