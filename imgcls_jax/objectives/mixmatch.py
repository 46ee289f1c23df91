"""MixMatch (Berthelot et al. 2019, arXiv:1905.02249): guessed labels, mixed with the known ones.

Labeled images come as batch["labeled"], unlabeled ones as batch["views"], each view augmented by its own
draw. A guess is the sharpened mean of the views' predicted probabilities. Then all rows are mixed with all
(mixup), and the known labels are learned by cross-entropy, the guesses by squared error.

As in the authors' code: guesses come from the current weights with batch statistics. Each row has its own
mixing coefficient. The squared error is divided by the number of classes. The rows are dealt out to as many
passes as there were batches, so that each pass of batch norm sees labeled and unlabeled rows alike; the
running statistics follow the first pass alone. The averaged weights predict, with those running statistics,
which are not averaged. The authors' weight decay multiplies every kernel by 1 - 0.02 * learning rate at each
step: that is `optimizer.name = "adamw"` with `weight_decay = 0.02`.

They train with batches of equal size (data.labeled_batch_size = train.batch_size). Other sizes work too: then
only as many rows of each batch change places as the smaller one has.

params, objective_state: those of contracts/classifier.py.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from imgcls_jax.contracts.classifier import Classifier, make_classifier
from imgcls_jax.contracts.objective import (
    Batch,
    Metrics,
    Objective,
    ObjectiveState,
    Params,
    Task,
    require_between,
)
from imgcls_jax.losses import sharpen, softmax_cross_entropy, softmax_squared_error


def make(
    backbone: Any,
    task: Task,
    *,
    alpha: float,
    lambda_u: float,
    ramp_fraction: float = 1 / 64,
    temperature: float = 0.5,
    ema_decay: float | None = 0.999,
    ema_warmup: bool = True,
    ema_statistics: int = 0,
) -> Objective:
    """Returns the objective; its batch_keys are "labeled" and "views", of which any number >= 1 is taken.

    Args:
      backbone: module of models/.
      task: num_classes and total_steps are read.
      alpha: of the mixing coefficient, Beta(alpha, alpha), >= 0; 0 mixes nothing. Published: 0.75; 0.25 for
        SVHN with its extra images.
      lambda_u: weight of the unlabeled loss, >= 0. Published: 75 for CIFAR-10, 250 for SVHN, 50 for STL-10.
      ramp_fraction: the weight rises linearly from 0 over this part of training, in [0, 1]; 0 for none.
        Published: 16384 of 2^20 steps.
      temperature: of sharpening, > 0.
      ema_decay: in (0, 1), of the weights that predict; None or 0 for the trained ones themselves.
      ema_warmup: as `make_classifier` has it; the authors' decay is constant.
      ema_statistics: as `make_classifier` has it.

    Raises:
      ValueError: a hyper-parameter outside its range.
    """
    require_between(0, math.inf, alpha=alpha, lambda_u=lambda_u)
    if not temperature > 0:
        raise ValueError(f"objective.temperature must be positive; got {temperature}")
    classifier = make_classifier(
        backbone,
        task.num_classes,
        ema_decay=ema_decay,
        ema_warmup=ema_warmup,
        ema_statistics=ema_statistics,
    )
    weight_at = ramp(lambda_u, ramp_fraction, task.total_steps)
    learner = _MixMatch(classifier, task.num_classes, alpha, temperature, weight_at)
    return Objective(
        batch_keys=("labeled", "views"),
        init=lambda rng, batch: classifier.init(rng, batch["labeled"]["image"]),
        loss=learner.loss,
        predict=classifier.predict,
        after_update=classifier.after_update,
        in_parts="rows are mixed with others of their own part" if alpha else "",
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _MixMatch:
    """The algorithm; the attributes are arguments of `make`, or made of them."""

    classifier: Classifier
    num_classes: int
    alpha: float
    temperature: float
    weight_at: optax.Schedule

    def loss(
        self, params: Params, objective_state: ObjectiveState, batch: Batch, rng: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, tuple[ObjectiveState, Metrics]]:
        labeled, views = batch["labeled"], batch["views"]
        rng_guess, rng_mix, rng_pass = jax.random.split(rng, 3)
        guesses = self.guess(params, objective_state, views, rng_guess)
        known = jax.nn.one_hot(labeled["label"], self.num_classes)
        sizes = [len(known)] + [len(guesses)] * len(views)
        images, targets = mix_rows(
            rng_mix,
            jnp.concatenate([labeled["image"], *views]),
            jnp.concatenate([known] + [guesses] * len(views)),
            alpha=self.alpha,
        )
        passes = interleave(jnp.split(images, np.cumsum(sizes)[:-1]))
        results = [
            self.classifier.train_logits(params, objective_state, rows, key)
            for rows, key in zip(passes, jax.random.split(rng_pass, len(passes)), strict=True)
        ]
        logits = jnp.concatenate(interleave([logits for logits, _ in results]))  # [Bl + V Bu, K]
        rows = sizes[0]
        loss_labeled = jnp.mean(softmax_cross_entropy(logits[:rows], targets[:rows]))
        loss_unlabeled = jnp.mean(softmax_squared_error(logits[rows:], targets[rows:]))
        weight = self.weight_at(step)
        value = loss_labeled + weight * loss_unlabeled
        metrics = {
            "loss": value,
            "loss_labeled": loss_labeled,
            "loss_unlabeled": loss_unlabeled,
            "lambda_u": weight,
            "confidence": jnp.mean(jnp.max(guesses, axis=-1)),
        }
        return value, (objective_state | {"batch_stats": results[0][1]}, metrics)

    def guess(
        self, params: Params, objective_state: ObjectiveState, views: Sequence[jax.Array], rng: jax.Array
    ) -> jax.Array:
        """Returns the labels that the views agree on, float32 [Bu, K], without gradient."""
        rngs = jax.random.split(rng, len(views))
        predictions = [
            jax.nn.softmax(self.classifier.train_logits(params, objective_state, view, key)[0])
            for view, key in zip(views, rngs, strict=True)
        ]
        mean = functools.reduce(operator.add, predictions) / len(views)
        return jax.lax.stop_gradient(sharpen(mean, temperature=self.temperature))


def ramp(lambda_u: float, ramp_fraction: float, total_steps: int) -> optax.Schedule:
    """Returns the weight of the unlabeled loss by step, as `make` has it.

    Raises:
      ValueError: ramp_fraction lies outside [0, 1].
    """
    require_between(0, 1, ramp_fraction=ramp_fraction)
    steps = round(ramp_fraction * total_steps)
    return optax.linear_schedule(0.0 if steps else lambda_u, lambda_u, max(steps, 1))


def mix_rows(
    rng: jax.Array, images: jax.Array, targets: jax.Array, *, alpha: float
) -> tuple[jax.Array, jax.Array]:
    """Mixes each row with a random one, by a coefficient of its own that leaves it the larger part.

    Eq.: x = lam_i x_i + (1 - lam_i) x_j, likewise the targets; lam_i = max(l, 1 - l), l ~ Beta(alpha, alpha).

    Args:
      rng: key.
      images: float [R, H, W, C].
      targets: float [R, K].
      alpha: >= 0; 0 mixes nothing.

    Returns:
      images and targets, shaped as they came.
    """
    if alpha == 0:
        return images, targets
    rng_lam, rng_pair = jax.random.split(rng)
    lam = jax.random.beta(rng_lam, alpha, alpha, (len(images),))
    lam = jnp.maximum(lam, 1 - lam)
    pair = jax.random.permutation(rng_pair, len(images))
    beside = lam[:, None, None, None]
    mixed = beside * images + (1 - beside) * images[pair]
    return mixed, lam[:, None] * targets + (1 - lam[:, None]) * targets[pair]


def interleave(batches: Sequence[jax.Array]) -> list[jax.Array]:
    """Deals out rows so that the first batch holds an equal share of each; applied twice, it undoes itself.

    With n batches the rows are cut into n groups, the larger ones last; group i of the first batch and group
    i of batch i change places.

    Args:
      batches: n arrays [B_i, ...]; of longer ones the rows beyond the shortest stay where they are.

    Returns:
      n arrays shaped as they came.
    """
    first, *others = batches
    shortest, n = min(len(rows) for rows in batches), len(batches)
    sizes = [(shortest + i) // n for i in range(n)]
    mixed, start = [], sizes[0]
    for rows, size in zip(others, sizes[1:], strict=True):
        group = slice(start, start + size)
        mixed.append(rows.at[group].set(first[group]))
        first = first.at[group].set(rows[group])
        start += size
    return [first, *mixed]
