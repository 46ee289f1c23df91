"""The names of Hugging Face's networks, brought to those of timm or torchvision.

Its Vision Transformers (ViT, DeiT, DINOv2, DINOv3) keep queries, keys and values apart; they are joined here.
Those of CLIP and SigLIP are in clip_names.py. Transformers of version 5 writes the older names and reads
both, so both are read here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import numpy as np

Arrays = dict[str, np.ndarray]
Table = tuple[tuple[str, str], ...]

# Beginnings of names; the first that matches counts.
VIT: Table = (
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.mask_token", "mask_token"),
    (r"embeddings\.register_tokens", "reg_token"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"embeddings\.patch_embeddings\.", "patch_embed.proj."),
    (r"(?:encoder\.|model\.)?layers?\.(\d+)\.", r"blocks.\1."),
    (r"layernorm\.", "norm."),
    (r"classifier\.", "head."),
)
VIT_IN_LAYER: Table = (
    (r"layernorm_before\.", "norm1."),
    (r"layernorm_after\.", "norm2."),
    (r"attention\.(?:attention\.)?(q|k|v)(?:uery|ey|alue|_proj)\.", r"attn.\1."),
    (r"attention\.(?:output\.dense|o_proj)\.", "attn.proj."),
    (r"intermediate\.dense\.", "mlp.fc1."),
    (r"output\.dense\.", "mlp.fc2."),
    (r"layer_scale(\d)\.lambda1", r"ls\1.gamma"),
)
DINOV3_IN_LAYER: Table = (
    (r"attention\.(q|v)_proj\.bias", r"attn.\1_bias"),  # keys have none
    (r"mlp\.gate_proj\.", "mlp.fc1_g."),
    (r"mlp\.up_proj\.", "mlp.fc1_x."),
    (r"mlp\.down_proj\.", "mlp.fc2."),
    *VIT_IN_LAYER,
)
RESNET: Table = (
    (r"embedder\.embedder\.convolution\.", "conv1."),
    (r"embedder\.embedder\.normalization\.", "bn1."),
    (r"classifier\.1\.", "fc."),
)
RESNET_LAYER = re.compile(
    r"encoder\.stages\.(\d+)\.layers\.(\d+)\.(?:layer\.(\d+)|shortcut)\.(convolution|normalization)\.(.*)"
)
MOBILENET: Table = (
    (r"conv_stem\.first_conv\.convolution\.", "features.0.0."),
    (r"conv_stem\.first_conv\.normalization\.", "features.0.1."),
    (r"conv_stem\.conv_3x3\.convolution\.", "features.1.conv.0.0."),
    (r"conv_stem\.conv_3x3\.normalization\.", "features.1.conv.0.1."),
    (r"conv_stem\.reduce_1x1\.convolution\.", "features.1.conv.1."),
    (r"conv_stem\.reduce_1x1\.normalization\.", "features.1.conv.2."),
    (r"conv_1x1\.convolution\.", "features.18.0."),
    (r"conv_1x1\.normalization\.", "features.18.1."),
    (r"classifier\.", "classifier.1."),
)
MOBILENET_LAYER = re.compile(r"layer\.(\d+)\.(\w+)\.(convolution|normalization)\.(.*)")
MOBILENET_PARTS = {
    ("expand_1x1", "convolution"): "0.0",
    ("expand_1x1", "normalization"): "0.1",
    ("conv_3x3", "convolution"): "1.0",
    ("conv_3x3", "normalization"): "1.1",
    ("reduce_1x1", "convolution"): "2",
    ("reduce_1x1", "normalization"): "3",
}
EFFICIENTNET: Table = (  # to efficientnet_pytorch's
    (r"embeddings\.convolution\.", "_conv_stem."),
    (r"embeddings\.batchnorm\.", "_bn0."),
    (r"encoder\.top_conv\.", "_conv_head."),
    (r"encoder\.top_bn\.", "_bn1."),
    (r"classifier\.", "_fc."),
    (r"encoder\.blocks\.(\d+)\.", r"_blocks.\1."),
)
EFFICIENTNET_IN_LAYER: Table = (
    (r"expansion\.expand_conv\.", "_expand_conv."),
    (r"expansion\.expand_bn\.", "_bn0."),
    (r"depthwise_conv\.depthwise_conv\.", "_depthwise_conv."),
    (r"depthwise_conv\.depthwise_norm\.", "_bn1."),
    (r"squeeze_excite\.(reduce|expand)\.", r"_se_\1."),
    (r"projection\.project_conv\.", "_project_conv."),
    (r"projection\.project_bn\.", "_bn2."),
)
PREFIX = re.compile(
    r"(?:vit|deit|dinov2|dinov2_with_registers|dinov3_vit|resnet|mobilenet_v2|efficientnet)\."
)


def of_hugging_face(arrays: Mapping[str, np.ndarray]) -> Arrays:
    """Returns arrays of Hugging Face's names under timm's or torchvision's; others stay as they are.

    Raises:
      ValueError: an attention lacks one of its three projections.
    """
    plain = {PREFIX.sub("", name, count=1) if PREFIX.match(name) else name for name in arrays}
    rename = next((rename for sign, rename in _SIGNS.items() if sign in plain), None)
    if rename is None:
        return dict(arrays)
    named = {}
    for name, array in arrays.items():
        new = rename(PREFIX.sub("", name, count=1) if PREFIX.match(name) else name)
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


def _start(name: str, table: Table) -> str:
    for pattern, replacement in table:
        new, changed = re.subn(f"^(?:{pattern})", replacement, name)
        if changed:
            return new
    return name


def _vit(name: str, in_layer: Table = VIT_IN_LAYER) -> str:
    new = _start(name, VIT)
    if layer := re.fullmatch(r"(blocks\.\d+\.)(.*)", new):
        return layer[1] + _start(layer[2], in_layer)
    return new


def _dinov3(name: str) -> str:
    return _vit(name, DINOV3_IN_LAYER)


def _resnet(name: str) -> str:
    layer = RESNET_LAYER.fullmatch(name)
    if not layer:
        return _start(name, RESNET)
    block, norm = f"layer{int(layer[1]) + 1}.{layer[2]}", layer[4] == "normalization"
    if layer[3] is None:
        return f"{block}.downsample.{int(norm)}.{layer[5]}"
    return f"{block}.{'bn' if norm else 'conv'}{int(layer[3]) + 1}.{layer[5]}"


def _mobilenet(name: str) -> str:
    layer = MOBILENET_LAYER.fullmatch(name)
    part = MOBILENET_PARTS.get((layer[2], layer[3])) if layer else None
    return (
        f"features.{int(layer[1]) + 2}.conv.{part}.{layer[4]}" if layer and part else _start(name, MOBILENET)
    )


def _efficientnet(name: str) -> str:
    new = _start(name, EFFICIENTNET)
    if layer := re.fullmatch(r"(_blocks\.\d+\.)(.*)", new):
        return layer[1] + _start(layer[2], EFFICIENTNET_IN_LAYER)
    return new


# An array that each network has, and the way of its names.
_SIGNS: dict[str, Callable[[str], str]] = {
    "embeddings.patch_embeddings.projection.weight": _vit,
    "embeddings.patch_embeddings.weight": _dinov3,
    "embedder.embedder.convolution.weight": _resnet,
    "conv_stem.first_conv.convolution.weight": _mobilenet,
    "embeddings.convolution.weight": _efficientnet,
}
