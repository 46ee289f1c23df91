"""The contract between an algorithm and the trainer.

An objective's file exports `make(backbone, task, *, <hyper-parameters>) -> Objective`. Gradients move
`params`; `params["backbone"]` is always the trunk that transfers. `objective_state` is everything else that
the algorithm keeps (batch_stats, EMA params, pseudo-labels, centroids): a dict whose structure, shapes and
dtypes never change. The trainer shards, donates and checkpoints it without looking inside. Two keys mean the
same in every objective, so that pretrained weights reach them: `batch_stats`, the backbone's running
statistics, and `ema`, an average with the structure of params.

contracts/backbone.py runs a network; contracts/classifier.py adds a head and an average.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
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
    """What an objective may know about the data and the run.

    Attributes:
      num_classes: K.
      num_examples: N, of the training split.
      steps_per_epoch: floor(N / batch size).
      total_steps: of the whole run.
      image_shape: (H, W, C) as the backbone sees it, after every transform.
      class_counts: K numbers, training examples of each class or label; () where the source cannot count
        them without reading every example.
      signatures: C rows of equally many numbers, one a class; () without data.signatures. K is C then, and
        class_counts is 0 for the classes that are never learned, which come last.
      axis_name: None where `loss` sees the whole batch. Else the name of the mapped axis, and `loss` sees one
        device's rows: a loss that compares examples gathers the other rows over that axis. The trainer
        averages the floats of objective_state over it, and takes the largest of its integers.
    """

    num_classes: int
    num_examples: int
    steps_per_epoch: int
    total_steps: int
    image_shape: tuple[int, int, int]
    class_counts: tuple[int, ...] = ()
    signatures: tuple[tuple[float, ...], ...] = ()
    axis_name: str | None = None


class Teacher(NamedTuple):
    """A network that is trained already, which an objective names and the trainer brings.

    Attributes:
      path: WORKDIR, WORKDIR@STEP or WORKDIR@best of a run whose objective predicts logits; a folder of
        tools.export; or a file of weights.
      model: the section `model` of its network, for the last two, which do not tell; None for a workdir.
    """

    path: str
    model: Mapping[str, Any] | None = None


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


def require_one_of(choices: Sequence[str], **fields: str) -> None:
    """Raises ValueError for the first field of the section `objective` that is none of the choices."""
    for name, value in fields.items():
        if value not in choices:
            raise ValueError(f"objective.{name} is one of {', '.join(choices)}; got {value!r}")


def keep_objective_state(params: Params, objective_state: ObjectiveState, step: jax.Array) -> ObjectiveState:
    """The default `after_update`: nothing to do."""
    del params, step
    return objective_state


def keep_params(params: Params) -> Params:
    """The default `project`: params are free."""
    return params


@dataclasses.dataclass(frozen=True)
class Objective:
    """An algorithm as pure functions.

    Attributes:
      batch_keys: the keys of a batch that `loss` reads: "image", float [B, H, W, C]; "views", a tuple of the
        same, one for each line of data.view_transforms; "label", int32 [B], -1 where it is hidden (with
        multi_label [B, K] of 0 and 1); "index", int32 [B] in [0, N); "labeled", a second batch {"image",
        "label", "index"} of examples with known labels; "text", int32 [B, n, L], the token ids of n captions
        an image, with rows of zeros in place of those that it lacks; "teacher", float32 [B, K], the logits
        that the network `teacher` has for "image", in evaluation mode and without a gradient.
      init: (rng, batch) -> (params, objective_state); the two share no buffer.
      loss: (params, objective_state, batch, rng, step) -> (scalar, (objective_state, metrics)), metrics being
        scalars averaged over the batch; the step adds the scalar to them as "loss".
      predict: (params, objective_state, batch) -> {"logits": float [B, K] and/or "embedding": float [B, D]};
        with "probabilities" [B, K] where those are not the softmax of the logits. The batch is all that the
        source gives of an example, of which other files than the run's may have "image" alone.
      after_update: (params, objective_state, step) -> objective_state, after the optimizer's step, inside the
        jitted step.
      project: params -> params of the same form, right after the optimizer's step: back into the range that
        they must not leave. Frozen params stay as they are.
      plan_epoch: (params, objective_state, epoch, embed, rng) -> EpochPlan, on the host and equal on every
        host; None where an epoch needs no plan. `embed(key)` returns predict's output of that key over the
        training split, float32 [N, D].
      reads_pixels: whether `loss` uses images for more than the backbone's input. Where it does not, the
        features of a frozen backbone may take the place of the images.
      multi_label: whether an image has any number of labels, and `label` is [B, K].
      divisors: (objective_state, batch) -> sums over the batch by which `loss` divides its sums, of a loss
        that is no plain mean over the rows, such as one with class weights. A step in parts
        (train.num_microbatches) or by replicas computes them for the whole batch and hands `loss` as
        batch["divisors"] their share, so that the mean of the parts' losses is the loss of the whole. Where a
        batch lacks the key, `loss` divides by those of the batch itself.
      teacher: the network whose logits are batch["teacher"]; None where that is not read. The trainer opens
        it for training alone. Its variables reach the step beside the batch, and are no part of the state:
        nothing optimizes, averages or saves them.
      in_parts: for the log of a step in parts: what makes the loss of a whole batch another one than the mean
        of its parts' losses; "" where they are the same.
    """

    batch_keys: tuple[str, ...]
    init: Callable[[jax.Array, Batch], tuple[Params, ObjectiveState]]
    loss: Callable[
        [Params, ObjectiveState, Batch, jax.Array, jax.Array],
        tuple[jax.Array, tuple[ObjectiveState, Metrics]],
    ]
    predict: Callable[[Params, ObjectiveState, Batch], dict[str, jax.Array]]
    after_update: Callable[[Params, ObjectiveState, jax.Array], ObjectiveState] = keep_objective_state
    project: Callable[[Params], Params] = keep_params
    plan_epoch: (
        Callable[[Params, ObjectiveState, int, Callable[[str], np.ndarray], jax.Array], EpochPlan] | None
    ) = None
    reads_pixels: bool = True
    multi_label: bool = False
    divisors: Callable[[ObjectiveState, Batch], Any] | None = None
    teacher: Teacher | None = None
    in_parts: str = ""
