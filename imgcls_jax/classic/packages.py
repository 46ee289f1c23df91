"""The packages of the extra `classic`, imported where a feature needs them."""

from __future__ import annotations

import importlib
from typing import Any

PIP_NAMES = {"skimage": "scikit-image", "cv2": "opencv-python-headless"}


def require(module: str) -> Any:
    """Returns a module of scikit-image or of OpenCV.

    Args:
      module: such as "skimage.feature" or "cv2".

    Raises:
      ValueError: its package is missing.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        name = PIP_NAMES[module.partition(".")[0]]
        raise ValueError(f"the package {name} is missing: pip install 'imgcls-jax[classic]'") from error
