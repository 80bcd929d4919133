"""Block-diagonal orthogonal maps on the input side of frozen linear layers: y = W A^T x + b, A^T A = I.

Source: our reading of OrthCR (arXiv 2407.08374), pinned by its published parameter count: four diagonal blocks for each
matrix, not shared, full storage of the generator, both feed-forward matrices of every block of both towers.

Shapes: n blocks of a tower, K diagonal blocks of width c in a map (K c inputs), O outputs, T tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from steadyclip.adapters.base import AdapterSpec, Layer
from steadyclip.core.errors import ModelError
from steadyclip.models import Adapter, DualEncoder, Tower

_SOLVED = 64
"""Width of matrices that are inverted as a whole."""


class Orthogonal(AdapterSpec):
    """Orthogonal maps on the input side of linear layers in every block of the chosen towers."""

    layers: tuple[Layer, ...] = ("fc1", "fc2")
    """Which linear layers of a block get a map A on their input side; the paper's are fc1, fc2."""
    blocks: int = 4
    """Diagonal blocks of each A; the published parameter count says 4."""
    constraint: Literal["cayley", "none"] = "cayley"
    """A is the Cayley map of its generator P, or (none: a control) I + P with the same parameters."""
    inverse: Literal["exact", "neumann"] = "exact"
    """(I + S)^-1 by a linear solve, or by the first terms of its series."""
    neumann_terms: int = 5
    """Terms of the series, for inverse=neumann."""
    storage: Literal["full", "packed"] = "full"
    """Keep P, as the published count says, or only the triangle that matters: half of the memory, the same maths."""
    rotate: Literal["auto", "activations", "weights"] = "auto"
    """What is multiplied by A in training; auto takes what costs less."""

    def __post_init__(self) -> None:
        self.require("layers", 0 < len({*self.layers}) == len(self.layers), "one layer or more, each once")
        self.require("blocks", self.blocks >= 1, "at least 1")
        self.require("neumann_terms", self.neumann_terms >= 1, "at least 1")
        self.require("storage", self.storage == "full" or self.constraint == "cayley", "full where constraint is none")

    def attach(self, model: DualEncoder) -> None:
        for tower in self.chosen(model):
            model.attach(f"orthogonal_{tower.name}", OrthogonalMaps(tower, self))


class OrthogonalMaps(Adapter):
    """The maps of one tower: one for each of ``spec.layers`` in every block. All start as the identity, exactly.

    A diagonal block is the Cayley map of a generator: ``S = (P - P^T) / 2``, ``Q = (I - S) (I + S)^-1``. All blocks of
    one width in the tower are solved in one call, once for each forward pass, in float32 also under autocast.

    Shapes: for each layer P (n, K, c, c), or, packed, the strict upper triangle of S, (n, K, c (c - 1) / 2).

    Raises:
        ModelError: the inputs of a layer are not a multiple of ``blocks``, or differ between the blocks of the tower.
    """

    def __init__(self, tower: Tower, spec: Orthogonal) -> None:
        super().__init__()
        self.tower, self.spec = tower.name, spec
        self.places: dict[nn.Module, tuple[str, int]] = {}
        self.P = nn.ParameterDict()
        self.widths: dict[str, int] = {}
        for layer in spec.layers:
            linears: list[nn.Linear] = [getattr(block, layer) for block in tower.blocks]
            inputs = sorted({linear.in_features for linear in linears})
            if len(inputs) > 1:
                raise ModelError(
                    f"{layer} of the {tower.name} tower has {inputs} inputs in different blocks: leave it out."
                )
            if inputs[0] % spec.blocks:
                raise ModelError(
                    f"{inputs[0]} inputs of {layer} in the {tower.name} tower are no multiple of blocks={spec.blocks}."
                )
            self.places |= {linear: (layer, index) for index, linear in enumerate(linears)}
            self.widths[layer] = c = inputs[0] // spec.blocks
            shape = len(linears), spec.blocks, *((c * (c - 1) // 2,) if spec.storage == "packed" else (c, c))
            self.P[layer] = nn.Parameter(torch.zeros(shape, device=linears[0].weight.device))
        self._turns: dict[str, list[_Turn]] | None = None  # of the pass under way
        self._kept: tuple[Any, dict[str, list[_Turn]], list[Tensor]] | None = None

    def prepare(self, tower: str) -> None:
        """Solve all maps of the tower. Without gradients they are kept for as long as the parameters are the same."""
        if tower != self.tower:
            return
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            self._turns, self._kept = self._solve_all(), None  # a step may follow, and fused ones leave no mark
            return
        tensors = [P.detach() for P in self.P.values()]
        now = torch.is_inference_mode_enabled(), [(P.data_ptr(), P._version) for P in self.P.values()]
        if self._kept is None or self._kept[0] != now:
            self._kept = now, self._solve_all(), tensors  # held, so that no other tensor gets their addresses
        self._turns = self._kept[1]

    def emitted(self, tower: str) -> dict[str, Tensor]:
        self._turns = None
        return {}

    def install(self) -> list[RemovableHandle]:
        before = [linear.register_forward_pre_hook(self._before) for linear in self.places]
        return before + [linear.register_forward_hook(self._after, always_call=True) for linear in self.places]

    def _before(self, linear: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if not self.enabled:
            return None
        assert isinstance(linear, nn.Linear)
        (layer, index), x = self.places[linear], inputs[0]
        turn = (self._solve_all() if self._turns is None else self._turns)[layer][index]
        if self._weights_are_cheaper(linear, turn.A_Kcc.shape[-1], x):
            # For the length of this call the instance's attribute hides the parameter of the same name.
            linear.__dict__["weight"] = turn.back(linear.weight)
            return None
        return (turn(x), *inputs[1:])

    def _after(self, linear: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        linear.__dict__.pop("weight", None)

    def _weights_are_cheaper(self, linear: nn.Linear, c: int, x: Tensor) -> bool:
        """By multiplications, divided by the number of inputs.

        To turn rows costs their number times c, with gradients three times that (forward, for the rows, for S). With
        gradients, turned weights cost tokens x outputs more, for their own gradient, which frozen weights do not need.
        """
        if self.spec.rotate != "auto":
            return self.spec.rotate == "weights"
        tokens, outputs = x.numel() // x.shape[-1], linear.out_features
        if torch.is_grad_enabled() and any(P.requires_grad for P in self.P.values()):
            return tokens * outputs + 3 * outputs * c < 3 * tokens * c
        return outputs < tokens

    @torch.no_grad()
    def merge(self) -> None:
        """W <- W A^T."""
        turns = self._solve_all()
        for linear, (layer, index) in self.places.items():
            assert isinstance(linear, nn.Linear)
            linear.weight.copy_(turns[layer][index].back(linear.weight))

    def maps(self) -> dict[str, tuple[Tensor, ...]]:
        """Layer -> the diagonal (K, c, c) of A for each block of the tower, float32, without gradients."""
        turns = self._solve_all()
        return {layer: tuple(turn.A_Kcc.detach() for turn in turns[layer]) for layer in self.widths}

    def _solve_all(self) -> dict[str, list[_Turn]]:
        """Layer -> the map of each block of the tower."""
        turns: dict[str, list[_Turn]] = {}
        with torch.autocast(next(iter(self.P.values())).device.type, enabled=False):
            for c in set(self.widths.values()):
                layers = [layer for layer, width in self.widths.items() if width == c]
                generators = [self._generator(layer, c) for layer in layers]
                S = generators[0] if len(layers) == 1 else torch.cat(generators)  # (blocks of all layers, K, c, c)
                each = iter(self._solve(S))
                turns |= {layer: [*itertools.islice(each, len(self.P[layer]))] for layer in layers}
        return turns

    def _generator(self, layer: str, c: int) -> Tensor:
        """(n, K, c, c): S, or P itself where nothing constrains it."""
        P = self.P[layer].float()
        if self.spec.storage == "packed":
            row, column = torch.triu_indices(c, c, 1, device=P.device)
            upper = P.new_zeros(*P.shape[:2], c * c).index_copy(-1, row * c + column, P).unflatten(-1, (c, c))
            return upper - upper.mT
        return P if self.spec.constraint == "none" else (P - P.mT) / 2

    def _solve(self, S: Tensor) -> Iterable[_Turn]:
        """The maps of all S; gradients flow through their diagonal blocks, but go round the solve of a Cayley map."""
        if self.spec.constraint == "none":
            return map(_Turn, torch.eye(S.shape[-1], device=S.device) + S)
        if self.spec.inverse == "neumann":
            return map(_Turn, _neumann(S, self.spec.neumann_terms))
        return map(_Turn, cayley(S), _Slot.apply(S))  # pyright: ignore[reportArgumentType]


@torch.no_grad()
def cayley(S: Tensor) -> Tensor:
    """The Cayley map ``(I - S) (I + S)^-1`` of skew-symmetric matrices (..., c, c): orthogonal, without eigenvalue -1.

    It is computed as ``2 (I + S)^-1 - I``, and carries no gradient (see ``_Turned``).

    Source: Cayley 1846. Exact, since the paper's third version reports that an approximate inverse was unstable.
    """
    Q = 2 * _inverse(torch.eye(S.shape[-1], dtype=S.dtype, device=S.device) + S)
    Q.diagonal(dim1=-2, dim2=-1).sub_(1)
    return Q


def _inverse(M: Tensor) -> Tensor:
    """The inverse of matrices (..., c, c) whose symmetric part is the identity, as that of I + S.

    By quarters, down to small ones: products of matrices take half of the time of one large solve (c = 256, CPU). The
    symmetric part of what is inverted on the way is never below the identity, so no rows need to be exchanged.
    """
    c = M.shape[-1]
    if c <= _SOLVED:
        # Never singular, so there is nothing to check (which would make the processor wait for the device).
        return torch.linalg.inv_ex(M).inverse
    h = c // 2
    A, B, C, D = M[..., :h, :h], M[..., :h, h:], M[..., h:, :h], M[..., h:, h:]
    A_inverse = _inverse(A)
    left, right = C @ A_inverse, A_inverse @ B
    last = _inverse(D - left @ B)
    upper = -right @ last
    return torch.cat([torch.cat([A_inverse - upper @ left, upper], -1), torch.cat([-last @ left, last], -1)], -2)


@dataclass
class _Turn:
    """The map of one layer; if it is a Cayley map, ``slot_Kcc`` takes the gradient of its S (the values are unused)."""

    A_Kcc: Tensor
    slot_Kcc: Tensor | None = None

    def __call__(self, rows: Tensor) -> Tensor:
        """Rows (..., K c) times A: what a token becomes by A^T."""
        return self._times(rows, self.A_Kcc, 1)

    def back(self, rows: Tensor) -> Tensor:
        """Rows times A^T, the Cayley map of -S."""
        return self._times(rows, self.A_Kcc.mT, -1)

    def _times(self, rows: Tensor, A_Kcc: Tensor, sign: int) -> Tensor:
        kind = rows.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else rows.dtype
        rows, A_Kcc = rows.to(dtype), A_Kcc.to(dtype)
        if self.slot_Kcc is None or not (torch.is_grad_enabled() and self.slot_Kcc.requires_grad):
            return _times(rows, A_Kcc)
        turned = _Turned.apply(rows, self.slot_Kcc, A_Kcc, sign)
        assert isinstance(turned, Tensor)
        return turned


class _Slot(torch.autograd.Function):
    """Stands in for S where only its gradient matters: one number, seen in the shape of S, which can be freed."""

    @staticmethod
    def forward(ctx: Any, S: Tensor) -> Tensor:  # pyright: ignore
        return S.new_zeros(1).expand(S.shape)

    @staticmethod
    def backward(ctx: Any, g_S: Tensor) -> Tensor:  # pyright: ignore
        return g_S


class _Turned(torch.autograd.Function):
    """Rows r times the Cayley map Q of ``sign * S``, with a gradient for S that goes round the solve.

    With M = (I + S)^-1 = (I + Q) / 2, dQ = -2 M dS M, so a gradient g of r' = r Q gives
    dS = -2 (r M)^T (g M^T) = -1/2 (r + r')^T (g + g Q^T), and g Q^T is needed anyway: it is the gradient of r.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, slot_Kcc: Tensor, Q_Kcc: Tensor, sign: int) -> Tensor:  # pyright: ignore
        turned = _times(rows, Q_Kcc)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(Q_Kcc, rows + turned)
        else:  # a frozen weight, and what the linear layer keeps: to save them takes no memory
            ctx.save_for_backward(Q_Kcc, rows, turned)
        ctx.sign, ctx.dtype = sign, slot_Kcc.dtype
        return turned

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor, None, None]:  # pyright: ignore
        Q_Kcc, *parts = ctx.saved_tensors
        K, both = len(Q_Kcc), parts[0] if len(parts) == 1 else parts[0] + parts[1]
        g_rows = _times(g, Q_Kcc.mT)
        g_S = torch.bmm(_blocks(both, K).mT, _blocks(g + g_rows, K)).to(ctx.dtype).mul_(-0.5 * ctx.sign)
        return g_rows if ctx.needs_input_grad[0] else None, g_S, None, None


def _neumann(S: Tensor, terms: int) -> Tensor:
    """(I - S) (I - S + S^2 - ...), ``terms`` terms."""
    eye = torch.eye(S.shape[-1], dtype=S.dtype, device=S.device)
    inverse = eye.expand_as(S)
    for _ in range(terms - 1):
        inverse = eye - S @ inverse
    return inverse - S @ inverse


def _times(rows: Tensor, blocks_Kcc: Tensor) -> Tensor:
    """Rows (..., K c) times a block-diagonal matrix."""
    K = len(blocks_Kcc)
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return torch.bmm(_blocks(rows, K), blocks_Kcc).transpose(0, 1).reshape(rows.shape)
    out = torch.empty(rows.shape, dtype=rows.dtype, device=rows.device)
    torch.bmm(_blocks(rows, K), blocks_Kcc, out=_blocks(out, K))  # in its place at once: copying it there takes time
    return out


def _blocks(rows: Tensor, K: int) -> Tensor:
    """Rows (..., K c) -> (K, rows, c)."""
    return rows.reshape(-1, K, rows.shape[-1] // K).transpose(0, 1)
