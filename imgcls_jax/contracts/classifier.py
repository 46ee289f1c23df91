"""A backbone with a head and, on request, an average of all params: what most objectives train.

An objective that holds a `Classifier` writes its loss alone; `init`, `predict` and `after_update` are here.

params:
  backbone, head: of the two modules.
  aux_head_0, aux_head_1, ...: a linear head for each side output of the backbone (GoogLeNet, Inception v3).

objective_state:
  batch_stats: the backbone's running statistics, float32, {} where it has none. They are those of the params
    that are trained, or with ema_statistics of the average.
  head_state: what the head keeps and does not train, {} for most heads: the projections of compact bilinear
    pooling.
  ema: a copy of params, float32; only with ema_decay.

The average begins at the params that were drawn. With a constant decay d it still holds d^t of them after t
steps: 72 % after 330 steps at 0.999, and the network that predicts is no network that was trained. So the
decay warms up, as TensorFlow's ExponentialMovingAverage has it with `num_updates`: d_t = min(d, (1 + t) /
(10 + t)), t = 0 at the first step. It reaches 0.999 at step 8,990; after 20 steps the drawn params weigh
below 1e-7. timm's form with the same purpose is 1 - (1 + t)^(-2/3).

The average sees other activations than the trained params do, so BatchNorm's statistics of theirs suit it
badly while the rate is high. Izmailov et al., "Averaging Weights Leads to Wider Optima and Better
Generalization", arXiv:1803.05407, section 3.2, compute them anew after training; here `ema_statistics` runs a
part of each batch through the average.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from imgcls_jax.contracts.backbone import apply_backbone, init_backbone
from imgcls_jax.contracts.objective import Batch, ObjectiveState, Params, require_between
from imgcls_jax.layers import heads


@dataclasses.dataclass(frozen=True, eq=False)
class Classifier:
    """Backbone, head and average.

    Attributes:
      backbone: module of models/.
      head: module of layers/heads.py.
      aux_head: the same, for the side outputs.
      ema_decay: of the average that serves prediction; None or 0 for the trained params themselves.
      ema_warmup: whether the decay rises to that, as the head of this file has it.
      ema_statistics: which images the average sees too, as `make_classifier` has it.
    """

    backbone: Any
    head: Any
    aux_head: Any
    ema_decay: float | None
    ema_warmup: bool
    ema_statistics: int

    def init(self, rng: jax.Array, images: jax.Array) -> tuple[Params, ObjectiveState]:
        """Returns params and objective_state. Args: rng key; images float [B, H, W, C]."""
        rng_backbone, rng_head = jax.random.split(rng)
        params, batch_stats, features = init_backbone(self.backbone, rng_backbone, images)
        head_state = dict(self.head.init(rng_head, getattr(features, self.head.reads), train=False))
        params = {"backbone": params, "head": head_state.pop("params")}
        for number, aux in enumerate(features.aux):
            rng_aux = jax.random.fold_in(rng_head, number)
            params[f"aux_head_{number}"] = self.aux_head.init(rng_aux, aux, train=False)["params"]
        objective_state = {"batch_stats": batch_stats, "head_state": head_state}
        if self.ema_decay:
            objective_state["ema"] = jax.tree.map(jnp.copy, params)
        return params, objective_state

    def features(
        self,
        params: Params,
        objective_state: ObjectiveState,
        images: jax.Array,
        *,
        train: bool,
        rng: jax.Array | None = None,
    ) -> tuple[Any, Params]:
        """Returns (Features, batch_stats), as `apply_backbone` does; with ema_statistics the average moves
        the statistics."""
        batch_stats = objective_state["batch_stats"]
        run = functools.partial(apply_backbone, self.backbone, train=train, rng=rng)
        features, moved = run(params["backbone"], batch_stats, images)
        if train and self.ema_statistics:
            seen = images[:: self.ema_statistics]
            _, moved = run(objective_state["ema"]["backbone"], batch_stats, seen)
        return features, moved

    def logits(
        self, params: Params, objective_state: ObjectiveState, features: Any, *, rng: jax.Array | None = None
    ) -> jax.Array:
        """Returns logits float32 [B, K]. Args: features; rng of the head's dropout, None for no dropout."""
        variables = {"params": params["head"], **objective_state["head_state"]}
        rngs = {} if rng is None else {"dropout": rng}
        return self.head.apply(
            variables, getattr(features, self.head.reads), train=rng is not None, rngs=rngs
        )

    def aux_logits(self, params: Params, features: Any) -> Iterator[jax.Array]:
        """Yields the logits of each side output, float32 [B, K]."""
        for number, aux in enumerate(features.aux):
            yield self.aux_head.apply({"params": params[f"aux_head_{number}"]}, aux, train=False)

    def train_logits(
        self, params: Params, objective_state: ObjectiveState, images: jax.Array, rng: jax.Array
    ) -> tuple[jax.Array, Params]:
        """Classifies images with the statistics of the batch, and without dropout before the head.

        Args:
          params, objective_state: of `init`.
          images: float [B, H, W, C].
          rng: for the backbone's dropout and stochastic depth.

        Returns:
          logits float32 [B, K], and batch_stats as the images moved them.
        """
        features, batch_stats = self.features(params, objective_state, images, train=True, rng=rng)
        return self.logits(params, objective_state, features), batch_stats

    def predict(self, params: Params, objective_state: ObjectiveState, batch: Batch) -> dict[str, jax.Array]:
        """Returns {"logits": float32 [B, K], "embedding": float [B, D]}, by the averaged params."""
        params = objective_state.get("ema", params)
        features, _ = self.features(params, objective_state, batch["image"], train=False)
        return {"logits": self.logits(params, objective_state, features), "embedding": features.embedding}

    def after_update(
        self, params: Params, objective_state: ObjectiveState, step: jax.Array
    ) -> ObjectiveState:
        """Moves the average, where there is one."""
        if not self.ema_decay:
            return objective_state
        decay = jnp.minimum(self.ema_decay, (1 + step) / (10 + step)) if self.ema_warmup else self.ema_decay
        moved = optax.incremental_update(params, objective_state["ema"], 1 - decay)
        return objective_state | {"ema": moved}


def make_classifier(
    backbone: Any,
    num_classes: int,
    *,
    dropout: float = 0.0,
    head: str = "",
    head_fields: Mapping[str, Any] | None = None,
    ema_decay: float | None = None,
    ema_warmup: bool = True,
    ema_statistics: int = 0,
) -> Classifier:
    """Returns the classifier.

    Args:
      backbone: module of models/.
      num_classes: K.
      dropout: probability, before the final linear layer.
      head: one of layers/heads.py ("linear", "bilinear", ...); "" for the backbone's own.
      head_fields: attributes of the head, such as {"projection": "tensor_sketch", "dim": 8192}.
      ema_decay: in (0, 1), e.g. 0.999; None or 0 keeps no average.
      ema_warmup: whether the decay begins at 1/10 and rises to ema_decay; off for a constant one.
      ema_statistics: n > 0 runs every n-th image of a batch through the average too, whose BatchNorm
        statistics are then its own, at a cost of a third of a step divided by n; 0 leaves it those of the
        trained params.

    Raises:
      ValueError: an unknown head or field of it, or a number out of range.
    """
    require_between(0, 1, dropout=dropout)
    if ema_decay and not 0 < ema_decay < 1:
        raise ValueError(f"objective.ema_decay lies in (0, 1), or 0 for none; got {ema_decay}")
    require_between(0, math.inf, ema_statistics=ema_statistics)
    if ema_statistics and not ema_decay:
        raise ValueError(
            "objective.ema_statistics is of an average: set objective.ema_decay, or leave it out"
        )
    name = head or getattr(backbone, "head", "linear")
    module = heads.build(name, num_classes, dropout=dropout, **(head_fields or {}))
    return Classifier(backbone, module, heads.Linear(num_classes), ema_decay, ema_warmup, ema_statistics)
