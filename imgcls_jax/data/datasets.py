"""The section `data` of a configuration, built: its splits, transforms, views, labeled stream and batches."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from imgcls_jax.config.modules import find_function
from imgcls_jax.config.settings import DataSettings
from imgcls_jax.data import augment, subsets, transforms
from imgcls_jax.data.cache import Cached, ExampleCache
from imgcls_jax.data.pipeline import EvalBatches, Labeled, TrainBatches
from imgcls_jax.data.source import class_counts, require_source

UNKNOWN = "unknown:"  # a split's examples of classes that are not trained on
FIRST_VIEW = 2**16  # sets the randomness of views apart from that of an image's operations, numbered from 0


class DataSide:
    """The section `data` of a configuration, built: opens its splits and makes their batches.

    Args:
      settings: of the section.
      shard: (process index, number of processes).

    Raises:
      ValueError: a line that does not parse, or one of evaluation that is random.
    """

    def __init__(self, settings: DataSettings, shard: tuple[int, int] = (0, 1)):
        self.settings = settings
        self.shard = shard
        self._open: dict[str, Any] = {}
        self._cache = ExampleCache(int(self.settings.cache_gib * 2**30))
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

    def augment(self, rng: jax.Array, batch: dict[str, Any]) -> dict[str, Any]:
        """Runs the device transforms of training; returns the objective's batch. jax-traceable."""
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
        """Returns the batch keys to put on the device for an objective's batch_keys.

        Raises:
          ValueError: the objective reads a key that this section does not make.
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
        """The read-ahead arguments of pipeline.iterate."""
        settings = self.settings
        return {
            "num_threads": settings.num_threads,
            "num_workers": settings.num_workers,
            "prefetch": settings.prefetch_batches,
        }

    def with_train_transforms(self, section: str, line: str) -> DataSide:
        """Returns a copy with another line of training transforms."""
        other = copy.copy(self)
        other.train_host, other._train_device = _parse(f"{section}.train_transforms", line)
        other._train = augment.compose(other._train_device)
        return other

    @property
    def random_train_operations(self) -> list[str]:
        """The names of the random operations of train_transforms."""
        return transforms.random_operations(self.train_host, self._train_device)

    def prepare(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Runs the device transforms of evaluation. jax-traceable."""
        return self._evaluate(jax.random.key(0), batch)

    def source(self, split: str) -> Any:
        """Returns the split's source, opened once."""
        if split not in self._open:
            self._open[split] = self._opened(split)
        return self._open[split]

    def _opened(self, split: str) -> Any:
        name = split.removeprefix(UNKNOWN)
        source = self.settings.source
        whole = find_function("data.sources", source, "make")(name, **self.settings.fields)
        require_source(whole, f"imgcls_jax/data/sources/{source}.py")
        known, total = self.settings.known_classes, len(whole.class_names)
        if not known and name == split:
            return whole
        if not 0 < known < total:
            raise ValueError(
                f"config.data.known_classes: {name} and {UNKNOWN}{name} share out {total} classes, so it "
                f"lies between 1 and {total - 1}; got {known}"
            )
        labels = self._labels_of(whole, "known_classes")
        chosen = subsets.subset(whole, np.flatnonzero((labels < known) == (name == split)))
        chosen.class_names = whole.class_names[:known] if name == split else whole.class_names
        return chosen

    @functools.cached_property
    def training(self) -> Any:
        """The training examples: the training split or a subset of it, with repeats if oversampled."""
        if not self.settings.oversample:
            return self._distinct
        labels = self._labels_of(self._distinct, "oversample")
        return subsets.subset(self._distinct, subsets.oversampled(labels))

    @functools.cached_property
    def class_counts(self) -> tuple[int, ...]:
        """The number of training examples of each class, without repeats; () where that is not known."""
        return class_counts(self._distinct)

    @functools.cached_property
    def _distinct(self) -> Any:
        whole, settings = self.source(self.settings.train_split), self.settings
        if settings.imbalance_factor != 1:
            labels = self._labels_of(whole, "imbalance_factor")
            try:
                kept = subsets.long_tailed_subset(labels, settings.imbalance_factor, settings.label_seed)
            except ValueError as error:
                raise ValueError(f"config.data.imbalance_factor: {error}") from error
            return subsets.subset(whole, kept)
        if settings.labels_per_class and not settings.labeled_batch_size:
            return subsets.subset(whole, self._known(whole))
        return whole

    def _known(self, source: Any) -> Any:
        """Returns the indices of the examples whose labels are known."""
        labels = self._labels_of(source, "labels_per_class")
        try:
            return subsets.balanced_subset(labels, self.settings.labels_per_class, self.settings.label_seed)
        except ValueError as error:
            raise ValueError(f"config.data.labels_per_class: {error}") from error

    def _labels_of(self, source: Any, field: str) -> Any:
        """Returns the labels [N] of a source, which a field of the configuration needs."""
        if source.labels is None or source.labels.ndim != 1:
            raise ValueError(
                f"config.data.{field} needs one label an image, known without reading the images; the source "
                f"{self.settings.source} does not give that; use another source"
            )
        return source.labels

    def train_batches(self, batch_size: int, seed: int, order: Any = None) -> TrainBatches:
        """Returns the batches of the training split."""
        labeled = None
        if self.settings.labeled_batch_size:
            apart = not self.settings.unlabeled_has_labeled
            labeled = Labeled(self._known(self.training), self.settings.labeled_batch_size, apart)
        source, (host_ops, *view_ops) = self._cached(self.training, self.train_host, *self._view_hosts)
        return TrainBatches(
            source,
            host_ops,
            batch_size=batch_size,
            seed=seed,
            on_bad_example=self.settings.on_bad_example,
            view_ops=view_ops,
            labeled=labeled,
            order=order,
            shard=self.shard,
        )

    def training_in_order(self, batch_size: int, *, train_line: bool = False) -> EvalBatches:
        """Returns the batches of the training examples in index order.

        Args:
          batch_size: of all processes together.
          train_line: use the training transforms, which must be deterministic then; else the evaluation ones.
        """
        return self._in_order(self.training, self.train_host if train_line else self.eval_host, batch_size)

    def eval_batches(self, split: str, batch_size: int, class_names: tuple[str, ...]) -> EvalBatches:
        """Returns the batches of a split, every example once.

        Raises:
          ValueError: its classes differ from those of the training split, so its labels mean something else.
        """
        source = self.source(split)
        if not split.startswith(UNKNOWN) and tuple(source.class_names) != tuple(class_names):
            raise ValueError(
                f"the split {split!r} has the classes {_shortened(source.class_names)}, training has "
                f"{_shortened(class_names)}: give both splits the same classes in the same order"
            )
        return self._in_order(source, self.eval_host, batch_size)

    def _cached(self, source: Any, *lines: Any) -> tuple[Any, Sequence[Any]]:
        """Returns a source that caches the lines' shared deterministic prefix, and the rest of each line."""
        start = transforms.deterministic_prefix(lines)
        if not start or not self._cache.limit:
            return source, lines
        return Cached(source, start, self._cache), [line[len(start) :] for line in lines]

    def _in_order(self, source: Any, host_ops: Any, batch_size: int) -> EvalBatches:
        source, (host_ops,) = self._cached(source, host_ops)
        return EvalBatches(
            source,
            host_ops,
            batch_size=batch_size,
            on_bad_example=self.settings.on_bad_example,
            shard=self.shard,
        )


def _shortened(names: Sequence[str]) -> str:
    return f"{len(names)} ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"


def _parse(field: str, line: str) -> tuple[Any, Any]:
    try:
        return transforms.parse(line)
    except ValueError as error:
        raise ValueError(f"config.{field}: {error}") from error
