"""Stochastic depth: some images skip a residual branch in training.

Huang et al., "Deep Networks with Stochastic Depth", arXiv 1603.09382 (2016).
"""

from __future__ import annotations

import flax.linen as nn
import jax


def drop_branch(branch: jax.Array, probability: float, *, train: bool) -> jax.Array:
    """Drops a residual branch of whole images; the branches kept are divided by the probability of keeping.

    Args:
      branch: float [B, ...], what is added to the shortcut.
      probability: of dropping it for one image, in [0, 1].
      train: whether to drop at all. It then draws from the module's rng "dropout".

    Returns:
      float [B, ...].
    """
    within = tuple(range(1, branch.ndim))  # one draw an image
    return nn.Dropout(probability, broadcast_dims=within, deterministic=not train)(branch)


def rising_rates(last: float, blocks: int) -> tuple[float, ...]:
    """Returns the probability for each of a network's blocks: from 0, linearly, to `last` in the last one."""
    return tuple(last * block / max(blocks - 1, 1) for block in range(blocks))
