"""A trained network as its workdir keeps it: loaded for prediction, and evaluated."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from imgcls_jax.config.settings import Settings
from imgcls_jax.contracts.objective import Batch, Objective, Task
from imgcls_jax.data.datasets import UNKNOWN, DataSide
from imgcls_jax.data.image_files import FileOutput, outputs_of_files
from imgcls_jax.runtime.agreement import of_first, union
from imgcls_jax.runtime.buckets import as_path
from imgcls_jax.runtime.command import tell
from imgcls_jax.runtime.files import write_json
from imgcls_jax.runtime.progress import bar
from imgcls_jax.train import evaluation, kept_data, known_data, sharding
from imgcls_jax.train.build import evaluated_splits, make_backbone, make_evaluators, make_objective
from imgcls_jax.train.checkpoint import Checkpoints
from imgcls_jax.train.evaluation import Splits
from imgcls_jax.train.workdir import load_configuration, load_task

# How many standard deviations, and at least which part of white, a brightness is far from that of training.
FAR, FAR_AT_LEAST = 4.0, 0.15


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained network, as a workdir keeps it.

    Attributes:
      settings, task, class_names, source_shape: as they were in training; source_shape is that of images
        before the device side.
      data: the section `data`, with its transforms.
      objective, params, objective_state, step: what predicts.
      brightness: mean and spread over the images trained on, in 0..1; None where the workdir keeps none.
    """

    settings: Settings
    task: Task
    class_names: tuple[str, ...]
    source_shape: tuple[int, ...]
    data: DataSide
    objective: Objective
    params: Any
    objective_state: Any
    step: int
    brightness: tuple[float, float] | None = None

    def predict(self, params: Any, objective_state: Any, batch: Batch) -> dict[str, Any]:
        """Predicts a batch as a split is read: the device side of the evaluation line, then the objective."""
        return self.objective.predict(params, objective_state, self.data.prepare(batch))

    def outputs_of_files(
        self, paths: Sequence[Path], wanted: Callable[[dict[str, jax.Array]], jax.Array], *, batch_size: int
    ) -> Iterator[FileOutput]:
        """Yields what the network says of each image file, in order.

        Args:
          paths: of image files.
          wanted: from what the objective predicts of a batch to an array [B, ...], traced.
          batch_size: files at a time.
        """
        outputs = jax.jit(
            lambda params, objective_state, image: wanted(
                self.predict(params, objective_state, {"image": image})
            )
        )
        seen: list[float] = []
        yield from outputs_of_files(
            paths,
            self.data.settings.eval_transforms,
            self.source_shape,
            functools.partial(outputs, self.params, self.objective_state),
            batch_size=batch_size,
            watch=lambda images: seen.extend((images.mean((1, 2, 3)) / 255).tolist()),
        )
        hint = unlike_training(seen, self.brightness)
        if hint:
            tell(f"warning: {hint}")

    def outputs_of_split(
        self, split: str, wanted: Callable[[dict[str, jax.Array]], jax.Array], *, batch_size: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns what the network says of a split, every example once, in its order.

        Args:
          split: of the run's data.
          wanted: from what the objective predicts of a batch to an array [B, ...], traced.
          batch_size: examples at a time.

        Returns:
          Outputs float32 [N, ...], labels int32 [N] or [N, K].

        Raises:
          ValueError, OSError: the data are not there, or `wanted` misses an output.
        """
        batches = self.data.eval_batches(split, batch_size, self.class_names)

        @jax.jit
        def rows(params: Any, objective_state: Any, image: jax.Array) -> jax.Array:
            return wanted(self.predict(params, objective_state, {"image": image}))

        found, labels = [], []
        with bar(f"reading {split}", len(batches.source), "images") as shown:
            for number in range(len(batches)):
                batch = batches[number]
                mask = batch["mask"]
                output = rows(self.params, self.objective_state, batch["image"])
                found.append(np.asarray(output, np.float32)[mask])
                labels.append(batch["label"][mask])
                shown.advance(len(labels[-1]))
        outputs = np.concatenate(found)
        if not np.isfinite(outputs).all():
            bad = int((~np.isfinite(outputs)).any(axis=-1).sum())
            raise ValueError(f"the network gives no numbers (NaN or infinity) for {bad} images of {split}")
        return outputs, np.concatenate(labels)


def unlike_training(seen: Sequence[float], brightness: tuple[float, float] | None) -> str:
    """Returns what to say where images are far darker or brighter than those trained on; "" where not.

    Args:
      seen: the mean of each image, in 0..1.
      brightness: of those trained on: the mean of their means, and the standard deviation.
    """
    if not seen or brightness is None:
        return ""
    usual, spread = brightness
    middle = float(np.median(seen))
    if abs(middle - usual) <= max(FAR * spread, FAR_AT_LEAST):
        return ""
    kind = "brighter" if middle > usual else "darker"
    return (
        f"these images are far {kind} than those trained on (mean {middle:.2f} of white, there {usual:.2f} "
        f"+- {spread:.2f}): are they inverted, as dark writing on white? The answers may be wrong"
    )


def probabilities(outputs: dict[str, jax.Array]) -> jax.Array:
    """Returns the classes' probabilities, float [B, K], among what an objective predicts.

    Raises:
      ValueError: it predicts no classes.
    """
    if "probabilities" in outputs:
        return outputs["probabilities"]
    if "logits" not in outputs:
        raise ValueError("this run's objective predicts no classes")
    return jax.nn.softmax(outputs["logits"])


def embedding(outputs: dict[str, jax.Array]) -> jax.Array:
    """Returns the embedding, float32 [B, D], among what an objective predicts.

    Raises:
      ValueError: there is none.
    """
    if "embedding" not in outputs:
        raise ValueError("this run's objective predicts no embedding, so its images have no neighbours")
    return outputs["embedding"].astype(jnp.float32)


def load(
    workdir: str | Path, checkpoint: str = "latest", *, data: known_data.Named = known_data.NOTHING
) -> Trained:
    """Loads a workdir's network; the data it was trained on need not be there.

    Args:
      workdir: of a run.
      checkpoint: "latest", "best" or a step.
      data: what the user says of the run's data; see known_data.py for those that are opened.

    Raises:
      ValueError: no such workdir or checkpoint, or --data_root for data without a root.
    """
    workdir = as_path(workdir)
    configuration, withheld = known_data.placed(load_configuration(workdir), workdir, data)
    task, class_names, source_shape = load_task(workdir)
    settings = configuration.settings(task.steps_per_epoch)
    with Checkpoints(
        workdir / "checkpoints",
        best_metric=settings.train.best_metric,
        best_mode=settings.train.best_mode,
        read_only=True,
    ) as checkpoints:
        step, params, objective_state = checkpoints.restore_for_prediction(
            checkpoint, sharding.replicated(sharding.data_mesh())
        )
    return Trained(
        settings,
        task,
        class_names,
        source_shape,
        DataSide(settings.data, (jax.process_index(), jax.process_count()), of_first(withheld)),
        make_objective(settings.objective, task, make_backbone(settings.model)),
        params,
        objective_state,
        step,
        kept_data.brightness_of(workdir),
    )


def _existing(fields: Mapping[str, Any], moved: Mapping[str, str]) -> Mapping[str, str]:
    for name in moved:
        if name not in fields:
            raise ValueError(f"config.data.{name}: the data of this workdir have no such field")
    return moved


def _compare_data(workdir: Path, trained: Trained, splits: Sequence[str], *, moved: bool) -> None:
    """Tells what is read, and whether the splits hold what they held in training.

    Raises:
      ValueError: `moved` data are others.
    """
    first = jax.process_index() == 0
    warning = trained.data.normalization_warning(trained.source_shape[-1])
    lines = [f"warning: {warning}"] if warning else []
    found = {name: trained.data.contents([name])[name] for name in dict.fromkeys(splits)}
    lines += [trained.data.rule(name) for name in found]
    known = [name for name in found if not name.startswith(UNKNOWN)]
    names = trained.data.source(known[0]).class_names if known else trained.class_names
    try:
        kept_data.require_same(workdir, found, names, told=first)
    except ValueError as error:
        if moved:
            raise
        lines.append(f"warning: {error}")
    for line in lines if first else ():
        tell(line)


def evaluate(
    workdir: str | Path,
    *,
    split: str = "",
    checkpoint: str = "latest",
    transforms: str = "",
    data: known_data.Named = known_data.NOTHING,
    moved: Mapping[str, str] | None = None,
    show: Callable[[dict[str, Any]], None] = lambda result: None,
) -> dict[str, Any]:
    """Evaluates a workdir's checkpoint; of several processes each reads its part, and all return the same.

    Args:
      workdir: of a run.
      split: to evaluate on instead of each evaluation's own; "" for theirs.
      checkpoint: "latest", "best" or a step.
      transforms: a line instead of data.eval_transforms, such as another crop or size; "" for that.
      data: what the user says of the run's data.
      moved: {field of the section `data`: where it lies now}, of data that are the same.
      show: called with the result in the first process, before it is written.

    Returns:
      {"step": ..., evaluation's name: metrics, "bad_examples": images that could not be read and were left
      out, a number}; without transforms also written to <workdir>/eval_<checkpoint's step>[_<split>].json.

    Raises:
      ValueError: no such workdir, checkpoint or split, data that stay closed, or a mistake in the line.
      OSError: the file cannot be written; the result was shown.
    """
    trained = load(workdir, checkpoint, data=data)
    if trained.data.withheld:
        raise ValueError(trained.data.withheld)
    if transforms or moved:
        changed = trained.settings.data
        changed = dataclasses.replace(
            changed,
            eval_transforms=transforms or changed.eval_transforms,
            fields={**changed.fields, **_existing(changed.fields, moved or {})},
        )
        trained = dataclasses.replace(trained, data=DataSide(changed, trained.data.shard))
    evals = trained.settings.evals
    if split:  # the splits that an evaluator fits on stay
        evals = tuple(dataclasses.replace(own, fields={**own.fields, "split": split}) for own in evals)
    read = [own for _, own in evaluated_splits(evals)]
    _compare_data(as_path(workdir), trained, read, moved=bool(moved) or data.root is not None)
    batch_size = sharding.rounded_up(trained.settings.train.evaluated_at_once, sharding.data_mesh())

    splits = Splits(trained.data, batch_size, trained.class_names)
    evaluators = make_evaluators(evals, trained.predict, splits.open, trained.task)
    metrics = dict(evaluation.run(evaluators, trained.params, trained.objective_state))
    result = {"step": trained.step} | metrics | {"bad_examples": len(union(splits.bad_examples))}
    if jax.process_index() == 0:
        show(result)
        if not transforms:
            path = as_path(workdir) / f"eval_{trained.step}{f'_{split}' if split else ''}.json"
            write_json(path, result, way_out=". The figures were shown")
    return result
