"""What the files beside public weights say of them: how their images were made, and which GELU they have.

Read are timm's config.json, transformers's config.json and preprocessor_config.json, and OpenCLIP's
open_clip_config.json. What such a file does not say, or says in another form, is not known. Those of timm and
transformers are written here, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from imgcls_jax.runtime.files import parse_json, read_bytes

MAX_BYTES = 2**22  # of one such file; 1,000 names of classes take 50 kB
MAX_SIDE = 4096  # pixels
INTERPOLATIONS = {
    "bilinear": "bilinear",
    "bicubic": "bicubic",
    2: "bilinear",
    3: "bicubic",
}  # by Pillow's number
MAX_WARPED = 384  # pixels; from here on ConvNeXt's preprocessing, which ResNets have too, crops nothing
# The GELU of a configuration that names none, by its model_type: transformers's defaults.
GELUS = {
    "clip": "quick_gelu",
    "clip_vision_model": "quick_gelu",
    "siglip": "gelu_pytorch_tanh",
    "siglip_vision_model": "gelu_pytorch_tanh",
}
FIELDS = {
    "gelu": {"quick_gelu": False, "tanh_gelu": False},
    "quick_gelu": {"quick_gelu": True, "tanh_gelu": False},
    "gelu_pytorch_tanh": {"quick_gelu": False, "tanh_gelu": True},
}


class Preprocessing(NamedTuple):
    """How the images were made that weights were measured with.

    Attributes:
      height, width: of the images in pixels.
      short_side: to which a photo's short side is resized before a crop from its centre; 0 for a photo that
        is squashed to the size.
      interpolation: "bilinear" or "bicubic".
      mean, std: of each channel, on the [0, 1] scale.
    """

    height: int
    width: int
    short_side: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def line(self) -> str:
        """The transforms (data/transforms.py)."""
        kind = "" if self.interpolation == "bilinear" else f', "{self.interpolation}"'
        if self.short_side:
            cut = f"resize_short({self.short_side}{kind}) | center_crop({self.height})"
        else:
            cut = f"resize({self.height}, {self.width}{kind})"
        return f"decode | rgb | {cut} | normalize({self.mean}, {self.std})"


class Description(NamedTuple):
    """What is known of weights.

    Attributes:
      fields: of the network, as {"quick_gelu": True}.
      preprocessing: None where it is not known.
    """

    fields: Mapping[str, bool] = {}
    preprocessing: Preprocessing | None = None


def describe(files: Mapping[str, Path]) -> Description:
    """Reads the files beside weights.

    Args:
      files: {"config.json": its path, ...}, those that there are.
    """
    contents = {name: _read(path) for name, path in files.items()}
    config = contents.get("config.json", {})
    clip = contents.get("open_clip_config.json", {})
    readers = (
        (_of_processor, contents.get("preprocessor_config.json", {})),
        (_of_timm, config.get("pretrained_cfg", config)),
        (_of_open_clip, clip),
    )
    found = None
    for read, content in readers:
        if found is None and content:
            try:
                found = _sound(read(content))
            except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
                found = None  # in another form
    return Description(_fields(config, clip), found)


def timm_preprocessing(found: Preprocessing, channels: int) -> dict[str, Any]:
    """Returns how images are made, as the "pretrained_cfg" of timm's config.json says it."""
    cut = {"crop_mode": "squash", "crop_pct": 1.0}
    if found.short_side:
        # The first whose quotient timm rounds down to the short side.
        shares = (found.height / found.short_side, found.height / (found.short_side + 0.5))
        share = next(own for own in shares if math.floor(found.height / own) == found.short_side)
        cut = {"crop_mode": "center", "crop_pct": share}
    return {
        "input_size": [channels, found.height, found.width],
        "interpolation": found.interpolation,
        **cut,
        "mean": list(found.mean),
        "std": list(found.std),
    }


def hugging_face_preprocessing(found: Preprocessing) -> dict[str, Any]:
    """Returns transformers's preprocessor_config.json."""
    cut: dict[str, Any] = {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": found.height, "width": found.width},
    }
    if found.short_side:
        cut = {
            "image_processor_type": "BitImageProcessor",
            "size": {"shortest_edge": found.short_side},
            "do_center_crop": True,
            "crop_size": {"height": found.height, "width": found.width},
        }
    return cut | {
        "do_resize": True,
        "resample": {"bilinear": 2, "bicubic": 3}[found.interpolation],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(found.mean),
        "image_std": list(found.std),
    }


def require_fields(description: Description, network: Any, name: str) -> None:
    """Raises ValueError where weights were trained with another GELU than the network has.

    Args:
      description: of the weights.
      network: the backbone.
      name: of the weights.
    """
    for field, value in description.fields.items():
        if getattr(network, field, value) is not value:
            raise ValueError(
                f"{name} was trained {'with' if value else 'without'} {field}, which the arrays do not show: "
                f"set config.model.{field}={value}"
            )


def _read(path: Path) -> dict[str, Any]:
    """Returns a JSON object; {} for anything else, which describes nothing."""
    try:
        content = parse_json(read_bytes(path, MAX_BYTES).decode("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _fields(config: Mapping[str, Any], clip: Mapping[str, Any]) -> Mapping[str, bool]:
    own = clip.get("model_cfg")
    if isinstance(own, dict):
        tower = own.get("vision_cfg")
        is_timm = not isinstance(tower, dict) or "timm_model_name" in tower  # whose GELU is its own affair
        return {} if is_timm else {"quick_gelu": own.get("quick_gelu", False) is True}
    kind = config.get("model_type")
    tower = config.get("vision_config", config)
    named = tower.get("hidden_act") if isinstance(tower, dict) else None
    default = GELUS.get(kind) if isinstance(kind, str) else None
    act = named if isinstance(named, str) else default
    return FIELDS.get(act or "", {})


def _of_timm(content: Any) -> Preprocessing | None:
    _, height, width = content["input_size"]
    mode = content.get("crop_mode", "center")
    if mode not in ("center", "squash") or height != width and mode == "center":
        return None
    short_side = 0 if mode == "squash" else math.floor(height / content.get("crop_pct", 0.875))
    return Preprocessing(
        height, width, short_side, INTERPOLATIONS[content["interpolation"]], content["mean"], content["std"]
    )


def _of_processor(content: Any) -> Preprocessing | None:
    size, crop = content.get("size"), content.get("crop_size")
    side = size if isinstance(size, int) else size.get("shortest_edge")
    crop = crop.get("height") if isinstance(crop, dict) else crop
    if not math.isclose(content.get("rescale_factor", 1 / 255), 1 / 255, rel_tol=1e-3):
        return None
    interpolation = INTERPOLATIONS[content.get("resample", 2)]
    normalizes = content.get("do_normalize", True)
    mean, std = (content["image_mean"], content["image_std"]) if normalizes else ((0.0,) * 3, (1.0,) * 3)
    if "crop_pct" in content and side:  # as ConvNeXt's
        short_side = int(side / (content["crop_pct"] or 0.875)) if side < MAX_WARPED else 0
        return Preprocessing(side, side, short_side, interpolation, mean, std)
    if side and crop and content.get("do_center_crop", True):
        return Preprocessing(crop, crop, side, interpolation, mean, std)
    height, width = (side, side) if side else (size["height"], size["width"])
    if not side and content.get("do_center_crop"):
        return None
    return Preprocessing(height, width, 0, interpolation, mean, std)


def _of_open_clip(content: Any) -> Preprocessing | None:
    side, own = content["model_cfg"]["vision_cfg"]["image_size"], content["preprocess_cfg"]
    mode = own.get("resize_mode", "shortest")
    if mode not in ("shortest", "squash"):
        return None
    short_side = side if mode == "shortest" else 0
    interpolation = INTERPOLATIONS[own.get("interpolation", "bicubic")]
    return Preprocessing(side, side, short_side, interpolation, own["mean"], own["std"])


def _sound(found: Preprocessing | None) -> Preprocessing | None:
    """Returns what could be an image's preprocessing, its numbers as Python writes them; None for others."""
    if found is None:
        return None
    sides = (found.height, found.width, found.short_side)
    if not all(type(side) is int and 0 <= side <= MAX_SIDE for side in sides) or not min(sides[:2]):
        return None
    mean, std = (tuple(float(x) for x in values) for values in (found.mean, found.std))
    if len(mean) != 3 or len(std) != 3 or not all(map(math.isfinite, mean + std)) or min(std) <= 0:
        return None
    return found._replace(mean=mean, std=std)
