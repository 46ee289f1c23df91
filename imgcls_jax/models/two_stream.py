"""Two networks side by side, as bilinear pooling reads them: apart, or with a common trunk.

Lin et al. 2015, "Bilinear CNN Models for Fine-grained Visual Recognition", arXiv:1504.07889, section 3: the
two streams may share nothing, a part, or all of their layers. With all shared there is but one network, which
the head `bilinear` pools with itself (`streams=1`); the others are here, for any family of models/.

A variant is written
  "vgg/vgg16"                 the same network twice, each with params of its own;
  "vgg/vgg16@features.17"     the same, with one set of layers up to and with that module (its own name);
  "vgg/vgg19+vgg16"           two networks of a family;
  "vgg/vgg16+resnet/resnet34" two networks of two families.
The shared layers run once and are differentiated once: the second stream is handed what they put out in the
first. Params are {"first": of a whole network, "second": what is not shared}, batch_stats likewise.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgcls_jax.layers.features import Features

Path = tuple[str, ...]  # names of nested modules
Outputs = dict[Path, Any]  # what each module put out, by its path within the stream

TRACE_SIZE = 224  # of the images at which the order of a network's modules is found


class TwoStream(nn.Module):
    """The backbone: two backbones on the same images.

    Attributes:
      first, second: backbones, not the same object.
      shared: name of the last module of `first` that `second`, the same network, shares; "" shares nothing.
        Params that a network holds outside any module (a ViT's class token) are each stream's own.
    """

    first: nn.Module
    second: nn.Module
    shared: str = ""

    def __call__(self, images: jax.Array, *, train: bool) -> Features:
        """Computes the features.

        Args:
          images: float [B, H, W, C], normalized.
          train: as of the streams; rngs too.

        Returns:
          Features: map [B, h, w, 2 * D'], the first stream's channels before the second's, and embedding
          [B, D1 + D2].

        Raises:
          ValueError: the maps differ in shape, `shared` is no module of the first stream, or the streams
            recompute their layers (remat), so that there is nothing to hand over.
        """
        if self.shared and getattr(self.first, "remat", False):
            raise ValueError("streams that share layers keep their activations; build them with remat=False")
        outputs: Outputs = {}
        with nn.intercept_methods(_recording(outputs, (*self.path, "first"))):
            first = self.first(images, train=train)
        common = _until(outputs, self.shared)
        with nn.intercept_methods(_replaying(common, (*self.path, "second"))):
            second = self.second(images, train=train)
        if first.map.shape != second.map.shape:
            raise ValueError(
                f"the two streams' maps have the shapes {first.map.shape} and {second.map.shape}; bilinear "
                "pooling needs equal ones: choose networks and fields that agree in stride and channels"
            )
        return Features(
            jnp.concatenate([first.map, second.map], axis=-1),
            jnp.concatenate([first.embedding, second.embedding], axis=-1),
        )


def _inner_path(stream: Path, context: Any) -> Path:
    """Returns the path within a stream of the module being called; () where it is not inside the stream."""
    path, depth = context.module.path, len(stream)
    inside = context.method_name == "__call__" and path[:depth] == stream
    return path[depth:] if inside else ()


def _recording(outputs: Outputs, stream: Path) -> Any:
    """Returns an interceptor that notes what each module of a stream puts out, in the order they finish."""

    def intercept(call: Any, args: Any, options: Any, context: Any) -> Any:
        output = call(*args, **options)
        if path := _inner_path(stream, context):
            outputs[path] = output
        return output

    return intercept


def _replaying(outputs: Outputs, stream: Path) -> Any:
    """Returns an interceptor that answers for the modules in `outputs` without running them."""

    def intercept(call: Any, args: Any, options: Any, context: Any) -> Any:
        path = _inner_path(stream, context)
        return outputs[path] if path in outputs else call(*args, **options)

    return intercept


def _until(outputs: Outputs, last: str) -> Outputs:
    """Returns the outputs of the modules that finish no later than `last`; none for ""."""
    if not last:
        return {}
    names = [".".join(path) for path in outputs]
    if last not in names:
        raise ValueError(f"the network has no module {last!r} to share up to; it has {', '.join(names)}")
    return dict(list(outputs.items())[: names.index(last) + 1])


class _Network(NamedTuple):
    """A family of models/ and a variant of it."""

    family: ModuleType
    variant: str

    def build(self, **fields: Any) -> nn.Module:
        """Returns the backbone; without its fully connected layers where they can be left out."""
        top = {"top": False} if hasattr(self.family.build(self.variant), "top") else {}
        return self.family.build(self.variant, **(top | fields))


def _parse(variant: str) -> tuple[_Network, _Network, str]:
    """Returns the two networks of a variant, and the name of the last module that they share.

    Raises:
      ValueError: another form, an unknown family, or something shared between different networks.
    """
    names, _, shared = variant.partition("@")
    family, _, rest = names.partition("/")
    one, plus, other = rest.partition("+")
    if not one or bool(plus) != bool(other) or ("@" in variant and not shared):
        raise ValueError(
            "a variant of models/two_stream.py reads 'vgg/vgg16', 'vgg/vgg19+vgg16', "
            f"'vgg/vgg16+resnet/resnet34' or 'vgg/vgg16@features.17'; got {variant!r}"
        )
    first = _Network(_find_family(family), one)
    second = first
    if other:
        name, slash, inner = other.partition("/")
        second = _Network(_find_family(name), inner) if slash else first._replace(variant=other)
    if shared and second != first:
        raise ValueError(f"only two streams of the same network share layers; got {variant!r}")
    return first, second, shared


def _find_family(name: str) -> ModuleType:
    try:
        family = importlib.import_module(f"imgcls_jax.models.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"imgcls_jax.models.{name}":
            raise
        family = None
    if family is None or not hasattr(family, "build") or name == __name__.rpartition(".")[2]:
        raise ValueError(f"models/ has no family {name!r} for a stream")
    return family


def build(variant: str, **fields: Any) -> TwoStream:
    """Returns the backbone.

    Args:
      variant: as at the head of this file.
      **fields: attributes of the networks; each goes to both, or to the one that has it. `top`, where there
        is one, is False unless given: bilinear pooling reads maps.

    Raises:
      ValueError: a variant of another form, an unknown family or variant of it, or layers shared between
        different networks.
      TypeError: a field that neither network has.
    """
    first, second, shared = _parse(variant)
    known = [
        {field.name for field in dataclasses.fields(one.family.build(one.variant))} for one in (first, second)
    ]

    def stream(network: _Network, own: set[str], others: set[str]) -> nn.Module:
        return network.build(
            **{key: value for key, value in fields.items() if key in own or key not in others}
        )

    return TwoStream(stream(first, *known), stream(second, *reversed(known)), shared)


def torch_head(variant: str) -> str:
    """Returns the name of the final linear layer; no network of PyTorch's has this one."""
    _parse(variant)
    return "head"


def torch_flatten(variant: str) -> dict[str, tuple[int, int]]:
    """Returns the rows and columns of the map that each linear layer after a flatten reads."""
    return {
        f"{stream}.{module}": size
        for stream, network in zip(("first", "second"), _parse(variant)[:2], strict=True)
        for module, size in getattr(network.family, "torch_flatten", lambda variant: {})(
            network.variant
        ).items()
    }


def import_weights(arrays: Mapping[str, Any], variant: str) -> dict[str, Any]:
    """Gives both streams the weights of the one network that they are.

    Left out are the classifier, auxiliary ones, and fully connected layers that a stream is built without.

    Args:
      arrays: of that network, in any form that its family reads; or already named "first.*" and "second.*".
      variant: as at the head of this file.

    Returns:
      {"first.features.0.weight": ..., "second.features.19.weight": ...}; of the second what is not shared.

    Raises:
      ValueError: the streams are different networks, and the file holds but one.
    """
    if all(name.startswith(("first.", "second.")) for name in arrays):
        return dict(arrays)
    network, second, shared = _parse(variant)
    if second != network:
        raise ValueError(
            f"{variant!r} has two networks and the file the arrays of one; name them first.* and second.*"
        )
    family = network.family
    if hasattr(family, "import_weights"):
        arrays = family.import_weights(arrays, network.variant)
    aux = family.torch_aux_heads(network.variant) if hasattr(family, "torch_aux_heads") else ()
    optional = {name.split(".")[0] for name in aux} | set(getattr(family, "TORCH_OPTIONAL", ()))
    head, common = family.torch_head(network.variant), _shared_modules(network, shared)
    named: dict[str, Any] = {}
    for name, array in arrays.items():
        module = name.rpartition(".")[0]
        if module == head or name.split(".")[0] in optional:
            continue
        named[f"first.{name}"] = array
        if module not in common:
            named[f"second.{name}"] = array
    return named


def export_weights(arrays: Mapping[str, Any], variant: str) -> dict[str, Any]:
    """Raises ValueError: PyTorch's networks have one stream."""
    del arrays
    raise ValueError(f"PyTorch has no network of two streams for {variant!r}; write this package's own names")


def _shared_modules(network: _Network, last: str) -> set[str]:
    """Returns the names of the modules that finish no later than `last`; nothing is computed."""
    outputs: Outputs = {}

    def run(images: jax.Array) -> None:
        with nn.intercept_methods(_recording(outputs, ())):
            network.build().init(jax.random.key(0), images, train=False)

    if last:
        jax.eval_shape(run, jax.ShapeDtypeStruct((1, TRACE_SIZE, TRACE_SIZE, 3), jnp.float32))
    return {".".join(path) for path in _until(outputs, last)}
