"""The network of Hugging Face's transformers that computes what a backbone does: facts of its version 5."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from imgcls_jax.weights.described import FIELDS
from imgcls_jax.weights.timm_networks import TRAINING, of_image

RESNETS = {
    name: ("basic" if name in ("resnet18", "resnet34") else "bottleneck")
    for name in "resnet18 resnet34 resnet50 resnet101 resnet152".split()
}


def hugging_face_config(
    family: str,
    variant: str,
    backbone: Any,
    plain: Any,
    image_shape: tuple[int, int, int],
    class_names: Sequence[str],
) -> dict[str, Any]:
    """Returns config.json.

    Args:
      family: "vit" or "resnet".
      variant, backbone, plain, image_shape: as in `timm_network`.
      class_names: of the K classes.

    Raises:
      ValueError: transformers has no such network; says why.
    """
    describe = _vit if family == "vit" else _resnet
    config, said = describe(variant, backbone, image_shape)
    for field in dataclasses.fields(plain):
        value = getattr(backbone, field.name)
        if field.name in TRAINING or field.name in said or field.name in ("parent", "name"):
            continue
        if value != getattr(plain, field.name):
            raise ValueError(f"transformers has no {variant} with config.model.{field.name}={value!r}")
    names = {str(number): name for number, name in enumerate(class_names)}
    return config | {
        "num_channels": image_shape[2],
        "id2label": names,
        "label2id": {name: int(number) for number, name in names.items()},
        "dtype": "float32",
    }


def _vit(
    variant: str, network: Any, image_shape: tuple[int, int, int]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    others = {
        "pool": network.pool != "token",
        "registers": network.registers,
        "layer_scale": network.layer_scale,
        "pre_norm": network.pre_norm,
        "class_token": not network.class_token,
    }
    for field, differs in others.items():
        if differs:
            raise ValueError(
                f"ViTForImageClassification of transformers has no config.model.{field}="
                f"{getattr(network, field)!r}; --naming timm has"
            )
    gelu = {"quick_gelu": network.quick_gelu, "tanh_gelu": network.tanh_gelu}
    config = {
        "architectures": ["ViTForImageClassification"],
        "model_type": "vit",
        "hidden_size": network.width,
        "num_hidden_layers": network.depth,
        "num_attention_heads": network.heads,
        "intermediate_size": network.mlp_width or 4 * network.width,
        "hidden_act": next(name for name, fields in FIELDS.items() if fields == gelu),
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": network.epsilon,
        "image_size": of_image(image_shape),
        "patch_size": network.patch,
        "qkv_bias": True,
    }
    return config, ("width", "depth", "heads", "mlp_width", "quick_gelu", "tanh_gelu", "epsilon", "patch")


def _resnet(
    variant: str, network: Any, image_shape: tuple[int, int, int]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    if variant not in RESNETS:
        raise ValueError(f"transformers has no {variant}; it has {', '.join(RESNETS)}")
    kind = RESNETS[variant]
    config = {
        "architectures": ["ResNetForImageClassification"],
        "model_type": "resnet",
        "embedding_size": 64,
        "hidden_sizes": [width * (1 if kind == "basic" else 4) for width in (64, 128, 256, 512)],
        "depths": list(network.stage_sizes),
        "layer_type": kind,
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": False,
    }
    return config, ("stage_sizes",)
