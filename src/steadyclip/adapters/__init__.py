"""Small trainable parts that attach to a frozen model through hooks, and come off again without a trace."""

from steadyclip.adapters.linear_head import LinearHead
from steadyclip.adapters.low_rank import LowRank, attach_low_rank

__all__ = ["LinearHead", "LowRank", "attach_low_rank"]
