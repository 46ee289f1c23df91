"""The files of a workdir that say whose it is: its configuration, its task, and its lock."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import logging
import os
import platform
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from imgcls_jax.config import compare
from imgcls_jax.config.configuration import Configuration
from imgcls_jax.config.field_types import fits
from imgcls_jax.config.resolve import resolve
from imgcls_jax.config.written import Config, in_present_words, of_first_version
from imgcls_jax.contracts.objective import Task
from imgcls_jax.data.contents import Contents
from imgcls_jax.runtime import bucket_lock
from imgcls_jax.runtime.buckets import as_path, is_bucket
from imgcls_jax.runtime.files import naming, open_own, read_json, write_json
from imgcls_jax.runtime.names import printable
from imgcls_jax.train import kept_data

logger = logging.getLogger(__name__)

MAX_HOLDER = 200  # characters of a lock that a message shows


@dataclasses.dataclass(frozen=True)
class Saved:
    """The configuration that a workdir keeps.

    Attributes:
      written: what its file and command line said.
      resolved: every field, durations in steps.
      steps_per_epoch: of the run.
    """

    written: Config
    resolved: Config
    steps_per_epoch: int


class Found(NamedTuple):
    """The data at hand.

    Attributes:
      splits: what each split of the run holds.
      class_names: of the training split.
      steps_per_epoch: of the run.
      accept_growth: whether more images than before are accepted.
      signatures: of the classes, as of Task.
    """

    splits: Mapping[str, Contents]
    class_names: tuple[str, ...]
    steps_per_epoch: int
    accept_growth: bool = False
    signatures: tuple[tuple[float, ...], ...] = ()


def named(text: str) -> tuple[Path, str]:
    """Returns the workdir that WORKDIR, WORKDIR@STEP or WORKDIR@best names, and which of its checkpoints:
    "latest", "best" or a step."""
    path, (stem, at, which) = as_path(text).expanduser(), text.rpartition("@")
    if at and not path.exists():
        return as_path(stem).expanduser(), which
    return path, "latest"


def save_configuration(
    workdir: Path,
    configuration: Configuration,
    steps_per_epoch: int,
    pinned: Mapping[str, str] | None = None,
) -> None:
    """Writes <workdir>/config.json.

    Args:
      workdir: exists.
      configuration, steps_per_epoch: of the run.
      pinned: the commit of public weights, as `Located` has it; without one that of before stays.
    """
    resolved = configuration.in_steps(steps_per_epoch)
    pinned = pinned or pinned_weights(workdir)
    content = {
        "written": configuration.written,
        "resolved": resolved,
        "steps_per_epoch": steps_per_epoch,
        "digest": compare.digest(resolved),
    } | ({"pretrained": pinned} if pinned else {})
    write_json(workdir / "config.json", content)


def pinned_weights(workdir: Path) -> Mapping[str, Any]:
    """Returns which commit of public weights a workdir began with; {} where it keeps none."""
    path = workdir / "config.json"
    kept = read_json(path).get("pretrained") if path.exists() else None
    return kept if isinstance(kept, dict) else {}


def _read_configuration(workdir: Path) -> Saved:
    """Returns the configuration of a workdir; one without resolved fields is resolved by today's defaults.

    Raises:
      ValueError: it is absent or damaged.
    """
    path = workdir / "config.json"
    content = read_json(path)
    if content.get("tool") == "classic":
        raise ValueError(f"{workdir} is of tools.classic, which keeps no network: tools.report reads it")
    if "resolved" not in content:
        logger.warning("%s is of a version that kept no defaults: today's are taken for them", path)
        steps_per_epoch = load_task(workdir)[0].steps_per_epoch
        configuration = _resolved(path, of_first_version(content))
        return Saved(configuration.written, configuration.in_steps(steps_per_epoch), steps_per_epoch)
    types = {"written": dict, "resolved": dict, "steps_per_epoch": int}
    for name, wanted in types.items():
        if not fits(content.get(name), wanted):
            raise ValueError(
                f"{path} is damaged: {name} is of type {wanted.__name__}; got {content.get(name)!r}"
            )
    written, resolved = (in_present_words(content[name]) for name in ("written", "resolved"))
    return Saved(written, resolved, content["steps_per_epoch"])


def _resolved(path: Path, config: Any) -> Configuration:
    try:
        return resolve(config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def load_configuration(workdir: Path) -> Configuration:
    """Returns the configuration of a workdir, with the values that the run used.

    Raises:
      ValueError: it is absent or damaged.
    """
    saved = _read_configuration(workdir)
    used = _resolved(workdir / "config.json", with_used_values(saved.resolved))
    return dataclasses.replace(used, written=saved.written)


def with_used_values(resolved: Config) -> Config:
    """Returns a resolved configuration as one that could be written: phases have its length, or `train`."""
    train = dict(resolved["train"])
    if resolved["phases"]:
        train["total_steps"] = 0
    return resolved | {"train": train}


def check(configuration: Configuration, workdir: Path, found: Found | None = None) -> bool:
    """Checks that a workdir is new or of this configuration, and of these data.

    Args:
      configuration: of the run that is to start or go on.
      workdir: perhaps absent.
      found: of the data; None where they are not open yet.

    Returns:
      Whether the workdir's run is a shorter one: `growth.require_growth` then asks whether it may grow.

    Raises:
      ValueError: it is of another configuration or of other data.
    """
    if workdir.exists() and not workdir.is_dir():
        raise ValueError(f"--workdir {workdir} is a file")
    if not (workdir / "config.json").exists():
        return False
    saved, keeps_data = _read_configuration(workdir), kept_data.read(workdir) is not None
    old, new = saved.resolved, configuration.in_steps(saved.steps_per_epoch)
    differing = compare.without_new_fields(compare.differing_fields(old, new), configuration.written)
    differing = _without_evaluations(differing)
    if keeps_data:
        differing = {name: values for name, values in differing.items() if name not in compare.WHERE}
    grows = _take_length(differing)
    if differing:
        lines = compare.describe(differing, saved.written, configuration.written)
        raise ValueError(
            f"{workdir} belongs to a run of another configuration; choose another --workdir, where "
            f"--config.train.resume_from={workdir} goes on from its newest checkpoint, or "
            + "\n  ".join(["give back:", *lines])
        )
    if found is None:
        return grows
    grown = kept_data.require_same(
        workdir, found.splits, found.class_names, accept_growth=found.accept_growth
    )
    if found.signatures and found.signatures != load_task(workdir)[0].signatures:
        raise ValueError(
            f"{workdir} belongs to a run with other signatures of the classes: bring back what the file "
            "config.data.signatures held, or choose another --workdir"
        )
    if found.steps_per_epoch == saved.steps_per_epoch:
        return grows
    if not grown:
        raise ValueError(
            f"{workdir} belongs to a run of {saved.steps_per_epoch} steps an epoch, and the training split "
            f"has {found.steps_per_epoch} now: the data have changed. Choose another --workdir, or bring the "
            "data back"
        )
    return grows or _grows_with_data(saved, configuration, found.steps_per_epoch)


def changed_evaluations(configuration: Configuration, workdir: Path) -> list[str]:
    """Returns a line for each field in which a run's evaluations are now others than in its workdir.

    Raises:
      ValueError: train.best_metric is of an evaluation that has changed: the best checkpoint so far was
        chosen by another measure of that name.
    """
    if not (workdir / "config.json").exists():
        return []
    saved = _read_configuration(workdir)
    differing = compare.differing_fields(saved.resolved, configuration.in_steps(saved.steps_per_epoch))
    differing = compare.without_new_fields(differing, configuration.written)
    changed = {name: differing[name] for name in differing.keys() - _without_evaluations(differing).keys()}
    lines = compare.describe(changed, saved.written, configuration.written)
    best = configuration.in_steps(saved.steps_per_epoch)["train"]["best_metric"].partition("/")[0]
    if best in saved.resolved["evals"] and any(name.split(".")[1] == best for name in changed):
        raise ValueError(
            f"{workdir}: the evaluation {best!r}, by which train.best_metric chooses, has changed ("
            f"{'; '.join(lines)}): give it another name, such as evals.{best}_2, and name that in "
            "train.best_metric"
        )
    return lines


def _without_evaluations(differing: dict[str, tuple[Any, Any]]) -> dict[str, tuple[Any, Any]]:
    return {name: own for name, own in differing.items() if not name.startswith(compare.EVALUATIONS)}


def _take_length(differing: dict[str, tuple[Any, Any]]) -> bool:
    """Removes the length of the run where the new one is larger; returns whether it is."""
    old, new = differing.get(compare.LENGTH, (0, 0))
    if old < new:
        del differing[compare.LENGTH]
    return old < new


def _grows_with_data(saved: Saved, configuration: Configuration, steps_per_epoch: int) -> bool:
    """Returns whether a run becomes longer because an epoch does.

    Raises:
      ValueError: so does a duration that shapes what is trained, as that of a warm-up.
    """
    differing = compare.differing_fields(saved.resolved, configuration.in_steps(steps_per_epoch))
    grows = _take_length(differing)
    shaping = [name for name in differing if name not in compare.WHERE and not name.startswith("train.")]
    if shaping:
        raise ValueError(
            f"the data have grown, and an epoch from {saved.steps_per_epoch} to {steps_per_epoch} steps. So "
            f"do {', '.join(shaping)}: what was trained is not the beginning of this run. Choose another "
            "--workdir, or bring the data back"
        )
    return grows


def saved_length(workdir: Path) -> int:
    """Returns the number of steps that the workdir's run was to take."""
    return _read_configuration(workdir).resolved["train"]["total_steps"]


def claim(
    workdir: Path,
    configuration: Configuration,
    task: Task,
    source_shape: tuple[int, ...],
    found: Found,
    brightness: Callable[[], tuple[float, float] | None],
    pinned: Mapping[str, str] | None = None,
) -> None:
    """Makes a workdir that of a run: writes config.json, task.json and data.json.

    The result of a shorter run, or of other evaluations, is kept under the number of its steps: in
    result_440.json, then result_440_2.json.
    """
    result = workdir / "result.json"
    if result.exists():
        with naming(result):
            stem = f"result_{saved_length(workdir)}"
            names = (f"{stem}.json", *(f"{stem}_{number}.json" for number in range(2, 1000)))
            result.replace(next(workdir / name for name in names if not (workdir / name).exists()))
    save_configuration(workdir, configuration, task.steps_per_epoch, pinned)
    save_task(workdir, task, found.class_names, source_shape)
    kept_data.write(workdir, found.splits, found.class_names, brightness)


@contextlib.contextmanager
def lock(workdir: Path) -> Iterator[None]:
    """Holds <workdir>/lock while a run trains there; the system lets go of it however the process ends.

    The lock is of flock(2): over NFS it holds between hosts from version 4 on, or with lockd running. Where a
    file system has none, that is said and the run goes on without. An object store has that of bucket_lock.

    Raises:
      ValueError: another run holds it.
    """
    if is_bucket(workdir):
        with bucket_lock.hold(workdir / "lock"):
            yield
        return
    import fcntl  # here, since Windows has none

    with _lock_file(workdir / "lock") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.truncate(0)
            now = datetime.datetime.now().isoformat(" ", "seconds")
            file.write(f"process {os.getpid()} on {platform.node()} since {now}")
            file.flush()
        except BlockingIOError:
            file.seek(0)
            holder = printable(file.read(MAX_HOLDER)) or "another run"
            raise ValueError(
                f"{workdir} is in use by {holder}: end it, or choose another --workdir"
            ) from None
        except OSError as error:
            logger.warning("%s cannot be locked (%s): see to it that no other run uses it", workdir, error)
        yield


def _lock_file(path: Path) -> IO[str]:
    with naming(path, way_out=". Choose another --workdir, or make this one your own"):
        return open_own(path, "a+")


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
        fields["signatures"] = tuple(map(tuple, fields.get("signatures", ())))
        task = Task(**fields)
        widths = {len(row) for row in task.signatures}
        sound = len(task.signatures) in (0, task.num_classes) and len(widths) <= 1
        sound &= fits(source_shape, tuple[int, int, int]) and fits(class_names, Sequence[str])
        sound &= all(fits(value, typing.get_type_hints(Task)[name]) for name, value in fields.items())
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error!r}") from error
    if not sound or len(class_names) != task.num_classes:
        raise ValueError(f"{path} is damaged: a value of another type, or not num_classes class_names")
    return task, class_names, source_shape
