"""The names of the files of weights of CLIP and SigLIP, for both towers: OpenAI's, OpenCLIP's and Hugging
Face's.

Hugging Face's names become OpenAI's, with the three projections of an attention joined. OpenCLIP's class with
a tower of texts of its own has the prefix "text.", which is taken away. The image tower then goes the way of
its family (models/vit.py), and what CLIP adds is read here: the text tower, the projection of the images and
the scale. Nothing in a file tells whether its GELU is the quick one; `model.quick_gelu` does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

Arrays = dict[str, np.ndarray]

ROOMS = frozenset({"projection", "text", "log_scale", "logit_bias"})  # of params, beside the backbone
OF_TEXT = ("transformer.", "token_embedding.", "positional_embedding", "ln_final.", "text_projection")
# Hugging Face's names and OpenAI's, as beginnings.
HUGGING_FACE = (
    (r"text_model\.embeddings\.token_embedding\.", "token_embedding."),
    (r"text_model\.embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"text_model\.final_layer_norm\.", "ln_final."),
    (r"text_model\.head\.", "text_projection."),
    (r"vision_model\.embeddings\.class_embedding", "visual.class_embedding"),
    (r"vision_model\.embeddings\.patch_embedding\.", "visual.conv1."),
    (r"vision_model\.embeddings\.position_embedding\.weight", "visual.positional_embedding"),
    (r"vision_model\.pre_layrnorm\.", "visual.ln_pre."),  # spelled so
    (r"vision_model\.post_layernorm\.", "visual.ln_post."),
    (r"vision_model\.head\.probe", "visual.attn_pool.latent"),
    (r"vision_model\.head\.attention\.in_proj_", "visual.attn_pool.in_proj_"),
    (r"vision_model\.head\.attention\.out_proj\.", "visual.attn_pool.proj."),
    (r"vision_model\.head\.layernorm\.", "visual.attn_pool.norm."),
    (r"vision_model\.head\.", "visual.attn_pool."),
    (r"text_model\.encoder\.layers\.(\d+)\.", r"transformer.resblocks.\1."),
    (r"vision_model\.encoder\.layers\.(\d+)\.", r"visual.transformer.resblocks.\1."),
)
HUGGING_FACE_IN_LAYER = (
    (r"\.layer_norm(\d)\.", r".ln_\1."),
    (r"\.self_attn\.out_proj\.", ".attn.out_proj."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
)
ATTENTION = re.compile(r"(.*)\.self_attn\.([qkv])_proj\.(weight|bias)")


class ClipNames:
    """Names and layouts of what a file of CLIP holds beside the backbone, as `TorchNames` has those of a
    family."""

    rooms = ROOMS
    heads: Mapping[str, str] = {}
    flatten: Mapping[str, tuple[int, int]] = {}
    optional: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return "the objective's text tower and projection (dim, text_width, text_depth, context_length)"

    def module(self, path: tuple[str, ...]) -> str:
        """Returns the name of a leaf's module."""
        return self.key(path).rpartition(".")[0]

    def key(self, path: tuple[str, ...]) -> str:
        """Returns the name of a leaf's array in the file."""
        own = {"projection": "visual.proj", "log_scale": "logit_scale"}.get(path[0], path[0])
        if own != "text":
            return own
        name = re.sub(r"^layer_(\d+)\.", r"transformer.resblocks.\1.", ".".join(path[1:]))
        for ours, theirs in (
            ("self_attention.", "attn."),
            ("mlp.0.", "mlp.c_fc."),
            ("mlp.3.", "mlp.c_proj."),
        ):
            name = name.replace(ours, theirs)
        if name == "token_embedding":
            return "token_embedding.weight"
        return re.sub(r"\.(kernel|scale)$", ".weight", name)

    def inward(self, path: tuple[str, ...], array: np.ndarray) -> np.ndarray:
        """Brings an array to the layout of its leaf; CLIP multiplies by its projections as they are."""
        if path[0] in ("log_scale", "logit_bias") and array.size == 1:
            return array.reshape(())  # some writers make it [1]
        return array.T if path[0] == "text" and path[-1] == "kernel" else array

    def outward(self, path: tuple[str, ...], array: np.ndarray) -> np.ndarray:
        """The inverse of `inward`."""
        return self.inward(path, array)


def openai_names(arrays: Mapping[str, np.ndarray]) -> Arrays:
    """Returns arrays under OpenAI's names; those of other networks stay as they are.

    Raises:
      ValueError: an attention lacks one of its three projections.
    """
    if "embeddings.patch_embedding.weight" in arrays:  # an image tower alone, by transformers of version 5
        arrays = {f"vision_model.{name}": array for name, array in arrays.items()}
    if not any(name.startswith(("text_model.", "vision_model.")) for name in arrays):
        texts = any(name.startswith("text.transformer.") for name in arrays)
        return {name.removeprefix("text.") if texts else name: array for name, array in arrays.items()}
    named: Arrays = {}
    parts: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        name = _renamed(name)
        if name.endswith(".position_ids"):
            continue
        if found := ATTENTION.fullmatch(name):
            parts.setdefault((found[1], found[3]), {})[found[2]] = array
        elif name == "visual_projection.weight":
            named["visual.proj"] = array.T
        elif name == "text_projection.weight":
            named["text_projection"] = array.T
        else:
            named[name] = array
    for (layer, kind), own in parts.items():
        if own.keys() != {"q", "k", "v"}:
            raise ValueError(f"{layer}.self_attn has {', '.join(sorted(own))} of q, k and v alone")
        named[f"{layer}.attn.in_proj_{kind}"] = np.concatenate([own[part] for part in "qkv"])
    return named


def _renamed(name: str) -> str:
    for pattern, replacement in HUGGING_FACE:
        name, changed = re.subn(f"^{pattern}", replacement, name)
        if changed:
            break
    for pattern, replacement in HUGGING_FACE_IN_LAYER:
        name = re.sub(pattern, replacement, name)
    return name


def of_clip(arrays: Mapping[str, np.ndarray]) -> Arrays:
    """Returns the arrays of OpenAI's names that are no part of the image tower: {} where there is no text
    tower. Masks and sizes, which the release keeps as arrays, are left out."""
    if "token_embedding.weight" not in arrays:
        return {}
    own = {name: array for name, array in arrays.items() if name.startswith(OF_TEXT)}
    if "text_projection.weight" in own:  # a linear layer of OpenCLIP
        own["text_projection"] = own.pop("text_projection.weight").T
    if "text_projection.bias" in own:
        own["text_projection_bias"] = own.pop("text_projection.bias")
    beside = ("visual.proj", "logit_scale", "logit_bias")
    return own | {name: arrays[name] for name in beside if name in arrays}
