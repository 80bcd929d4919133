"""Block-diagonal orthogonal maps on the input side of frozen linear layers: y = W A^T x + b, A^T A = I.

Source: our reading of OrthCR (arXiv 2407.08374), pinned by its published parameter count: four diagonal blocks for each
matrix, not shared, full storage of the generator, both feed-forward matrices of every block of both towers.

Shapes: n blocks of a tower, K diagonal blocks of width c in a map (K c inputs), O outputs, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from steadyclip.errors import ModelError
from steadyclip.models import Adapter, DualEncoder, Tower

Constraint = Literal["cayley", "none"]
Inverse = Literal["exact", "neumann"]
Storage = Literal["full", "packed"]
Rotate = Literal["auto", "activations", "weights"]


class Orthogonal(Adapter):
    """The maps of one tower: one for each of ``layers`` in every block. All start as the identity, exactly.

    A diagonal block is the Cayley map of a generator: ``S = (P - P^T) / 2``, ``Q = (I - S) (I + S)^-1``. All blocks of
    one width in the tower are solved in one call, once for a forward pass, in float32 also under autocast.

    Args:
        tower: whose blocks are adapted.
        layers: "q", "k", "v", "out", "fc1", "fc2".
        blocks: K.
        constraint: "none" takes ``A = I + P``, the same parameters without the orthogonality.
        inverse: "neumann" sums ``terms`` terms of the series of ``(I + S)^-1``: cheaper, and orthogonal only near 0.
        storage: "full" keeps P (K, c, c), "packed" the strict upper triangle of S: half of the memory, the same maps.
        rotate: multiply the "activations" or the "weights" by the map; "auto" takes what costs less.

    Raises:
        ModelError: the inputs of a layer are not a multiple of ``blocks``, or differ between the blocks of the tower.
    """

    def __init__(
        self,
        tower: Tower,
        layers: Sequence[str],
        *,
        blocks: int = 4,
        constraint: Constraint = "cayley",
        inverse: Inverse = "exact",
        terms: int = 5,
        storage: Storage = "full",
        rotate: Rotate = "auto",
    ) -> None:
        super().__init__()
        self.constraint, self.inverse, self.terms, self.rotate = constraint, inverse, terms, rotate
        self.packed = storage == "packed"
        self.places: dict[nn.Module, tuple[str, int]] = {}
        self.P = nn.ParameterDict()
        self.widths: dict[str, int] = {}
        for layer in layers:
            linears: list[nn.Linear] = [getattr(block, layer) for block in tower.blocks]
            self.places |= {linear: (layer, index) for index, linear in enumerate(linears)}
            self.widths[layer] = c = _width(tower.name, layer, {linear.in_features for linear in linears}, blocks)
            shape = (c * (c - 1) // 2,) if self.packed else (c, c)
            self.P[layer] = nn.Parameter(torch.zeros(len(linears), blocks, *shape, device=linears[0].weight.device))
        self._maps: tuple[Any, dict[str, tuple[Tensor, ...]]] | None = None

    def install(self) -> list[RemovableHandle]:
        return [
            handle
            for linear in self.places
            for handle in (
                linear.register_forward_pre_hook(self._before),
                linear.register_forward_hook(self._after, always_call=True),
            )
        ]

    def _before(self, linear: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if not self.enabled:
            return None
        assert isinstance(linear, nn.Linear)
        A_Kcc, x = self._map(linear), inputs[0]
        if self._weights_are_cheaper(linear, A_Kcc, x):
            # For the length of this call the instance's attribute hides the parameter of the same name.
            linear.__dict__["weight"] = _times(linear.weight, A_Kcc.mT)
            return None
        return (_times(x, A_Kcc), *inputs[1:])

    def _after(self, linear: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        linear.__dict__.pop("weight", None)

    def _weights_are_cheaper(self, linear: nn.Linear, A_Kcc: Tensor, x: Tensor) -> bool:
        """Multiplications, divided by the number of inputs: T c for the activations, O c for the weights.

        With gradients, the activations have that for x and for A as well; the weights have T O for the gradient of
        the rotated weight, which a frozen weight does not need, and O c for A.
        """
        if self.rotate != "auto":
            return self.rotate == "weights"
        tokens, outputs, c = x.numel() // x.shape[-1], linear.out_features, A_Kcc.shape[-1]
        if torch.is_grad_enabled() and A_Kcc.requires_grad:
            return tokens * outputs + 2 * outputs * c < 3 * tokens * c
        return outputs < tokens

    @torch.no_grad()
    def merge(self) -> None:
        """W <- W A^T."""
        for linear in self.places:
            assert isinstance(linear, nn.Linear)
            linear.weight.copy_(_times(linear.weight, self._map(linear).mT))

    # ---- the maps

    def _map(self, linear: nn.Linear) -> Tensor:
        layer, index = self.places[linear]
        return self.maps()[layer][index]

    def maps(self) -> dict[str, tuple[Tensor, ...]]:
        """Layer -> the diagonal (K, c, c) of A for each block of the tower, float32.

        Computed at the first call and kept until a parameter changes, or, with gradients, until they have flowed back.
        """
        kept_for = (
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            *(parameter._version for parameter in self.P.values()),
        )
        if self._maps is None or self._maps[0] != kept_for:
            self._maps = (kept_for, self._solve_all())
        return self._maps[1]

    def _solve_all(self) -> dict[str, tuple[Tensor, ...]]:
        maps: dict[str, tuple[Tensor, ...]] = {}
        with torch.autocast(next(iter(self.P.values())).device.type, enabled=False):
            for c in set(self.widths.values()):
                layers = [layer for layer, width in self.widths.items() if width == c]
                generators = [self._generator(layer, c).flatten(0, 1) for layer in layers]
                Q = self._solve(generators[0] if len(layers) == 1 else torch.cat(generators))
                if Q.requires_grad:
                    Q.register_hook(self._forget)  # the graph behind Q is spent when a gradient has arrived here
                for layer, Q_layer in zip(layers, Q.split([len(g) for g in generators]), strict=True):
                    n, K = self.P[layer].shape[:2]
                    maps[layer] = Q_layer.view(n, K, c, c).unbind()
        return maps

    def _generator(self, layer: str, c: int) -> Tensor:
        """(n, K, c, c): S, or P itself where nothing constrains it."""
        P = self.P[layer].float()
        if self.packed:
            index = _upper_triangle(c, P.device)
            upper = P.new_zeros(*P.shape[:2], c * c).index_copy(-1, index, P).unflatten(-1, (c, c))
            return upper - upper.mT
        return P if self.constraint == "none" else (P - P.mT) / 2

    def _solve(self, S: Tensor) -> Tensor:
        if self.constraint == "none":
            return torch.eye(S.shape[-1], device=S.device) + S
        if self.inverse == "exact":
            return cayley(S)
        return _neumann(S, self.terms)

    def _forget(self, _: Tensor) -> None:
        self._maps = None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Orthogonal:
        self._maps = None  # to another device
        super()._apply(fn, recurse)
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Copies solve their own maps: tensors with a graph cannot be copied."""
        return {**self.__dict__, "_maps": None}


def attach_orthogonal(
    model: DualEncoder, *, layers: Sequence[str], towers: Sequence[str] = ("image", "text"), **settings: Any
) -> None:
    """One ``Orthogonal`` for each of ``towers``, with its ``settings``."""
    for tower in (model.image_tower, model.text_tower):
        if tower.name in towers:
            model.attach(f"orthogonal_{tower.name}", Orthogonal(tower, layers, **settings))


def cayley(S: Tensor) -> Tensor:
    """The Cayley map ``(I - S) (I + S)^-1`` of skew-symmetric matrices (m, c, c): orthogonal, without eigenvalue -1.

    It equals ``2 (I + S)^-1 - I``, so one solve gives it, and its gradient needs nothing but the result.

    Source: Cayley 1846. Exact, since the paper's third version reports that an approximate inverse was unstable.
    """
    Q = _Cayley.apply(S)
    assert isinstance(Q, Tensor)
    return Q


class _Cayley(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, S: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        eye = torch.eye(S.shape[-1], dtype=S.dtype, device=S.device)
        # I + S is never singular, so there is nothing to check (which would make the processor wait for the device).
        Q = torch.linalg.solve_ex(eye + S, eye.expand_as(S)).result.mul_(2).sub_(eye)
        ctx.save_for_backward(Q)
        return Q

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, G: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """-2 M^T G M^T with M = (I + S)^-1 = (I + Q) / 2."""
        (Q,) = ctx.saved_tensors
        half = torch.baddbmm(G, Q.mT, G)
        return torch.baddbmm(half, half, Q.mT).mul_(-0.5)


def _neumann(S: Tensor, terms: int) -> Tensor:
    """(I - S) (I - S + S^2 - ...), ``terms`` terms."""
    eye = torch.eye(S.shape[-1], dtype=S.dtype, device=S.device)
    inverse = eye.expand_as(S)
    for _ in range(terms - 1):
        inverse = eye - S @ inverse
    return inverse - S @ inverse


def _times(rows: Tensor, blocks_Kcc: Tensor) -> Tensor:
    """Rows (..., K c) times a block-diagonal matrix."""
    K, c, _ = blocks_Kcc.shape
    rows_KTc = rows.reshape(-1, K, c).transpose(0, 1)
    return torch.bmm(rows_KTc, blocks_Kcc).transpose(0, 1).reshape(rows.shape)


def _upper_triangle(c: int, device: torch.device) -> Tensor:
    """Flat positions of the strict upper triangle of a (c, c) matrix, row by row."""
    row, column = torch.triu_indices(c, c, 1, device=device)
    return row * c + column


def _width(tower: str, layer: str, inputs: set[int], blocks: int) -> int:
    if len(inputs) != 1:
        raise ModelError(f"the {layer} layers of the {tower} tower differ in inputs {sorted(inputs)}: leave {layer} out.")
    (width,) = inputs
    if width % blocks:
        raise ModelError(f"{width} inputs of {layer} in the {tower} tower are no multiple of blocks={blocks}.")
    return width // blocks
