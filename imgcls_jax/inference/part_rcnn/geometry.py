"""Where parts lie in an object, and the choice of an object's box with those of its parts.

Zhang et al. 2014, "Part-based R-CNNs for Fine-grained Category Detection", arXiv:1407.3867, section 3.2. Of a
root x_0 and parts x_1 .. x_n among the proposals it takes

    X* = argmax Delta(X) * prod_i d_i(x_i),    Delta_box(X) = prod_i [x_i lies in x_0, with some slack],
    Delta_geometric(X) = Delta_box(X) * (prod_i delta_i(x_i))^alpha,

where d_i are the detectors' probabilities and delta_i is the density of a part's place and size in the root:
a mixture of Gaussians over all training images (MG), or over the nearest ones of the root's embedding (NP).

Differences from the authors' code: the choice is among the boxes that pass the constraint alone (their box
method takes its maximum over all); the place is that of the part relative to the root, (x, y, w, h), in
training and in test alike (theirs is trained on the root relative to the part, x and y exchanged). The root
decouples the parts: the best of each is found for each root, so that the choice is exact and costs
roots x boxes for each part.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture

from imgcls_jax.data.regions import within

COMPONENTS = 4  # Gaussians of the prior over all images
LEAST = 5  # examples of a Gaussian in four dimensions
SPREAD = 1e-4  # added to the variances, parts of the root's sides
MISSING = -30.0  # in place of the logarithm of a part's score, where no box of it passes


class Prior(NamedTuple):
    """A mixture of G Gaussians over a part's place in the root.

    Attributes:
      weights: float64 [G], of sum 1.
      means: float64 [G, 4].
      covariances: float64 [G, 4, 4].
    """

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray


class Choice(NamedTuple):
    """The boxes chosen in an image.

    Attributes:
      root: index of the root.
      parts: int64 [K], indices of the boxes of the parts; -1 where none passes.
      score: logarithm of what was maximized.
    """

    root: int
    parts: np.ndarray
    score: float


def places(parts: np.ndarray, roots: np.ndarray) -> np.ndarray:
    """Returns where parts lie in roots, float64 [..., 4]: the distance of the centers, (x, y), and the sides,
    (w, h), all divided by the root's sides.

    Args:
      parts, roots: float [..., 4], of shapes that broadcast; roots have an area.
    """
    sides = roots[..., 2:] - roots[..., :2]
    apart = (parts[..., :2] + parts[..., 2:] - roots[..., :2] - roots[..., 2:]) / 2
    return np.concatenate([apart / sides, (parts[..., 2:] - parts[..., :2]) / sides], axis=-1)


def fit_prior(examples: np.ndarray, components: int) -> Prior:
    """Fits a mixture of Gaussians; one of half as many, where a Gaussian would get too few examples.

    Args:
      examples: float [N, 4], of `places`, N at least 1.
      components: Gaussians, at most.
    """
    while components > 1:
        if len(examples) >= LEAST * components:
            mixture = GaussianMixture(components, reg_covar=SPREAD, random_state=0).fit(examples)
            if (
                mixture.converged_
                and np.bincount(mixture.predict(examples), minlength=components).min() >= LEAST
            ):
                return Prior(mixture.weights_, mixture.means_, mixture.covariances_)
        components //= 2
    covariance = np.atleast_2d(np.cov(examples.T, bias=True)) + SPREAD * np.eye(examples.shape[1])
    return Prior(np.ones(1), examples.mean(axis=0)[None], covariance[None])


def log_density(prior: Prior, examples: np.ndarray) -> np.ndarray:
    """Returns the logarithm of a prior's density, float64 [...].

    Args:
      prior: of a part.
      examples: float [..., 4], of `places`.
    """
    terms = [
        np.log(weight) + multivariate_normal.logpdf(examples, mean, covariance).reshape(examples.shape[:-1])
        for weight, mean, covariance in zip(*prior, strict=True)
    ]
    return logsumexp(terms, axis=0)


def choose(
    boxes: np.ndarray, part_scores: np.ndarray, roots: np.ndarray, root_scores: np.ndarray, *,
    slack: float, log_priors: np.ndarray | None = None, alpha: float = 0.0,
) -> Choice:  # fmt: skip
    """Returns the best root with the best box of each part.

    Args:
      boxes: float [P, 4], proposals of parts.
      part_scores: float [P, K], log d of each part's detector.
      roots: float [R, 4].
      root_scores: float [R], log d of the root's detector; zeros where the root is known.
      slack: pixels by which a part may lie outside its root.
      log_priors: float [R, P, K], log delta of each part for each root; None for the box constraint alone.
      alpha: the exponent of delta, at least 0.
    """
    inside = within(boxes, roots, slack).T[..., None]  # [R, P, 1]
    scores = np.broadcast_to(part_scores, (len(roots), *part_scores.shape))
    if log_priors is not None and alpha:
        scores = scores + alpha * log_priors
    scores = np.where(inside, np.maximum(scores, MISSING), -np.inf)  # [R, P, K]
    best = scores.argmax(axis=1)  # [R, K]
    passed = np.isfinite(scores.max(axis=1))
    totals = root_scores + np.where(passed, scores.max(axis=1), MISSING).sum(axis=-1)  # [R]
    root = int(totals.argmax())
    return Choice(root, np.where(passed[root], best[root], -1), float(totals[root]))
