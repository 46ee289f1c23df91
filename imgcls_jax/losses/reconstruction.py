"""Masked reconstruction of pixels, the loss of MAE (He et al. 2021, arXiv:2111.06377), and images as patches.

The pixels of a patch come row by row, the channels of a pixel side by side. The patches of an image come row
by row too.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

PIXEL_EPSILON = 1e-6  # added to a patch's variance, as the authors' code does


def patchify(images: jax.Array, *, patch: int) -> jax.Array:
    """Cuts images into square patches.

    Args:
      images: [B, H, W, C].
      patch: side p in pixels, a divisor of H and W.

    Returns:
      [B, L, p * p * C] with L = H / p * W / p.

    Raises:
      ValueError: patch does not divide the images.
    """
    size, height, width, channels = images.shape
    rows, columns = _grid(patch, (height, width))
    pixels = images.reshape(size, rows, patch, columns, patch, channels)
    return pixels.swapaxes(2, 3).reshape(size, rows * columns, patch * patch * channels)


def unpatchify(patches: jax.Array, *, patch: int, image_size: tuple[int, int]) -> jax.Array:
    """Puts patches together again, the inverse of `patchify`.

    Args:
      patches: [B, L, p * p * C].
      patch: side p in pixels.
      image_size: (H, W).

    Returns:
      [B, H, W, C].

    Raises:
      ValueError: the patches do not make up images of that size.
    """
    rows, columns = _grid(patch, image_size)
    size, length, values = patches.shape
    if length != rows * columns or values % patch**2:
        raise ValueError(
            f"images of {image_size} in patches of {patch} need [B, {rows * columns}, {patch**2} * C]; got "
            f"{patches.shape}"
        )
    pixels = patches.reshape(size, rows, columns, patch, patch, values // patch**2)
    return pixels.swapaxes(2, 3).reshape(size, *image_size, -1)


def masked_reconstruction(
    predicted: jax.Array, patches: jax.Array, mask: jax.Array, *, norm_pix: bool = False
) -> jax.Array:
    """Mean squared error over the masked patches of each image.

    Eq.: sum_l m_l mean_j (x_lj - t_lj)^2 / sum_l m_l, with t the pixels, or (t - mean) / sqrt(var + 1e-6) by
    the patch's own mean and unbiased variance. Where each image has as many masked patches, the mean of the
    result is that over all masked patches.

    Args:
      predicted: float [B, L, P].
      patches: float [B, L, P], the true pixels, as `patchify` lists them.
      mask: bool or 0/1 [B, L], true for the patches that were hidden and count.
      norm_pix: the target is each patch normalized, which rewards texture more than brightness.

    Returns:
      float32 [B], squared units of the target; 0 where an image has no masked patch.

    Raises:
      ValueError: the shapes do not agree, or norm_pix with patches of a single value.
    """
    if predicted.shape != patches.shape or mask.shape != patches.shape[:-1]:
        raise ValueError(
            "masked_reconstruction needs predicted and patches of one shape [B, L, P] and a mask [B, L]; got "
            f"{predicted.shape}, {patches.shape} and {mask.shape}"
        )
    if norm_pix and patches.shape[-1] < 2:
        raise ValueError("norm_pix divides by a patch's own variance: it needs patches of two values or more")
    target, mask = jnp.asarray(patches, jnp.float32), jnp.asarray(mask, jnp.float32)
    if norm_pix:
        mean = jnp.mean(target, axis=-1, keepdims=True)
        variance = jnp.var(target, axis=-1, keepdims=True, ddof=1)
        target = (target - mean) * jax.lax.rsqrt(variance + PIXEL_EPSILON)
    errors = jnp.mean((jnp.asarray(predicted, jnp.float32) - target) ** 2, axis=-1)  # [B, L]
    return jnp.sum(errors * mask, axis=-1) / jnp.maximum(jnp.sum(mask, axis=-1), 1.0)


def _grid(patch: int, image_size: tuple[int, int]) -> tuple[int, int]:
    if any(side % patch for side in image_size):
        raise ValueError(
            f"images of {image_size[0]}x{image_size[1]} do not divide into patches of {patch}; resize them "
            "to a multiple"
        )
    return image_size[0] // patch, image_size[1] // patch
