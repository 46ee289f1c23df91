"""Cuts a region of the face, such as the mouth, out of photographs, as the data of the book's first project.

  python -m imgcls_jax.tools.crop_regions --landmarks FILE.dat FOLDER OUTPUT [--points 48:68] [--scale 1.5]

The largest face that OpenCV's cascade finds gets its landmarks from the shape predictor of dlib that you
give; their box, enlarged and made square, is cut out and kept inside the image. Of the usual 68 points 48 to
67 are the mouth, 36 to 47 the eyes. OUTPUT holds a PNG file an image, in the folders of FOLDER, so that
class folders stay. It needs `pip install 'imgcls-jax[crop]'`. Exit status: 0 all cut out, 1 some have no
face or could not be read, 2 none or a mistake in the command.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from imgcls_jax.runtime.command import at_least_one, command, exit_with, importing, parser_of, tell, user_path
from imgcls_jax.runtime.mistakes import reason, user_mistake
from imgcls_jax.runtime.names import printable
from imgcls_jax.runtime.progress import tracked

with importing(__name__):
    import numpy as np

    from imgcls_jax.data.decoding import decode
    from imgcls_jax.data.image_files import find_images
    from imgcls_jax.data.source import read_regular

CASCADE = "haarcascade_frontalface_default.xml"
SMALLEST_FACE = 32  # pixels a side

Box = tuple[int, int, int, int]
FindLandmarks = Callable[[np.ndarray], "np.ndarray | None"]


def square_region(points: np.ndarray, *, scale: float, width: int, height: int) -> Box:
    """Returns the square around points, (left, top, right, bottom) in whole pixels, inside the image.

    Its center is that of the points' bounding box, its side the longer one of that box times scale, rounded.
    Where it crosses the image's border it is moved inside; where it is larger than the image, it shrinks to
    the image's shorter side.

    Args:
      points: float [n, 2], (x, y) in pixels.
      scale: at least 1.
      width, height: of the image, in pixels.
    """
    low, high = points.min(axis=0), points.max(axis=0)
    side = int(np.clip(round(scale * float(max(high - low))), 1, min(width, height)))
    corner = np.floor((low + high - side) / 2 + 0.5).astype(int)
    left, top = np.clip(corner, 0, np.array([width, height]) - side).tolist()
    return left, top, left + side, top + side


def landmark_finder(landmarks: Path, cascade: Path | None, min_neighbors: int) -> FindLandmarks:
    """Returns the function from an image, uint8 [H, W, 3], to the landmarks of its largest face, float [n, 2]
    in pixels, or None where no face is found.

    Args:
      landmarks: a shape predictor of dlib; nothing in it is executed.
      cascade: of OpenCV; None for the frontal faces that it brings along.
      min_neighbors: overlapping finds that make a face; the more, the fewer false ones and the more missed.

    Raises:
      ValueError: a package is missing, or a file is absent or not of its kind.
    """
    try:
        import cv2.data
        import dlib
    except ImportError as error:
        raise ValueError(f"{error.name} is missing: pip install 'imgcls-jax[crop]'") from error
    for file in filter(None, (landmarks, cascade)):
        if not file.is_file():
            raise ValueError(f"{file} does not exist")
    detector = cv2.CascadeClassifier(str(cascade or Path(cv2.data.haarcascades) / CASCADE))
    if detector.empty():
        raise ValueError(f"{cascade} is no cascade of OpenCV")
    try:
        predictor = dlib.shape_predictor(str(landmarks))
    except RuntimeError as error:
        raise ValueError(f"{landmarks} is no shape predictor of dlib: {error}") from error

    def find(image: np.ndarray) -> np.ndarray | None:
        gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        faces = detector.detectMultiScale(
            gray, scaleFactor=1.1, minNeighbors=min_neighbors, minSize=(SMALLEST_FACE, SMALLEST_FACE)
        )
        if not len(faces):
            return None
        largest: Any = max(faces, key=lambda face: face[2] * face[3])
        left, top, width, height = map(int, largest)
        found = predictor(gray, dlib.rectangle(left, top, left + width, top + height))
        return np.array([(point.x, point.y) for point in found.parts()], np.float64)

    return find


def crop(file: Path, find: FindLandmarks, points: slice, scale: float) -> Any:
    """Returns the region of an image file as a Pillow image.

    Raises:
      ValueError: it cannot be read, has no face, or the predictor has no such points.
    """
    image = decode(read_regular(file))
    landmarks = find(np.asarray(image))
    if landmarks is None:
        raise ValueError("no face found")
    chosen = landmarks[points]
    if not len(chosen):
        raise ValueError(f"the predictor gives {len(landmarks)} points: none of {points.start}:{points.stop}")
    return image.crop(square_region(chosen, scale=scale, width=image.width, height=image.height))


def crop_folder(folder: Path, output: Path, cut: Callable[[Path], Any]) -> dict[Path, str]:
    """Writes the regions of all images below a folder.

    Args:
      folder, output: to read and to write.
      cut: from a path to a Pillow image; a ValueError or an OSError leaves the image out.

    Returns:
      Why images were left out.
    """
    errors = {}
    for image in tracked(find_images([str(folder)]), "cutting"):
        target = output / image.relative_to(folder)
        target = target.with_name(f"{target.name}.png")
        try:
            region = cut(image)
        except (ValueError, OSError) as error:
            errors[image] = user_mistake(error) or reason(error)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        region.save(target)
    return errors


def _range(text: str) -> slice:
    """Parses FIRST:LAST, the latter excluded."""
    first, last = map(int, text.split(":"))
    if not 0 <= first < last:
        raise ValueError
    return slice(first, last)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    parser = parser_of("crop_regions", __doc__)
    parser.add_argument("folder", type=user_path, help="of photographs")
    parser.add_argument("output", type=user_path, help="folder to write")
    parser.add_argument("--landmarks", type=user_path, required=True, help="shape predictor of dlib (.dat)")
    parser.add_argument("--points", type=_range, default=slice(48, 68), help="default: 48:68, the mouth")
    parser.add_argument("--scale", type=float, default=1.5, help="of the box (default 1.5)")
    parser.add_argument("--cascade", type=user_path, help="of OpenCV (default: its frontal faces)")
    parser.add_argument(
        "--min_neighbors", type=at_least_one, default=5, help="more: fewer false faces (default 5)"
    )
    arguments = parser.parse_args(argv)
    if not arguments.scale >= 1:
        parser.error("--scale is at least 1")
    return arguments


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    arguments = parse_arguments(argv)
    images = len(find_images([str(arguments.folder)]))
    if not arguments.folder.is_dir() or not images:
        raise ValueError(f"{arguments.folder} is no folder with images")
    find = landmark_finder(arguments.landmarks, arguments.cascade, arguments.min_neighbors)
    errors = crop_folder(
        arguments.folder,
        arguments.output,
        lambda file: crop(file, find, arguments.points, arguments.scale),
    )
    for file, error in errors.items():
        tell(f"{file}: {error}")
    print(printable(f"{arguments.output}: {images - len(errors)} of {images} images cut out"))
    return 2 if len(errors) == images else 1 if errors else 0


if __name__ == "__main__":
    exit_with(main)
