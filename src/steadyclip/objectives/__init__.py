"""What can be read in a step, and what is minimized."""

from steadyclip.objectives.features import (
    AttentiveCutout,
    Batch,
    Classes,
    Contexts,
    Cutout,
    DrawnPrompts,
    Features,
    Image,
    OfStream,
    Plain,
    RandomTexts,
    Read,
    Text,
    TextsOfStream,
    TextView,
    View,
)  # fmt: skip
from steadyclip.objectives.kept import ClassContrast, ContextConsistency, GramAlignment, TextsKept
from steadyclip.objectives.terms import (
    L2SP,
    Consistency,
    CrossedEntropy,
    CrossEntropy,
    DeltaL1,
    Distance,
    FeatureL1,
    HeadPenalty,
    InfoNCE,
    MarginEntropy,
    Objective,
    Term,
    TextEntropy,
    as_objective,
    kl,
)  # fmt: skip

__all__ = [
    "L2SP", "AttentiveCutout", "Batch", "ClassContrast", "Classes", "Consistency", "ContextConsistency", "Contexts",
    "CrossEntropy", "CrossedEntropy", "Cutout", "DeltaL1", "Distance", "DrawnPrompts", "FeatureL1", "Features",
    "GramAlignment", "HeadPenalty", "Image", "InfoNCE", "MarginEntropy", "Objective", "OfStream", "Plain",
    "RandomTexts", "Read", "Term", "Text", "TextEntropy", "TextView", "TextsKept", "TextsOfStream", "View",
    "as_objective", "kl",
]  # fmt: skip
