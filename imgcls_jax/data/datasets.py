"""The section `data` of a configuration, built: its splits, transforms, views, labeled stream and batches."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from imgcls_jax.config.modules import find_function
from imgcls_jax.config.settings import FOLD, DataSettings
from imgcls_jax.data import augment, folds, read_ahead, subsets, transforms
from imgcls_jax.data.cache import Cached, ExampleCache
from imgcls_jax.data.contents import Contents, contents, files, whole
from imgcls_jax.data.folders import expanded
from imgcls_jax.data.listing import describe_left_out
from imgcls_jax.data.lists import read_class_labels
from imgcls_jax.data.pipeline import EvalBatches, Labeled, TrainBatches
from imgcls_jax.data.signatures import read_signatures
from imgcls_jax.data.source import class_counts, require_source

IMAGES = "images"  # the entry of a batch with all training images, of which the rows hold indices
UNKNOWN = "unknown:"  # a split's examples of classes that are not trained on
READ_AT_ONCE = 1_000  # examples, where the whole split is read
FIRST_VIEW = 2**16  # sets the randomness of views apart from that of an image's operations, numbered from 0


class DataSide:
    """The section `data` of a configuration, built: opens its splits and makes their batches.

    Args:
      settings: of the section.
      shard: (process index, number of processes).
      withheld: why no split may be opened, the text of the error then; "" where they may.

    Raises:
      ValueError: a line that does not parse, or one of evaluation that is random.
    """

    def __init__(self, settings: DataSettings, shard: tuple[int, int] = (0, 1), withheld: str = ""):
        self.settings = settings
        self.shard = shard
        self.withheld = withheld
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
        self._entries_read = frozenset(
            key
            for ops in (self._train_device, *(device for _, device in views))
            for op in ops
            for key in op.reads
        )
        self._view_hosts = tuple(host for host, _ in views if host)
        self._views = tuple((bool(host), augment.compose(device)) for host, device in views)
        self._train = augment.compose(self._train_device)
        self._evaluate = augment.compose(self._eval_device)

    def augment(self, rng: jax.Array, batch: dict[str, Any]) -> dict[str, Any]:
        """Runs the device transforms of training; returns the objective's batch. jax-traceable.

        Args:
          rng: key.
          batch: of train_batches; or one without images, and IMAGES uint8 [N, H, W, C] beside it.
        """
        if IMAGES in batch:
            batch = _with_images(batch)
        augmented = self._train(rng, batch)
        own_images = iter(augmented.pop("view_images", ()))
        augmented["views"] = tuple(
            line(
                jax.random.fold_in(rng, FIRST_VIEW + view),
                batch | {"image": next(own_images) if own else batch["image"]},
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
        return (*sorted({"image", *batch_keys, *self._entries_read} - {"views"}), *own_views)

    @property
    def reading(self) -> dict[str, int]:
        """The read-ahead arguments of read_ahead.iterate."""
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
        if self.withheld:
            raise ValueError(self.withheld)
        name = split.removeprefix(UNKNOWN)
        whole = self._of_folds(name) if self._is_folded(name) else self.read(name)
        if not self.settings.known_classes and name == split:
            return whole
        known, total = self._known_classes(whole.class_names), len(whole.class_names)
        is_known = np.isin(self._labels_of(whole, "known_classes"), known)
        chosen = subsets.subset(whole, np.flatnonzero(is_known == (name == split)))
        chosen = subsets.relabeled(chosen, [*known, *np.setdiff1d(np.arange(total), known)])
        if name == split and not self.settings.signatures:
            chosen.class_names = chosen.class_names[: len(known)]
        return chosen

    def read(self, split: str) -> Any:
        """Returns a split of the source, all of it, newly opened."""
        source = self.settings.source
        if split == FOLD:
            raise ValueError(
                f"the split {FOLD!r} is what a cross-validation holds out of the training split: set "
                "config.data.folds, or name another split"
            )
        whole = find_function("data.sources", source, "make")(split, **self.settings.fields)
        require_source(whole, f"imgcls_jax/data/sources/{source}.py")
        return whole

    @functools.cached_property
    def _shared_out(self) -> tuple[Any, np.ndarray]:
        """The training split of the source, all of it, and the fold of each example."""
        settings = self.settings
        whole = self.read(settings.train_split)
        try:
            return whole, folds.fold_numbers(whole, settings.folds, settings.fold_seed)
        except ValueError as error:
            raise ValueError(f"config.data.folds: {error}") from error

    def _is_folded(self, split: str) -> bool:
        """Whether a split is made of folds of the training split."""
        return self.settings.folds > 0 and split in (self.settings.train_split, FOLD)

    def _of_folds(self, split: str) -> Any:
        """Returns the fold that is held out, or the others."""
        whole, numbers = self._shared_out
        held_out = numbers == self.settings.fold
        return subsets.subset(whole, np.flatnonzero(held_out if split == FOLD else ~held_out))

    def _known_classes(self, class_names: Sequence[str]) -> Sequence[int]:
        """Returns the labels of the classes that data.known_classes means, rising."""
        known, total = self.settings.known_classes, len(class_names)
        labels: Sequence[int]
        if isinstance(known, int):
            count, labels = known, range(min(known, total))
        else:
            try:
                labels = read_class_labels(expanded(known), class_names)
            except (OSError, ValueError) as error:
                raise ValueError(f"config.data.known_classes: {error}") from error
            count = len(labels)
        if not 0 < count < total:
            raise ValueError(
                f"config.data.known_classes: every split and its {UNKNOWN}SPLIT share out {total} classes, "
                f"so it lies between 1 and {total - 1}; got {count}"
            )
        return labels

    @functools.cached_property
    def signatures(self) -> np.ndarray | None:
        """The signatures of all classes, float64 [C, a]; None without data.signatures.

        Raises:
          ValueError: the file is not there, or not as data/signatures.py has it.
        """
        if not self.settings.signatures:
            return None
        try:
            return read_signatures(self.settings.signatures, self.training.class_names)
        except (OSError, ValueError) as error:
            raise ValueError(f"config.data.signatures: {error}") from error

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

    def groups(self) -> tuple[np.ndarray, int] | None:
        """Returns (labels int [N], data.images_per_class), by which batches are made; None for any order."""
        if self.settings.images_per_class == 1:
            return None
        return self._labels_of(self.training, "images_per_class"), self.settings.images_per_class

    def train_images(self) -> np.ndarray:
        """Returns all training images as their host operations leave them, uint8 [N, H, W, C].

        Raises:
          ValueError: the images draw random numbers on the host, views have host operations of their own, or
            an example has more than an image and a label known without reading it.
        """
        drawn = transforms.random_operations(self.train_host, ())
        if drawn or self._view_hosts:
            what = f"{', '.join(drawn)} of train_transforms draws" if drawn else "data.view_transforms draw"
            raise ValueError(
                f"config.data.on_device keeps each image once, and {what} anew on the host: "
                "use operations of the device (pad_and_crop, resized_crop), or leave out data.on_device"
            )
        batches = self._alike_everywhere(self.training, self.train_host, READ_AT_ONCE)
        others = set(self.training[0]) - {"image", "label"}
        if others or self.training.labels is None:
            what = ", ".join(sorted(others)) or "labels"
            raise ValueError(
                f"config.data.on_device: the source {self.settings.source!r} gives {what} with each image, "
                "which stay on the host: leave data.on_device out"
            )
        with read_ahead.iterate(batches, 0, len(batches), **self.reading) as found:
            return np.concatenate([batch["image"] for batch in found])[: len(self.training)]

    def train_batches(
        self, batch_size: int, seed: int, order: Any = None, *, images: bool = True
    ) -> TrainBatches:
        """Returns the batches of the training split, without images where those are on the device."""
        labeled = None
        if self.settings.labeled_batch_size:
            apart = not self.settings.unlabeled_has_labeled
            labeled = Labeled(self._known(self.training), self.settings.labeled_batch_size, apart)
        if images:
            source, (host_ops, *view_ops) = self._cached(self.training, self.train_host, *self._view_hosts)
        else:
            source, host_ops, view_ops = subsets.WithoutImages(self.training), (), []
        return TrainBatches(
            source,
            host_ops,
            batch_size=batch_size,
            seed=seed,
            on_bad_example=self.settings.on_bad_example,
            view_ops=view_ops,
            labeled=labeled,
            groups=self.groups(),
            repeats=self.settings.augmentation_repeats,
            order=order,
            shard=self.shard,
        )

    def some_images(self, count: int) -> np.ndarray:
        """Returns training images as evaluation prepares them, the same in every process.

        Args:
          count: how many, evenly spaced in the split; fewer where it has fewer.

        Returns:
          float32 [N, H, W, C].
        """
        count = min(count, len(self.training))
        spaced = np.linspace(0, len(self.training) - 1, count).astype(int)
        some = subsets.subset(self.training, spaced)
        batch = self._alike_everywhere(some, self.eval_host, count)[0]
        return np.asarray(self.prepare({"image": batch["image"]})["image"])[batch["mask"]]

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

    def rule(self, split: str) -> str:
        """Returns what a run says of a split at its start: examples, classes, by what rule it was made."""
        source = self.source(split)
        made = whole(source)
        count, classes = len(source), len(source.class_names)
        of = f" of {len(made)}" if len(made) != count else ""
        line = f"{split}: {count:,}{of} images, {classes} {'class' if classes == 1 else 'classes'}"
        rule = getattr(made, "rule", "") or f"the split {split!r} of {self.settings.source}"
        line += f" ({_first(source.class_names)}), {rule}"
        name = split.removeprefix(UNKNOWN)
        if self._is_folded(name):
            which = "" if name == FOLD else "without "
            line += f", {which}fold {self.settings.fold} of {self.settings.folds}, {folds.how(made)}"
        empty = [name for name, n in zip(source.class_names, class_counts(source), strict=False) if not n]
        if empty:
            line += f"; {len(empty)} without an image: {_first(empty)}"
        left_out = describe_left_out(getattr(made, "left_out", {}))
        return f"{line}; left out: {left_out}" if left_out else line

    def training_rule(self) -> str:
        """Returns what the fields of the section take of the training split; "" where all of it."""
        whole_split, count = self.source(self.settings.train_split), len(self._distinct)
        if len(self.training) == len(whole_split):
            return ""
        return f"trained on: {len(self.training):,} examples, {count:,} different images of them"

    def shared_with_training(self, split: str) -> int:
        """Returns how many image files of another split are trained on, too: 0 is what it should be."""
        if split == self.settings.train_split:
            return 0
        return len(files(self.source(split)) & files(self.source(self.settings.train_split)))

    def contents(self, splits: Sequence[str]) -> dict[str, Contents]:
        """Returns what each split holds, without reading an image."""
        return {split: contents(self.source(split)) for split in splits}

    def brightness(self, count: int = 64) -> tuple[float, float] | None:
        """Returns the mean brightness of some images as prediction sees them before the device side, in 0..1,
        and its standard deviation from image to image; None where none could be read."""
        source = self.training
        found = []
        for index in np.unique(np.linspace(0, len(source) - 1, count).astype(int)).tolist():
            try:
                image = transforms.apply(self.eval_host, source[index]["image"], np.random.default_rng(0))
            except (OSError, ValueError, SyntaxError, EOFError):  # on_bad_example decides about it
                continue
            found.append(float(np.mean(image)) / 255)
        return (float(np.mean(found)), float(np.std(found))) if found else None

    def normalization_warning(self, channels: int) -> str:
        """Returns what to say where evaluation normalizes otherwise than training; "" where it does not."""
        scales = [_normalized(ops, channels) for ops in (self._train_device, self._eval_device)]
        if np.allclose(scales[0], scales[1], rtol=1e-3, atol=1e-3):
            return ""
        low, high = (", ".join(f"{value:.3g}" for value in scale.ravel()) for scale in scales)
        return (
            f"config.data.eval_transforms normalizes otherwise than config.data.train_transforms: black and "
            f"white become {low} in training and {high} in evaluation"
        )

    def _cached(self, source: Any, *lines: Any) -> tuple[Any, Sequence[Any]]:
        """Returns a source that caches the lines' shared deterministic prefix, and the rest of each line."""
        start = transforms.deterministic_prefix(lines)
        if not start or not self._cache.limit:
            return source, lines
        return Cached(source, start, self._cache), [line[len(start) :] for line in lines]

    def _alike_everywhere(self, source: Any, host_ops: Any, batch_size: int) -> EvalBatches:
        """Returns the batches of a source in index order, each whole in every process."""
        return EvalBatches(
            source, host_ops, batch_size=batch_size, on_bad_example=self.settings.on_bad_example
        )

    def _in_order(self, source: Any, host_ops: Any, batch_size: int) -> EvalBatches:
        source, (host_ops,) = self._cached(source, host_ops)
        return EvalBatches(
            source,
            host_ops,
            batch_size=batch_size,
            on_bad_example=self.settings.on_bad_example,
            shard=self.shard,
        )


def _with_images(batch: dict[str, Any]) -> dict[str, Any]:
    """Returns a batch of train_batches, made of one of indices and of all images."""
    rows = dict(batch)
    images = rows.pop(IMAGES)
    rows["image"] = images[rows["index"]]
    if "labeled" in rows:
        rows["labeled"] = rows["labeled"] | {"image": images[rows["labeled"]["index"]]}
    return rows


def _normalized(ops: Any, channels: int) -> np.ndarray:
    """Returns what the operations `normalize` make of black and white, float [2, channels]."""
    pixels = np.stack([np.zeros(channels), np.ones(channels)]).astype(np.float32)[:, None, None, :]
    for op in ops:
        if op.name == "normalize":
            pixels = op(jax.random.key(0), pixels)
    return np.asarray(pixels)[:, 0, 0, :]


def _shortened(names: Sequence[str]) -> str:
    return f"{len(names)} ({_first(names)})"


def _first(names: Sequence[str]) -> str:
    return f"{', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"


def _parse(field: str, line: str) -> tuple[Any, Any]:
    try:
        return transforms.parse(line)
    except ValueError as error:
        raise ValueError(f"config.{field}: {error}") from error
