"""The second stage of MA-CNN: cuts out the parts that a run found, and combines networks trained on them.

  python -m imgcls_jax.tools.crop_parts write --workdir runs/ma_cnn OUTPUT [--half_side 0.1429]
  python -m imgcls_jax.tools.crop_parts combine runs/whole runs/object runs/part_0 runs/part_1 ...

`write` makes a folder for each of `whole` (the image as the network takes it), `object` (the square around
what is active) and `part_0`, `part_1`, ... (a square around the peak of each part's attention). Crops of one
image have one name: OUTPUT/part_0/train/CLASS/000012.png. `data.source = "image_folder"` reads each folder;
train a run of `supervised` on each. `combine` tells how good each run is on `--split`, how good the mean of
their probabilities is, and how good one linear classifier is on their embeddings side by side, which it fits
on `--train_split`.

Sizes are those of the authors' released networks (Zheng et al. 2017, ICCV). The half side of a part is 64 of
448 pixels for birds and 48 for cars and aircraft: 0.1429 and 0.1071 of the image's shorter side. The object
is where the sum of the channels exceeds a tenth of its largest value. Differences: a square that leaves the
image is moved inside. The embeddings are standardized; the authors multiply each network's by a number.
Exit status: 0 done, 2 a mistake in the command.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from imgcls_jax.evaluators import linear_probe
from imgcls_jax.figures.drawing import enlarged
from imgcls_jax.inference.trained import Trained, embedding, load, probabilities
from imgcls_jax.losses import peak_positions
from imgcls_jax.runtime.command import (
    add_batch_size,
    add_data,
    add_workdir,
    command,
    exit_with,
    parser_of,
    user_path,
    workdir_path,
)
from imgcls_jax.runtime.files import naming
from imgcls_jax.runtime.names import printable
from imgcls_jax.runtime.progress import tracked
from imgcls_jax.train.known_data import Named, named

HALF_SIDE = 64 / 448  # of a part, for birds, over the image's shorter side
ACTIVE = 0.1  # of the largest activity: what belongs to the object

Box = tuple[int, int, int, int]


def square(center: tuple[float, float], side: float, size: tuple[int, int]) -> Box:
    """Returns a square inside an image: (left, top, right, bottom) in whole pixels.

    Args:
      center: (row, column) in pixels.
      side: in pixels; at least 1 and at most the image's shorter side are taken.
      size: (height, width) of the image, in pixels.
    """
    length = int(np.clip(round(side), 1, min(size)))
    top, left = (
        int(np.clip(np.floor(middle - length / 2 + 0.5), 0, whole - length))
        for middle, whole in zip(center, size, strict=True)
    )
    return left, top, left + length, top + length


def part_square(peak: np.ndarray, grid: tuple[int, int], size: tuple[int, int], *, half_side: float) -> Box:
    """Returns the square around a part.

    Args:
      peak: int [2], (row, column) of the map's largest entry.
      grid: (h, w) of the map; position p of it stands for the pixel (p + 1/2) H / h.
      size: (H, W) of the image.
      half_side: over the image's shorter side.
    """
    center = tuple(
        (place + 0.5) * whole / cells for place, cells, whole in zip(peak, grid, size, strict=True)
    )
    return square(center, 2 * half_side * min(size), size)


def object_square(activity: np.ndarray, size: tuple[int, int]) -> Box:
    """Returns the square around what is active, as wide as the longer side of its bounding box.

    Args:
      activity: float [h, w], at least 0, the sum of the channels; all of the image is taken where it is 0.
      size: (H, W) of the image.
    """
    fine = enlarged(activity, size)
    rows, columns = np.nonzero(fine >= ACTIVE * fine.max())
    low, high = np.array([rows.min(), columns.min()]), np.array([rows.max(), columns.max()]) + 1
    middle = (low + high) / 2
    return square((middle[0], middle[1]), float(max(high - low)), size)


def crops(trained: Trained, split: str, *, half_side: float, batch_size: int) -> Iterator[dict[str, Any]]:
    """Yields {"label": int, name of a crop: Pillow image} for each image of a split, in its order.

    Raises:
      ValueError: the run found no parts, or its data stay closed.
    """
    batches = trained.data.eval_batches(split, batch_size, trained.class_names)

    @jax.jit
    def places(params: Any, objective_state: Any, image: jax.Array) -> dict[str, jax.Array]:
        outputs = trained.predict(params, objective_state, {"image": image})
        maps = outputs.get("part_attention")
        if maps is None:
            raise ValueError("this run's objective predicts no part_attention; the objective ma_cnn does")
        return {"peaks": peak_positions(maps), "activity": outputs["activity"]}

    for number in tracked(range(len(batches)), f"cutting {split}", len(batches)):
        batch = batches[number]
        found = jax.device_get(places(trained.params, trained.objective_state, batch["image"]))
        for row in np.flatnonzero(batch["mask"]):
            pixels = np.asarray(batch["image"][row])
            size, activity = pixels.shape[:2], found["activity"][row]
            image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
            boxes = {
                f"part_{part}": part_square(peak, activity.shape, size, half_side=half_side)
                for part, peak in enumerate(found["peaks"][row])
            }
            boxes["object"] = object_square(activity, size)
            yield {"label": int(batch["label"][row]), "whole": image} | {
                name: image.crop(box) for name, box in boxes.items()
            }


def write(arguments: argparse.Namespace) -> None:
    """Writes the folders of crops.

    Raises:
      ValueError: the output is not empty, a class has no name for a folder, or as `crops`.
    """
    trained = load(arguments.workdir, arguments.checkpoint, data=named(arguments))
    output = arguments.output
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output} is not an empty folder: name another, so that no old crops stay")
    for name in trained.class_names:
        if name in ("", ".", "..") or {"/", "\\", "\0"} & set(name):
            raise ValueError(f"the class {name!r} has no name for a folder")
    options = {"half_side": arguments.half_side, "batch_size": arguments.batch_size}
    for split in arguments.split or ("train", "test"):
        for index, found in enumerate(crops(trained, split, **options)):
            label = trained.class_names[found.pop("label")]
            for crop, image in found.items():
                file = output / crop / split / label / f"{index:06d}.png"
                with naming(file, way_out=""):
                    file.parent.mkdir(parents=True, exist_ok=True)
                    image.save(file)
        print(printable(f"{output}: {index + 1} images of {split}, {len(found)} crops each"), flush=True)


def combine(arguments: argparse.Namespace) -> None:
    """Prints how good each run is on a split, and all together.

    Raises:
      ValueError: the runs' splits do not hold crops of the same images.
    """
    splits = (arguments.train_split, arguments.split)
    embeddings: dict[str, list[np.ndarray]] = {split: [] for split in splits}
    images: dict[str, list[str]] = {}
    found, labels = [], {}
    for workdir in arguments.workdirs:
        trained = load(workdir, data=Named(trusted=arguments.trust_data))
        num_classes = trained.task.num_classes
        for split in splits:
            paths = [str(path) for path in getattr(trained.data.source(split), "paths", ())]
            if images.setdefault(split, paths) != paths:
                raise ValueError(
                    f"{workdir}: its split {split!r} does not hold the images of {arguments.workdirs[0]}'s; "
                    "all runs read folders that one `crop_parts write` made"
                )
            rows, labels[split] = trained.outputs_of_split(
                split,
                lambda outputs: jnp.concatenate([probabilities(outputs), embedding(outputs)], axis=-1),
                batch_size=arguments.batch_size,
            )
            embeddings[split].append(rows[:, num_classes:])
        found.append(rows[:, :num_classes])
        _tell(str(workdir), found[-1].argmax(axis=1), labels[arguments.split])
    _tell("mean of the probabilities", np.mean(found, axis=0).argmax(axis=1), labels[arguments.split])
    examples = {
        split: {"embedding": np.concatenate(parts, axis=1), "label": labels[split]}
        for split, parts in embeddings.items()
    }
    probe = linear_probe.fit(examples[arguments.train_split], C=arguments.C, max_iterations=1000)
    side_by_side = probe.predict(examples[arguments.split]["embedding"].astype(np.float64))
    _tell("linear classifier on all embeddings", side_by_side, labels[arguments.split])


def _tell(what: str, answers: np.ndarray, labels: np.ndarray) -> None:
    right = int((answers == labels).sum())
    print(printable(f"{what}: {right / len(labels):.4f} ({right} of {len(labels)})"), flush=True)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    parser = parser_of("crop_parts", __doc__)
    commands = parser.add_subparsers(dest="what", required=True)
    one = commands.add_parser("write", help="folders of crops", allow_abbrev=False)
    one.set_defaults(carry_out=write)
    one.add_argument("output", type=user_path, help="folder to write")
    add_workdir(one, "of a run of ma_cnn")
    one.add_argument("--split", action="append", help="may be repeated (default: train and test)")
    one.add_argument(
        "--half_side", type=float, default=HALF_SIDE, help="of a part over the shorter side (default 0.1429)"
    )
    add_data(one)
    add_batch_size(one)
    one = commands.add_parser("combine", help="accuracy of runs on the crops, together", allow_abbrev=False)
    one.set_defaults(carry_out=combine)
    one.add_argument("workdirs", nargs="+", type=workdir_path, metavar="WORKDIR", help="of runs on the crops")
    one.add_argument("--split", default="test", help="to score (default: test)")
    one.add_argument("--train_split", default="train", help="to fit the classifier on (default: train)")
    one.add_argument("--C", type=float, default=1.0, help="inverse of its L2 penalty (default 1.0)")
    one.add_argument("--trust_data", action="store_true", help="open the data that the workdirs name")
    add_batch_size(one)
    arguments = parser.parse_args(argv)
    if arguments.what == "write" and not 0 < arguments.half_side <= 0.5:
        parser.error("--half_side lies in (0, 0.5]")
    if arguments.what == "combine" and not arguments.C > 0:
        parser.error("--C is positive")
    return arguments


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    arguments = parse_arguments(argv)
    arguments.carry_out(arguments)
    return 0


if __name__ == "__main__":
    exit_with(main)
