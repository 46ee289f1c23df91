"""Converts weights between PyTorch's names and this package's, into .safetensors.

  python -m imgcls_jax.tools.convert IN OUT --family resnet --variant resnet50 [--num_classes N] [--to torch]
  [--prefix teacher.]

IN is .pth, .pt, .th, .safetensors or .npz, of either naming, Caffe's .caffemodel, or public weights by name,
such as timm/resnet50.a1_in1k (weights/hub.py); OUT is .safetensors. Every array is checked against the
network: what is missing, left over or of another shape is an error. --num_classes, where it is not that of
the file, leaves the classifier out. A prefix such as "model." or "module.encoder_q.", under which a training
program keeps the network, is found; --prefix says which one where the file holds the network more than once.
Runs no pickled code and needs no torch.
"""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

from imgcls_jax.runtime.command import at_least_one, command, exit_with, importing, parser_of, user_path
from imgcls_jax.runtime.names import printable

with importing(__name__):
    import numpy as np

    from imgcls_jax.weights import pretrained
    from imgcls_jax.weights.hub import locate


def load_family(name: str) -> ModuleType:
    """Returns a module of models/ that can build backbones.

    Raises:
      ValueError: there is none of this name.
    """
    try:
        family = importlib.import_module(f"imgcls_jax.models.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"imgcls_jax.models.{name}":
            raise
        family = None
    if family is None or not hasattr(family, "build") or not hasattr(family, "torch_head"):
        raise ValueError(f"models/ has no family {name!r} whose weights can be converted")
    return family


def count_classes(arrays: Mapping[str, np.ndarray], head: str) -> int:
    """Returns the number of classes of the file's classifier, 1 where it has none."""
    bias = arrays.get("head/classifier/bias", arrays.get(f"{head}.bias"))
    return 1 if bias is None else len(bias)


def convert(
    source: str | Path,
    destination: str | Path,
    *,
    family: str,
    variant: str,
    num_classes: int | None = None,
    image_shape: tuple[int, int, int] = (224, 224, 3),
    to: str = "own",
    prefix: str = "",
) -> pretrained.Report:
    """Converts a file of weights.

    Args:
      source: path, or the name of public weights as weights/hub.py reads it.
      destination: path.
      family: module of models/.
      variant: of the family.
      num_classes: of the classifier to keep; None for the file's.
      image_shape: (H, W, C) that the network reads, where its parameters depend on it.
      to: "own" or "torch".
      prefix: of the network's names in the file; "" to find it.

    Returns:
      What became of the file's arrays.

    Raises:
      ValueError: an unreadable file, weights that do not fit the network, an unknown family or variant.
    """
    if Path(destination).suffix != ".safetensors":
        raise ValueError(f"weights are written as .safetensors; got {destination}")
    module = load_family(family)
    arrays, note = pretrained.read_weights(locate(str(source)).path, module, variant), ""
    if prefix or not pretrained.is_own(arrays):
        shapes = pretrained.target_shapes(module.build(variant), image_shape, 1)
        arrays, note = pretrained.network_of(arrays, module, variant, shapes, prefix)
    aux = has_aux(arrays, module, variant)
    backbone = module.build(variant, aux=True) if aux else module.build(variant)
    if not pretrained.is_own(arrays):
        arrays = pretrained.renamed(arrays, module, variant)
    num_classes = num_classes or count_classes(arrays, module.torch_head(variant))
    target = pretrained.target_shapes(backbone, image_shape, num_classes, aux=aux)
    load = pretrained.load_own if pretrained.is_own(arrays) else pretrained.load_torch
    params, batch_stats, report = load(arrays, module, variant, target)
    if to == "torch":
        converted = pretrained.to_torch(params, batch_stats, module, variant)
    else:
        converted = pretrained.export_names(params, batch_stats)
    pretrained.write_safetensors(destination, converted)
    return pretrained.Report(report.loaded, (*filter(None, [note]), *report.notes))


def has_aux(arrays: Mapping[str, np.ndarray], family: ModuleType, variant: str) -> bool:
    """Whether the file has the auxiliary classifiers that the family knows."""
    heads = family.torch_aux_heads(variant) if hasattr(family, "torch_aux_heads") else ()
    modules = {name.split(".")[0] for name in heads}
    return any(re.split("[./]", name.removeprefix("backbone/"))[0] in modules for name in arrays)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    parser = parser_of("convert", __doc__)
    parser.add_argument("source", metavar="IN", help="file to read, or public weights by name")
    parser.add_argument("destination", metavar="OUT", type=user_path, help="file to write, .safetensors")
    parser.add_argument("--family", required=True, help="module of imgcls_jax/models, such as resnet")
    parser.add_argument("--variant", required=True, help="of the family, such as resnet50")
    parser.add_argument(
        "--num_classes", type=at_least_one, help="of the classifier to keep (default: the file's)"
    )
    parser.add_argument("--to", choices=("own", "torch"), default="own", help="names to write (default own)")
    parser.add_argument(
        "--prefix", default="", help="of the network's names, as in teacher. (default: found)"
    )
    parser.add_argument(
        "--image_size", type=at_least_one, default=224, help="where params depend on it (default 224)"
    )
    parser.add_argument("--channels", type=at_least_one, default=3, help="of the images (default 3)")
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    arguments = parse_arguments(argv)
    size = arguments.image_size
    report = convert(
        arguments.source,
        arguments.destination,
        family=arguments.family,
        variant=arguments.variant,
        num_classes=arguments.num_classes,
        image_shape=(size, size, arguments.channels),
        to=arguments.to,
        prefix=arguments.prefix,
    )
    print(printable(f"{arguments.destination}: {report}"))
    return 0


if __name__ == "__main__":
    exit_with(main)
