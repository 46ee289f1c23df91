"""Several trained networks as one: the mean of their probabilities.

Each network reads images by its own line of transforms, so that any that know the same classes go together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from imgcls_jax.config.settings import EvalSettings
from imgcls_jax.inference.mean import require_same_classes
from imgcls_jax.inference.trained import Trained, probabilities
from imgcls_jax.train import evaluation
from imgcls_jax.train.build import make_evaluators

OUTPUTS = ("logits", "probabilities")  # what an ensemble predicts
ROWS = 1024  # of a batch of probabilities
Split = tuple[np.ndarray, np.ndarray]


def evaluations_of(trained: Trained) -> list[EvalSettings]:
    """Returns the evaluations of a run that read nothing but classes.

    Raises:
      ValueError: there is none.
    """
    chosen = evaluation.reading_only(trained.settings.evals, trained.objective.predict, OUTPUTS)
    if not chosen:
        raise ValueError(
            "the first run has no evaluation that reads classes alone, such as 'classification' without views"
        )
    return chosen


def read_split(members: Sequence[Trained], names: Sequence[str], split: str, batch_size: int) -> list[Split]:
    """Returns what each network says of a split: probabilities float32 [N, K], and the labels.

    Raises:
      ValueError, OSError: the data are not there, or are others for one of the networks.
    """
    found = [member.outputs_of_split(split, probabilities, batch_size=batch_size) for member in members]
    digests = [member.data.contents([split])[split].digest for member in members]
    for name, (_, labels), digest in zip(names, found, digests, strict=True):
        if digest != digests[0] or not np.array_equal(labels, found[0][1]):
            raise ValueError(f"the split {split!r} of {name} holds other examples than that of {names[0]}")
    return found


def evaluate(
    members: Sequence[Trained], names: Sequence[str], *, split: str = "", batch_size: int = 64
) -> dict[str, dict[str, Any]]:
    """Evaluates networks one by one and as an ensemble, by the first one's evaluations.

    Args:
      members: the networks.
      names: of each, all different.
      split: to evaluate on instead of each evaluation's own; "" for theirs.
      batch_size: images at a time.

    Returns:
      {name: {evaluation: metrics}}, the ensemble as "ensemble".

    Raises:
      ValueError: they do not go together, or nothing can be measured.
    """
    require_same_classes(names, [member.class_names for member in members])
    first, evals = members[0], evaluations_of(members[0])
    multi_label = first.objective.multi_label
    read: dict[str, list[Split]] = {}

    def opened(wanted: str) -> list[Split]:
        if wanted not in read:
            read[wanted] = read_split(members, names, wanted, batch_size)
        return read[wanted]

    def predict(params: Any, objective_state: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        mean = batch["image"]
        info = jnp.finfo(jnp.float32)
        bounded = jnp.clip(mean, info.tiny, 1 - info.epsneg)
        logits = jnp.log(bounded) - (jnp.log1p(-bounded) if multi_label else 0.0)
        return {"logits": logits, "probabilities": mean}

    def measured(which: slice) -> dict[str, Any]:
        def open_split(wanted: str) -> Iterator[dict[str, Any]]:
            chosen = opened(split or wanted)[which]
            mean, labels = np.mean([rows for rows, _ in chosen], axis=0), chosen[0][1]
            for start in range(0, len(mean), ROWS):
                part = slice(start, start + ROWS)
                mask = np.ones(len(mean[part]), bool)
                yield {"image": mean[part], "label": labels[part], "mask": mask}

        evaluators = make_evaluators(evals, predict, open_split, first.task)
        return dict(evaluation.run(evaluators, {}, {}))

    result = {name: measured(slice(number, number + 1)) for number, name in enumerate(names)}
    return result | {"ensemble": measured(slice(None))}
