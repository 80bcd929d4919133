"""The base of everything that is added to a model: parameters of its own, acting through forward hooks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from steadyclip.core.errors import ModelError
from steadyclip.models.towers import Tokens


class Adapter(nn.Module):
    """Base of everything that ``DualEncoder.attach`` takes.

    An adapter owns its parameters and refers to the modules it acts on (``refer``). ``install`` registers forward hooks
    on them; the model's own modules, weights and state-dict keys never change. Hooks must be bound methods of the
    adapter and return their input's or output's value unchanged while ``enabled`` is False.
    """

    enabled: bool = True
    """``DualEncoder.frozen`` sets this to False on all adapters and restores it."""
    wanted: frozenset[str] = frozenset()
    """Names that ``emitted`` is asked for in the pass in progress; ``DualEncoder.run`` sets it."""
    template: str | None = None
    """Set if learned tokens replace the first words of a text: what follows them, such as "{}."."""

    def refer(self, name: str, module: nn.Module) -> None:
        """Keep ``module`` as ``self.name`` without making it a part of this adapter: its weights stay the model's."""
        object.__setattr__(self, name, module)

    def install(self) -> list[RemovableHandle]:
        """Register the hooks and return their handles. Bound methods only: they follow a deepcopy of the model."""
        raise NotImplementedError(f"{type(self).__name__} must implement install()")

    def prepare(self, tower: str) -> None:
        """Called once before each pass of ``tower`` ("image" or "text") while enabled: what its blocks share."""

    def emitted(self, tower: str) -> dict[str, Tensor]:
        """The ``wanted`` outputs of the last pass of ``tower`` that this adapter has, by name.

        Called once after each pass while enabled. The adapter must then let go of everything it kept for the pass.

        The first dimension is that of the images or texts: give sums and counts, not means, since passes in parts are
        joined on axis 0. The outputs of several adapters under one name are joined on axis 1.
        """
        return {}

    def added(self, tower: str) -> int:
        """How many tokens this adapter adds to those of ``tower``: images at the end, texts before the words."""
        return 0

    def with_slots(self, texts: Sequence[str], tokenize: Callable[[Sequence[str], int], Tokens]) -> Tokens:
        """Texts, tokenized with room for learned words; only called if there is a ``template``.

        Args:
            texts: what follows the learned words.
            tokenize: texts and the length to truncate to -> tokens.
        """
        raise NotImplementedError(f"{type(self).__name__} has a template and must implement with_slots()")

    def merge(self) -> None:
        """Fold what was learned into the model's own weights, in place.

        Raises:
            ModelError: this kind of adapter has no equivalent in plain weights.
        """
        raise ModelError(f"{type(self).__name__} cannot be merged into plain weights; keep it as an adapter.")
