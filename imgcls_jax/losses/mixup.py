"""Mixing pairs of examples: mixup (Zhang et al. 2017, arXiv:1710.09412) and CutMix (Yun et al. 2019,
arXiv:1905.04899).

Both draw one mixing coefficient a batch, as the authors do, and pair each example with the one before it, the
first with the last. So rows are to come in random order, as those of a shuffled epoch do. The authors permute
the rows instead: the pairs are as random, but a batch that is split over devices would have to be gathered on
each of them, where here a device hands on one row.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def _check_alpha(alpha: float) -> None:
    if not alpha > 0:
        raise ValueError(f"alpha, the parameter of Beta(alpha, alpha), must be positive; got {alpha}")


def mixup(
    rng: jax.Array, images: jax.Array, targets: jax.Array, *, alpha: float
) -> tuple[jax.Array, jax.Array]:
    """Convex combination of neighboring examples.

    Eq.: x = lam x_i + (1 - lam) x_j, likewise the targets; lam ~ Beta(alpha, alpha).

    Args:
      rng: key.
      images: float [B, H, W, C].
      targets: float probabilities [B, K].
      alpha: > 0.

    Returns:
      images float [B, H, W, C] and targets float [B, K].

    Raises:
      ValueError: alpha is not positive.
    """
    _check_alpha(alpha)
    images, targets = jnp.asarray(images), jnp.asarray(targets)
    lam = jax.random.beta(rng, alpha, alpha)
    others, their_targets = jnp.roll(images, 1, axis=0), jnp.roll(targets, 1, axis=0)
    return lam * images + (1 - lam) * others, lam * targets + (1 - lam) * their_targets


def cutmix(
    rng: jax.Array, images: jax.Array, targets: jax.Array, *, alpha: float
) -> tuple[jax.Array, jax.Array]:
    """Pastes a box of the image before; targets are mixed by the area that the clipped box really covers.

    Eq.: the box has sides sqrt(1 - lam) of the image's and a uniform center; lam ~ Beta(alpha, alpha).

    Args:
      rng: key.
      images: float [B, H, W, C].
      targets: float probabilities [B, K].
      alpha: > 0.

    Returns:
      images float [B, H, W, C] and targets float [B, K].

    Raises:
      ValueError: alpha is not positive.
    """
    _check_alpha(alpha)
    images, targets = jnp.asarray(images), jnp.asarray(targets)
    rng_lam, rng_y, rng_x = jax.random.split(rng, 3)
    side = jnp.sqrt(1 - jax.random.beta(rng_lam, alpha, alpha))
    inside_y = _interval(rng_y, images.shape[1], side)
    inside_x = _interval(rng_x, images.shape[2], side)
    box = inside_y[:, None] & inside_x[None, :]  # [H, W]
    lam = 1 - jnp.mean(box)
    mixed = jnp.where(box[None, :, :, None], jnp.roll(images, 1, axis=0), images)
    return mixed, lam * targets + (1 - lam) * jnp.roll(targets, 1, axis=0)


def _interval(rng: jax.Array, length: int, side: jax.Array) -> jax.Array:
    """Returns bool [length], True inside an interval of length * side about a uniform center, clipped."""
    center = jax.random.randint(rng, (), 0, length)
    half = jnp.floor(length * side / 2).astype(jnp.int32)
    position = jnp.arange(length)
    return (position >= center - half) & (position < center + half)
