"""The names of Hugging Face's networks, brought to those of timm or torchvision.

Its Vision Transformers (ViT, DeiT, DINOv2, DINOv3) keep queries, keys and values apart; they are joined here.
Those of CLIP and SigLIP are in clip_names.py. Transformers of version 5 writes the older names and reads
both, so both are read here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from imgcls_jax.layers.renaming import inside, renamed

Arrays = dict[str, np.ndarray]

_PARTS = (("query", "q"), ("key", "k"), ("value", "v"))
_VIT_LAYER = (
    ("layernorm_before.", "norm1."),
    ("layernorm_after.", "norm2."),
    *((f"attention.attention.{name}.", f"attn.{part}.") for name, part in _PARTS),
    ("attention.output.dense.", "attn.proj."),
    ("intermediate.dense.", "mlp.fc1."),
    ("output.dense.", "mlp.fc2."),
    ("layer_scale{n}.lambda1", "ls{n}.gamma"),
    *((f"attention.attention.{part}_proj.", f"attn.{part}.") for _, part in _PARTS),
    *((f"attention.{name}.", f"attn.{part}.") for name, part in _PARTS),
    *((f"attention.{part}_proj.", f"attn.{part}.") for _, part in _PARTS),
    ("attention.o_proj.", "attn.proj."),
    ("", ""),
)
VIT = (
    ("embeddings.cls_token", "cls_token"),
    ("embeddings.mask_token", "mask_token"),
    ("embeddings.register_tokens", "reg_token"),
    ("embeddings.position_embeddings", "pos_embed"),
    ("embeddings.patch_embeddings.projection.", "patch_embed.proj."),
    *inside("encoder.layer.{i}.", "blocks.{i}.", _VIT_LAYER),
    *inside("encoder.layers.{i}.", "blocks.{i}.", _VIT_LAYER),
    *inside("layer.{i}.", "blocks.{i}.", _VIT_LAYER),
    *inside("layers.{i}.", "blocks.{i}.", _VIT_LAYER),
    ("layernorm.", "norm."),
    ("classifier.", "head."),
)
_DINOV3_LAYER = (
    ("attention.q_proj.bias", "attn.q_bias"),  # keys have none
    ("attention.v_proj.bias", "attn.v_bias"),
    ("mlp.gate_proj.", "mlp.fc1_g."),
    ("mlp.up_proj.", "mlp.fc1_x."),
    ("mlp.down_proj.", "mlp.fc2."),
    *_VIT_LAYER,
)
DINOV3 = (
    ("embeddings.cls_token", "cls_token"),
    ("embeddings.mask_token", "mask_token"),
    ("embeddings.register_tokens", "reg_token"),
    ("embeddings.patch_embeddings.", "patch_embed.proj."),
    *inside("layer.{i}.", "blocks.{i}.", _DINOV3_LAYER),
    *inside("model.layer.{i}.", "blocks.{i}.", _DINOV3_LAYER),
)
_RESNET_LAYER = (
    ("layer.{n}.convolution.", "conv{n+1}."),
    ("layer.{n}.normalization.", "bn{n+1}."),
    ("shortcut.convolution.", "downsample.0."),
    ("shortcut.normalization.", "downsample.1."),
)
RESNET = (
    ("embedder.embedder.convolution.", "conv1."),
    ("embedder.embedder.normalization.", "bn1."),
    *inside("encoder.stages.{s}.layers.{b}.", "layer{s+1}.{b}.", _RESNET_LAYER),
    ("classifier.1.", "fc."),
)
_MOBILENET_LAYER = (
    ("expand_1x1.convolution.", "0.0."),
    ("expand_1x1.normalization.", "0.1."),
    ("conv_3x3.convolution.", "1.0."),
    ("conv_3x3.normalization.", "1.1."),
    ("reduce_1x1.convolution.", "2."),
    ("reduce_1x1.normalization.", "3."),
)
MOBILENET = (
    ("conv_stem.first_conv.convolution.", "features.0.0."),
    ("conv_stem.first_conv.normalization.", "features.0.1."),
    ("conv_stem.conv_3x3.convolution.", "features.1.conv.0.0."),
    ("conv_stem.conv_3x3.normalization.", "features.1.conv.0.1."),
    ("conv_stem.reduce_1x1.convolution.", "features.1.conv.1."),
    ("conv_stem.reduce_1x1.normalization.", "features.1.conv.2."),
    *inside("layer.{i}.", "features.{i+2}.conv.", _MOBILENET_LAYER),
    ("conv_1x1.convolution.", "features.18.0."),
    ("conv_1x1.normalization.", "features.18.1."),
    ("classifier.", "classifier.1."),
)
_EFFICIENTNET_LAYER = (
    ("expansion.expand_conv.", "_expand_conv."),
    ("expansion.expand_bn.", "_bn0."),
    ("depthwise_conv.depthwise_conv.", "_depthwise_conv."),
    ("depthwise_conv.depthwise_norm.", "_bn1."),
    ("squeeze_excite.reduce.", "_se_reduce."),
    ("squeeze_excite.expand.", "_se_expand."),
    ("projection.project_conv.", "_project_conv."),
    ("projection.project_bn.", "_bn2."),
)
EFFICIENTNET = (  # to efficientnet_pytorch's
    ("embeddings.convolution.", "_conv_stem."),
    ("embeddings.batchnorm.", "_bn0."),
    ("encoder.top_conv.", "_conv_head."),
    ("encoder.top_bn.", "_bn1."),
    ("classifier.", "_fc."),
    *inside("encoder.blocks.{i}.", "_blocks.{i}.", _EFFICIENTNET_LAYER),
)
# An array that each network has, and its names.
SIGNS = {
    "embeddings.patch_embeddings.projection.weight": VIT,
    "embeddings.patch_embeddings.weight": DINOV3,
    "embedder.embedder.convolution.weight": RESNET,
    "conv_stem.first_conv.convolution.weight": MOBILENET,
    "embeddings.convolution.weight": EFFICIENTNET,
}
# Those that are written: the prefix and the names, by family.
WRITTEN = {"vit": ("vit.", VIT), "resnet": ("resnet.", RESNET)}
PREFIX = re.compile(
    r"(?:vit|deit|dinov2|dinov2_with_registers|dinov3_vit|resnet|mobilenet_v2|efficientnet)\."
)


def of_hugging_face(arrays: Mapping[str, np.ndarray]) -> Arrays:
    """Returns arrays of Hugging Face's names under timm's or torchvision's; others stay as they are.

    Raises:
      ValueError: an attention lacks one of its three projections.
    """
    plain = {PREFIX.sub("", name, count=1) if PREFIX.match(name) else name for name in arrays}
    names = next((names for sign, names in SIGNS.items() if sign in plain), None)
    if names is None:
        return dict(arrays)
    named = {}
    for name, array in arrays.items():
        new = renamed(PREFIX.sub("", name, count=1) if PREFIX.match(name) else name, names)
        if (
            new == "classifier.1.weight"
            and len(array) == 1001
            or new == "classifier.1.bias"
            and len(array) == 1001
        ):
            array = array[1:]  # the first is TensorFlow's class "background"
        named[new] = array
    return _joined(named)


def _joined(named: Arrays) -> Arrays:
    """Joins the queries, keys and values of each attention."""
    for first in [name for name in named if re.search(r"\.attn\.[qkv]\.(weight|bias)$", name)]:
        module, _, leaf = first.rpartition(".")
        module = module[:-1]
        names = [f"{module}{part}.{leaf}" for part in "qkv"]
        missing = [name for name in names if name not in named]
        if first not in named:
            continue  # joined with an earlier one
        if missing:
            raise ValueError(f"{', '.join(missing)}: not in the file, and {first} is")
        named[f"{module}qkv.{leaf}"] = np.concatenate([named.pop(name) for name in names])
    return named


def to_hugging_face(arrays: Mapping[str, np.ndarray], family: str) -> Arrays:
    """The inverse of `of_hugging_face` for a network with a classifier.

    Args:
      arrays: of timm's names.
      family: of `WRITTEN`.
    """
    prefix, names = WRITTEN[family]
    apart: Arrays = {}
    for name, array in arrays.items():
        if ".attn.qkv." in name:
            parts = np.split(np.asarray(array), 3)
            apart |= {name.replace(".qkv.", f".{part}."): own for part, own in zip("qkv", parts, strict=True)}
        else:
            apart[name] = array
    own = {renamed(name, names, back=True): array for name, array in apart.items()}
    return {
        name if name.startswith("classifier.") else f"{prefix}{name}": array for name, array in own.items()
    }
