"""The networks of published/logits.npz, for what records it and the tests."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from imgcls_jax.weights import pretrained, publishing
from imgcls_jax.weights.described import Preprocessing

SIDE, CLASSES = 64, 5
ONES = (1, 1, 1, 1)


class Case(NamedTuple):
    """A network to publish.

    Attributes:
      family, variant: of models/.
      fields: what `build` is given beside the variant.
      naming: of weights/publishing.py.
      gain: of the weights drawn.
    """

    family: str
    variant: str
    fields: Mapping[str, Any] = {}
    naming: str = "timm"
    gain: float = 1.0

    @property
    def name(self) -> str:
        return " ".join((self.naming, self.variant, *map(str, self.fields.values())))


SMALL = dict(depth=2, width=48, heads=3)
CONVNEXT = dict(depths=(1, 1, 2, 1), widths=(8, 16, 24, 32))
SWIN = dict(depths=(2, 2, 2), width=24, heads=(2, 4, 8), window=4)
CASES = (
    Case("convnext", "convnext_tiny", CONVNEXT),
    Case("convnext", "convnextv2_nano", CONVNEXT),
    Case("swin", "swin_t", SWIN),
    Case("vit", "vit_ti16", SMALL, "hugging_face"),
    Case("resnet", "resnet18", naming="hugging_face"),
    Case("resnet", "resnet50", dict(stage_sizes=ONES), "hugging_face"),
    Case("resnetv2", "resnetv2_50x1_bit"),
    Case("vit", "vit_ti16", SMALL),
    Case("vit", "vit_ti16", SMALL | dict(pool="mean", patch=8)),
    Case("vit", "vit_b16_clip", SMALL),
    Case("vit", "vit_b14_dinov2_reg4", SMALL | dict(patch=16)),
    Case("vit", "vit_so400m14_siglip", SMALL | dict(patch=16, mlp_width=100)),
    Case("resnet", "resnet18"),
    Case("resnet", "se_resnet50", dict(stage_sizes=ONES)),
    Case("resnet", "resnet50d", dict(stage_sizes=ONES)),
    Case("densenet", "densenet121"),
    Case("mobilenet_v2", "mobilenet_v2"),
    Case("mobilenet_v2", "mobilenet_v2_tf"),
    Case("mobilenet_v3", "mobilenet_v3_small"),
    Case("efficientnet", "efficientnet_b0"),
    Case("efficientnet", "efficientnet_lite0"),
    Case("efficientnet", "efficientnet_b5"),
    Case("efficientnet_v2", "efficientnet_v2_s"),
    Case("regnet", "regnet_y_400mf"),
    Case("regnet", "regnetx_002"),
)


class Parts(NamedTuple):
    """The arguments of `publishing.published`."""

    params: Any
    batch_stats: Any
    family: Any
    variant: str
    backbone: Any
    naming: str
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    preprocessing: Preprocessing


def parts_of(case: Case, drawn: Mapping[str, np.ndarray] | None, side: int = SIDE) -> Parts:
    """Returns what to publish: a network of zeros, or of arrays by the names that are published."""
    family = importlib.import_module(f"imgcls_jax.models.{case.family}")
    backbone = family.build(case.variant, **case.fields)
    target = pretrained.target_shapes(backbone, (side, side, 3), CLASSES)
    if drawn is None:
        zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), target)
        params, batch_stats = zeros["params"], zeros["batch_stats"]
    else:
        params, batch_stats, report = pretrained.load_torch(drawn, family, case.variant, target)
        assert not report.notes
    preprocessing = Preprocessing(side, side, 73, "bicubic", (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
    names = tuple(f"class {number}" for number in range(CLASSES))
    shape = (side, side, 3)
    return Parts(
        params, batch_stats, family, case.variant, backbone, case.naming, shape, names, preprocessing
    )


def published(parts: Parts) -> publishing.Published:
    """Publishes a network."""
    return publishing.published(*parts[:5], **dict(list(parts._asdict().items())[5:]))


def logits_of(parts: Parts, images: np.ndarray) -> jax.Array:
    """Returns the logits [B, K] of float images [B, H, W, C]."""

    @jax.jit
    def apply(params: Any, batch_stats: Any, images: jax.Array) -> jax.Array:
        variables = {"params": params["backbone"], "batch_stats": batch_stats}
        features = parts.backbone.apply(variables, images, train=False)
        head = params["head"]["classifier"]
        return features.embedding @ head["kernel"] + head["bias"]

    return apply(parts.params, parts.batch_stats, jnp.asarray(images))
