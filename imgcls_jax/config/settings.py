"""The sections of a configuration as frozen records, which is how every function below `main` receives them.

`resolve.py` makes them. Their fields and defaults are those of the sections: a field that several things may
have (an optimizer's momentum, a network's dropout) stands in a mapping `fields`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from imgcls_jax.config.field_types import require_at_least

DTYPES = ("float32", "bfloat16")  # resolve.py says why float16 is none
ON_NONFINITE = ("stop", "skip", "rollback")
PARALLEL = ("replicated", "sharded", "per_replica")
FOLD = "fold"  # the split that a cross-validation holds out of the training split
MAIN = "main"  # the one phase of a run without the section `phases`


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """The section `data`.

    Attributes:
      source: a file of data/sources/, without ".py": "image_folder", "list_file", "cifar10", ...
      train_split, train_transforms: the split to train on and its line of transforms.
      view_transforms: lines of transforms. Each makes one more image of every training example, for
        objectives that compare views. A line without host operations starts from the output of those of
        train_transforms.
      labels_per_class, label_seed: how many labels of each class are known, and the seed that chooses them;
        0 for all. The training split is then the labeled examples alone, unless
      labeled_batch_size: is positive: then it is the whole split with the other labels hidden, and so many
        labeled examples come as a second stream beside each batch.
      unlabeled_has_labeled: whether the labeled examples are among the others too, their labels hidden;
        FixMatch's authors have them there, MixMatch's leave them out.
      imbalance_factor: above 1 the training split becomes long-tailed: class sizes fall exponentially, and
        the first class has so many times as many examples as the last; label_seed chooses them.
      oversample: whether to repeat the examples of smaller classes until all classes are equally large.
      folds: above 0 the training split is cross-validated: it is shared out among so many folds, at least 2
        (data/folds.py), and
      fold: is held out, from 0 on: the split "fold". The training split is then the other folds, also for
        evaluations; labels_per_class, imbalance_factor, oversample and known_classes choose from these.
      fold_seed: of the shares.
      images_per_class: above 1, an epoch's order groups so many images of a class, and a batch holds whole
        groups, for losses that compare images of a class; the last batches may hold what fills no group.
      augmentation_repeats: above 1, an epoch's order visits so few images that each comes so many times in a
        batch, augmented anew each time (repeated augmentation, arXiv:1901.09335). An epoch stays as long as
        it is.
      known_classes: the network learns the first so many classes, or those that this file names, one a line,
        and every split holds those alone; its other examples are the split "unknown:SPLIT", for evaluations.
        0 for all. The classes known come first, then the others, each in the order of the source.
      signatures: file of a row of numbers for each class (data/signatures.py), "" for none. With it the
        classes of the run are all of them, those that are never learned too.
      eval_transforms: line of every evaluation and of prediction; nothing random. In every line `of_weights`
        stands for what the weights of model.pretrained were measured with (train/of_weights.py).
      on_bad_example: "raise" or "skip".
      num_threads, num_workers, prefetch_batches: of data/read_ahead.py.
      cache_gib: memory of each process, in GiB, that caches each image after the leading deterministic
        transforms, so that later epochs do not decode it again. The batches are the same.
      on_device: whether all training images are put into each device's memory at the start, so that the
        host sends indices alone; for small images. The batches are the same. Host operations on them must
        draw nothing.
      fields: arguments of the source.
    """

    source: str
    train_transforms: str
    eval_transforms: str
    train_split: str = "train"
    view_transforms: Sequence[str] = ()
    labels_per_class: int = 0
    label_seed: int = 0
    labeled_batch_size: int = 0
    unlabeled_has_labeled: bool = True
    imbalance_factor: float = 1.0
    oversample: bool = False
    folds: int = 0
    fold: int = 0
    fold_seed: int = 0
    images_per_class: int = 1
    augmentation_repeats: int = 1
    known_classes: int | str = 0
    signatures: str = ""
    on_bad_example: str = "raise"
    num_threads: int = 2
    num_workers: int = 0
    prefetch_batches: int = 4
    cache_gib: float = 0.0
    on_device: bool = False
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        require_at_least("data", self, labels_per_class=0, label_seed=0, labeled_batch_size=0)
        require_at_least("data", self, images_per_class=1, num_threads=1, num_workers=0, prefetch_batches=1)
        if not (math.isfinite(self.cache_gib) and self.cache_gib >= 0):
            raise ValueError(f"config.data.cache_gib is a number of GiB, at least 0; got {self.cache_gib!r}")
        if self.cache_gib and self.num_workers:
            raise ValueError(
                "config.data.cache_gib is memory that threads share and worker processes would not: leave it "
                f"at 0, or set config.data.num_workers=0; got {self.num_workers} workers"
            )
        if self.on_device and self.on_bad_example != "raise":
            raise ValueError(
                "config.data.on_device puts every image into a batch by its index, also one that cannot be "
                'read: set config.data.on_bad_example="raise"'
            )
        if self.labeled_batch_size and not self.labels_per_class:
            raise ValueError("config.data.labeled_batch_size needs data.labels_per_class")
        self._check_folds()
        require_at_least("data", self, augmentation_repeats=1)
        if self.augmentation_repeats > 1 and self.images_per_class > 1:
            raise ValueError(
                "config.data.images_per_class groups different images of a class, and "
                "data.augmentation_repeats one image: leave out one of the two"
            )
        if self.images_per_class > 1 and self.labeled_batch_size:
            raise ValueError(
                "config.data.images_per_class groups images by labels that data.labeled_batch_size hides"
            )
        if self.labels_per_class and (self.imbalance_factor != 1 or self.oversample):
            raise ValueError(
                "config.data.labels_per_class makes classes of one size: leave out data.imbalance_factor and "
                "data.oversample"
            )

    def _check_folds(self) -> None:
        """Raises ValueError for a number of folds, or of a fold, that there is not."""
        require_at_least("data", self, folds=0, fold=0, fold_seed=0)
        if self.folds == 1:
            raise ValueError("config.data.folds is 0 for no cross-validation, or at least 2; got 1")
        if not self.folds and (self.fold or self.fold_seed):
            raise ValueError("config.data.fold and data.fold_seed are of a cross-validation: set data.folds")
        if self.folds and self.fold >= self.folds:
            raise ValueError(
                f"config.data.fold lies between 0 and {self.folds - 1}, data.folds being {self.folds}; got "
                f"{self.fold}"
            )
        if self.folds and self.train_split == FOLD:
            raise ValueError(
                f"config.data.train_split names the split to share out; {FOLD!r} is the one held out of it"
            )


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """The section `model`.

    Attributes:
      name: a family, a file of models/.
      variant: of the family.
      pretrained: file of weights, workdir of another run, or public weights by name (weights/hub.py); "" to
        draw them.
      fields: arguments of the family's `build`.
    """

    name: str
    variant: str
    pretrained: str = ""
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class ObjectiveSettings:
    """The section `objective`.

    Attributes:
      name: a file of objectives/.
      fields: arguments of its `make`.
    """

    name: str
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """The section `optimizer`; every *_steps may be given as *_epochs or *_examples.

    Attributes:
      name: of a function of optax or optax.contrib: "sgd", "adamw", "lars", "lamb", "lion", "rmsprop",
        "muon", ...
      learning_rate: the peak, at least 0.
      schedule: "constant"; "step": times decay_factor at every multiple of decay_every_steps, or at
        decay_at_steps; "cosine": from the end of the warm-up down to final_learning_rate at the last step;
        "cosine_7_16": times cos(7 pi t / 16) as t goes from 0, at the end of the warm-up, to 1;
        "exponential": times (final_learning_rate / peak)^t, final_learning_rate being above 0;
        "polynomial": final + (peak - final) (1 - t)^decay_power, linear by default; "reciprocal_sqrt": times
        sqrt(s / max(step, s)), s being timescale_steps, or warmup_steps where that is 0; "plateau": times
        decay_factor whenever the training loss, averaged over plateau_steps, has not fallen for `patience`
        such averages, never below final_learning_rate.
      warmup_steps: linear rise from 0 at step 0 to the peak; steps of a decay are counted from step 0 all the
        same.
      decay_factor, decay_every_steps, decay_at_steps: of "step"; the first of "plateau", too.
      plateau_steps, patience: of "plateau".
      decay_power: of "polynomial".
      timescale_steps: of "reciprocal_sqrt".
      final_learning_rate: of "cosine", "exponential", "polynomial", "plateau" and the cooldown.
      cooldown_steps: the last steps, over which the rate falls linearly to final_learning_rate, whatever the
        schedule.
      weight_decay: >= 0. Optimizers with a decay of their own (adamw, lamb, lars, lion, ...) receive it; for
        the others it is added to the gradient, as PyTorch's SGD does.
      l1: strength of an L1 penalty, >= 0: after each step of the optimizer the params of decay_params move
        towards 0 by the learning rate times l1, and stay at 0 where they would pass it.
      decay_params: pattern of the params that decay, by weight_decay and l1; the default leaves out biases
        and norm layers.
      clip_norm: largest global norm of the gradients of all params that are not frozen; 0 for no clipping.
      groups: (pattern, factor) pairs; the first pattern that matches a param's path sets the factor on its
        learning rate; None freezes: no update and no optimizer memory. What no pattern matches has factor 1.
      layer_decay: factor on the learning rate from each block of a transformer to the one before it, in
        (0, 1]: block i of L (from 0) learns at layer_decay^(L - i) of the rate, what lies before the blocks
        at layer_decay^(L + 1), what lies behind them at the whole rate (BEiT, arXiv:2106.08254, appendix).
      sam_radius: above 0 the gradient is that at params + sam_radius g / |g|, g being the gradient at params
        (SAM, arXiv:2010.01412, eq. 2 and 3). It takes twice the time.
      fields: hyper-parameters of the optax function (momentum=0.9, nesterov=True, b1=..., ...). In place of
        LARS's mask stands `trust_params`, the pattern of the params whose updates are scaled by their trust
        ratio; the default leaves out biases and norm layers, as LARS's authors and SimCLR's do.
        In place of muon's dimension numbers stands `muon_params`, the pattern of the kernels that it makes
        orthogonal, as matrices of outputs by all inputs; the default leaves out the head, which Adam moves,
        as muon's author does.
    """

    name: str
    learning_rate: float
    schedule: str = "constant"
    warmup_steps: int = 0
    decay_factor: float = 0.1
    decay_every_steps: int = 0
    decay_at_steps: Sequence[int] = ()
    plateau_steps: int = 0
    patience: int = 10
    decay_power: float = 1.0
    timescale_steps: int = 0
    final_learning_rate: float = 0.0
    cooldown_steps: int = 0
    weight_decay: float = 0.0
    l1: float = 0.0
    decay_params: str = r".*/kernel"
    clip_norm: float = 0.0
    groups: Sequence[tuple[str, float | None]] = ()
    layer_decay: float = 1.0
    sam_radius: float = 0.0
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"config.optimizer.{field.name} is a finite number; got {value}")
        require_at_least("optimizer", self, final_learning_rate=0)
        require_at_least("optimizer", self, decay_every_steps=0, timescale_steps=0, cooldown_steps=0)
        require_at_least("optimizer", self, decay_power=0, sam_radius=0, l1=0, plateau_steps=0, patience=1)
        if any(step < 0 for step in self.decay_at_steps):
            raise ValueError(
                "config.optimizer.decay_at_epochs (or decay_at_steps) are not negative; got "
                f"{tuple(self.decay_at_steps)} steps"
            )
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"optimizer.layer_decay lies in (0, 1]; got {self.layer_decay}")
        if self.learning_rate < 0 or self.warmup_steps < 0:
            raise ValueError(
                "optimizer.learning_rate and optimizer.warmup_epochs (or warmup_steps) are not negative; got "
                f"{self.learning_rate} and {self.warmup_steps} steps"
            )
        if self.weight_decay < 0 or self.clip_norm < 0:
            raise ValueError(
                "optimizer.weight_decay and optimizer.clip_norm are not negative; got "
                f"{self.weight_decay} and {self.clip_norm}"
            )


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """The section `train`; every *_steps may be given as *_epochs or *_examples.

    Attributes:
      batch_size: examples a step, over all devices.
      total_steps: of the run; 0 to evaluate pretrained weights alone. The sum of their lengths where it has
        `phases`.
      seed: of initialisation, order and augmentation.
      resume_from: WORKDIR, WORKDIR@STEP or WORKDIR@best of another run, whose checkpoint this run begins with
        (train/origin.py); "" to begin anew. model.pretrained is not read then.
      steps_per_call: the most steps that one call of the compiled program takes. More than 1 spares small
        networks the host's work between two steps.
      num_microbatches: parts in which a batch is worked through, one after the other, to save memory.
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
      replicas: of "per_replica": so many on any number of devices, a power of two; a device works through
        its own one after the other, and a run ends in the same bits on 1, 2, 4, ... devices of one kind
        (train/replicas.py). 0 is one a device.
      loggers: files of trackers/: where numbers, tables and pictures go beside metrics.jsonl: "tensorboard",
        "wandb", "mlflow"; () for nowhere.
    """

    batch_size: int
    total_steps: int
    seed: int = 0
    resume_from: str = ""
    steps_per_call: int = 1
    num_microbatches: int = 1
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
    replicas: int = 0
    loggers: Sequence[str] = ("tensorboard",)

    def __post_init__(self) -> None:
        require_at_least("train", self, batch_size=1, total_steps=0, seed=0, num_microbatches=1, replicas=0)
        require_at_least("train", self, steps_per_call=1)
        if self.replicas and self.steps_per_call > 1:
            raise ValueError(
                "config.train.replicas makes several programs of a step, and train.steps_per_call one of "
                "several steps: leave out one of the two"
            )
        require_at_least("train", self, eval_batch_size=0, log_every_steps=0, eval_every_steps=0)
        require_at_least("train", self, checkpoint_every_steps=0, keep_checkpoints=1, feature_cache_gib=0)
        require_at_least("train", self, checkpoint_every_minutes=0)
        for field, choices in (
            ("on_nonfinite", ON_NONFINITE), ("parallel", PARALLEL), ("best_mode", ("max", "min"))
        ):  # fmt: skip
            if getattr(self, field) not in choices:
                raise ValueError(
                    f"config.train.{field} is one of {', '.join(choices)}; got {getattr(self, field)!r}"
                )

        if self.replicas & (self.replicas - 1):
            raise ValueError(
                "config.train.replicas is a power of two, because replicas are added in pairs, or 0 for one "
                f"a device; got {self.replicas}"
            )
        if self.replicas and self.parallel != "per_replica":
            raise ValueError(
                f"config.train.replicas = {self.replicas} goes with config.train.parallel = 'per_replica'; "
                f"got {self.parallel!r}"
            )

    @property
    def evaluated_at_once(self) -> int:
        """Examples of a batch of an evaluation."""
        return self.eval_batch_size or self.batch_size


@dataclasses.dataclass(frozen=True)
class ViewSettings:
    """The field `views` of an evaluation: predictions are averaged over views of each image.

    Attributes:
      crop: side of the views, in pixels.
      corners: whether each corner is a view, beside the center.
      flip: whether each view is taken mirrored, too.
      sizes: heights and widths, in pixels, to which the whole image is brought before the crops are cut, one
        after the other; () for as it comes.
      pad: pixels by which every side is continued by reflection before the crops are cut.
    """

    crop: int
    corners: bool = True
    flip: bool = True
    sizes: Sequence[int] = ()
    pad: int = 0

    def __post_init__(self) -> None:
        if self.crop < 1 or any(size < self.crop for size in self.sizes):
            raise ValueError(
                f"views: crop is positive and at most each of sizes; got {self.crop} and {tuple(self.sizes)}"
            )
        if not 0 <= self.pad < self.crop:
            raise ValueError(f"views: pad lies between 0 and crop - 1, {self.crop - 1}; got {self.pad}")


@dataclasses.dataclass(frozen=True)
class EvalSettings:
    """One section of `evals`.

    Attributes:
      name: of the section, and of its metrics ("test" in "test/accuracy").
      evaluator: a file of evaluators/.
      views: None to predict each image as it comes.
      fields: arguments of the evaluator's `make`.
    """

    name: str
    evaluator: str
    views: ViewSettings | None = None
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class PhaseSettings:
    """One section of `phases`, or the whole of a run that has none.

    Attributes:
      name: of the section; MAIN for the whole of a run.
      total_steps: its length.
      train_transforms: line of the training images.
      optimizer: the section `optimizer` with the phase's own fields in place of those.
    """

    name: str
    total_steps: int
    train_transforms: str
    optimizer: OptimizerSettings

    @property
    def section(self) -> str:
        """Where its fields stand, for messages."""
        return "optimizer" if self.name == MAIN else f"phases.{self.name}"


@dataclasses.dataclass(frozen=True)
class Settings:
    """A whole configuration."""

    data: DataSettings
    model: ModelSettings
    objective: ObjectiveSettings
    train: TrainSettings
    evals: tuple[EvalSettings, ...]
    phases: tuple[PhaseSettings, ...]
