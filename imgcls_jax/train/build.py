"""What the sections model, objective and evals name, built from their settings."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

from imgcls_jax.config.modules import find_function
from imgcls_jax.config.resolve import build_backbone
from imgcls_jax.config.settings import EvalSettings, ModelSettings, ObjectiveSettings
from imgcls_jax.contracts.objective import Objective, Task
from imgcls_jax.train import contract
from imgcls_jax.train.views import average_views


def make_backbone(settings: ModelSettings) -> Any:
    """Builds the backbone; `settings.pretrained` is for train/initial.py.

    Raises:
      ValueError: an unknown name or field, or a probability outside [0, 1].
    """
    return build_backbone(find_function("models", settings.name, "build"), settings.variant, settings.fields)


def make_objective(settings: ObjectiveSettings, task: Task, backbone: Any) -> Objective:
    """Builds the objective around a backbone.

    Raises:
      ValueError: an unknown name, or a field out of range.
    """
    make = find_function("objectives", settings.name, "make")
    contract.check_make(make, "backbone", "task")
    with contract.naming(make):
        objective = make(backbone, task, **settings.fields)
    contract.check_objective(objective, make)
    return objective


def make_evaluators(
    evals: Sequence[EvalSettings], predict: Any, open_split: Any, task: Task
) -> dict[str, Any]:
    """Returns {name: evaluate(params, objective_state) -> metrics}.

    An evaluator's file exports make(predict, open_split, *, task, <options>), and READS, which names what it
    reads of what the objective predicts (train/evaluation.py:check_evaluators).

    Args:
      evals: of the run.
      predict: (params, objective_state, batch) -> objective.predict's output, for a batch as open_split
        yields it.
      open_split: split -> its batches, every example once.
      task: of the run.

    Raises:
      ValueError: an unknown evaluator, or an option out of range.
    """
    evaluators = {}
    for settings in evals:
        make = find_function("evaluators", settings.evaluator, "make")
        contract.check_make(make, "predict", "open_split", "task")
        own = predict if settings.views is None else average_views(predict, settings.views)
        with contract.naming(make):
            evaluators[settings.name] = make(own, open_split, task=task, **_with_split(settings))
    return evaluators


def _with_split(settings: EvalSettings) -> dict[str, Any]:
    """Returns the fields of an evaluation, "{split}" in the names of splits standing for its own."""
    own = settings.fields.get("split", "")
    return {
        field: value.replace("{split}", own) if field.endswith("split") else value
        for field, value in settings.fields.items()
    }


def evaluated_splits(evals: Sequence[EvalSettings]) -> Iterator[tuple[str, str]]:
    """Yields (field, split) for each split that the evaluations read: the evaluators' keywords whose names
    end in "split". "" as a default is none."""
    for settings in evals:
        parameters = inspect.signature(find_function("evaluators", settings.evaluator, "make")).parameters
        for field, split in _with_split(settings).items():
            if field.endswith("split") and (split or parameters[field].default != ""):
                yield f"evals.{settings.name}.{field}", split
