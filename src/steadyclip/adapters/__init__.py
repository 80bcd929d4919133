"""Small trainable parts that attach to a frozen model through hooks, and come off again without a trace."""

from steadyclip.adapters.bottleneck import Bottleneck, attach_bottleneck
from steadyclip.adapters.linear_head import LinearHead
from steadyclip.adapters.low_rank import LowRank, attach_low_rank
from steadyclip.adapters.orthogonal import Orthogonal, attach_orthogonal
from steadyclip.adapters.token_rank import TokenRank, TokenTrace, attach_token_rank, watch_tokens

__all__ = [
    "Bottleneck",
    "LinearHead",
    "LowRank",
    "Orthogonal",
    "TokenRank",
    "TokenTrace",
    "attach_bottleneck",
    "attach_low_rank",
    "attach_orthogonal",
    "attach_token_rank",
    "watch_tokens",
]
