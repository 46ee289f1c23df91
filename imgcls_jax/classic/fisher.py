"""Fisher vectors: how the descriptors of an image would move a mixture of Gaussians.

Perronnin, Sánchez and Mensink 2010, "Improving the Fisher Kernel for Large-Scale Image Classification"
(ECCV): means and variances without weights, signed square root, then the Euclidean norm 1. Descriptors go
through PCA first. scikit-image's `fisher_vector` has the weights too, and the opposite sign in the variances.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import softmax
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture

COMPONENTS = 64  # of PCA


class Mixture(NamedTuple):
    """Gaussians with diagonal covariances, in the space of PCA.

    Attributes:
      center: float32 [F], subtracted from a descriptor.
      basis: float32 [F, D], by which the rest is multiplied.
      weights: float64 [K], sum 1.
      means, variances: float64 [K, D].
    """

    center: np.ndarray
    basis: np.ndarray
    weights: np.ndarray
    means: np.ndarray
    variances: np.ndarray

    def reduced(self, descriptors: np.ndarray) -> np.ndarray:
        """Returns descriptors [n, F] in the space of PCA, [n, D]."""
        return (descriptors - self.center) @ self.basis


def fit_mixture(descriptors: np.ndarray, gaussians: int, seed: int) -> Mixture:
    """Fits PCA to at most 64 whitened components, and the mixture by expectation maximization.

    Args:
      descriptors: float32 [N, F], of training images.
      gaussians: K.
      seed: of the first centers.

    Raises:
      ValueError: there are too few descriptors.
    """
    components = min(COMPONENTS, descriptors.shape[1])
    if len(descriptors) < max(components, 2 * gaussians):
        raise ValueError(
            f"{gaussians} Gaussians in {components} dimensions need more descriptors than the "
            f"{len(descriptors)} of the training images"
        )
    pca = PCA(components, whiten=True, random_state=seed).fit(descriptors)
    basis = (pca.components_ / np.sqrt(np.maximum(pca.explained_variance_, 1e-12))[:, None]).T
    center, basis = pca.mean_.astype(np.float32), basis.astype(np.float32)
    mixture = GaussianMixture(gaussians, covariance_type="diag", reg_covar=1e-3, random_state=seed)
    mixture.fit((descriptors - center) @ basis)
    return Mixture(center, basis, mixture.weights_, mixture.means_, mixture.covariances_)


def gradients(reduced: np.ndarray, mixture: Mixture) -> np.ndarray:
    """Returns the normalized gradients of the log-likelihood, float64 [2 K D]: means, then variances.

    Eq., with q_ik the posterior of Gaussian k for descriptor i of n:
        mean_k     = sum_i q_ik (x_i - mu_k) / sigma_k / (n sqrt(w_k))
        variance_k = sum_i q_ik ((x_i - mu_k)^2 / sigma_k^2 - 1) / (n sqrt(2 w_k))

    Args:
      reduced: float [n, D], in the space of the Gaussians.
      mixture: its weights, means and variances.
    """
    x = np.asarray(reduced, np.float64)
    weights, means, variances = mixture.weights, mixture.means, mixture.variances
    log_density = (
        np.log(weights)
        - 0.5 * np.log(2 * np.pi * variances).sum(axis=1)
        - 0.5
        * (x**2 @ (1 / variances).T - 2 * x @ (means / variances).T + (means**2 / variances).sum(axis=1))
    )
    posterior = softmax(log_density, axis=1)  # [n, K]
    zeroth, first, second = posterior.sum(axis=0)[:, None], posterior.T @ x, posterior.T @ x**2
    norm = len(x) * np.sqrt(weights)[:, None]
    mean = (first - means * zeroth) / np.sqrt(variances) / norm
    variance = (second - 2 * means * first + means**2 * zeroth) / variances - zeroth
    return np.concatenate([mean.ravel(), (variance / (np.sqrt(2) * norm)).ravel()])


def improved(vector: np.ndarray) -> np.ndarray:
    """Returns sign(v) sqrt |v| at the Euclidean norm 1; zeros stay."""
    rooted = np.sign(vector) * np.sqrt(np.abs(vector))
    return rooted / max(np.linalg.norm(rooted), 1e-12)


def fisher_vector(descriptors: np.ndarray, mixture: Mixture) -> np.ndarray:
    """Returns the improved Fisher vector of an image, float32 [2 K D].

    Args:
      descriptors: float32 [n, F].
      mixture: of `fit_mixture`.
    """
    return improved(gradients(mixture.reduced(descriptors), mixture)).astype(np.float32)
