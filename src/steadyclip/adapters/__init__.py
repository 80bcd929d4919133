"""What is trained on a frozen model: values with knobs (``LowRank(rank=4)``) that make small parts acting by hooks."""

from steadyclip.adapters.base import AdapterSpec, Towers, TowerWeights, Weights
from steadyclip.adapters.bottleneck import Bottleneck, BottleneckBlock
from steadyclip.adapters.low_rank import LowRank, LowRankLayer
from steadyclip.adapters.orthogonal import Orthogonal, OrthogonalMaps
from steadyclip.adapters.prompts import Prompts, PromptTokens
from steadyclip.adapters.shared import SharedBlocks, SharedBottleneck
from steadyclip.adapters.space import SpaceMaps, SpaceTokens
from steadyclip.adapters.token_rank import TokenRank, TokenRankBlock, TokenTrace, watch_tokens

__all__ = [
    "AdapterSpec", "Bottleneck", "BottleneckBlock", "LowRank", "LowRankLayer", "Orthogonal", "OrthogonalMaps",
    "PromptTokens", "Prompts", "SharedBlocks", "SharedBottleneck", "SpaceMaps", "SpaceTokens", "TokenRank",
    "TokenRankBlock", "TokenTrace", "TowerWeights", "Towers", "Weights", "watch_tokens",
]  # fmt: skip
