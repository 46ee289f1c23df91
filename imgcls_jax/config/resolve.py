"""A written configuration made whole: every field of every section, once.

The fields of a section are the parameters of what it builds, so an unknown one is found by name, its type by
its annotation, and what is not written gets the parameter's default. Durations stay in the unit in which they
are written until the length of an epoch is known (configuration.py).
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any

from imgcls_jax.config import settings
from imgcls_jax.config.configuration import Configuration, record_of
from imgcls_jax.config.field_types import fits, require_types
from imgcls_jax.config.parameters import (
    REQUIRED,
    UNITS,
    filled,
    found,
    options_of,
    parameters_of,
    required,
    spellings_of,
)
from imgcls_jax.config.written import Config, plain

MUON_PARAMS = "muon_params"
# Fields in place of an argument of optax that has no JSON form, with their defaults.
PATTERNS = {
    "trust_params": ("trust_ratio_mask", r".*/kernel"),
    MUON_PARAMS: ("muon_weight_dimension_numbers", r"backbone/.*/kernel"),
}


def resolve(config: Any) -> Configuration:
    """Resolves a written configuration.

    Args:
      config: ConfigDict or dict, of the sections of config/written.py.

    Raises:
      ValueError: an unknown section, field, name or option, a field of another type, or one that is missing;
        names it, with the nearest that exists.
    """
    written = plain(config)
    data, train, optimizer = written["data"], written["train"], written["optimizer"]
    phases = written.get("phases", {})
    resolved = {
        "data": _data(data),
        "model": _model(written["model"]),
        "objective": _objective(written["objective"]),
        "optimizer": _optimizer("optimizer", optimizer),
        "train": _train(train, phases),
        "evals": {name: _evals(f"evals.{name}", fields) for name, fields in written["evals"].items()},
    }
    resolved["phases"] = {name: _phase(f"phases.{name}", fields, resolved) for name, fields in phases.items()}
    return Configuration(written, json.loads(json.dumps(resolved)))


def resolve_data(fields: Config) -> settings.DataSettings:
    """Resolves the section `data` alone, for what needs data and no run.

    Args:
      fields: as written.

    Raises:
      ValueError: an unknown field or source, one of another type, or one that is missing.
    """
    return record_of(settings.DataSettings, json.loads(json.dumps(_data(fields))))


def resolve_model(fields: Config) -> settings.ModelSettings:
    """Resolves a section `model` alone.

    Args:
      fields: as written.

    Raises:
      ValueError: an unknown family, variant or field, one of another type, or one that is missing.
    """
    return record_of(settings.ModelSettings, json.loads(json.dumps(_model(fields))))


# ---- one section each


def _data(fields: Config) -> Config:
    own = parameters_of(settings.DataSettings)
    source = required("data", fields, "source")
    of_source = parameters_of(found("data.source", "data.sources", source))
    if "split" not in of_source:
        raise ValueError(f"imgcls_jax/data/sources/{source}.py: make takes the split as its first argument")
    del of_source["split"]
    return filled("data", own | of_source, fields)


def _model(fields: Config) -> Config:
    name = required("model", fields, "name")
    build = found("model.name", "models", name, "build")
    others = {key: value for key, value in fields.items() if key not in ("name", "pretrained")}
    variant = others.pop("variant", inspect.signature(build).parameters["variant"].default)
    if variant is REQUIRED:
        raise ValueError(f"config.model.variant is missing: {name} has no default")
    pretrained = fields.get("pretrained") or ""
    if not isinstance(pretrained, str):
        raise ValueError(
            f"config.model.pretrained is a path, the name of public weights or ''; got {pretrained!r}"
        )
    backbone = build_backbone(build, variant, others)
    attributes = {
        field.name: getattr(backbone, field.name)
        for field in dataclasses.fields(backbone)
        if field.name not in ("parent", "name") and _is_json(getattr(backbone, field.name))
    }
    try:
        complete = build(variant, **attributes) == backbone
    except (TypeError, ValueError):  # a backbone whose fields are not arguments of its family
        complete = False
    return {
        "name": name,
        "variant": variant,
        "pretrained": pretrained,
        **(attributes if complete else others),
    }


def build_backbone(build: Callable[..., Any], variant: str, fields: Mapping[str, Any]) -> Any:
    """Builds the backbone of a family.

    Args:
      build: of a file of models/.
      variant: of the family.
      fields: JSON values, arguments of its `build`.

    Raises:
      ValueError: an unknown variant or field, one of another type, or a probability outside [0, 1].
    """
    fields = {name: _as_tuples(value) for name, value in fields.items()}
    _require_dtype("config.model.dtype", fields.get("dtype"))
    require_types(build, "model", {"variant": variant})
    try:
        backbone = build(variant, **fields)
    except TypeError as error:
        raise ValueError(f"config.model: {error}") from error
    require_types(type(backbone), "model", fields)
    for field, value in fields.items():
        if field.endswith(("dropout", "stochastic_depth")) and not 0 <= value <= 1:
            raise ValueError(f"config.model.{field} is a probability, in [0, 1]; got {value}")
    return backbone


def _require_dtype(field: str, value: Any) -> None:
    """Raises ValueError for a type that nothing here computes in."""
    if value is None or value in settings.DTYPES:
        return
    why = ""
    if value == "float16":
        why = (
            ": gradients below 6e-8 become 0 in float16, and nothing here scales the loss against that; "
            "'bfloat16' has the range of float32"
        )
    raise ValueError(f"{field} is one of {', '.join(settings.DTYPES)} or None; got {value!r}{why}")


def _objective(fields: Config) -> Config:
    name = required("objective", fields, "name")
    return {"name": name} | filled(
        "objective", options_of(found("objective.name", "objectives", name)), fields, "name"
    )


def _optimizer(section: str, fields: Config) -> Config:
    own = parameters_of(settings.OptimizerSettings)
    of_optax = _hyperparameters(required(section, fields, "name"))
    for field, value in fields.items():
        if field in of_optax and field.endswith("dtype"):
            _require_dtype(f"config.{section}.{field}", value)
        elif field in of_optax and field not in PATTERNS and not fits(value, float | bool | None):
            raise ValueError(f"config.{section}.{field} is a number, or True or False; got {value!r}")
    of_optax = {name: field for name, field in of_optax.items() if name not in own}
    return filled(section, own | of_optax, fields)


def _hyperparameters(name: Any) -> dict[str, tuple[Any, Any]]:
    """Returns the parameters of an optimizer of optax whose defaults have a JSON form.

    Raises:
      ValueError: optax has no such optimizer.
    """
    parameters = inspect.signature(optax_function(name)).parameters
    of_patterns = {pattern: (str, default) for pattern, (of, default) in PATTERNS.items() if of in parameters}
    made = ("learning_rate", "mask", "weight_decay_mask", *(of for of, _ in PATTERNS.values()))
    fields = {
        name: (Any, parameter.default)
        for name, parameter in parameters.items()
        if name not in made and (parameter.default is REQUIRED or _is_json(parameter.default))
    }
    return fields | of_patterns


SCHEDULE_FREE = (
    "it trains at other params than those to evaluate, where BatchNorm's running statistics do not belong; "
    "take 'adamw' or 'sgd' with optimizer.schedule = 'constant' and optimizer.cooldown_epochs"
)
NOT_OFFERED = {
    "lbfgs": "it searches along a line and calls the loss many times a step; the train step computes it once",
    "sophia": "it estimates the Hessian from the loss itself, and the train step hands on its gradient alone",
    "dpsgd": "it needs the gradient of every example, and the train step has that of the batch",
    "schedule_free": SCHEDULE_FREE,
    "schedule_free_sgd": SCHEDULE_FREE,
    "schedule_free_adamw": SCHEDULE_FREE,
}


def optax_function(name: Any) -> Callable[..., Any]:
    """Returns the function of optax, or of optax.contrib, that a configuration names as its optimizer.

    Raises:
      ValueError: there is none of that name that takes a learning rate.
    """
    function = None
    if isinstance(name, str):
        modules = (importlib.import_module("optax"), importlib.import_module("optax.contrib"))
        function = next((getattr(module, name) for module in modules if hasattr(module, name)), None)
    if isinstance(name, str) and name in NOT_OFFERED:
        raise ValueError(f"config.optimizer.name = {name!r}: {NOT_OFFERED[name]}")
    if (
        not inspect.isfunction(function)
        or "learning_rate" not in inspect.signature(function).parameters
        or name.startswith("scale_by_")  # a part of an optimizer
    ):
        raise ValueError(
            "config.optimizer.name is the name of an optimizer in optax, such as 'sgd' or 'adamw'; got "
            f"{name!r}"
        )
    return function


def _train(fields: Config, phases: Config) -> Config:
    given = [f"total_{unit}" for unit in UNITS if fields.get(f"total_{unit}")]
    if phases and given:
        raise ValueError(
            f"config.train.{given[0]}: with config.phases a run is as long as its phases; leave it out"
        )
    parameters = parameters_of(settings.TrainSettings)
    if phases:
        parameters["total_steps"] = (int, 0)
    return filled("train", parameters, fields)


def _evals(section: str, fields: Config) -> Config:
    make = found(f"{section}.evaluator", "evaluators", required(section, fields, "evaluator"))
    own = {key: value for key, value in fields.items() if key not in ("evaluator", "views")}
    options = options_of(make)
    options.pop("task", None)
    views = fields.get("views")
    if views is not None:
        if not isinstance(views, dict):
            raise ValueError(f"config.{section}.views is a section of fields; got {views!r}")
        views = filled(f"{section}.views", parameters_of(settings.ViewSettings), views)
    return {"evaluator": fields["evaluator"], "views": views} | filled(section, options, own)


def _phase(section: str, fields: Config, resolved: Config) -> Config:
    lengths = {f"total_{unit}": int if unit == "steps" else float for unit in UNITS}
    given = [name for name in lengths if name in fields]
    if len(given) != 1 or not fits(fields[given[0]], lengths[given[0]]) or not fields[given[0]] > 0:
        raise ValueError(f"config.{section} needs its length, at least one step: one of {', '.join(lengths)}")
    line = fields.get("train_transforms")
    if not fits(line, str | None):
        raise ValueError(f"config.{section}.train_transforms is a line of transforms; got {line!r}")
    own = {key: value for key, value in fields.items() if key not in ("train_transforms", *given)}
    base = resolved["optimizer"]
    for field in own:
        stem, _, unit = field.rpartition("_")
        if unit in UNITS:
            base = {k: v for k, v in base.items() if k not in {f"{stem}_{other}" for other in UNITS}}
    if own.get("name", base["name"]) != base["name"]:
        shared = {s for name in parameters_of(settings.OptimizerSettings) for s in spellings_of(name)}
        base = {k: v for k, v in base.items() if k in shared}
    return {
        given[0]: fields[given[0]],
        "train_transforms": resolved["data"]["train_transforms"] if line is None else line,
        **_optimizer(section, base | own),
    }


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _as_tuples(value: Any) -> Any:
    """Returns a JSON value with tuples in place of lists, as attributes of a Flax module are."""
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value
