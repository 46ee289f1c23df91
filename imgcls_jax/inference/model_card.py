"""The model card of a published network: README.md with the front matter that the hub reads.

Its figures are those of the run's own result.json, with their split, or of an evaluation of the same
checkpoint; it invents none.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from imgcls_jax.config.compare import WHERE
from imgcls_jax.data.prompts import TEMPLATES
from imgcls_jax.inference.model_folder import Told
from imgcls_jax.metrics import intervals
from imgcls_jax.runtime.files import read_json
from imgcls_jax.runtime.names import printable
from imgcls_jax.train import finished
from imgcls_jax.weights.hub import is_public
from imgcls_jax.weights.publishing import Published

SHOWN = 50  # names of classes
SHARES = ("accuracy", "top5_accuracy")
FOLDER = "FOLDER"  # in a command, for the reader to name
HUB = ("hf:", "timm/")
# Fields that name files or folders, and what some of them say besides.
PATHS = frozenset(
    (
        *WHERE,
        *"data.captions data.known_classes data.vocabulary model.pretrained objective.teacher".split(),
        *"objective.templates objective.vocabulary train.resume_from".split(),
    )
)
NO_PATHS = {"objective.teacher": ("average", "itself"), "objective.templates": tuple(TEMPLATES)}
LIBRARIES = {"timm": "timm", "hugging_face": "transformers"}
USE = {
    "timm": """import timm

model = timm.create_model("{timm}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))""",
    "hugging_face": """from transformers import AutoImageProcessor, AutoModelForImageClassification

processor = AutoImageProcessor.from_pretrained("{repository}")
model = AutoModelForImageClassification.from_pretrained("{repository}")""",
}


class Words(NamedTuple):
    """What the user says of a network.

    Attributes:
      title: of the card.
      repository: OWNER/NAME; "" where it is on no hub.
      license: the hub's name of it; "" for none named.
      tags, datasets: the hub's names.
      command: that trained it; "" for none named.
      development: splits on which choices were made.
    """

    title: str
    repository: str
    license: str = ""
    tags: Sequence[str] = ()
    datasets: Sequence[str] = ()
    command: str = ""
    development: Sequence[str] = ()


def write(trained: Any, workdir: Any, naming: str, network: Published, told: Told, words: Words) -> str:
    """Returns the card's text.

    Args:
      trained: of inference/trained.py.
      workdir: of the run, whose result.json and eval_STEP.json are read.
      naming: of the network.
      network, told: as they are published.
      words: of the user.

    Raises:
      ValueError: result.json is damaged.
    """
    result = finished.read_result(workdir) if (workdir / "result.json").exists() else {}
    written = read_json(workdir / "config.json").get("written") or {}
    rows = list(_rows(trained, workdir, result, words.development))
    names = dict.fromkeys(metric for _, _, metric, *_ in rows)
    parts = [
        _front_matter(trained, naming, network, names, words),
        f"# {_text(words.title)}",
        f"`{network.architecture}`, {trained.task.num_classes} classes, images of "
        f"{'x'.join(map(str, trained.task.image_shape))} (height, width, channels).",
        "## Measured",
        _measured(trained, rows, result),
        "## Use",
        _use(trained, naming, written.get("model", {}), words.repository),
        "## Training",
        *_training(trained, written, result, words),
        "## Classes",
        _classes(trained.class_names),
        "## Limits",
        *(f"- {limit}" for limit in _limits(trained, told, rows, words)),
    ]
    return "\n\n".join(parts).replace("\n\n- ", "\n- ").replace("## Limits\n- ", "## Limits\n\n- ") + "\n"


def _front_matter(
    trained: Any, naming: str, network: Published, metrics: Mapping[str, Any], words: Words
) -> str:
    """Returns YAML, whose strings are JSON's."""
    pretrained = trained.settings.model.pretrained
    base = next((pretrained[len(s) * (s == HUB[0]) :] for s in HUB if pretrained.startswith(s)), "")
    library = LIBRARIES[naming]
    fields: dict[str, Any] = {
        "license": words.license,
        "library_name": library,
        "pipeline_tag": "image-classification",
        "tags": list(dict.fromkeys(["image-classification", library, "imgcls_jax", "jax", *words.tags])),
        "datasets": list(words.datasets),
        "metrics": ["accuracy"] if any("accuracy" in name for name in metrics) else [],
        "base_model": base.partition("#")[0].partition("@")[0],
    }
    lines = [f"{name}: {json.dumps(value)}" for name, value in fields.items() if value]
    return "\n".join(("---", *lines, "---"))


def _rows(
    trained: Any, workdir: Any, result: Mapping[str, Any], development: Sequence[str]
) -> Iterator[tuple[str, str, str, float, Any, Any]]:
    """Yields (evaluation, split, metric, value, interval, images) of each number measured of this step."""
    measured = result.get("metrics", {}) if result.get("steps") == trained.step else {}
    evaluated = workdir / f"eval_{trained.step}.json"
    if not measured and evaluated.exists():
        measured = {name: own for name, own in read_json(evaluated).items() if isinstance(own, dict)}
    chosen = trained.settings.train.best_metric.partition("/")[0]
    for own in trained.settings.evals:
        split, found = str(own.fields.get("split", "")), measured.get(own.name, {})
        judged = split in development or own.name == chosen or "test" not in split
        shown = f"{split} (development split)" if judged else split
        resampled = found.get("intervals") or {}
        for metric, value in found.items():
            if isinstance(value, float):
                images = found.get("num_examples")
                between = resampled.get(metric) or _of_share(metric, value, images)
                yield own.name, shown, metric, value, between, images


def _of_share(metric: str, value: float, images: Any) -> Sequence[float] | None:
    """Returns the interval of an accuracy that is a share of the images; None of other metrics."""
    if metric not in SHARES or type(images) is not int:
        return None
    correct = value * images
    whole = abs(correct - round(correct)) < 1e-3 and 0 <= correct <= images
    return intervals.of_share(round(correct), images) if whole else None


def _measured(trained: Any, rows: Sequence[Any], result: Mapping[str, Any]) -> str:
    if not rows:
        other = f"; the run's result is of step {result['steps']}" if result else "; the run is not finished"
        return f"Nothing was measured of these weights, of step {trained.step}{other}."
    lines = ["| evaluation | split | images | metric | value | 95 % interval |", "|---|---|---|---|---|---|"]
    for evaluation, split, metric, value, interval, images in rows:
        between = "" if not interval else f"{interval[0]:.4f} to {interval[1]:.4f}"
        cells = (evaluation, split, images, metric, f"{value:.4f}", between)
        lines.append(f"| {' | '.join(map(_text, cells))} |")
    return "\n".join(lines) + (
        f"\n\nOne run, of seed {trained.settings.train.seed}: another seed gives other figures. The "
        "intervals are of the choice of images alone; of an accuracy Wilson's, where the run resampled none."
    )


def _use(trained: Any, naming: str, written: Mapping[str, Any], repository: str) -> str:
    known = {
        "timm": f"hf-hub:{repository}" if repository else f"local-dir:{FOLDER}",
        "repository": repository or FOLDER,
    }
    options = {"name": trained.settings.model.name, "variant": trained.settings.model.variant, **written}
    options["pretrained"] = f"hf:{repository}" if repository else FOLDER
    flags = " ".join(f"--config.model.{_flag(name)}={_flag(value)}" for name, value in options.items())
    return (
        f"```python\n{USE[naming].format(**known)}\n```\n\n"
        "In imgcls_jax, to begin another training with:\n\n```sh\npython -m imgcls_jax.main --config "
        f"configs/folder_transfer.py --config.data.root=FOLDER {flags}\n```\n\n"
        "The images as they were measured: "
        f"`--config.data.eval_transforms={_flag(trained.data.settings.eval_transforms)}`"
    )


def _flag(value: Any) -> str:
    return shlex.quote(printable(value))


def _training(
    trained: Any, written: Mapping[str, Any], result: Mapping[str, Any], words: Words
) -> Iterator[str]:
    averaged = ", the average that the run evaluates (`objective.ema_decay`)" * (
        "ema" in trained.objective_state
    )
    yield f"Weights of step {trained.step}{averaged}."
    if words.command:
        yield f"```sh\n{printable(words.command)}\n```"
    yield "The configuration, without the names of folders:"
    yield f"```json\n{json.dumps(_without_paths(written), indent=2)}\n```"
    if result:
        device, versions = result["device"], result["versions"]
        yield (
            f"Configuration `{result['config_digest'][:16]}`, final state `{result['state_digest'][:16]}`, "
            f"{result['steps']} steps on {_text(device['kind'])} ({device['count']}). Versions: "
            + ", ".join(f"{_text(name)} {_text(version)}" for name, version in versions.items())
            + "."
        )


def _without_paths(value: Any, name: str = "") -> Any:
    """Returns a configuration in which no folder of the user's is named.

    Args:
      value: a section, or the value of a field.
      name: of it, as "data.root".
    """
    if isinstance(value, dict):
        return {own: _without_paths(inner, f"{name}.{own}".lstrip(".")) for own, inner in value.items()}
    if isinstance(value, list):
        return [_without_paths(own, name) for own in value]
    if not value or not isinstance(value, str) or value in NO_PATHS.get(name, ()):
        return value
    is_path = name in PATHS
    if name == "model.pretrained":
        is_path = not is_public(value)
    elif name == "objective.templates":
        is_path = "{}" not in value
    looks_so = value.startswith(("/", "~", "./", "../")) or "://" in value or ":\\" in value
    return "(a path)" if is_path or looks_so else value


def _classes(names: Sequence[str]) -> str:
    shown = ", ".join(_text(name) for name in names[:SHOWN])
    return f"{shown}{f', and {len(names) - SHOWN} more, in config.json' if len(names) > SHOWN else ''}"


def _limits(trained: Any, told: Told, rows: Sequence[Any], words: Words) -> Iterator[str]:
    yield "The network knows the classes above alone, and names one of them for any image."
    if any("development" in split for _, split, *_ in rows):
        yield (
            "Choices were, or may have been, made on a development split: its figures are higher than those "
            "of new images."
        )
    if told.untold:
        yield (
            f"The images were made with {', '.join(map(_text, told.untold))}, which the configuration here "
            "cannot say: do it before, or the answers are others."
        )
    if trained.objective.multi_label:
        yield "Each class has a probability of its own: the sigmoid of its logit, not a softmax."
    if not words.license:
        yield "No license was named."


def _text(value: Any) -> str:
    """Returns a name as plain text of Markdown."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#" else c for c in printable(value))
