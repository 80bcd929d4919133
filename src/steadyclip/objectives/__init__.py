"""What is minimized."""

from steadyclip.objectives.classification import prompt_cross_entropy
from steadyclip.objectives.consistency import kl_from
from steadyclip.objectives.contrastive import info_nce

__all__ = ["info_nce", "kl_from", "prompt_cross_entropy"]
