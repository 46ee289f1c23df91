"""From a configuration to the things it names: sources, transforms, backbone, objective, evaluators.

A configuration is a nested dict of JSON values with the flat sections data, model, objective, optimizer,
train and evals, and phases where a run has several (train/phase.py). The fields of a section are the
arguments of what it builds, so an unknown one is found by name before anything runs.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import functools
import hashlib
import importlib
import inspect
import json
import os
import pkgutil
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from imgcls_jax.data import augment, sources, transforms
from imgcls_jax.data.pipeline import EvalBatches, Labeled, TrainBatches
from imgcls_jax.objectives.base import Objective, Task

Config = dict[str, Any]
SECTIONS = ("data", "model", "objective", "optimizer", "train", "evals")
OPTIONAL_SECTIONS = ("phases",)
FIRST_VIEW = 2**16  # sets the randomness of views apart from that of an image's operations, numbered from 0
# A run may be taken up again with other values of these: none of them changes a number it computes.
FREE_ON_RESUME = (
    "data.num_workers",
    "data.num_threads",
    "data.prefetch_batches",
    "train.log_every_steps",
    "train.keep_checkpoints",
)


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """The section `data`; its other fields are arguments of the source.

    Attributes:
      source: class of data/sources.py in snake case: "image_folder", "list_file", "cifar10", ...
      train_split, train_transforms: the split to train on and its line of transforms.
      view_transforms: lines, each of which makes one more image of every training example, for objectives
        that compare several. A line without host operations starts from what those of train_transforms left.
      labels_per_class, label_seed: how many labels of each class are known, and the seed that chooses them;
        0 for all. The training split is then the labeled examples alone, unless
      labeled_batch_size: is positive: then it is the whole split with the other labels hidden, and so many
        labeled examples come as a second stream beside each batch.
      eval_transforms: line of every evaluation and of prediction; nothing random.
      on_bad_example: "raise" or "skip".
      num_threads, num_workers, prefetch_batches: of data/pipeline.py.
    """

    source: str
    train_transforms: str
    eval_transforms: str
    train_split: str = "train"
    view_transforms: Sequence[str] = ()
    labels_per_class: int = 0
    label_seed: int = 0
    labeled_batch_size: int = 0
    on_bad_example: str = "raise"
    num_threads: int = 2
    num_workers: int = 0
    prefetch_batches: int = 4


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
      keep_checkpoints: the newest ones that stay.
      best_metric, best_mode: e.g. "test/accuracy" and "max": the checkpoint that stays besides.
      feature_cache_gib: the most memory of the host, in GiB, for the features of a frozen backbone, which are
        then computed once; 0 never caches.
    """

    batch_size: int
    total_steps: int
    seed: int = 0
    accumulate_steps: int = 1
    eval_batch_size: int = 0
    log_every_steps: int = 50
    eval_every_steps: int = 0
    checkpoint_every_steps: int = 0
    keep_checkpoints: int = 2
    best_metric: str = ""
    best_mode: str = "max"
    feature_cache_gib: float = 4.0


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
    missing, unknown = set(SECTIONS) - set(nested), set(nested) - {*SECTIONS, *OPTIONAL_SECTIONS}
    if missing or unknown:
        raise ValueError(
            f"a configuration has the sections {SECTIONS}, and perhaps {OPTIONAL_SECTIONS}; missing: "
            f"{sorted(missing)}, unknown: {sorted(unknown)}"
        )
    return nested


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
      ValueError: a field that the function does not take (with the nearest that it does), or one it needs and
        did not get.
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
            near = difflib.get_close_matches(field, free, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(free) or 'none'}"
            raise ValueError(f"config.{section}.{field}: no such field; {hint}")
    for name in free:
        if parameters[name].default is inspect.Parameter.empty and name not in fields:
            raise ValueError(f"config.{section}.{name} is missing")
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


class DataSide:
    """The section `data` made concrete: splits, and the batches of each.

    Args:
      section: the configuration's.
      shard: (process index, number of processes).

    Raises:
      ValueError: an unknown field or source, or a line that does not parse.
    """

    def __init__(self, section: Mapping[str, Any], shard: tuple[int, int] = (0, 1)):
        names = [field.name for field in dataclasses.fields(DataSettings)]
        self.settings: DataSettings = call(
            DataSettings, "data", {k: v for k, v in section.items() if k in names}
        )
        self._source_fields = {k: v for k, v in section.items() if k not in names}
        self.shard = shard
        self._open: dict[str, Any] = {}
        self.train_host, self._train_device = _parse("data.train_transforms", self.settings.train_transforms)
        self.eval_host, self._eval_device = _parse("data.eval_transforms", self.settings.eval_transforms)
        drawn = transforms.random_operations(self.eval_host, self._eval_device)
        if drawn:
            raise ValueError(
                f"config.data.eval_transforms holds random operations ({', '.join(drawn)}): evaluation and "
                "prediction must give the same answer each time"
            )
        views = [_parse("data.view_transforms", line) for line in self.settings.view_transforms]
        self._view_hosts = tuple(host for host, _ in views if host)
        self._views = tuple((bool(host), augment.compose(device)) for host, device in views)
        self._train = augment.compose(self._train_device)
        self._evaluate = augment.compose(self._eval_device)
        if self.settings.labeled_batch_size and not self.settings.labels_per_class:
            raise ValueError("config.data.labeled_batch_size needs data.labels_per_class")

    def augment(self, rng: jax.Array, batch: dict[str, Any]) -> dict[str, Any]:
        """The device side of training: image, views and labeled as an objective sees them, jax-traceable."""
        augmented = self._train(rng, batch)
        own_images = iter(augmented.pop("view_images", ()))
        augmented["views"] = tuple(
            line(
                jax.random.fold_in(rng, FIRST_VIEW + view),
                {"image": next(own_images) if own else batch["image"]},
            )["image"]
            for view, (own, line) in enumerate(self._views)
        )
        if "labeled" in batch:
            augmented["labeled"] = self._train(jax.random.fold_in(rng, FIRST_VIEW - 1), batch["labeled"])
        return augmented

    def placed(self, batch_keys: Sequence[str]) -> tuple[str, ...]:
        """Returns what of a batch of the pipeline must reach the device for an objective's batch_keys.

        Raises:
          ValueError: the objective reads what the section does not make.
        """
        settings = self.settings
        if "views" in batch_keys and not self._views:
            raise ValueError("this objective compares views: give config.data.view_transforms their lines")
        if "labeled" in batch_keys and not settings.labeled_batch_size:
            raise ValueError(
                "this objective learns from labeled and unlabeled examples: set "
                "config.data.labels_per_class and config.data.labeled_batch_size"
            )
        own_views = ("view_images",) if self._view_hosts and "views" in batch_keys else ()
        return (*sorted({"image", *batch_keys} - {"views"}), *own_views)

    @property
    def reading(self) -> dict[str, int]:
        """How far and by what the batches are read ahead: arguments of pipeline.iterate."""
        settings = self.settings
        return {
            "num_threads": settings.num_threads,
            "num_workers": settings.num_workers,
            "prefetch": settings.prefetch_batches,
        }

    def with_train_transforms(self, section: str, line: str) -> DataSide:
        """Returns the same data side with another line for the training images."""
        other = copy.copy(self)
        other.train_host, other._train_device = _parse(f"{section}.train_transforms", line)
        other._train = augment.compose(other._train_device)
        return other

    @property
    def random_train_operations(self) -> list[str]:
        """The names of the operations of train_transforms that draw anew each time."""
        return transforms.random_operations(self.train_host, self._train_device)

    def prepare(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The device side of the evaluation line, jax-traceable; float images pass through as they are."""
        return self._evaluate(jax.random.key(0), batch)

    def source(self, split: str) -> Any:
        """Returns the split's source, opened once."""
        if split not in self._open:
            self._open[split] = call(_source_class(self.settings.source), "data", self._source_fields, split)
        return self._open[split]

    @functools.cached_property
    def training(self) -> Any:
        """The source trained on: the training split, or its labeled part."""
        whole = self.source(self.settings.train_split)
        if not self.settings.labels_per_class or self.settings.labeled_batch_size:
            return whole
        return sources.subset(whole, self._known(whole))

    def _known(self, source: Any) -> Any:
        """Returns the indices of the examples whose labels are known."""
        if source.labels is None:
            raise ValueError(
                f"config.data.labels_per_class: {self.settings.source} does not tell its labels without "
                "reading every example; use another source"
            )
        try:
            return sources.balanced_subset(
                source.labels, self.settings.labels_per_class, self.settings.label_seed
            )
        except ValueError as error:
            raise ValueError(f"config.data.labels_per_class: {error}") from error

    def train_batches(self, batch_size: int, seed: int, order: Any = None) -> TrainBatches:
        """Returns the batches of the training split."""
        labeled = None
        if self.settings.labeled_batch_size:
            labeled = Labeled(self._known(self.training), self.settings.labeled_batch_size)
        return TrainBatches(
            self.training,
            self.train_host,
            batch_size=batch_size,
            seed=seed,
            on_bad_example=self.settings.on_bad_example,
            view_ops=self._view_hosts,
            labeled=labeled,
            order=order,
            shard=self.shard,
        )

    def training_in_order(self, batch_size: int, *, train_line: bool = False) -> EvalBatches:
        """Returns the batches of what is trained on in index order, by the evaluation line or the training
        line, which must draw nothing then."""
        return self._in_order(self.training, self.train_host if train_line else self.eval_host, batch_size)

    def eval_batches(self, split: str, batch_size: int, class_names: tuple[str, ...]) -> EvalBatches:
        """Returns the batches of any split, every example once.

        Raises:
          ValueError: its classes are not those of the training split: its labels would mean something else.
        """
        source = self.source(split)
        if tuple(source.class_names) != tuple(class_names):
            raise ValueError(
                f"the split {split!r} has the classes {_shortened(source.class_names)}, training has "
                f"{_shortened(class_names)}: give both splits the same classes in the same order"
            )
        return self._in_order(source, self.eval_host, batch_size)

    def _in_order(self, source: Any, host_ops: Any, batch_size: int) -> EvalBatches:
        return EvalBatches(
            source,
            host_ops,
            batch_size=batch_size,
            on_bad_example=self.settings.on_bad_example,
            shard=self.shard,
        )


def _shortened(names: Sequence[str]) -> str:
    return f"{len(names)} ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"


def _source_class(name: str) -> Any:
    """Returns the class of data/sources.py that a configuration names in snake case."""
    found = getattr(sources, "".join(word.capitalize() for word in name.split("_")), None)
    if inspect.isclass(found) and "split" in inspect.signature(found).parameters:
        return found
    classes = [
        name
        for name, value in vars(sources).items()
        if inspect.isclass(value) and "split" in inspect.signature(value).parameters
    ]
    names = [re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower() for name in classes]
    raise ValueError(
        f"config.data.source: data/sources.py has no {name!r}; it has {', '.join(sorted(names))}"
    )


def _parse(field: str, line: str) -> tuple[Any, Any]:
    try:
        return transforms.parse(line)
    except ValueError as error:
        raise ValueError(f"config.{field}: {error}") from error


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
      ValueError: an unknown name or field of the section model.
    """
    family, _ = find_family(config)
    model = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in config["model"].items()
        if key not in ("name", "pretrained")
    }
    return call(family.build, "model", model)


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
    return call(algorithm.make, "objective", fields, backbone, task)


def make_evaluators(config: Config, predict: Any, open_split: Any, task: Task) -> dict[str, Any]:
    """Returns {name: evaluate(params, carry) -> metrics} for the section `evals`.

    An evaluator's file exports make(predict, open_split, *, task, <options>).

    Args:
      config: of the run.
      predict: (params, carry, batch) -> objective.predict's output, for a batch as open_split yields it.
      open_split: split -> its batches, every example once.
      task: of the run.

    Raises:
      ValueError: an unknown evaluator or option.
    """
    evaluators = {}
    for name, fields in config["evals"].items():
        options = dict(fields)
        module = find_module("evaluators", options.pop("evaluator", "absent"))
        evaluators[name] = call(module.make, f"evals.{name}", options, predict, open_split, task=task)
    return evaluators


def write_json(path: Path, content: Any) -> None:
    """Writes JSON so that a reader finds the old file or the new one, never a part."""
    temporary = path.with_name(f"{path.name}.tmp{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def read_json(path: Path) -> Any:
    """Reads a JSON file of a workdir.

    Raises:
      ValueError: it is absent or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path} is absent: {path.parent} is not the workdir of a run") from error
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def save_task(workdir: Path, task: Task, class_names: tuple[str, ...], source_shape: tuple[int, ...]) -> None:
    """Keeps in the workdir what prediction needs to know of the data: it must not need the data
    themselves."""
    write_json(
        workdir / "task.json",
        dataclasses.asdict(task) | {"class_names": class_names, "source_shape": source_shape},
    )


def load_task(workdir: Path) -> tuple[Task, tuple[str, ...], tuple[int, ...]]:
    """Returns (task, class_names, shape of the images between the host and the device side) of a workdir."""
    fields = read_json(workdir / "task.json")
    class_names, source_shape = tuple(fields.pop("class_names")), tuple(fields.pop("source_shape"))
    return Task(**(fields | {"image_shape": tuple(fields["image_shape"])})), class_names, source_shape
