"""Losses as pure functions: they need jax alone and return one value per example, in nats."""

from imgcls_jax.losses.classification import (
    effective_number_weights,
    inverse_frequency_weights,
    label_rank,
    mean_over,
    prior_bias,
    sigmoid_cross_entropy,
    sigmoid_focal,
    smooth_labels,
    softmax_cross_entropy,
    softmax_focal,
    zero_one,
)
from imgcls_jax.losses.clustering import kmeans_loss, mutual_information_loss
from imgcls_jax.losses.consistency import (
    entropy,
    kl_divergence,
    pseudo_labels,
    sharpen,
    softmax_squared_error,
)
from imgcls_jax.losses.contrastive import (
    INITIAL_LOG_SCALE,
    LOG_SCALE_RANGE,
    clip_loss,
    l2_normalize,
    normalized_distance,
    nt_xent,
    queue_info_nce,
)
from imgcls_jax.losses.kmeans import (
    KMeans,
    kmeans,
    kmeans_plus_plus,
    lloyd,
    nearest_centroid,
    pca_whiten,
)
from imgcls_jax.losses.mixup import cutmix, mixup
from imgcls_jax.losses.reconstruction import masked_reconstruction, patchify, unpatchify
from imgcls_jax.losses.redundancy import covariance_penalty, variance_hinge

__all__ = [
    "INITIAL_LOG_SCALE",
    "KMeans",
    "LOG_SCALE_RANGE",
    "clip_loss",
    "covariance_penalty",
    "cutmix",
    "effective_number_weights",
    "entropy",
    "inverse_frequency_weights",
    "kl_divergence",
    "kmeans",
    "kmeans_loss",
    "kmeans_plus_plus",
    "l2_normalize",
    "label_rank",
    "lloyd",
    "masked_reconstruction",
    "mean_over",
    "mixup",
    "mutual_information_loss",
    "nearest_centroid",
    "normalized_distance",
    "nt_xent",
    "patchify",
    "pca_whiten",
    "prior_bias",
    "pseudo_labels",
    "queue_info_nce",
    "sharpen",
    "sigmoid_cross_entropy",
    "sigmoid_focal",
    "smooth_labels",
    "softmax_cross_entropy",
    "softmax_focal",
    "softmax_squared_error",
    "unpatchify",
    "variance_hinge",
    "zero_one",
]
