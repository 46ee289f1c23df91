"""Whether two configurations make the same run, and which fields tell them apart."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from imgcls_jax.config.parameters import spellings_of
from imgcls_jax.config.written import Config, flat_fields

# A run may be taken up again with other values of these: none of them changes a number it computes, but for
# train.parallel, whose forms keep the same state.
FREE_ON_RESUME = (
    "data.num_workers",
    "data.num_threads",
    "data.prefetch_batches",
    "data.cache_gib",
    "data.on_device",
    "train.log_every_steps",
    "train.keep_checkpoints",
    "train.checkpoint_every_minutes",
    "train.best_metric",
    "train.best_mode",
    "train.parallel",
    "train.steps_per_call",
    "train.loggers",
)
# Where data lie, not what they are: these may differ where what the workdir keeps of its data agrees.
WHERE = ("data.root", "data.list_file", "data.classes", "data.table", "data.images", "data.signatures")
# The section of the evaluations. They read the state and change nothing of it: a run may go on with others,
# though it is then, to its digest, another run.
EVALUATIONS = "evals."
LENGTH = "train.total_steps"
# Younger fields that say nothing at this value: left out, so that the digests of older runs stay; * is the
# name of any evaluation.
WITHOUT = {
    "data.folds": 0,
    "data.fold": 0,
    "data.fold_seed": 0,
    "data.group_column": "",
    "train.resume_from": "",
    "train.replicas": 0,
    "optimizer.plateau_steps": 0,
    "optimizer.patience": 10,
    "optimizer.decay_power": 1.0,
    "optimizer.timescale_steps": 0,
    "optimizer.cooldown_steps": 0,
    "optimizer.layer_decay": 1.0,
    "optimizer.sam_radius": 0.0,
    "optimizer.l1": 0.0,
    "data.images_per_class": 1,
    "data.signatures": "",
    "data.augmentation_repeats": 1,
    "objective.js_weight": 0.0,
    "objective.loss": "cross_entropy",
    "objective.target_threshold": None,
    "objective.projector_std": 0.0,
    "objective.shuffled": True,
    "objective.ema_statistics": 0,
    "evals.*.bootstrap": 0,
    "evals.*.temperature_split": "",
    "model.class_token": True,
    "model.registers": 0,
    "model.layer_scale": 0.0,
    "model.tanh_gelu": False,
    "model.mlp_width": 0,
    "model.gated_mlp": False,
    "evals.*.pad": 0,
    "model.relu_after_hidden": True,
}
# The same, of one family: others had the field before.
WITHOUT_OF_FAMILY = {("resnet", "model.stochastic_depth"): 0.0}
# Values of a field that mean the same.
ALIKE = {"model.dtype": (None, "float32"), "objective.ema_decay": (None, 0)}
ABSENT = "absent"


def binding_fields(resolved: Config) -> dict[str, Any]:
    """Returns the flat fields that must stay as they are for a run to be the same, alike values as one."""
    fields = flat_fields(resolved)
    family = fields.get("model.name")
    return {
        name: ALIKE[name][0] if value in ALIKE.get(name, ()) else value
        for name, value in fields.items()
        if name not in FREE_ON_RESUME and not _says_nothing(family, name, value)
    }


def _says_nothing(family: Any, name: str, value: Any) -> bool:
    name = _of_optimizer(name)
    if (family, name) in WITHOUT_OF_FAMILY:
        return value == WITHOUT_OF_FAMILY[family, name]
    section, _, field = name.rpartition(".")
    if section.startswith(EVALUATIONS):
        name = f"{EVALUATIONS}*.{field}"
    return name in WITHOUT and value == WITHOUT[name]


def _of_optimizer(name: str) -> str:
    """Returns where a field of a phase stands for all phases, in the optimizer; others as they are."""
    return f"optimizer.{name.rpartition('.')[2]}" if name.startswith("phases.") else name


def digest(resolved: Config) -> str:
    """Returns the SHA-256, in hex, of the fields that make a run, durations in steps.

    Two files that say the same in other words (a default written or left out, 1 for 1.0) have one digest.
    """
    fields = {name: _canonical(value) for name, value in binding_fields(resolved).items()}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _canonical(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_canonical(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def differing_fields(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Returns {field: (old value, new value)} of the fields that differ and matter.

    Args:
      old, new: resolved, durations in steps.
    """
    before, after = binding_fields(old), binding_fields(new)
    return {
        name: (before.get(name, ABSENT), after.get(name, ABSENT))
        for name in sorted(before.keys() | after.keys())
        if before.get(name, ABSENT) != after.get(name, ABSENT)
    }


def without_new_fields(
    differing: dict[str, tuple[Any, Any]], new_written: Config
) -> dict[str, tuple[Any, Any]]:
    """Returns the differences but for fields that the code did not have then, and that nobody has set since.

    Their default is what the code did before: a field that is new changes no number of a run by itself.

    Args:
      differing: of differing_fields.
      new_written: as the file and command line say it now.
    """
    written = flat_fields(new_written)

    def is_written(name: str) -> bool:
        return any(field in written for own in (name, _of_optimizer(name)) for field in spellings_of(own))

    return {name: own for name, own in differing.items() if own[0] != ABSENT or is_written(name)}


def describe(differing: dict[str, tuple[Any, Any]], old_written: Config, new_written: Config) -> list[str]:
    """Returns one line a differing field, with what changed: what is written, or a default of the code.

    Args:
      differing: of differing_fields.
      old_written, new_written: as the files and command lines said it.
    """
    before, after = flat_fields(old_written), flat_fields(new_written)
    lines = []
    for name, (old, new) in differing.items():
        is_written = [field for field in spellings_of(name) if before.get(field) != after.get(field)]
        why = "" if is_written else " (a default of the code, which has changed)"
        lines.append(f"{name}: {old!r} in the workdir, {new!r} now{why}")
    return lines
