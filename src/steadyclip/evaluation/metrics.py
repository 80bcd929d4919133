"""Numbers from predictions. All accuracies are fractions.

Shapes: N images, C classes. Everything takes CPU tensors and returns Python floats, so that a record is plain JSON.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def top1(predicted_N: Tensor, labels_N: Tensor) -> float:
    """Fraction of images whose predicted class is their label."""
    return (predicted_N == labels_N).double().mean().item()


def confusion_matrix(predicted_N: Tensor, labels_N: Tensor, classes: int) -> Tensor:
    """Counts (C, C): row = label, column = prediction."""
    return torch.bincount(labels_N * classes + predicted_N, minlength=classes * classes).reshape(classes, classes)


def mean_per_class(predicted_N: Tensor, labels_N: Tensor, classes: int) -> float:
    """Mean over classes of each class's accuracy; classes without images are left out."""
    counts_CC = confusion_matrix(predicted_N, labels_N, classes)
    images_C = counts_CC.sum(dim=1)
    present_C = images_C > 0
    return (counts_CC.diagonal()[present_C].double() / images_C[present_C]).mean().item()


def ece(confidence_N: Tensor, correct_N: Tensor, bins: int = 15) -> float:
    """Expected calibration error: the mean over images of |accuracy - confidence| of the image's confidence bin.

    ``bins`` equal bins over (0, 1], each closed on the right (Guo et al. 2017, equation 3).
    """
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    bin_N = torch.bucketize(confidence_N.double(), edges[1:-1])
    gap_N = correct_N.double() - confidence_N.double()
    return torch.zeros(bins, dtype=torch.float64).index_add(0, bin_N, gap_N).abs().sum().item() / len(gap_N)


def bootstrap_interval(
    correct_N: Tensor, groups: Sequence[int] = (), seed: int = 0, draws: int = 1000
) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the accuracy, resampling the N test images.

    With ``groups``, a number from 0 for each image, groups are drawn with all their images: twenty pictures of one
    thing are not twenty observations. Without them, the number of right answers among N images drawn with replacement
    from N, of which a share p is right, is Binomial(N, p): each draw is taken from that law directly, which is the same
    thing without N * draws random indices.
    """
    rng, images = np.random.default_rng(seed), len(correct_N)
    share = correct_N.double().mean().item()
    if groups:
        size_G, right_G = np.bincount(groups), np.bincount(groups, weights=correct_N.double().numpy())
        times_RG = rng.multinomial(len(size_G), np.full(len(size_G), 1 / len(size_G)), size=draws)
        accuracies = (times_RG @ right_G) / (times_RG @ size_G)
    else:
        accuracies = rng.binomial(images, share, size=draws) / images
    low, high = np.quantile(accuracies, [0.025, 0.975])
    return float(low), float(high)
