"""What is minimised."""

from steadyclip.objectives.classification import prompt_cross_entropy

__all__ = ["prompt_cross_entropy"]
