"""What can be read in a step, and what is minimized."""

from steadyclip.objectives.features import (
    AttentiveCutout,
    Batch,
    Classes,
    Cutout,
    DrawnPrompts,
    Features,
    Image,
    OfStream,
    Plain,
    Read,
    Text,
    TextsOfStream,
    TextView,
    View,
)  # fmt: skip
from steadyclip.objectives.terms import (
    L2SP,
    Consistency,
    CrossedEntropy,
    CrossEntropy,
    DeltaL1,
    Distance,
    FeatureL1,
    InfoNCE,
    Objective,
    Term,
    as_objective,
    kl,
)  # fmt: skip

__all__ = [
    "L2SP", "AttentiveCutout", "Batch", "Classes", "Consistency", "CrossEntropy", "CrossedEntropy", "Cutout", "DeltaL1",
    "Distance", "DrawnPrompts", "FeatureL1", "Features", "Image", "InfoNCE", "Objective", "OfStream", "Plain", "Read",
    "Term", "Text", "TextView", "TextsOfStream", "View", "as_objective", "kl",
]  # fmt: skip
