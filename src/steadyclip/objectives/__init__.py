"""What is minimised."""

from steadyclip.objectives.classification import prompt_cross_entropy
from steadyclip.objectives.consistency import kl_from

__all__ = ["kl_from", "prompt_cross_entropy"]
