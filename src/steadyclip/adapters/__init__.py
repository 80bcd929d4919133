"""What is trained on a frozen model: values with knobs (``LowRank(rank=4)``) that make small parts acting by hooks."""

from steadyclip.adapters.base import AdapterSpec, Towers
from steadyclip.adapters.bottleneck import Bottleneck, BottleneckBlock, attach_bottleneck
from steadyclip.adapters.low_rank import LowRank, LowRankLayer, attach_low_rank
from steadyclip.adapters.orthogonal import Orthogonal, OrthogonalMaps, attach_orthogonal
from steadyclip.adapters.prompts import Prompts, PromptTokens
from steadyclip.adapters.token_rank import TokenRank, TokenRankBlock, TokenTrace, attach_token_rank, watch_tokens
from steadyclip.adapters.weights import Weights

__all__ = [
    "AdapterSpec",
    "Bottleneck",
    "BottleneckBlock",
    "LowRank",
    "LowRankLayer",
    "Orthogonal",
    "OrthogonalMaps",
    "PromptTokens",
    "Prompts",
    "TokenRank",
    "TokenRankBlock",
    "TokenTrace",
    "Towers",
    "Weights",
    "attach_bottleneck",
    "attach_low_rank",
    "attach_orthogonal",
    "attach_token_rank",
    "watch_tokens",
]
