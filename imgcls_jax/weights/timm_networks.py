"""timm's network that computes what a backbone does, where there is one: facts of timm 1.0.

Each was made by timm from what is written here, with drawn weights, and gave the logits of the backbone
(tests/golden/record_published.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

Network = tuple[str, dict[str, Any]]  # the name of the architecture, and arguments of timm.create_model

# Fields of a backbone that change none of its outputs outside of training.
TRAINING = frozenset(
    "aux aux_weight begins_as dropout dtype remat resize_positions stochastic_depth zero_init_gamma".split()
)
EPSILON = {"bn_eps": 1e-3}  # of TensorFlow's batch norm, and torchvision's where it is
SAME = {"pad_type": "same"}  # TensorFlow's padding

_RESNETS = "resnet18 resnet34 resnet50 resnet101 resnet152 resnext50_32x4d resnext101_32x4d resnext101_32x8d \
resnext101_64x4d wide_resnet50_2 resnet18d resnet34d resnet26d resnet50d resnet101d resnet152d resnet200d"
_SE_RESNETS = "resnet50 resnet101 resnet152 resnext50_32x4d resnext101_32x4d"
# Of torchvision's regnet_x_400mf timm rounds the widths otherwise.
_X = "800mf 008, 1_6gf 016, 3_2gf 032, 8gf 080, 16gf 160, 32gf 320"
_Y = "400mf 004, 1_6gf 016, 3_2gf 032, 16gf 160, 32gf 320, 128gf 1280"
_REGNETS = "regnetx_002 regnetx_004 regnetx_006 regnetx_040 regnetx_064 regnetx_120 regnety_002 regnety_006 \
regnety_008 regnety_040 regnety_064 regnety_080 regnety_120"


def _same(names: str) -> dict[str, Network]:
    return {name: (name, {}) for name in names.split()}


def _regnets(kind: str, sizes: str) -> dict[str, Network]:
    pairs = [size.split() for size in sizes.split(", ")]
    return {f"regnet_{kind}_{theirs}": (f"regnet{kind}_{timm}", {}) for theirs, timm in pairs}


FIXED: dict[str, dict[str, Network]] = {
    "resnet": _same(_RESNETS) | {f"se_{name}": (f"se{name}", {}) for name in _SE_RESNETS.split()},
    "densenet": _same("densenet121 densenet161 densenet169 densenet201"),
    "inception_v3": _same("inception_v3"),
    "vgg": _same("vgg11 vgg13 vgg16 vgg19 vgg11_bn vgg13_bn vgg16_bn vgg19_bn"),
    "efficientnet": {f"efficientnet_b{i}": (f"efficientnet_b{i}", EPSILON if i > 4 else {}) for i in range(8)}
    | {f"tf_efficientnet_b{i}": (f"tf_efficientnet_b{i}", {}) for i in range(8)}
    | {f"efficientnet_lite{i}": (f"tf_efficientnet_lite{i}", {}) for i in range(5)},
    "efficientnet_v2": {f"efficientnet_v2_{size}": (f"efficientnetv2_{size}", EPSILON) for size in "sml"}
    | {f"tf_efficientnetv2_{size}": (f"tf_efficientnetv2_{size}", {}) for size in "sml"},
    "mobilenet_v2": {
        "mobilenet_v2": ("mobilenetv2_100", {}),
        "mobilenet_v2_tf": ("mobilenetv2_100", SAME | EPSILON),
    },
    "mobilenet_v3": {f"mobilenet_v3_{s}": (f"mobilenetv3_{s}_100", EPSILON) for s in ("small", "large")}
    | _same("mobilenetv3_small_100 mobilenetv3_large_100")
    | _same("tf_mobilenetv3_small_100 tf_mobilenetv3_large_100"),
    "regnet": _regnets("x", _X) | _regnets("y", _Y) | _same(_REGNETS),
    "resnetv2": _same(" ".join(f"resnetv2_{s}_bit" for s in "50x1 50x3 101x1 101x3 152x2 152x4".split())),
}
FAMILIES = (*FIXED, "convnext", "swin", "vit")


def timm_network(
    family: str, variant: str, backbone: Any, plain: Any, image_shape: tuple[int, int, int]
) -> Network:
    """Returns the architecture and its arguments, which are JSON values.

    Args:
      family: of models/.
      variant: of the family.
      backbone: the network.
      plain: the network whose other fields the architecture has: of the variant as the family builds it; of
        "vit" that of the class's defaults.
      image_shape: (H, W, C).

    Raises:
      ValueError: timm has none; says why.
    """
    network = FIXED.get(family, {}).get(variant)
    said: tuple[str, ...] = ()
    if network and family == "resnet":
        said = ("stage_sizes",)
        if backbone.stage_sizes != plain.stage_sizes:
            network = network[0], network[1] | {"layers": list(backbone.stage_sizes)}
    elif family in _DESCRIBED:
        network, said = _DESCRIBED[family](backbone, image_shape)
    if network is None:
        known = ", ".join(FIXED.get(family, {})) or f"families {', '.join(FAMILIES)}"
        raise ValueError(f"timm has no network of {variant} of models/{family}.py; it has those of {known}")
    for field in dataclasses.fields(plain):
        if field.name in TRAINING or field.name in said or field.name in ("parent", "name"):
            continue
        if getattr(backbone, field.name) != getattr(plain, field.name):
            raise ValueError(
                f"timm has no {network[0]} with config.model.{field.name}={getattr(backbone, field.name)!r}"
            )
    channels = {} if image_shape[2] == 3 else {"in_chans": image_shape[2]}
    return network[0], network[1] | channels


def of_image(image_shape: tuple[int, int, int]) -> int | list[int]:
    """Returns the side of a square image, or [height, width]."""
    height, width, _ = image_shape
    return height if height == width else [height, width]


def _convnext(network: Any, image_shape: tuple[int, int, int]) -> tuple[Network, tuple[str, ...]]:
    name = "convnext_tiny" if network.layer_scale else "convnextv2_tiny"
    arguments = {"depths": list(network.depths), "dims": list(network.widths)}
    return (name, arguments), ("depths", "widths", "layer_scale")


def _swin(network: Any, image_shape: tuple[int, int, int]) -> tuple[Network, tuple[str, ...]]:
    arguments = {
        "img_size": of_image(image_shape),
        "window_size": network.window,
        "embed_dim": network.width,
        "depths": list(network.depths),
        "num_heads": list(network.heads),
    }
    return ("swin_tiny_patch4_window7_224", arguments), ("window", "width", "depths", "heads")


def _vit(network: Any, image_shape: tuple[int, int, int]) -> tuple[Network, tuple[str, ...]]:
    name = {1e-6: "vit_base_patch16_224", 1e-5: "vit_base_patch16_clip_224"}.get(network.epsilon, "")
    if network.pool == "map" and (network.class_token or network.registers):
        raise ValueError(
            "timm pools the patches alone by attention: it has no config.model.pool='map' with "
            "class_token or registers"
        )
    pools: Mapping[str, dict[str, Any]] = {
        "token": {"global_pool": "token"},
        "mean": {"global_pool": "avg", "fc_norm": False},
        "map": {"global_pool": "map"},
    }
    arguments = {
        "img_size": of_image(image_shape),
        "patch_size": network.patch,
        "embed_dim": network.width,
        "depth": network.depth,
        "num_heads": network.heads,
        "class_token": network.class_token,
        "reg_tokens": network.registers,
        "pre_norm": network.pre_norm,
        "act_layer": "quick_gelu" if network.quick_gelu else "gelu_tanh" if network.tanh_gelu else "gelu",
        **pools[network.pool],
    }
    if network.layer_scale:
        arguments["init_values"] = network.layer_scale
    if network.mlp_width:  # timm rounds width * mlp_ratio down
        arguments["mlp_ratio"] = (network.mlp_width + 0.5) / network.width
    said = "patch width depth heads class_token registers pre_norm layer_scale quick_gelu tanh_gelu pool"
    return (name, arguments), (*said.split(), "mlp_width", *(("epsilon",) if name else ()))


_DESCRIBED: dict[str, Callable[..., tuple[Network, tuple[str, ...]]]] = {
    "convnext": _convnext,
    "swin": _swin,
    "vit": _vit,
}
