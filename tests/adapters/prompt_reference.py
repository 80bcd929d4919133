"""Learned tokens by explicit concatenation: embeddings and blocks called one by one, one image or text at a time.

For tests only. The hooks are off while it runs; it reads parameters, and says itself where tokens stand.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from steadyclip.adapters import PromptTokens
from steadyclip.models import DualEncoder


def fresh(prompts: PromptTokens, tower: str, given_D: Tensor | None = None) -> dict[int, Tensor]:
    """The sets of (L, W) learned tokens of one image or text, by index of the block."""
    if tower == "image" and prompts.spec.coupling == "project":
        own = [text_LW @ m.weight.T + m.bias for text_LW, m in zip(prompts.text, prompts.maps, strict=True)]
        return dict(enumerate(own))
    tokens = dict(enumerate(prompts.text if tower == "text" else prompts.image))
    if tower == "text" and prompts.by_class:
        first, _, second = prompts.class_net
        hidden = first.weight @ given_D + first.bias
        hidden = hidden / (1 + (-1.702 * hidden).exp())
        L, W = tokens[0].shape
        tokens[len(prompts.towers["text"].blocks) * 2 // 3] = (second.weight @ hidden + second.bias).view(L, W)
    elif tower == "text" and given_D is not None:
        first, _, second = prompts.net
        hidden = (first.weight @ given_D + first.bias).clamp(min=0)
        tokens[0] = torch.stack([token_W + second.weight @ hidden + second.bias for token_W in tokens[0]])
    return tokens


def through_block(model: DualEncoder, x_1NW: Tensor, tower: Any, index: int, keys_N: Tensor | None) -> Tensor:
    """One block. ``keys_N``: which tokens may be seen."""
    length = x_1NW.shape[1]
    seen_NN = torch.ones(length, length, dtype=torch.bool)
    if tower.name == "text" and model.family in ("clip", "open_clip"):
        seen_NN = seen_NN.tril()
    if keys_N is not None:
        seen_NN = seen_NN & keys_N
    mask = torch.zeros(length, length).masked_fill(~seen_NN, -torch.inf)
    block = tower.blocks[index].module
    return block(x_1NW, attn_mask=mask) if model.family == "open_clip" else block(x_1NW, mask[None, None])


def through_blocks(
    model: DualEncoder, x_1NW: Tensor, tower: Any, tokens: dict[int, Tensor], at: int, keys_N: Tensor | None
) -> Tensor:
    """All blocks, with ``tokens`` at the inputs of the second and following ones."""
    L = len(tokens[0])
    for index in range(len(tower.blocks)):
        if index and index in tokens:
            x_1NW = torch.cat([x_1NW[:, :at], tokens[index][None], x_1NW[:, at + L :]], dim=1)
        x_1NW = through_block(model, x_1NW, tower, index, keys_N)
    return x_1NW


def words(model: DualEncoder, ids_N: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings (N, W) of the words of a text, and those of their positions."""
    network: Any = model.network
    embeddings = network if model.family == "open_clip" else network.text_model.embeddings
    positions = embeddings.positional_embedding if network is embeddings else embeddings.position_embedding.weight
    return embeddings.token_embedding.weight[ids_N], positions[: len(ids_N)]


def text_read(model: DualEncoder, x_1NW: Tensor, ids_N: Tensor) -> Tensor:
    """(D,) of what the last block leaves of a text."""
    network: Any = model.network
    if model.family == "open_clip":
        return (network.ln_final(x_1NW)[0] @ network.text_projection)[ids_N.argmax()]
    x_NW = network.text_model.final_layer_norm(x_1NW)[0]
    if model.family == "clip":
        return network.text_projection(x_NW[(ids_N == network.text_model.config.eos_token_id).int().argmax()])
    return network.text_model.head(x_NW[-1])


def image_start(model: DualEncoder, image_CHW: Tensor) -> tuple[Tensor, Any]:
    """(1, N, W) the tokens of an image, and the norm in front of the first block."""
    network: Any = model.network
    if model.family == "open_clip":
        visual = network.visual
        patches_NW = visual.conv1(image_CHW[None]).flatten(2).mT[0]
        x_NW = torch.cat([visual.class_embedding[None], patches_NW]) + visual.positional_embedding
        return x_NW[None], visual.ln_pre
    norm = network.vision_model.pre_layrnorm if model.family == "clip" else torch.nn.Identity()
    return network.vision_model.embeddings(image_CHW[None]), norm


def text_feature(model: DualEncoder, prompts: PromptTokens, tokens: dict[str, Tensor], given_D: Tensor | None = None):
    """(D,) of the one text in ``tokens``."""
    ids_N = tokens["input_ids"][0]
    words_NW, positions_NW = words(model, ids_N)
    start, L = int(model.family in ("clip", "open_clip")), prompts.length
    own = fresh(prompts, "text", given_D)
    words_NW = torch.cat([words_NW[:start], own[0], words_NW[start + L :]])
    x_1NW = (words_NW + positions_NW)[None]
    keys_N = tokens["attention_mask"][0].bool() if "attention_mask" in tokens else None
    prompts.enabled = False
    x_1NW = through_blocks(model, x_1NW, model.text_tower, own, start, keys_N)
    prompts.enabled = True
    return text_read(model, x_1NW, ids_N)


def image_tokens(model: DualEncoder, prompts: PromptTokens, image_CHW: Tensor) -> Tensor:
    """(1, N, W) the tower's own tokens, as the last block leaves them."""
    own = fresh(prompts, "image")
    prompts.enabled = False
    x_1NW, norm = image_start(model, image_CHW)
    count = x_1NW.shape[1]
    x_1NW = torch.cat([x_1NW, own[0][None]], dim=1)
    x_1NW = through_blocks(model, norm(x_1NW), model.image_tower, own, count, None)
    prompts.enabled = True
    return x_1NW[:, :count]


def image_features(model: DualEncoder, x_1NW: Tensor) -> tuple[Tensor, Tensor]:
    """(D,) and (Y, X, D), of the tower's own tokens."""
    network: Any = model.network
    if model.family == "open_clip":
        x_ND = (network.visual.ln_post(x_1NW) @ network.visual.proj)[0]
        return x_ND[0], x_ND[1:].unflatten(0, (4, 4))
    x_1NW = network.vision_model.post_layernorm(x_1NW)
    if model.family == "clip":
        x_ND = network.visual_projection(x_1NW)[0]
        return x_ND[0], x_ND[1:].unflatten(0, (4, 4))
    head = network.vision_model.head
    return head(x_1NW)[0], torch.stack([head(x_1NW[:, n : n + 1])[0] for n in range(16)]).unflatten(0, (4, 4))
