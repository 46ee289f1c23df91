"""Classifies images without a network: HOG, LBP or dense SIFT, and an SVM or a forest.

  python -m imgcls_jax.tools.classic --config configs/mouth_simpleconv3.py --workdir runs/mouth_hog \\
    --features hog --classifier rbf_svm
  python -m imgcls_jax.tools.classic --config configs/cub_transfer.py --workdir runs/birds_fisher \\
    --features sift_fisher --classifier linear_svm --config.data.known_classes=20

Data, splits and evaluations are those of a configuration, and images go through the host side of its
`eval_transforms`, so that the figures stand beside those of a network: result.json for `tools.results`, and
predictions for `tools.report`. Codebook, mixture and classifier are fitted to training images alone; so is C,
by cross-validation among them. Exit status: 0, or 2 for a mistake.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from imgcls_jax.runtime.command import at_least_one, command, exit_with, importing, parser_of, tell, user_path
from imgcls_jax.runtime.files import naming, whole, write_json
from imgcls_jax.runtime.names import printable
from imgcls_jax.runtime.progress import tracked

with importing(__name__):
    import numpy as np
    from scipy.special import log_softmax
    from threadpoolctl import threadpool_limits

    from imgcls_jax.classic import classifiers, features
    from imgcls_jax.config import compare
    from imgcls_jax.config.configuration import Configuration
    from imgcls_jax.config.files import read_config, split_overrides
    from imgcls_jax.config.modules import find_module
    from imgcls_jax.config.resolve import resolve
    from imgcls_jax.config.settings import DataSettings, EvalSettings
    from imgcls_jax.contracts.evaluator import SplitFacts
    from imgcls_jax.contracts.objective import Task
    from imgcls_jax.data.datasets import DataSide
    from imgcls_jax.data.pipeline import EvalBatches, note_bad_examples
    from imgcls_jax.data.read_ahead import iterate
    from imgcls_jax.data.source import class_counts
    from imgcls_jax.inference import predictions_file
    from imgcls_jax.inference.array_file import digest
    from imgcls_jax.inference.predictions_file import KeptPredictions
    from imgcls_jax.runtime.environment import environment
    from imgcls_jax.train import contract, evaluation, finished, known_data
    from imgcls_jax.train.build import evaluated_splits, make_evaluators
    from imgcls_jax.train.workdir import save_task
    from imgcls_jax.train.writer import flatten

BATCH = 32  # images at a time
MAX_FEATURES = 2**31  # numbers of all training images together: 8 GiB
PACKAGES = ("scikit-learn", "scikit-image", "opencv-python-headless", "opencv-contrib-python-headless")


class Images:
    """The images of a configuration after the host side of its evaluation line.

    Args:
      data: the section `data`.

    Attributes:
      bad: those that could not be read.
    """

    def __init__(self, data: DataSide):
        self.data, self.bad = data, set[str]()
        self.class_names = tuple(data.training.class_names)

    def training(self, what: str) -> Iterator[dict[str, Any]]:
        """Yields the batches of the training examples, without padding."""
        return self._read(self.data.training_in_order(BATCH), what)

    def split(self, name: str) -> Iterator[dict[str, Any]]:
        """Yields the batches of a split, without padding."""
        return self._read(self.data.eval_batches(name, BATCH, self.class_names), f"describing {name}")

    def _read(self, batches: EvalBatches, what: str) -> Iterator[dict[str, Any]]:
        with iterate(batches, 0, len(batches), **self.data.reading) as iterator:
            for batch in tracked(iterator, what, len(batches), "batches"):
                note_bad_examples(batches.source, batch.pop("bad_examples"), self.bad)
                yield {name: column[batch["mask"]] for name, column in batch.items()}


def described(batches: Iterator[dict[str, Any]], describe: Callable[[Any], Any]) -> Iterator[tuple[Any, ...]]:
    """Yields features float32 [b, D], labels and indices int [b] of batches.

    Raises:
      ValueError: an image has several labels.
    """
    for batch in batches:
        if batch["label"].ndim != 1:
            raise ValueError("config.data.source gives an image any number of labels; this tool takes one")
        if len(batch["image"]):
            yield np.stack([describe(image) for image in batch["image"]]), batch["label"], batch["index"]


def features_of_training(images: Images, describe: Callable[[Any], Any]) -> tuple[np.ndarray, np.ndarray]:
    """Returns features, float32 [N, D], and labels, int [N], of the training images.

    Raises:
      ValueError: they do not fit into memory, or no image could be read.
    """
    total, rows, labels = len(images.data.training), [], []
    for found, label, _ in described(images.training("describing the training images"), describe):
        if total * found.shape[1] > MAX_FEATURES:
            raise ValueError(
                f"{total:,} training images of {found.shape[1]:,} numbers each take over 8 GiB: take fewer "
                "--words or --gaussians, smaller images, or part of them by config.data.labels_per_class"
            )
        rows.append(found)
        labels.append(label)
    if not rows:
        raise ValueError("no training image could be read")
    return np.concatenate(rows), np.concatenate(labels)


def check_evaluations(evals: Sequence[EvalSettings]) -> list[str]:
    """Returns the splits that evaluations read.

    Raises:
      ValueError: there is none, or one reads more than logits.
    """
    if not evals:
        raise ValueError("config.evals is empty: there is nothing to measure on")
    for own in evals:
        if own.views is not None:
            raise ValueError(f"config.evals.{own.name}.views: this tool looks at an image once; leave it out")
        module = find_module("evaluators", own.evaluator)
        contract.check_reads(f"evals.{own.name}", module, own.fields, of_batch, ("logits",))
    return list(dict.fromkeys(split for _, split in evaluated_splits(evals)))


def check_training(settings: DataSettings) -> None:
    """Raises ValueError for fields that make no set of different images with known labels."""
    if settings.labeled_batch_size:
        raise ValueError(
            "config.data.labeled_batch_size: this tool learns from labeled images alone; 0 leaves those of "
            "config.data.labels_per_class"
        )
    if settings.oversample:
        raise ValueError(
            "config.data.oversample repeats images, which would lie in several folds of the choice of C; "
            "set it to False"
        )


def check_splits(images: Images, splits: Sequence[str], evals: Sequence[EvalSettings], task: Task) -> None:
    """Says what the data are.

    Raises:
      ValueError: a split cannot be measured.
    """
    data, facts = images.data, {}
    for name in splits:
        source = data.source(name)
        several = source.labels is not None and source.labels.ndim != 1
        counts = () if several else class_counts(source)
        facts[name] = SplitFacts(name, len(source), tuple(source.class_names), counts, several)
    evaluation.check_data(evals, facts, task)
    lines = [data.rule(data.settings.train_split), data.training_rule(), *map(data.rule, splits)]
    for line in filter(None, lines):
        print(printable(line), flush=True)
    for name in splits:
        if shared := data.shared_with_training(name):
            count = len(data.source(name))
            tell(f"warning: {shared} of {count} images of the split {name!r} are trained on, too")


def of_batch(params: Any, objective_state: Any, batch: dict[str, Any]) -> dict[str, Any]:
    """Returns the logits that stand in a batch in place of its images, as a network would predict them."""
    return {"logits": batch["image"]}


def measured(
    evals: Sequence[EvalSettings], predicted: Mapping[str, KeptPredictions], task: Task
) -> dict[str, dict[str, Any]]:
    """Returns the metrics of each evaluation of a configuration.

    Args:
      evals: of the configuration.
      predicted: of each split that they read.
      task: of the data.
    """

    def open_split(split: str) -> Iterator[dict[str, Any]]:
        kept = predicted[split]
        every = np.ones(len(kept.label), bool)
        yield {"image": kept.log_probabilities, "label": kept.label.astype(np.int32), "mask": every}

    return dict(evaluation.run(make_evaluators(evals, of_batch, open_split, task), {}, {}))


def predict(
    images: Images, split: str, feature: features.Feature, classifier: classifiers.Classifier
) -> KeptPredictions:
    """Predicts a split, image by image.

    Raises:
      ValueError: none of its images could be read.
    """
    parts = [
        (index, label, log_softmax(classifier.logits(rows).astype(np.float64), axis=1))
        for rows, label, index in described(images.split(split), feature.describe)
    ]
    if not parts:
        raise ValueError(f"no image of the split {split!r} could be read")
    index, label, logarithms = (np.concatenate(column) for column in zip(*parts, strict=True))
    return KeptPredictions(index.astype(np.int64), label.astype(np.int64), logarithms.astype(np.float32))


# Most products are small: threads that wait for each other at every one cost many times what they gain.
@threadpool_limits.wrap(limits=1)
def run(configuration: Configuration, arguments: argparse.Namespace) -> dict[str, Any]:
    """Fits, measures and writes; returns what result.json holds.

    Raises:
      ValueError: a mistake in configuration, data or workdir.
    """
    started = time.monotonic()
    seed, evals = configuration.seed, configuration.settings(1).evals
    splits = check_evaluations(evals)
    check_training(configuration.data)
    images = Images(DataSide(configuration.data))
    training, class_names = images.data.training, tuple(images.data.training.class_names)
    shape = images.data.training_in_order(1)[0]["image"].shape[1:]
    task = Task(len(class_names), len(training), 1, 0, shape, images.data.class_counts)
    check_splits(images, splits, evals, task)
    known_data.remember(configuration)
    pictures = (one for batch in images.training("reading the training images") for one in batch["image"])
    feature = features.fit(arguments.features, pictures, len(training), arguments.options, seed)
    rows, labels = features_of_training(images, feature.describe)
    described_after = time.monotonic()
    classifier = classifiers.fit(arguments.classifier, rows, labels, len(class_names), seed)
    fitted_after = time.monotonic()
    predicted = {split: predict(images, split, feature, classifier) for split in splits}
    config = configuration.resolved | {
        "model": {"name": arguments.features} | arguments.options.of(arguments.features),
        "objective": {"name": arguments.classifier},
        "optimizer": {},
        "train": {"seed": seed, "total_steps": 0},
        "phases": {},
    }
    config = json.loads(json.dumps(config))
    result = {
        "metrics": measured(evals, predicted, task),
        "steps": 0,
        "bad_examples": len(images.bad),
        "chosen": {
            "C": classifier.cost,
            "cross_validation_accuracy": classifier.accuracy,
            "temperature": classifier.temperature,
        },
        "dimensions": rows.shape[1],
        "config": config,
        "config_digest": compare.digest(config),
        "state_digest": digest(feature.fitted | {"training_logits": classifier.logits(rows)}),
        **environment(PACKAGES),
        "seconds": {"training_features": described_after - started, "fit": fitted_after - described_after},
        "wall_seconds": time.monotonic() - started,
    }
    write(arguments.workdir, configuration, result, predicted)
    save_task(arguments.workdir, task, class_names, shape)
    return result


def write(
    workdir: Path,
    configuration: Configuration,
    result: dict[str, Any],
    predicted: Mapping[str, KeptPredictions],
) -> None:
    """Writes the files of a finished run but for task.json, result.json last."""
    workdir.mkdir(parents=True, exist_ok=True)
    for split, found in predicted.items():
        predictions_file.write(workdir, split, found)
    kept = {"written": configuration.written, "resolved": result["config"], "steps_per_epoch": 1}
    kept["tool"] = "classic"
    write_json(workdir / "config.json", kept | {"digest": result["config_digest"]}, way_out="")
    record: dict[str, float] = {"step": 0}
    for name, metrics in result["metrics"].items():
        record |= flatten(metrics, name)
    with naming(workdir / "metrics.jsonl", way_out=""), whole(workdir / "metrics.jsonl", "w") as file:
        file.write(json.dumps(record) + "\n")
    write_json(workdir / "result.json", result, way_out="")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    others, overrides = split_overrides(sys.argv[1:] if argv is None else argv)
    parser = parser_of("classic", __doc__)
    parser.add_argument("--config", required=True, help="FILE.py; --config.SECTION.FIELD=VALUE overrides")
    parser.add_argument("--workdir", type=user_path, required=True, help="folder to write")
    parser.add_argument("--features", choices=features.NAMES, required=True)
    parser.add_argument("--classifier", choices=classifiers.NAMES, required=True)
    defaults = features.Options()
    for name, words in (
        ("step", "pixels between two SIFT descriptors"),
        ("words", "of the codebook of sift_bow and sift_llc"),
        ("gaussians", "of the mixture of sift_fisher"),
        ("descriptors", "about so many fit codebook or mixture"),
    ):
        parser.add_argument(
            f"--{name}", type=at_least_one, help=f"{words} (default {getattr(defaults, name)})"
        )
    sides = " ".join(map(str, defaults.patches))
    parser.add_argument(
        "--patches", type=at_least_one, nargs="+", help=f"sides of SIFT's patches in pixels (default {sides})"
    )
    arguments = parser.parse_args(others)
    fields = {field.name for field in dataclasses.fields(features.Options)}
    given = {name: value for name, value in vars(arguments).items() if name in fields and value is not None}
    for name in given.keys() - set(features.FIELDS[arguments.features]):
        parser.error(f"--{name} says nothing to --features {arguments.features}")
    if "patches" in given:
        given["patches"] = tuple(given["patches"])
    arguments.options = features.Options(**given)
    arguments.overrides = [f"--config.{name}={value}" for name, value in overrides.items()]
    return arguments


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    arguments = parse_arguments(argv)
    workdir = arguments.workdir
    if any((workdir / name).exists() for name in ("config.json", "result.json")):
        raise ValueError(f"{workdir} holds a run: choose another --workdir")
    configuration = resolve(read_config([f"--config={arguments.config}", *arguments.overrides]))
    result = run(configuration, arguments)
    chosen, seconds = result["chosen"], result["seconds"]
    if chosen["C"] is not None:
        print(
            f"C {chosen['C']:g}, accuracy inside the training split {chosen['cross_validation_accuracy']:.3f}"
        )
    print(
        f"{result['dimensions']:,} numbers an image; training images described in "
        f"{seconds['training_features']:.1f} s, classifier fitted in {seconds['fit']:.1f} s"
    )
    print(finished.summary(result, workdir))
    return 0


if __name__ == "__main__":
    exit_with(main)
