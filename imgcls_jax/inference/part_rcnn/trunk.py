"""The network that describes regions: the embedding of a crop, and a feature map of a whole image."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import ScopeParamShapeError
from PIL import Image

from imgcls_jax.config.configuration import Configuration
from imgcls_jax.config.modules import find_module
from imgcls_jax.config.settings import ModelSettings
from imgcls_jax.contracts.backbone import apply_backbone
from imgcls_jax.data import augment, transforms
from imgcls_jax.inference.trained import load
from imgcls_jax.train.build import make_backbone
from imgcls_jax.weights import pretrained
from imgcls_jax.weights.described import require_fields
from imgcls_jax.weights.hub import locate

BATCH = 32  # crops at a time
STRIDE = 16  # pixels of the canvas from one position of the map to the next, at most
CANVAS = 2  # its side over that of a crop, where the network reads images of any size


@dataclasses.dataclass(frozen=True)
class Trunk:
    """A frozen network with its preprocessing.

    Attributes:
      model: what `models/` builds; `pretrained` is "".
      line: of transforms, of which the device side is applied.
      size: pixels of a crop's side.
      params, batch_stats: of the backbone.
    """

    model: ModelSettings
    line: str
    size: int
    params: Any
    batch_stats: Any

    @functools.cached_property
    def _prepare(self) -> Callable[[jax.Array], jax.Array]:
        device_side = augment.compose(transforms.parse(self.line)[1])
        return lambda images: device_side(jax.random.key(0), {"image": images})["image"]

    @functools.cached_property
    def fill(self) -> tuple[int, ...]:
        """The color, (red, green, blue) in 0..255, that becomes 0 before the network, or the nearest one."""
        ends = np.stack([np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8)])
        black, white = np.asarray(self._prepare(jnp.asarray(ends)), np.float64)[:, 0, 0]
        level = -black / np.where(white == black, 1, white - black)
        return tuple(int(value) for value in np.clip(np.round(255 * level), 0, 255))

    @functools.cached_property
    def embedding_size(self) -> int:
        """D of the embeddings."""
        crops = jax.ShapeDtypeStruct((1, self.size, self.size, 3), jnp.uint8)
        return jax.eval_shape(self._embed, self.params, self.batch_stats, crops).shape[1]

    @functools.cached_property
    def map_size(self) -> int:
        """D of the map of a whole image."""
        side, run = self._map
        canvas = jax.ShapeDtypeStruct((1, side, side, 3), jnp.uint8)
        return jax.eval_shape(run, self.params, self.batch_stats, canvas).shape[3]

    def embeddings(self, crops: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yields the embedding of each crop, float32 [D].

        Args:
          crops: uint8 [size, size, 3] each.
        """
        crops = iter(crops)
        while chunk := list(itertools.islice(crops, BATCH)):
            batch = np.zeros((BATCH, self.size, self.size, 3), np.uint8)
            batch[: len(chunk)] = chunk
            yield from np.asarray(self._embed(self.params, self.batch_stats, batch))[: len(chunk)]

    def feature_map(self, image: Image.Image) -> tuple[np.ndarray, float]:
        """Returns a map of the whole image, and how many of its positions a pixel is.

        The image is scaled to fit a square canvas, laid into its upper left corner, and the rest is filled.
        The map is that of the deepest module with a position for every STRIDE pixels of the canvas.

        Args:
          image: RGB.

        Returns:
          float32 [h, w, D], without the positions that show filling alone; positions / pixels of the image.
        """
        side, run = self._map
        scale = side / max(image.size)
        width, height = (max(1, round(length * scale)) for length in image.size)
        canvas = np.empty((1, side, side, 3), np.uint8)
        canvas[...] = self.fill
        canvas[0, :height, :width] = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
        found = np.asarray(run(self.params, self.batch_stats, canvas))[0]
        step = side / len(found)
        return found[: -int(-height // step), : -int(-width // step)], scale / step

    @functools.cached_property
    def _embed(self) -> Any:
        backbone = make_backbone(self.model)

        def embed(params: Any, batch_stats: Any, images: jax.Array) -> jax.Array:
            features, _ = apply_backbone(backbone, params, batch_stats, self._prepare(images), train=False)
            return features.embedding.astype(jnp.float32)

        return jax.jit(embed)

    @functools.cached_property
    def _map(self) -> tuple[int, Any]:
        """The side of the canvas, and the function to its map."""
        for side in (CANVAS * self.size, self.size):
            run = jax.jit(functools.partial(self._fine_map, make_backbone(self.model), side))
            canvas = jax.ShapeDtypeStruct((1, side, side, 3), jnp.uint8)
            try:
                jax.eval_shape(run, self.params, self.batch_stats, canvas)
            except ScopeParamShapeError:  # a linear layer on a flattened map, or positions, of one size
                if side == self.size:
                    raise
                continue
            break
        return side, run

    def _fine_map(
        self, backbone: Any, side: int, params: Any, batch_stats: Any, images: jax.Array
    ) -> jax.Array:
        """Returns the deepest map that is fine enough, float32 [B, h, w, D]."""
        maps: list[jax.Array] = []

        def note(call: Any, args: Any, options: Any, context: Any) -> Any:
            output = call(*args, **options)
            if isinstance(output, jax.Array) and output.ndim == 4 and output.shape[1] * STRIDE >= side:
                maps.append(output)
            return output

        with nn.intercept_methods(note):
            features, _ = apply_backbone(backbone, params, batch_stats, self._prepare(images), train=False)
        fine = features.map.shape[1] * STRIDE >= side or not maps
        return (features.map if fine else maps[-1]).astype(jnp.float32)


def of_workdir(workdir: Path, checkpoint: str = "latest") -> Trunk:
    """Returns the network of a training run.

    Raises:
      ValueError: no such workdir or checkpoint, or its network does not read square RGB images.
    """
    trained = load(workdir, checkpoint)
    height, width, channels = trained.source_shape
    if height != width or channels != 3:
        raise ValueError(
            f"{workdir}: the network reads images of {trained.source_shape}; expected square RGB"
        )
    params = trained.objective_state.get("ema", trained.params)["backbone"]
    model = dataclasses.replace(trained.settings.model, pretrained="")
    line = trained.data.settings.eval_transforms
    return Trunk(model, line, height, params, trained.objective_state.get("batch_stats", {}))


def of_configuration(configuration: Configuration) -> Trunk:
    """Returns the network of a configuration with the weights that config.model.pretrained names.

    Raises:
      ValueError: it names no file, the weights do not fit, or the images are not square and RGB.
    """
    fields = dict(configuration.resolved["model"])
    path = fields.pop("pretrained")
    model = ModelSettings(fields.pop("name"), fields.pop("variant"), fields=fields)
    if not path or Path(path).is_dir():
        raise ValueError(
            "the network has no weights: name a file of them by --config.model.pretrained=FILE, or a "
            f"training run by --workdir; got {path!r}"
        )
    line = configuration.resolved["data"]["eval_transforms"]
    size = side_of(line)
    backbone = make_backbone(model)
    target = pretrained.target_shapes(backbone, (size, size, 3), 1)
    weights = locate(path)
    require_fields(weights.description, backbone, path)
    params, batch_stats, _ = pretrained.load(
        weights.path,
        find_module("models", model.name),
        model.variant,
        target,
        positions=getattr(backbone, "resize_positions", "timm"),
    )
    return Trunk(model, line, size, params["backbone"], batch_stats)


def side_of(line: str) -> int:
    """Returns the side of the square images that the host side of a line makes of a photograph.

    Raises:
      ValueError: it makes none.
    """
    photo = np.zeros((300, 400, 3), np.uint8)
    shape = transforms.apply(transforms.parse(line)[0], photo, np.random.default_rng(0)).shape
    if shape[0] != shape[1] or shape[2] != 3:
        raise ValueError(
            f"config.data.eval_transforms makes images of {shape}; Part R-CNN needs square RGB ones, as of "
            "'decode | resize(224) | normalize(0.5, 0.5)'"
        )
    return shape[0]


def distinct(trunks: Sequence[Trunk]) -> tuple[list[Trunk], list[int]]:
    """Returns the trunks without repeats, and the position of each of those given among them."""
    kept: list[Trunk] = []
    for trunk in trunks:
        if not any(trunk is other for other in kept):
            kept.append(trunk)
    return kept, [next(i for i, other in enumerate(kept) if other is trunk) for trunk in trunks]
