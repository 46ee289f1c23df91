"""A written configuration made whole: every field of every section, once.

The fields of a section are the parameters of what it builds, so an unknown one is found by name, its type by
its annotation, and what is not written gets the parameter's default. Durations stay in the unit in which they
are written until the length of an epoch is known: `Configuration.in_steps`.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from imgcls_jax.config import settings
from imgcls_jax.config.field_types import did_you_mean, fits, require_types, type_hints
from imgcls_jax.config.modules import find_function
from imgcls_jax.config.settings import MAIN, Settings
from imgcls_jax.config.written import RENAMED, Config, plain

REQUIRED = inspect.Parameter.empty
UNITS = ("steps", "epochs", "examples")
TRUST_PARAMS = "trust_params"  # a field of optimizers with trust ratios, of which optax takes a mask


@dataclasses.dataclass(frozen=True)
class Configuration:
    """A configuration of which every field is known.

    Attributes:
      written: what the file and the command line say.
      resolved: the same sections with every field; a duration may still be in epochs or examples.
    """

    written: Config
    resolved: Config

    @property
    def batch_size(self) -> int:
        """Examples of a training step."""
        return self.resolved["train"]["batch_size"]

    @property
    def seed(self) -> int:
        """Of the run."""
        return self.resolved["train"]["seed"]

    @property
    def data(self) -> settings.DataSettings:
        """The section `data`, which needs no length of an epoch."""
        return _record(settings.DataSettings, self.resolved["data"])

    def in_steps(self, steps_per_epoch: int) -> Config:
        """Returns `resolved` with every duration in steps.

        Args:
          steps_per_epoch: floor(examples of the training split / batch size).

        Raises:
          ValueError: the run has phases and a length of its own besides.
        """
        units = {"steps": 1, "epochs": steps_per_epoch, "examples": 1 / max(self.batch_size, 1)}
        config = {name: dict(fields) for name, fields in self.resolved.items()}
        for name in ("train", "optimizer"):
            config[name] = _converted(config[name], units)
        config["phases"] = {name: _converted(fields, units) for name, fields in config["phases"].items()}
        lengths = {name: fields["total_steps"] for name, fields in config["phases"].items()}
        for name, steps in lengths.items():
            if steps < 1:
                raise ValueError(
                    f"config.phases.{name} is shorter than one step: give it a larger total_epochs"
                )
        if lengths:
            config["train"]["total_steps"] = sum(lengths.values())
        return config

    def settings(self, steps_per_epoch: int) -> Settings:
        """Returns the sections as records.

        Raises:
          ValueError: a number out of range.
        """
        config = self.in_steps(steps_per_epoch)
        model, objective = dict(config["model"]), dict(config["objective"])
        names = ("name", "variant", "pretrained")
        phases = [
            settings.PhaseSettings(
                name,
                fields.pop("total_steps"),
                fields.pop("train_transforms"),
                _record(settings.OptimizerSettings, fields),
            )
            for name, fields in sorted(config["phases"].items())
        ]
        train = _record(settings.TrainSettings, config["train"])
        whole = settings.PhaseSettings(
            MAIN,
            train.total_steps,
            config["data"]["train_transforms"],
            _record(settings.OptimizerSettings, config["optimizer"]),
        )
        return Settings(
            data=self.data,
            model=settings.ModelSettings(*(model.pop(name) for name in names), fields=model),
            objective=settings.ObjectiveSettings(objective.pop("name"), objective),
            train=train,
            evals=tuple(_evaluation(name, dict(fields)) for name, fields in config["evals"].items()),
            phases=tuple(phases) or (whole,),
        )


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
    return _record(settings.DataSettings, json.loads(json.dumps(_data(fields))))


# ---- one section each


def _data(fields: Config) -> Config:
    own = _parameters(settings.DataSettings)
    source = _required("data", fields, "source")
    of_source = _parameters(_found("data.source", "data.sources", source))
    if "split" not in of_source:
        raise ValueError(f"imgcls_jax/data/sources/{source}.py: make takes the split as its first argument")
    del of_source["split"]
    return _filled("data", own | of_source, fields)


def _model(fields: Config) -> Config:
    name = _required("model", fields, "name")
    build = _found("model.name", "models", name, "build")
    others = {key: value for key, value in fields.items() if key not in ("name", "pretrained")}
    variant = others.pop("variant", inspect.signature(build).parameters["variant"].default)
    if variant is REQUIRED:
        raise ValueError(f"config.model.variant is missing: {name} has no default")
    pretrained = fields.get("pretrained") or ""
    if not isinstance(pretrained, str):
        raise ValueError(f"config.model.pretrained is a path or ''; got {pretrained!r}")
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
    dtype = fields.get("dtype")
    if dtype is not None and dtype not in settings.DTYPES:
        raise ValueError(f"config.model.dtype is one of {', '.join(settings.DTYPES)} or None; got {dtype!r}")
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


def _objective(fields: Config) -> Config:
    name = _required("objective", fields, "name")
    return {"name": name} | _filled(
        "objective", _options(_found("objective.name", "objectives", name)), fields, "name"
    )


def _optimizer(section: str, fields: Config) -> Config:
    own = _parameters(settings.OptimizerSettings)
    of_optax = _hyperparameters(_required(section, fields, "name"))
    for field, value in fields.items():
        plain_number = field in of_optax and field != TRUST_PARAMS and not field.endswith("dtype")
        if plain_number and not fits(value, float | bool | None):
            raise ValueError(f"config.{section}.{field} is a number, or True or False; got {value!r}")
    of_optax = {name: field for name, field in of_optax.items() if name not in own}
    return _filled(section, own | of_optax, fields)


def _hyperparameters(name: Any) -> dict[str, tuple[Any, Any]]:
    """Returns the parameters of an optimizer of optax whose defaults have a JSON form.

    Raises:
      ValueError: optax has no such optimizer.
    """
    parameters = inspect.signature(optax_function(name)).parameters
    # decay_params and trust_params make the masks
    made = ("learning_rate", "mask", "weight_decay_mask", "trust_ratio_mask")
    fields = {
        name: (Any, parameter.default)
        for name, parameter in parameters.items()
        if name not in made and (parameter.default is REQUIRED or _is_json(parameter.default))
    }
    return fields | ({TRUST_PARAMS: (str, r".*/kernel")} if "trust_ratio_mask" in parameters else {})


def optax_function(name: Any) -> Callable[..., Any]:
    """Returns the function of optax, or of optax.contrib, that a configuration names as its optimizer.

    Raises:
      ValueError: there is none of that name that takes a learning rate.
    """
    function = None
    if isinstance(name, str):
        modules = (importlib.import_module("optax"), importlib.import_module("optax.contrib"))
        function = next((getattr(module, name) for module in modules if hasattr(module, name)), None)
    if not inspect.isfunction(function) or "learning_rate" not in inspect.signature(function).parameters:
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
    parameters = _parameters(settings.TrainSettings)
    if phases:
        parameters["total_steps"] = (int, 0)
    return _filled("train", parameters, fields)


def _evals(section: str, fields: Config) -> Config:
    make = _found(f"{section}.evaluator", "evaluators", _required(section, fields, "evaluator"))
    own = {key: value for key, value in fields.items() if key not in ("evaluator", "views")}
    options = _options(make)
    options.pop("task", None)
    views = fields.get("views")
    if views is not None:
        if not isinstance(views, dict):
            raise ValueError(f"config.{section}.views is a section of fields; got {views!r}")
        views = _filled(f"{section}.views", _parameters(settings.ViewSettings), views)
    return {"evaluator": fields["evaluator"], "views": views} | _filled(section, options, own)


def _phase(section: str, fields: Config, resolved: Config) -> Config:
    lengths = {f"total_{unit}": (float, REQUIRED) for unit in UNITS}
    given = [name for name in lengths if name in fields]
    if len(given) != 1 or not fits(fields[given[0]], float) or not fields[given[0]] > 0:
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
        shared = {s for name in _parameters(settings.OptimizerSettings) for s in _spellings(name)}
        base = {k: v for k, v in base.items() if k in shared}
    return {
        given[0]: fields[given[0]],
        "train_transforms": resolved["data"]["train_transforms"] if line is None else line,
        **_optimizer(section, base | own),
    }


def _evaluation(name: str, fields: Config) -> settings.EvalSettings:
    evaluator, views = fields.pop("evaluator"), fields.pop("views")
    views = None if views is None else settings.ViewSettings(**views)
    return settings.EvalSettings(name, evaluator, views, fields)


# ---- parameters and defaults


def _parameters(function: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """Returns {name: (annotation, default or REQUIRED)} of what takes keywords, without `fields`."""
    hints = type_hints(function)
    return {
        name: (hints.get(name, Any), parameter.default)
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD) and name != "fields"
    }


def _options(make: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """Returns the parameters of an objective's or evaluator's `make` that are fields: its keywords."""
    signature = inspect.signature(make).parameters
    return {
        name: parameter
        for name, parameter in _parameters(make).items()
        if signature[name].kind is inspect.Parameter.KEYWORD_ONLY
    }


def _found(field: str, room: str, name: Any, function: str = "make") -> Callable[..., Any]:
    try:
        return find_function(room, name, function)
    except ValueError as error:
        raise ValueError(f"config.{field}: {error}") from error


def _required(section: str, fields: Config, field: str) -> Any:
    if field not in fields:
        raise ValueError(f"config.{section}.{field} is missing")
    return fields[field]


def _filled(section: str, parameters: Mapping[str, tuple[Any, Any]], fields: Config, *others: str) -> Config:
    """Returns every field of a section: as written where it is, else by its default.

    Args:
      section: its name, for messages.
      parameters: {name: (annotation, default)}; a name that ends in _steps is a duration.
      fields: as written.
      *others: fields that are read elsewhere.

    Raises:
      ValueError: a field that is unknown, missing, of another type, or given in two units.
    """
    fields = {key: value for key, value in fields.items() if key not in others}
    names = {name: _spellings(name) for name in parameters}
    known = [spelling for spellings in names.values() for spelling in spellings]
    for field in fields:
        if f"{section}.{field}" in RENAMED:
            raise ValueError(f"config.{section}.{field} is called {RENAMED[f'{section}.{field}']} now")
        if field not in known:
            hint = did_you_mean(field, known) or f"there are {', '.join(names) or 'none'}"
            raise ValueError(f"config.{section}.{field}: no such field; {hint}")
    filled: Config = {}
    for name, (hint, default) in parameters.items():
        given = [spelling for spelling in names[name] if spelling in fields]
        if len(given) > 1:
            raise ValueError(f"config.{section}: {' and '.join(given)} are one duration; keep one of them")
        if not given and default is REQUIRED:
            raise ValueError(f"config.{section}.{name} is missing{_in_other_units(names[name])}")
        if not given:
            filled[name] = default
            continue
        (spelling,) = given
        value = fields[spelling]
        if spelling != name:  # epochs and examples need not be whole
            hint = Sequence[float] if fits([1], hint) else float
        _require_type(section, spelling, value, hint)
        if spelling != name and not value:  # 0 epochs are 0 steps, whatever an epoch is
            spelling, value = name, [] if isinstance(value, list) else 0
        filled[spelling] = value
    return filled


def _spellings(name: str) -> tuple[str, ...]:
    """Returns the names under which a field may be written: a duration in three units."""
    if not name.endswith("_steps"):
        return (name,)
    return tuple(name.removesuffix("steps") + unit for unit in UNITS)


def _in_other_units(spellings: Sequence[str]) -> str:
    return f" (or {', '.join(spellings[1:])})" if len(spellings) > 1 else ""


def _require_type(section: str, field: str, value: Any, hint: Any) -> None:
    if not fits(value, hint):
        wanted = hint.__name__ if isinstance(hint, type) else str(hint).replace("collections.abc.", "")
        raise ValueError(f"config.{section}.{field} is of type {wanted}; got {value!r}")


def _converted(fields: Config, units: Mapping[str, float]) -> Config:
    """Returns a section whose durations are in steps."""
    converted = {}
    for key, value in fields.items():
        stem, _, unit = key.rpartition("_")
        if unit in units and f"{stem}_steps" in ("total_steps", *_durations()):
            key = f"{stem}_steps"
            if unit != "steps":
                factor = units[unit]
                many = isinstance(value, (list, tuple))
                value = [round(v * factor) for v in value] if many else round(value * factor)
        converted[key] = value
    return converted


def _durations() -> Iterable[str]:
    """Yields the names of all durations of the sections train and optimizer."""
    for record in (settings.TrainSettings, settings.OptimizerSettings):
        yield from (field.name for field in dataclasses.fields(record) if field.name.endswith("_steps"))


def _record(record: Any, fields: Config) -> Any:
    """Makes a record of settings; what is none of its attributes goes into `fields`."""
    names = {field.name for field in dataclasses.fields(record)} - {"fields"}
    others = {key: value for key, value in fields.items() if key not in names}
    own = {key: value for key, value in fields.items() if key in names}
    return record(**own, fields=others) if others else record(**own)


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _as_tuples(value: Any) -> Any:
    """Returns a JSON value with tuples in place of lists, as attributes of a Flax module are."""
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value
