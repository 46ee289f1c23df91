"""The contract between an algorithm and the trainer, and the few lines every algorithm needs.

An objective's file exports `make(backbone, task, *, <hyper-parameters>) -> Objective`. `params` is what
gradients move; `params["backbone"]` is always the trunk that transfers. `objective_state` is everything else
the algorithm keeps (batch_stats, EMA params, pseudo-labels, centroids), a dict whose structure, shapes and
dtypes
never change: the trainer shards, donates and checkpoints it without looking inside. Two keys mean the same in
every objective, so that pretrained weights reach them: `batch_stats`, the backbone's running statistics, and
`ema`, an average with the structure of params.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

Params = dict[str, Any]
ObjectiveState = dict[str, Any]
Batch = dict[str, Any]
Metrics = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Task:
    """What an objective may know of the data and the run.

    Attributes:
      num_classes: K.
      num_examples: N, of the training split.
      steps_per_epoch: floor(N / batch size).
      total_steps: of the whole run.
      image_shape: (H, W, C) as the backbone sees it, after every transform.
      class_counts: K numbers, training examples of each class or label; () where only reading every example
        would tell.
      axis_name: of the mapped axis, where `loss` sees one device's rows of the batch: a loss that compares
        examples gathers the others over it, and the trainer averages the floats of objective_state and takes
        the largest of its whole numbers. None where the batch is whole.
    """

    num_classes: int
    num_examples: int
    steps_per_epoch: int
    total_steps: int
    image_shape: tuple[int, int, int]
    class_counts: tuple[int, ...] = ()
    axis_name: str | None = None


class EpochPlan(NamedTuple):
    """What `plan_epoch` decides before an epoch starts.

    Attributes:
      params, objective_state: as the epoch begins with them.
      order: int64 [N], the visiting order of the examples, repeats allowed; None leaves the usual shuffle.
      reset: param paths ("head", "backbone/conv1") whose optimizer state restarts.
      metrics: numbers for the log, such as how much changed since the last plan.
    """

    params: Params
    objective_state: ObjectiveState
    order: np.ndarray | None
    reset: tuple[str, ...] = ()
    metrics: Mapping[str, float] = MappingProxyType({})


def require_between(least: float, most: float, **fields: float) -> None:
    """Raises ValueError for the first field of the section `objective` that lies outside [least, most]."""
    for name, value in fields.items():
        if not least <= value <= most:
            bounds = f"is at least {least}" if most == math.inf else f"lies in [{least}, {most}]"
            raise ValueError(f"objective.{name} {bounds}; got {value}")


def keep_objective_state(params: Params, objective_state: ObjectiveState, step: jax.Array) -> ObjectiveState:
    """The default `after_update`: nothing to do."""
    del params, step
    return objective_state


@dataclasses.dataclass(frozen=True)
class Objective:
    """An algorithm as pure functions.

    Attributes:
      batch_keys: what `loss` reads from a batch: "image", float [B, H, W, C]; "views", a tuple of the same,
        one for each line of data.view_transforms; "label", int32 [B], -1 where it is hidden (or of 0
        and 1, [B, K]: multi_label); "index", int32
        [B] in [0, N); "labeled", a second batch {"image", "label", "index"} of examples of known label.
      init: (rng, batch) -> (params, objective_state); the two share no buffer.
      loss: (params, objective_state, batch, rng, step) -> (scalar, (objective_state, metrics)), metrics being
        scalars averaged over the batch; the step adds the scalar to them as "loss".
      predict: (params, objective_state, batch) -> {"logits": float [B, K] and/or "embedding": float [B, D]};
        with "probabilities" [B, K] where those are not the softmax of the logits.
      after_update: (params, objective_state, step) -> objective_state, after the optimizer's step, inside the
        jitted step.
      plan_epoch: (params, objective_state, epoch, embed, rng) -> EpochPlan, on the host and equal on every
        host; None where an epoch needs no plan. `embed(key)` returns predict's output of that key over the
        training split, float32 [N, D].
      reads_pixels: whether `loss` does anything with images but hand them to the backbone. Where it does not,
        the features of a frozen backbone may come in place of the images.
      multi_label: whether an image has any number of labels, and `label` is [B, K].
    """

    batch_keys: tuple[str, ...]
    init: Callable[[jax.Array, Batch], tuple[Params, ObjectiveState]]
    loss: Callable[
        [Params, ObjectiveState, Batch, jax.Array, jax.Array],
        tuple[jax.Array, tuple[ObjectiveState, Metrics]],
    ]
    predict: Callable[[Params, ObjectiveState, Batch], dict[str, jax.Array]]
    after_update: Callable[[Params, ObjectiveState, jax.Array], ObjectiveState] = keep_objective_state
    plan_epoch: Callable[..., EpochPlan] | None = None
    reads_pixels: bool = True
    multi_label: bool = False


def init_backbone(backbone: Any, rng: jax.Array, images: jax.Array) -> tuple[Params, Params, Any]:
    """Initialises a backbone.

    Returns:
      (params, batch_stats, features); batch_stats is {} where the backbone keeps none.
    """
    features, variables = backbone.init_with_output(rng, images, train=False)
    return variables["params"], variables.get("batch_stats", {}), features


def apply_backbone(
    backbone: Any,
    params: Params,
    batch_stats: Params,
    images: jax.Array,
    *,
    train: bool,
    rng: jax.Array | None = None,
) -> tuple[Any, Params]:
    """Applies a backbone.

    Args:
      backbone: module with the contract of models/.
      params, batch_stats: its collections.
      images: float [B, H, W, C].
      train: batch statistics and dropout on.
      rng: for dropout and stochastic depth; needed where train is True.

    Returns:
      (Features, batch_stats), the statistics moved where train is True.
    """
    variables = {"params": params, "batch_stats": batch_stats}
    if not train:
        return backbone.apply(variables, images, train=False), batch_stats
    features, moved = backbone.apply(
        variables, images, train=True, mutable=["batch_stats"], rngs={"dropout": rng}
    )
    return features, moved.get("batch_stats", {})


def train_logits(
    backbone: Any,
    head: Any,
    params: Params,
    objective_state: ObjectiveState,
    images: jax.Array,
    rng: jax.Array,
) -> tuple[jax.Array, Params]:
    """Classifies images as training sees them, by the statistics of the batch.

    Args:
      backbone, head: modules, the head one of layers/heads.py without dropout or state; auxiliary
        classifiers of the backbone take no part.
      params: with "backbone" and "head".
      objective_state: with "batch_stats".
      images: float [B, H, W, C].
      rng: for the backbone's dropout and stochastic depth.

    Returns:
      logits float32 [B, K], and batch_stats as the images moved them.
    """
    features, moved = apply_backbone(
        backbone, params["backbone"], objective_state["batch_stats"], images, train=True, rng=rng
    )
    return head.apply({"params": params["head"]}, getattr(features, head.reads), train=False), moved
