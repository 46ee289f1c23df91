"""From a configuration to the things it names: backbone, objective, evaluators (the data: data_side.py).

A configuration is a nested dict of JSON values with the flat sections data, model, objective, optimizer,
train and evals, and phases where a run has several (train/phase.py). The fields of a section are the
arguments of what it builds, so an unknown one is found by name before anything runs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import inspect
import json
import math
import pkgutil
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from imgcls_jax.config.field_types import did_you_mean, fits, require_at_least, require_types
from imgcls_jax.contracts.objective import Objective, Task
from imgcls_jax.runtime.files import read_json, write_json
from imgcls_jax.train import contract
from imgcls_jax.train.views import average_views

Config = dict[str, Any]
SECTIONS = ("data", "model", "objective", "optimizer", "train", "evals")
DTYPES = ("float32", "bfloat16", "float16")
ON_NONFINITE = ("stop", "skip", "rollback")
PARALLEL = ("replicated", "sharded", "per_replica")
OPTIONAL_SECTIONS = ("phases",)
# A run may be taken up again with other values of these: none of them changes a number it computes, but for
# train.parallel, whose forms keep the same state.
FREE_ON_RESUME = (
    "data.num_workers",
    "data.num_threads",
    "data.prefetch_batches",
    "data.cache_gib",
    "train.log_every_steps",
    "train.keep_checkpoints",
    "train.checkpoint_every_minutes",
    "train.best_metric",
    "train.best_mode",
    "train.parallel",
)


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """The section `train`; every *_steps may be given as *_epochs or *_examples.

    Attributes:
      batch_size: examples a step, over all devices.
      total_steps: of the run.
      seed: of initialisation, order and augmentation.
      accumulate_steps: parts in which a batch is worked through, to save memory.
      eval_batch_size: 0 for batch_size.
      log_every_steps, eval_every_steps, checkpoint_every_steps: 0 switches the periodic ones off; the end of
        a run always evaluates and saves, and every evaluation saves too.
      checkpoint_every_minutes: the longest that a run goes on without a checkpoint; longer where saving takes
        more than a few hundredths of that time. 0 switches it off.
      keep_checkpoints: the newest ones that stay.
      best_metric, best_mode: e.g. "test/accuracy" and "max": the checkpoint that stays besides.
      feature_cache_gib: the most memory of the host, in GiB, for the features of a frozen backbone, which are
        then computed once; 0 never caches.
      on_nonfinite: "stop", "skip" or "rollback": what becomes of a step whose loss or state is not finite
        (train/nonfinite.py).
      parallel: how the devices share the work; a run may go on in another form.
        "replicated": each has the whole state; everything is computed as on one device, BatchNorm's
        statistics and the loss over the global batch.
        "sharded": the same numbers to rounding, but each device keeps only its part of the large params,
        their optimizer state and their average (FSDP); the params are gathered for the length of a step.
        "per_replica": as pmap had it: BatchNorm's statistics and the loss are those of a device's own rows,
        and gradients, metrics and running statistics are averaged. Losses that compare examples still see
        all.
    """

    batch_size: int
    total_steps: int
    seed: int = 0
    accumulate_steps: int = 1
    eval_batch_size: int = 0
    log_every_steps: int = 50
    eval_every_steps: int = 0
    checkpoint_every_steps: int = 0
    checkpoint_every_minutes: float = 10.0
    keep_checkpoints: int = 2
    best_metric: str = ""
    best_mode: str = "max"
    feature_cache_gib: float = 4.0
    on_nonfinite: str = "stop"
    parallel: str = "replicated"

    def __post_init__(self) -> None:
        require_at_least("train", self, batch_size=1, total_steps=0, seed=0, accumulate_steps=1)
        require_at_least("train", self, eval_batch_size=0, log_every_steps=0, eval_every_steps=0)
        require_at_least("train", self, checkpoint_every_steps=0, keep_checkpoints=1, feature_cache_gib=0)
        require_at_least("train", self, checkpoint_every_minutes=0)
        if self.on_nonfinite not in ON_NONFINITE:
            raise ValueError(
                f"config.train.on_nonfinite is one of {', '.join(ON_NONFINITE)}; got {self.on_nonfinite!r}"
            )
        if self.parallel not in PARALLEL:
            raise ValueError(f"config.train.parallel is one of {', '.join(PARALLEL)}; got {self.parallel!r}")


def plain(config: Any) -> Config:
    """Returns a configuration (ConfigDict or dict) as nested dicts of JSON values.

    Raises:
      ValueError: a section is missing or unknown, or a value has no JSON form.
    """
    nested = config.to_dict() if hasattr(config, "to_dict") else config
    try:
        nested = json.loads(json.dumps(nested))
    except TypeError as error:
        raise ValueError(f"the configuration holds a value without a JSON form: {error}") from error
    if not isinstance(nested, dict):
        raise ValueError(f"a configuration is a dictionary of sections; got {nested!r}")
    missing, unknown = set(SECTIONS) - set(nested), set(nested) - {*SECTIONS, *OPTIONAL_SECTIONS}
    if missing or unknown:
        raise ValueError(
            f"a configuration has the sections {SECTIONS}, and perhaps {OPTIONAL_SECTIONS}; missing: "
            f"{sorted(missing)}, unknown: {sorted(unknown)}"
        )
    _check_values(nested)
    return nested


def _check_values(config: Config) -> None:
    """Raises ValueError where a section is none, or a number is none that any field takes."""
    sections = dict(config)
    for outer in ("evals", "phases"):
        if isinstance(config.get(outer), dict):
            sections |= {f"{outer}.{name}": fields for name, fields in config[outer].items()}
    for name, fields in sections.items():
        if not isinstance(fields, dict):
            raise ValueError(f"config.{name} is a section of fields; got {fields!r}")
    for name, value in flat_fields(config).items():
        limit = math.inf if isinstance(value, float) else 2**63
        if isinstance(value, (int, float)) and not abs(value) < limit:
            raise ValueError(f"config.{name} is {value}, which no field takes")


def config_digest(config: Config) -> str:
    """Returns the SHA-256, in hex, of the configuration's JSON with sorted keys."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def flat_fields(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns {"train.batch_size": 64, ...}."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= (
            flat_fields(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
        )
    return flat


def differing_fields(old: Config, new: Config) -> list[str]:
    """Returns one line a field that differs and matters, e.g. "train.seed: 0 in the workdir, 1 now"."""
    absent = "absent"
    old_flat, new_flat = flat_fields(old), flat_fields(new)
    return [
        f"{key}: {old_flat.get(key, absent)!r} in the workdir, {new_flat.get(key, absent)!r} now"
        for key in sorted(old_flat.keys() | new_flat.keys())
        if key not in FREE_ON_RESUME and old_flat.get(key, absent) != new_flat.get(key, absent)
    ]


def find_module(room: str, name: str) -> Any:
    """Returns the module imgcls_jax.<room>.<name>.

    Raises:
      ValueError: there is none; names those there are.
    """
    package = importlib.import_module(f"imgcls_jax.{room}")
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    if name not in names:
        raise ValueError(f"imgcls_jax/{room}/ has no file {name}.py; it has {', '.join(names)}")
    return importlib.import_module(f"imgcls_jax.{room}.{name}")


def call(
    function: Callable[..., Any], section: str, fields: Mapping[str, Any], *given: Any, **known: Any
) -> Any:
    """Calls a function with the fields of a configuration's section as keyword arguments.

    Args:
      function: what to call.
      section: its name, for messages.
      fields: keyword arguments that the user wrote.
      *given, **known: arguments that the user does not write.

    Raises:
      ValueError: a field that the function does not take (with the nearest that it does), one it needs and
        did not get, or one of another type than its annotation.
    """
    parameters = inspect.signature(function).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    positional = list(parameters)[: len(given)]
    free = [
        name
        for name, p in parameters.items()
        if name not in known
        and name not in positional
        and p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    for field in fields:
        if field not in free and not takes_any:
            hint = did_you_mean(field, free) or f"there are {', '.join(free) or 'none'}"
            raise ValueError(f"config.{section}.{field}: no such field; {hint}")
    for name in free:
        if parameters[name].default is inspect.Parameter.empty and name not in fields:
            raise ValueError(f"config.{section}.{name} is missing")
    require_types(function, section, fields)
    try:
        return function(*given, **fields, **known)
    except TypeError as error:
        if takes_any and "unexpected keyword argument" in str(error):
            raise ValueError(f"config.{section}: {error}") from error
        raise


def in_steps(section: Mapping[str, Any], name: str, steps_per_epoch: int, batch_size: int) -> dict[str, Any]:
    """Returns a section with every duration in steps: x_epochs and x_examples become x_steps.

    Raises:
      ValueError: one duration given in two units.
    """
    units = {"_epochs": steps_per_epoch, "_examples": 1 / batch_size}
    converted: dict[str, Any] = {}
    for key, value in section.items():
        unit = next((unit for unit in units if key.endswith(unit)), None)
        if unit and not fits(value, float | Sequence[float]):
            raise ValueError(f"config.{name}.{key} is a number or a list of numbers; got {value!r}")
        if unit:
            key = key.removesuffix(unit) + "_steps"
            factor = units[unit]
            value = [round(v * factor) for v in value] if isinstance(value, list) else round(value * factor)
        if key in converted:
            raise ValueError(
                f"config.{name}: {key.removesuffix('_steps')} is given in two units; keep one of "
                f"{key}, {key.removesuffix('steps')}epochs, {key.removesuffix('steps')}examples"
            )
        converted[key] = value
    return converted


def find_family(config: Config) -> tuple[Any, str]:
    """Returns (module, variant) of the section model.

    Raises:
      ValueError: an unknown name.
    """
    model = config["model"]
    family = find_module("models", model.get("name", "absent"))
    if not hasattr(family, "build"):
        raise ValueError(f"config.model.name: models/{model['name']}.py holds no family of networks")
    return family, model.get("variant", inspect.signature(family.build).parameters["variant"].default)


def make_backbone(config: Config) -> Any:
    """Builds the backbone; the field `pretrained` is for Setup.initial_state.

    Raises:
      ValueError: an unknown name or field of the section model, or a probability outside [0, 1].
    """
    family, _ = find_family(config)
    model = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in config["model"].items()
        if key not in ("name", "pretrained")
    }
    if model.get("dtype") is not None and model["dtype"] not in DTYPES:
        raise ValueError(f"config.model.dtype is one of {', '.join(DTYPES)} or None; got {model['dtype']!r}")
    if not fits(config["model"].get("pretrained"), str | None):
        raise ValueError(f"config.model.pretrained is a path or ''; got {config['model']['pretrained']!r}")
    backbone = call(family.build, "model", model)
    require_types(type(backbone), "model", model)
    for field, value in model.items():
        if field.endswith(("dropout", "stochastic_depth")) and not 0 <= value <= 1:
            raise ValueError(f"config.model.{field} is a probability, in [0, 1]; got {value}")
    return backbone


def make_objective(config: Config, task: Task, backbone: Any) -> Objective:
    """Builds the objective around a backbone.

    Raises:
      ValueError: an unknown name or field of the section objective.
    """
    fields = dict(config["objective"])
    algorithm = find_module("objectives", fields.pop("name", "absent"))
    if not hasattr(algorithm, "make"):
        raise ValueError(
            f"config.objective.name: objectives/{config['objective']['name']}.py holds no algorithm"
        )
    contract.check_make(algorithm.make, "backbone", "task")
    with contract.naming(algorithm.make):
        objective = call(algorithm.make, "objective", fields, backbone, task)
    contract.check_objective(objective, algorithm.make)
    return objective


def make_evaluators(config: Config, predict: Any, open_split: Any, task: Task) -> dict[str, Any]:
    """Returns {name: evaluate(params, objective_state) -> metrics} for the section `evals`.

    An evaluator's file exports make(predict, open_split, *, task, <options>), and READS, which names what it
    reads of what the objective predicts (train/evaluation.py:check_evaluators). An option `views` of any of
    them, the arguments of train/views.py, averages the prediction over several views of an image.

    Args:
      config: of the run.
      predict: (params, objective_state, batch) -> objective.predict's output, for a batch as open_split
        yields it.
      open_split: split -> its batches, every example once.
      task: of the run.

    Raises:
      ValueError: an unknown evaluator or option.
    """
    evaluators = {}
    for name, fields in config["evals"].items():
        options = dict(fields)
        module = find_module("evaluators", options.pop("evaluator", "absent"))
        if not hasattr(module, "make"):
            raise ValueError(
                f"config.evals.{name}.evaluator: evaluators/{fields['evaluator']}.py measures nothing"
            )
        contract.check_make(module.make, "predict", "open_split", "task")
        own = predict
        if "views" in options:
            own = call(average_views, f"evals.{name}.views", dict(options.pop("views")), predict)
        with contract.naming(module.make):
            evaluators[name] = call(module.make, f"evals.{name}", options, own, open_split, task=task)
    return evaluators


def evaluated_splits(config: Config) -> Iterator[tuple[str, str]]:
    """Yields (field, split) for each split that the evaluations read: the evaluators' keywords whose names
    end in "split", at their defaults where they are not given. "" as a default is none."""
    for name, fields in config["evals"].items():
        parameters = inspect.signature(find_module("evaluators", fields["evaluator"]).make).parameters
        for field, parameter in parameters.items():
            split = fields.get(field, parameter.default)
            named = parameter.kind is parameter.KEYWORD_ONLY and field.endswith("split")
            if named and (split or parameter.default != ""):
                yield f"evals.{name}.{field}", split.replace("{split}", fields["split"])


def load_config(workdir: Path) -> Config:
    """Returns the configuration of a workdir.

    Raises:
      ValueError: it is absent or damaged.
    """
    path = workdir / "config.json"
    config = read_json(path)
    try:
        return plain(config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def eval_batch_size(config: Config) -> int:
    """Returns how many examples an evaluation takes at a time.

    Raises:
      ValueError: it is no positive integer.
    """
    size = config["train"].get("eval_batch_size") or config["train"].get("batch_size")
    if not fits(size, int) or size < 1:
        raise ValueError(f"config.train.batch_size is a whole number of examples; got {size!r}")
    return size


def save_task(workdir: Path, task: Task, class_names: tuple[str, ...], source_shape: tuple[int, ...]) -> None:
    """Keeps in the workdir what prediction needs to know of the data: it must not need the data
    themselves."""
    fields = dataclasses.asdict(task)
    del fields["axis_name"]  # who loads it maps nothing
    write_json(workdir / "task.json", fields | {"class_names": class_names, "source_shape": source_shape})


def load_task(workdir: Path) -> tuple[Task, tuple[str, ...], tuple[int, ...]]:
    """Returns (task, class_names, shape of the images between the host and the device side) of a workdir.

    Raises:
      ValueError: task.json is absent or damaged.
    """
    path = workdir / "task.json"
    fields = read_json(path)
    try:
        class_names, source_shape = tuple(fields.pop("class_names")), tuple(fields.pop("source_shape"))
        fields |= {name: tuple(fields.get(name, ())) for name in ("image_shape", "class_counts")}
        task = Task(**fields)
        sound = fits(source_shape, tuple[int, int, int]) and fits(class_names, Sequence[str])
        sound &= all(fits(value, typing.get_type_hints(Task)[name]) for name, value in fields.items())
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error!r}") from error
    if not sound or len(class_names) != task.num_classes:
        raise ValueError(f"{path} is damaged: a value of another type, or not num_classes class_names")
    return task, class_names, source_shape
