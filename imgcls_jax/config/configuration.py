"""A configuration of which every field is known, and the settings made of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from imgcls_jax.config import settings
from imgcls_jax.config.settings import MAIN, Settings
from imgcls_jax.config.written import Config


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
        return record_of(settings.DataSettings, self.resolved["data"])

    def in_steps(self, steps_per_epoch: int) -> Config:
        """Returns `resolved` with every duration in steps.

        Args:
          steps_per_epoch: floor(examples of the training split / batch size).

        A duration above 0 is one step at least: rounded to 0 it would switch off what it is of.
        """
        units = {"steps": 1, "epochs": steps_per_epoch, "examples": 1 / max(self.batch_size, 1)}
        config = {name: dict(fields) for name, fields in self.resolved.items()}
        for name in ("train", "optimizer"):
            config[name] = _converted(config[name], units)
        config["phases"] = {name: _converted(fields, units) for name, fields in config["phases"].items()}
        lengths = {name: fields["total_steps"] for name, fields in config["phases"].items()}
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
                record_of(settings.OptimizerSettings, fields),
            )
            for name, fields in sorted(config["phases"].items())
        ]
        train = record_of(settings.TrainSettings, config["train"])
        whole = settings.PhaseSettings(
            MAIN,
            train.total_steps,
            config["data"]["train_transforms"],
            record_of(settings.OptimizerSettings, config["optimizer"]),
        )
        return Settings(
            data=self.data,
            model=settings.ModelSettings(**{name: model.pop(name) for name in names}, fields=model),
            objective=settings.ObjectiveSettings(objective.pop("name"), objective),
            train=train,
            evals=tuple(_evaluation(name, dict(fields)) for name, fields in config["evals"].items()),
            phases=tuple(phases) or (whole,),
        )


def _evaluation(name: str, fields: Config) -> settings.EvalSettings:
    evaluator, views = fields.pop("evaluator"), fields.pop("views")
    views = None if views is None else settings.ViewSettings(**views)
    return settings.EvalSettings(name, evaluator, views, fields)


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
                value = [_whole(v * factor) for v in value] if many else _whole(value * factor)
        converted[key] = value
    return converted


def _whole(steps: float) -> int:
    """Returns the nearest whole number of steps; 0 for none at all alone."""
    nearest = max(round(abs(steps)), 1) if steps else 0
    return nearest if steps > 0 else -nearest


def _durations() -> Iterable[str]:
    """Yields the names of all durations of the sections train and optimizer."""
    for record in (settings.TrainSettings, settings.OptimizerSettings):
        yield from (field.name for field in dataclasses.fields(record) if field.name.endswith("_steps"))


def record_of(record: Any, fields: Config) -> Any:
    """Makes a record of settings; what is none of its attributes goes into `fields`."""
    names = {field.name for field in dataclasses.fields(record)} - {"fields"}
    others = {key: value for key, value in fields.items() if key not in names}
    own = {key: value for key, value in fields.items() if key in names}
    return record(**own, fields=others) if others else record(**own)
