"""Zero-shot classification by a network's own scores of all classes, learned or not.

The rates are those of metrics/zero_shot.py: means over classes. A network that learns a compatibility of
images and signatures scores classes without a training image, and so does one that compares images and texts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from imgcls_jax.contracts.evaluator import OpenSplit, Predict, make_collector
from imgcls_jax.metrics.zero_shot import (
    Scored,
    class_mean,
    learned_classes,
    measured_by_report,
    report,
)

READS = ("logits",)  # of what the objective predicts


def measures(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the names of the numbers that `make` with these options measures."""
    if not options["unseen_split"]:
        return ("num_examples", "accuracy", "class_mean_accuracy")
    return measured_by_report(calibrated=options["delta"] is not None)


def make(
    predict: Predict,
    open_split: OpenSplit,
    *,
    task: Any,
    split: str,
    unseen_split: str = "",
    delta: float | None = None,
) -> Callable[[Any, Any], dict[str, Any]]:
    """Returns the evaluator (params, objective_state) -> metrics.

    Args:
      predict: (params, objective_state, batch) -> {"logits": float [B, C]}, the scores of all classes.
      open_split: split -> its batches, each example once, with label int [B] and mask bool [B].
      task: num_classes C and class_counts are read where there is an unseen_split.
      split: of the classes that were learned, or, without unseen_split, of any.
      unseen_split: of the others, "{split}" in it standing for split; "" where there are none, as for a
        network that was trained elsewhere.
      delta: to take off the scores of the learned classes, chosen elsewhere; None for no such figures.

    Returns:
      A function that returns num_examples, accuracy, the share of images classified right, and
      class_mean_accuracy; with unseen_split what `report` of metrics/zero_shot.py returns. Of equal scores
      the lowest class counts.

    Raises:
      ValueError: with unseen_split, where every class of the run is learned.
    """
    is_seen = learned_classes(task) if unseen_split else None

    def columns(params: Any, objective_state: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return {"logits": predict(params, objective_state, batch)["logits"].astype(jnp.float32)}

    collect = make_collector(columns, open_split)

    def scored(params: Any, objective_state: Any, name: str) -> Scored:
        examples = collect(params, objective_state, name)
        return Scored(examples["logits"], examples["label"])

    def evaluate(params: Any, objective_state: Any) -> dict[str, Any]:
        images = scored(params, objective_state, split)
        if is_seen is not None:
            unseen = scored(params, objective_state, unseen_split)
            return report(images, unseen, is_seen, delta=delta)
        hits = images.scores.argmax(axis=1) == images.labels
        return {
            "num_examples": len(hits),
            "accuracy": float(np.mean(hits)),
            "class_mean_accuracy": class_mean(hits, images.labels),
        }

    return evaluate
