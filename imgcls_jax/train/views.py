"""Prediction from several views of an image: the ten crops of AlexNet (corners and centre, each mirrored;
Krizhevsky et al. 2012), and several scales (Simonyan and Zisserman 2015, arXiv:1409.1556, section 3.2).

The images come larger than the crop, by the evaluation line of transforms; the views are cut on the device,
and the probabilities of all are averaged. Any evaluator takes them, by a field of its section of the
configuration: `views = dict(crop=224, corners=True, flip=True, sizes=(256, 288))`. Other evaluators of the
run, and the tools, see the larger images whole, so the network must take both sizes.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from imgcls_jax.config.settings import ViewSettings
from imgcls_jax.contracts.evaluator import Predict


def average_views(predict: Predict, settings: ViewSettings) -> Predict:
    """Returns a prediction that averages over views of the images.

    Args:
      predict: (params, objective_state, batch) -> outputs, of batch["image"] uint8 [B, crop, crop, C].
      settings: which views.

    Returns:
      (params, objective_state, batch) -> outputs, of batch["image"] uint8 [B, H, W, C], H and W at least crop
      (where no sizes are given): "probabilities", the mean over the views; "logits", its logarithm; every
      other output as the mean over the views.

    Raises:
      ValueError: when traced, images smaller than the crop.
    """

    def averaged(params: Any, objective_state: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        views = cut(batch["image"], settings)

        def one(view: jax.Array) -> dict[str, jax.Array]:
            outputs = predict(params, objective_state, batch | {"image": view})
            if "probabilities" not in outputs and "logits" in outputs:
                outputs = outputs | {"probabilities": jax.nn.softmax(outputs["logits"])}
            return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), outputs)

        outputs = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), jax.lax.map(one, views))
        if "logits" in outputs:
            tiny = jnp.finfo(jnp.float32).tiny
            outputs["logits"] = jnp.log(jnp.maximum(outputs["probabilities"], tiny))
        return outputs

    return averaged


def cut(images: jax.Array, settings: ViewSettings) -> jax.Array:
    """Cuts views.

    Args:
      images: uint8 [B, H, W, C].
      settings: which views.

    Returns:
      uint8 [V, B, crop, crop, C]: size by size top left, top right, bottom left, bottom right and centre,
      then the same mirrored.

    Raises:
      ValueError: images smaller than the crop.
    """
    views, crop = [], settings.crop
    for size in settings.sizes or (None,):
        scaled = images if size is None else _resized(images, size)
        if settings.pad:
            if settings.pad >= min(scaled.shape[1:3]):
                raise ValueError(
                    f"views: pad, {settings.pad}, is not below the image's sides, "
                    f"{scaled.shape[1]}x{scaled.shape[2]}"
                )
            border = (settings.pad, settings.pad)
            scaled = jnp.pad(scaled, ((0, 0), border, border, (0, 0)), mode="reflect")
        height, width = scaled.shape[1:3]
        down, right = height - crop, width - crop
        if down < 0 or right < 0:
            raise ValueError(
                f"views: the evaluation line makes images of {height}x{width}, smaller than the crop of "
                f"{crop}: resize to more there, or give sizes"
            )
        places = [(round(down / 2), round(right / 2))]
        if settings.corners:
            places = [(0, 0), (0, right), (down, 0), (down, right), *places]
        crops = [scaled[:, y : y + crop, x : x + crop] for y, x in places]
        views += crops + ([view[:, :, ::-1] for view in crops] if settings.flip else [])
    return jnp.stack(views)


def _resized(images: jax.Array, size: int) -> jax.Array:
    shape = (len(images), size, size, images.shape[3])
    scaled = jax.image.resize(images.astype(jnp.float32), shape, "bilinear")
    return jnp.clip(jnp.round(scaled), 0, 255).astype(jnp.uint8)
