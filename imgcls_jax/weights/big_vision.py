"""The names and layouts of Google's Vision Transformers in JAX: vision_transformer, AugReg and big_vision.

Their files (.npz) name an array by its path: "Transformer/encoderblock_0/LayerNorm_0/scale". Newer ones keep
all blocks in one array, and put "params/", for SigLIP "params/img/", before the names. Here they become
timm's names and PyTorch's layouts, as `TorchNames` reads them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import numpy as np

Arrays = dict[str, np.ndarray]

SIGN = "Transformer/encoder_norm/scale"
PREFIXES = ("", "params/", "params/img/", "opt/target/")  # the last of flax's first optimizers
ATTENTION = r"MultiHeadDotProductAttention_\d/"
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}
NAMES = {
    "cls": "cls_token",
    "pos_embedding": "pos_embed",
    "Transformer/posembed_input/pos_embedding": "pos_embed",
    "MAPHead_0/probe": "attn_pool.latent",
}
MODULES = {
    "embedding": "patch_embed.proj",
    "head": "head",
    "Transformer/encoder_norm": "norm",
    "MAPHead_0/LayerNorm_0": "attn_pool.norm",
    "MAPHead_0/MlpBlock_0/Dense_0": "attn_pool.mlp.fc1",
    "MAPHead_0/MlpBlock_0/Dense_1": "attn_pool.mlp.fc2",
}


def of_big_vision(arrays: Mapping[str, np.ndarray]) -> Arrays:
    """Returns arrays of these files under timm's names; those of other files stay as they are.

    A text tower, an optimizer's state and a layer between the network and its classifier ("pre_logits", with
    the classifier behind it) are left out.

    Raises:
      ValueError: an array has no place in such a network, or an attention lacks a part.
    """
    prefix = next((prefix for prefix in PREFIXES if f"{prefix}{SIGN}" in arrays), None)
    if prefix is None:
        return dict(arrays)
    found = {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
    if any(name.startswith("pre_logits/") for name in found):
        found = {name: a for name, a in found.items() if not name.startswith(("pre_logits/", "head/"))}
    named: Arrays = {}
    joined: dict[str, dict[str, np.ndarray]] = {}
    for name, array in _one_block_each(found):
        module, _, leaf = name.rpartition("/")
        if name in NAMES:
            named[NAMES[name]] = array.reshape(1, -1, array.shape[-1])
        elif part := re.fullmatch(rf"(.*/){ATTENTION}(query|key|value|out)", module):
            place = f"{_block(part[1])}.{leaf}"
            joined.setdefault(place, {})[part[2]] = _flat(array, part[2], leaf)
        elif place := MODULES.get(module) or _block(module):
            named[f"{place}.{LEAVES.get(leaf, leaf)}"] = _outputs_first(array, leaf)
        elif prefix != "opt/target/" or not name.startswith("opt/"):
            raise ValueError(f"{prefix}{name}: no part of a Vision Transformer")
    for place, parts in joined.items():
        module, _, leaf = place.rpartition(".")
        if parts.keys() != {"query", "key", "value", "out"}:
            raise ValueError(f"{place} has {', '.join(sorted(parts))} of query, key, value and out alone")
        name = "in_proj_" if module == "attn_pool" else "attn.qkv."
        out = "proj" if module == "attn_pool" else "attn.proj"
        named[f"{module}.{name}{LEAVES[leaf]}"] = np.concatenate(
            [parts[p] for p in ("query", "key", "value")]
        )
        named[f"{module}.{out}.{LEAVES[leaf]}"] = parts["out"]
    return named


def _one_block_each(arrays: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """Yields all arrays, those that hold every block split."""
    for name, array in arrays.items():
        if name.startswith("Transformer/encoderblock/"):
            rest = name.removeprefix("Transformer/encoderblock/")
            yield from ((f"Transformer/encoderblock_{i}/{rest}", own) for i, own in enumerate(array))
        else:
            yield name, array


def _block(module: str) -> str:
    """Returns timm's name of a module of a block, or of the block; "" where it is none."""
    if module == "MAPHead_0/":
        return "attn_pool"
    found = re.fullmatch(r"Transformer/encoderblock_(\d+)/(.*)", module)
    if not found:
        return ""
    block, inside = f"blocks.{found[1]}", found[2]
    if not inside:
        return block
    if norm := re.fullmatch(r"LayerNorm_(\d)", inside):
        return f"{block}.norm{1 if norm[1] == '0' else 2}"
    if dense := re.fullmatch(r"MlpBlock_\d/Dense_([01])", inside):
        return f"{block}.mlp.fc{int(dense[1]) + 1}"
    return ""


def _flat(array: np.ndarray, part: str, leaf: str) -> np.ndarray:
    """Returns a projection with its heads side by side: [O, I], or [O]."""
    if leaf == "bias":
        return array.reshape(-1)
    if array.ndim != 3:
        raise ValueError(
            f"the {part} of an attention is [D, heads, D / heads] or its inverse; got {array.shape}"
        )
    inputs = array.shape[0] * array.shape[1] if part == "out" else array.shape[0]
    return array.reshape(inputs, -1).T


def _outputs_first(array: np.ndarray, leaf: str) -> np.ndarray:
    """Returns a kernel [..., I, O] as PyTorch has it, [O, I, ...]."""
    if leaf != "kernel" or array.ndim < 2:
        return array
    return array.transpose(array.ndim - 1, array.ndim - 2, *range(array.ndim - 2))
