"""MAE: most patches of an image are hidden; a decoder fills them in from the encoding of the others.

He et al., "Masked Autoencoders Are Scalable Vision Learners", arXiv:2111.06377 (2021). The backbone encodes
the visible patches alone, and that makes it fast. A small decoder (params["decoder"]) predicts the pixels of
the hidden ones. params["backbone"] is the network's own: it fine-tunes as any other. The paper's positions
are `model.position = "sincos"`, its initial values `model.begins_as = "mae"`.

objective_state: {}.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from imgcls_jax.contracts.backbone import apply_backbone
from imgcls_jax.contracts.objective import (
    Batch,
    Metrics,
    Objective,
    ObjectiveState,
    Params,
    Task,
    require_between,
)
from imgcls_jax.losses import masked_reconstruction, patchify


def make(
    backbone: Any,
    task: Task,
    *,
    mask_ratio: float = 0.75,
    norm_pix: bool = True,
    decoder_width: int = 512,
    decoder_depth: int = 8,
    decoder_heads: int = 16,
) -> Objective:
    """Returns the objective; predict gives the backbone's embedding of the whole image.

    Args:
      backbone: a Transformer on patches: `patch`, `tokens(images, train=..., keep=...)` and `decoder(...)` of
        models/vit.py.
      task: image_shape is read.
      mask_ratio: part of the patches to hide; floor((1 - mask_ratio) L) stay, at least one and not all.
      norm_pix: the target is each patch normalized by its own mean and variance.
      decoder_width: of a token, a multiple of 4 and of decoder_heads.
      decoder_depth, decoder_heads: layers, and heads of each attention.

    Raises:
      ValueError: a backbone without tokens, such as a convolutional one; patches that do not divide the
        images; or a hyper-parameter out of range.
    """
    grid = _grid(backbone, task.image_shape)
    length = grid[0] * grid[1]
    num_kept = int(length * (1 - mask_ratio) + 1e-6)  # 10 * (1 - 0.9) is 0.99... in floating point
    if not 0 < num_kept < length:
        raise ValueError(
            f"objective.mask_ratio = {mask_ratio} leaves {num_kept} of {length} patches visible; some must "
            "be, and some must not"
        )
    require_between(1, math.inf, decoder_width=decoder_width)
    require_between(1, math.inf, decoder_depth=decoder_depth, decoder_heads=decoder_heads)
    if decoder_width % 4 or decoder_width % decoder_heads:
        raise ValueError(
            "objective.decoder_width must be a multiple of 4 and of decoder_heads; got "
            f"{decoder_width} and {decoder_heads} heads"
        )
    decoder = backbone.decoder(
        channels=task.image_shape[2], width=decoder_width, depth=decoder_depth, heads=decoder_heads
    )
    learner = _MAE(backbone, decoder, grid, num_kept, norm_pix)
    return Objective(batch_keys=("image",), init=learner.init, loss=learner.loss, predict=learner.predict)


def _grid(backbone: Any, image_shape: tuple[int, int, int]) -> tuple[int, int]:
    """Returns the rows and columns of patches; raises ValueError for a backbone or images without them."""
    if not hasattr(backbone, "tokens"):
        raise ValueError(
            f"objective 'mae' encodes the visible patches alone, and {type(backbone).__name__} reads whole "
            "images; set config.model.name = 'vit' and a variant of it"
        )
    height, width, _ = image_shape
    if height % backbone.patch or width % backbone.patch:
        raise ValueError(
            f"images of {height}x{width} do not divide into the backbone's patches of {backbone.patch}; "
            "change config.data.train_transforms or config.model.patch"
        )
    return height // backbone.patch, width // backbone.patch


@dataclasses.dataclass(frozen=True, eq=False)
class _MAE:
    """The algorithm; the attributes are arguments of `make`, or made of them.

    Attributes:
      grid: rows and columns of patches, L in all.
      num_kept: patches that stay visible.
    """

    backbone: Any
    decoder: Any
    grid: tuple[int, int]
    num_kept: int
    norm_pix: bool

    def init(self, rng: jax.Array, batch: Batch) -> tuple[Params, ObjectiveState]:
        rng_backbone, rng_decoder = jax.random.split(rng)
        variables = self.backbone.init(rng_backbone, batch["image"], train=False)
        tokens = self.backbone.apply(variables, batch["image"], train=False, method="tokens")
        restore = jnp.tile(jnp.arange(math.prod(self.grid)), (len(tokens), 1))
        params = self.decoder.init(rng_decoder, tokens, restore, self.grid)["params"]
        return {"backbone": variables["params"], "decoder": params}, {}

    def loss(
        self, params: Params, objective_state: ObjectiveState, batch: Batch, rng: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, tuple[ObjectiveState, Metrics]]:
        del step
        rng_mask, rng_backbone = jax.random.split(rng)
        images = batch["image"]
        keep, restore, mask = random_masking(rng_mask, len(images), math.prod(self.grid), self.num_kept)
        tokens = self.backbone.apply(
            {"params": params["backbone"]},
            images,
            train=True,
            keep=keep,
            method="tokens",
            rngs={"dropout": rng_backbone},
        )
        predicted = self.decoder.apply({"params": params["decoder"]}, tokens, restore, self.grid)
        patches = patchify(images, patch=self.backbone.patch)
        value = jnp.mean(masked_reconstruction(predicted, patches, mask, norm_pix=self.norm_pix))
        return value, (objective_state, {"loss": value})

    def predict(self, params: Params, objective_state: ObjectiveState, batch: Batch) -> dict[str, jax.Array]:
        del objective_state
        features, _ = apply_backbone(self.backbone, params["backbone"], {}, batch["image"], train=False)
        return {"embedding": features.embedding}


def random_masking(
    rng: jax.Array, size: int, length: int, num_kept: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Draws, for each image on its own, which patches stay visible, uniformly over all choices.

    Args:
      rng: key.
      size: B.
      length: L, patches of an image.
      num_kept: n, of them to keep.

    Returns:
      keep int32 [B, n], the visible patches; restore int32 [B, L], the place of each patch in the list of the
      visible and then the hidden ones; mask bool [B, L], true where hidden.
    """
    order = jnp.argsort(jax.random.uniform(rng, (size, length)), axis=1)
    restore = jnp.argsort(order, axis=1)
    return order[:, :num_kept], restore, restore >= num_kept
