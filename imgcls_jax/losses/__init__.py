"""Losses as pure functions: they need jax alone and return one value per example, in nats."""

from imgcls_jax.losses.classification import (
    class_weighted_mean,
    label_rank,
    smooth_labels,
    softmax_cross_entropy,
    zero_one,
)
from imgcls_jax.losses.mixup import cutmix, mixup

__all__ = [
    "class_weighted_mean",
    "cutmix",
    "label_rank",
    "mixup",
    "smooth_labels",
    "softmax_cross_entropy",
    "zero_one",
]
