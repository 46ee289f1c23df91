"""A trained network that an objective learns from: opened, compared with the run, run on its batches.

Its variables are an input of the step beside the batch's rows, and the step sees them through logits alone.
So they are no part of the state: no gradient, optimizer, average, digest or checkpoint knows them. A workdir
keeps their SHA-256 in `teacher.json`, so that a run goes on with the same teacher or not at all.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from imgcls_jax.config.field_types import fits
from imgcls_jax.config.modules import find_module
from imgcls_jax.config.resolve import resolve_model
from imgcls_jax.contracts.classifier import make_classifier
from imgcls_jax.contracts.objective import Teacher
from imgcls_jax.data import augment, transforms
from imgcls_jax.runtime.buckets import as_path
from imgcls_jax.runtime.files import read_json, write_json
from imgcls_jax.train.build import make_backbone, make_objective
from imgcls_jax.train.checkpoint import Checkpoints
from imgcls_jax.train.sharding import copy
from imgcls_jax.train.state import tree_digest
from imgcls_jax.train.workdir import load_configuration, load_task, named
from imgcls_jax.weights import pretrained

FILE = "teacher.json"
FIELD = "config.objective.teacher"
DESCRIPTION = "export.json"  # of an exported folder
MAX_IMAGE = 2**28  # numbers of one image, more than any network reads
PROBES = ((0, 0, 0, 0), (255, 255, 255, 255), (0, 90, 180, 255))  # the colors of three images of one color


class Seen(NamedTuple):
    """What a network sees of images.

    Attributes:
      class_names: K names; () where they are not known.
      image_shape: (H, W, C), after every transform; () where it is not known.
      levels: of `levels`; None where they are not known.
    """

    class_names: tuple[str, ...]
    image_shape: tuple[int, ...]
    levels: np.ndarray | None


def levels(line: str, source_shape: tuple[int, ...]) -> np.ndarray:
    """Returns what the device side of a line makes of three images of one color, at their middle.

    Two lines that normalize alike agree here, whatever they crop and resize.

    Args:
      line: of evaluation.
      source_shape: (H, W, C), of images before the device side.

    Returns:
      float32 [3, C].

    Raises:
      ValueError: the line does not parse, or the images are larger than any.
    """
    if math.prod(source_shape) > MAX_IMAGE:
        raise ValueError(f"images of {source_shape} are larger than any network reads")
    shape = (len(PROBES), *source_shape)
    images = np.broadcast_to(np.array(PROBES, np.uint8)[:, None, None, : source_shape[2]], shape)
    prepared = augment.compose(transforms.parse(line)[1])(jax.random.key(0), {"image": jnp.asarray(images)})
    seen = np.asarray(prepared["image"])
    return seen[:, seen.shape[1] // 2, seen.shape[2] // 2]


@dataclasses.dataclass(frozen=True, eq=False)
class TeacherNetwork:
    """A frozen network.

    Attributes:
      path: as the configuration names it.
      seen: what it was trained on.
      predict: (params, objective_state, {"image"}) -> {"logits": float [B, K], ...}.
      read: () -> ((params, objective_state), where they came from); every process calls it.
    """

    path: str
    seen: Seen
    predict: Callable[[Any, Any, dict[str, jax.Array]], dict[str, jax.Array]]
    read: Callable[[], tuple[tuple[Any, Any], str]]

    @functools.cached_property
    def _read(self) -> tuple[tuple[Any, Any], str]:
        return self.read()

    @property
    def variables(self) -> Any:
        """(params, objective_state), whole on each device; read at the first use."""
        return self._read[0]

    @functools.cached_property
    def digest(self) -> str:
        """The SHA-256, in hex, of the variables."""
        return tree_digest(self.variables)

    def logits(self, variables: Any, images: jax.Array) -> jax.Array:
        """Returns float32 [B, K], without a gradient. Args: variables; images float [B, H, W, C]."""
        params, objective_state = variables
        outputs = self.predict(params, objective_state, {"image": images})
        return jax.lax.stop_gradient(outputs["logits"].astype(jnp.float32))

    def require_same(self, workdir: Path) -> None:
        """Raises ValueError where a workdir's run was taught by other weights."""
        file = workdir / FILE
        if not file.exists():
            return
        kept = read_json(file)
        if not fits(kept.get("sha256"), str) or not fits(kept.get("of"), str):
            raise ValueError(f"{file} is damaged: remove it, and the run goes on without the comparison")
        if kept["sha256"] != self.digest:
            raise ValueError(
                f"{workdir} was taught by {kept['of']}, and {FIELD} = {self.path!r} holds other weights now "
                f"({self._read[1]}): bring those back, or choose another --workdir, where "
                f"--config.train.resume_from={workdir} goes on with this teacher"
            )

    def write(self, workdir: Path) -> None:
        """Notes in a workdir who teaches its run."""
        write_json(workdir / FILE, {"of": self._read[1], "sha256": self.digest})


def open_teacher(teacher: Teacher, seen: Seen, where: jax.sharding.Sharding) -> TeacherNetwork:
    """Opens a teacher; its variables are read when they are first used.

    Args:
      teacher: of the objective.
      seen: by the run that it is to teach.
      where: to put its variables.

    Raises:
      ValueError: there is none, it does not fit the run, or objective.teacher_model is missing or idle.
    """
    workdir, which = named(teacher.path)
    try:
        if (workdir / "config.json").exists():
            if teacher.model is not None:
                raise ValueError("is a workdir, which says its network itself: leave out teacher_model")
            opened = _of_workdir(teacher.path, workdir, which, where)
        else:
            opened = _of_weights(teacher, seen, where)
        _compare(opened.seen, seen)
    except ValueError as error:
        raise ValueError(f"{FIELD} = {teacher.path!r}: {error}") from error
    return opened


def _of_workdir(path: str, workdir: Path, which: str, where: jax.sharding.Sharding) -> TeacherNetwork:
    task, class_names, source_shape = load_task(workdir)
    settings = load_configuration(workdir).settings(task.steps_per_epoch)
    objective = make_objective(settings.objective, task, make_backbone(settings.model))
    if objective.multi_label:
        raise ValueError("gives an image any number of labels; a teacher gives one")

    def read() -> tuple[tuple[Any, Any], str]:
        train = settings.train
        with Checkpoints(
            workdir / "checkpoints",
            best_metric=train.best_metric,
            best_mode=train.best_mode,
            read_only=True,
        ) as checkpoints:
            step, params, objective_state = checkpoints.restore_for_prediction(which, where)
        return (params, objective_state), f"step {step} of {workdir}"

    seen = Seen(class_names, task.image_shape, levels(settings.data.eval_transforms, source_shape))
    return TeacherNetwork(path, seen, objective.predict, read)


def _of_weights(teacher: Teacher, seen: Seen, where: jax.sharding.Sharding) -> TeacherNetwork:
    file, description = as_path(teacher.path).expanduser(), {}
    if (file / DESCRIPTION).is_file():
        description, file = read_json(file / DESCRIPTION), file / pretrained.EXPORTED
    if not file.exists():
        raise ValueError("does not exist: train the teacher first, or bring it back")
    if not file.is_file():
        raise ValueError("is no workdir of a run, no folder of tools.export and no file of weights")
    if teacher.model is None:
        raise ValueError(
            "holds weights, which do not tell their network: give objective.teacher_model the fields of the "
            "section model, such as {'name': 'resnet', 'variant': 'resnet50'}"
        )
    model = resolve_model(dict(teacher.model))
    backbone, num_classes = make_backbone(model), len(seen.class_names)
    classifier = make_classifier(backbone, num_classes)

    def read() -> tuple[tuple[Any, Any], str]:
        images = jax.ShapeDtypeStruct((1, *seen.image_shape), jnp.float32)
        params, objective_state = jax.eval_shape(classifier.init, jax.random.key(0), images)
        target = {"params": params, "batch_stats": objective_state["batch_stats"]}
        positions = getattr(backbone, "resize_positions", "timm")
        family = find_module("models", model.name)
        params, batch_stats, report = pretrained.load(
            file, family, model.variant, target, positions=positions
        )
        if "head" not in params:
            raise ValueError(f"{FIELD}: {file} classifies no {num_classes} classes: {report}")
        state = {"batch_stats": batch_stats, "head_state": {}}
        return copy((params, state), where), f"{file}"

    return TeacherNetwork(teacher.path, _described(description), classifier.predict, read)


def _described(description: dict[str, Any]) -> Seen:
    """Returns what an export says that its network sees; nothing is known of weights alone."""
    if not description:
        return Seen((), (), None)
    names, line, shape = (description.get(name) for name in ("class_names", "eval_transforms", "image_shape"))
    sound = fits(names, list[str]) and fits(line, str) and fits(shape, tuple[int, int, int])
    if names is None or line is None or shape is None or not sound:
        raise ValueError(f"{DESCRIPTION} is damaged")
    return Seen(tuple(names), (), levels(line, tuple(shape)))


def _compare(teacher: Seen, student: Seen) -> None:
    """Raises ValueError for the first thing that the two do not see alike."""
    if teacher.class_names and teacher.class_names != student.class_names:
        pairs = zip(teacher.class_names, student.class_names, strict=False)
        first = next((f"{old!r}, here {new!r}" for old, new in pairs if old != new), "")
        raise ValueError(
            f"knows {len(teacher.class_names)} classes, and this run has {len(student.class_names)}"
            + (f"; the first that differs is {first}" if first else "")
            + ": a teacher has the same classes in the same order"
        )
    if teacher.image_shape and teacher.image_shape != student.image_shape:
        raise ValueError(
            f"was trained on images of {teacher.image_shape}, and this run makes {student.image_shape}: end "
            "both lines of transforms in one size"
        )
    if teacher.levels is None or student.levels is None:
        return
    if teacher.levels.shape != student.levels.shape or not np.allclose(
        teacher.levels, student.levels, atol=1e-4
    ):
        raise ValueError(
            f"was trained on images whose black is {_shown(teacher.levels[0])} and whose white is "
            f"{_shown(teacher.levels[1])}; here they are {_shown(student.levels[0])} and "
            f"{_shown(student.levels[1])}: end both lines of transforms in the same normalize(...)"
        )


def _shown(level: np.ndarray) -> str:
    return "(" + ", ".join(f"{value:.3g}" for value in level) + ")"
