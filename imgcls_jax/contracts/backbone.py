"""How an objective starts and runs a backbone, a network of models/."""

from __future__ import annotations

from typing import Any

import jax

from imgcls_jax.contracts.objective import Params


def init_backbone(backbone: Any, rng: jax.Array, images: jax.Array) -> tuple[Params, Params, Any]:
    """Initializes a backbone.

    Args:
      backbone: module of models/.
      rng: key.
      images: float [B, H, W, C].

    Returns:
      (params, batch_stats, features); params and batch_stats are {} where the backbone has none.
    """
    features, variables = backbone.init_with_output(rng, images, train=False)
    return variables.get("params", {}), variables.get("batch_stats", {}), features


def apply_backbone(
    backbone: Any,
    params: Params,
    batch_stats: Params,
    images: jax.Array,
    *,
    train: bool,
    rng: jax.Array | None = None,
) -> tuple[Any, Params]:
    """Runs a backbone.

    Args:
      backbone: module of models/.
      params, batch_stats: its collections.
      images: float [B, H, W, C].
      train: batch statistics and dropout on.
      rng: for dropout and stochastic depth; needed where train is True.

    Returns:
      (Features, batch_stats); the statistics have moved where train is True.
    """
    variables = {"params": params, "batch_stats": batch_stats}
    if not train:
        return backbone.apply(variables, images, train=False), batch_stats
    features, moved = backbone.apply(
        variables, images, train=True, mutable=["batch_stats"], rngs={"dropout": rng}
    )
    return features, moved.get("batch_stats", {})
