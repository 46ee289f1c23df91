"""Records what PyTorch's networks compute with drawn weights, for tests/models/test_parity.py.

  python tests/golden/record.py [FAMILY ...]

Needs torch, torchvision and timm; the tests do not. For each case below: the names and shapes of the state
dict, the logits and the outputs of a few layers at two image sizes, in summary, to tests/golden/FAMILY.npz.
Auxiliary classifiers, which work in training alone, are recorded in training mode without dropout.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import timm
import torch
import torchvision

sys.path.insert(0, str(Path(__file__).parent))
from drawing import draw_all, images, summary  # noqa: E402

TAPS = 6  # layers, evenly spaced
LOGIT_VALUES = 125
TRAIN_BATCH = 4
VISION = torchvision.models


class Case(NamedTuple):
    """A network to record.

    Attributes:
      variant: of this package's family.
      make: returns the PyTorch network, for images of a size.
      sizes: the standard one and an odd one.
      fields: what this package's `build` is given beside the variant, for a network of fewer layers.
      slow: leave it out of the default tests.
      train_size: record the auxiliary classifiers at this size; 0 for none.
      gain: of the weights drawn.
    """

    variant: str
    make: Callable[[int], torch.nn.Module]
    sizes: tuple[int, ...] = (224, 97)
    fields: Mapping[str, Any] = {}
    slow: bool = True
    train_size: int = 0
    gain: float = 2.0

    @property
    def name(self) -> str:
        return f"{self.variant}-short" if self.fields else self.variant


def vision(variant: str, *sizes: int, **options: Any) -> Case:
    """Returns the case of a torchvision network."""
    make = getattr(VISION, variant)
    return Case(variant, lambda size: make(weights=None), sizes or (224, 97), **options)


def with_aux(variant: str, *sizes: int, train_size: int) -> Case:
    """Returns the case of a torchvision network with auxiliary classifiers."""
    make = functools.partial(getattr(VISION, variant), weights=None, aux_logits=True, init_weights=False)
    return Case(variant, lambda size: make(), sizes, slow=False, train_size=train_size)


def vit(variant: str, odd: int, **options: int) -> Case:
    """Returns the case of a Vision Transformer, built anew for each size; with two layers it is quick."""
    options = {"patch_size": 16, "num_layers": 12, "num_heads": 12, "hidden_dim": 768} | options
    make = functools.partial(VISION.VisionTransformer, mlp_dim=4 * options["hidden_dim"], **options)
    fields = {"depth": 2} if options["num_layers"] == 2 else {}
    return Case(variant, lambda size: make(image_size=size), (224, odd), fields, slow=not fields)


def timm_vit(variant: str, name: str, odd: int) -> Case:
    """Returns the quick case of a Vision Transformer of timm, whose names are others."""

    def make(size: int) -> torch.nn.Module:
        return timm.create_model(name, img_size=size, depth=2)

    return Case(variant, make, (224, odd), {"depth": 2}, slow=False)


def short(variant: str, make: Callable[[], torch.nn.Module], gain: float = 2.0, **fields: Any) -> Case:
    """Returns the quick case of a network with fewer layers."""
    return Case(variant, lambda size: make(), fields=fields, slow=False, gain=gain)


def gated(variant: str, name: str) -> Case:
    """Returns the case of a timm network with squeeze-and-excitation."""
    return Case(variant, lambda size: timm.create_model(name), gain=1.0)


ONES, FEW = [1, 1, 1, 1], [2, 3, 2, 2]
CASES: dict[str, tuple[Case, ...]] = {
    "alexnet": (vision("alexnet", 224, 131, slow=False),),
    "vgg": (
        vision("vgg11_bn", slow=False),
        *map(vision, ("vgg11", "vgg13", "vgg16", "vgg16_bn", "vgg19")),
    ),
    "googlenet": (with_aux("googlenet", 224, 97, train_size=129),),
    "inception_v3": (with_aux("inception_v3", 299, 107, train_size=299),),
    "resnet": (
        vision("resnet18", slow=False),
        short(
            "resnext50_32x4d",
            lambda: VISION.ResNet(VISION.resnet.Bottleneck, ONES, groups=32, width_per_group=4),
            stage_sizes=ONES,
        ),
        short("se_resnet50", lambda: timm.create_model("seresnet50", layers=ONES), 1.0, stage_sizes=ONES),
        *map(vision, ("resnet34", "resnet50", "resnet152", "resnext50_32x4d", "resnext101_64x4d")),
        vision("wide_resnet50_2"),
        gated("se_resnet50", "seresnet50"),
        gated("se_resnext50_32x4d", "seresnext50_32x4d"),
    ),
    "densenet": (
        short("densenet121", lambda: VISION.DenseNet(32, FEW), layers=FEW),
        *map(vision, ("densenet121", "densenet161", "densenet201")),
    ),
    "mobilenet_v2": (vision("mobilenet_v2", slow=False),),
    "squeezenet": (vision("squeezenet1_0", slow=False), vision("squeezenet1_1", slow=False)),
    "efficientnet": (
        vision("efficientnet_b0", slow=False, gain=1.0),
        *(vision(f"efficientnet_b{i}", gain=1.0) for i in (1, 3, 5, 7)),
    ),
    "vit": (
        vit("vit_b32", 96, patch_size=32, num_layers=2),
        timm_vit("vit_ti16", "vit_tiny_patch16_224", 112),
        timm_vit("vit_b32_clip", "vit_base_patch32_clip_quickgelu_224", 96),
        vit("vit_b32", 96, patch_size=32),
        vit("vit_b16", 112),
        vit("vit_l16", 112, num_layers=24, num_heads=16, hidden_dim=1024),
    ),
}


def main(families: list[str]) -> None:
    """Records the families named, all of them where none is."""
    torch.set_num_threads(2)
    for family in families or CASES:
        recorded: dict[str, np.ndarray] = {}
        for case in CASES[family]:
            recorded |= {f"{case.name}/{key}": value for key, value in record(case).items()}
        path = Path(__file__).with_name(f"{family}.npz")
        np.savez_compressed(path, **recorded)
        print(f"{path.name}: {len(CASES[family])} cases, {path.stat().st_size} bytes")


@torch.no_grad()
def record(case: Case) -> dict[str, np.ndarray]:
    """Returns what the tests read of a case, arrays and JSON text, by name.

    case: variant, fields, slow, gain; SIZE/shapes, where they are not those of the size before; SIZE/logits;
    SIZE/taps [T, 3 + values] with names in SIZE/modules; train/..., where there are auxiliary classifiers.
    """
    recorded: dict[str, Any] = {"case": text([case.variant, case.fields, case.slow, case.gain])}
    known = None
    for size in case.sizes:
        network, shapes = prepared(case, size)
        logits, taps = run(network.eval(), images(size))
        if shapes != known:
            recorded[f"{size}/shapes"] = text(shapes)
        known = shapes
        recorded |= {f"{size}/logits": summary(logits, LOGIT_VALUES), f"{size}/modules": text(list(taps))}
        recorded[f"{size}/taps"] = np.stack(list(taps.values()))
    if case.train_size:
        network, _ = prepared(case, case.train_size)
        network.train()
        for module in network.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        out = network(channels_first(images(case.train_size, TRAIN_BATCH)))
        found = {"logits": out.logits} | {name: getattr(out, name) for name in out._fields if "aux" in name}
        recorded["train/size"] = np.array(case.train_size)
        recorded |= {f"train/{name}": summary(value.numpy(), LOGIT_VALUES) for name, value in found.items()}
    return recorded


def prepared(case: Case, size: int) -> tuple[torch.nn.Module, dict[str, list[int]]]:
    """Returns the network with drawn weights, and the shapes of its state dict without the batch counters."""
    network = case.make(size)
    state = network.state_dict()
    shapes = {name: list(v.shape) for name, v in state.items() if not name.endswith("num_batches_tracked")}
    drawn = {name: torch.from_numpy(array) for name, array in draw_all(shapes, case.gain).items()}
    network.load_state_dict(state | drawn)
    return network, shapes


def run(network: torch.nn.Module, batch: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Returns the logits and the summaries of evenly spaced convolutions and norms, channels last."""
    kinds = (torch.nn.Conv2d, torch.nn.BatchNorm2d, torch.nn.LayerNorm)
    layers = [(name, module) for name, module in network.named_modules() if isinstance(module, kinds)]
    taps: dict[str, np.ndarray] = {}
    hooks = []
    for place in np.linspace(0, len(layers) - 1, TAPS).astype(int):
        name, module = layers[place]

        def keep(module: Any, inputs: Any, output: torch.Tensor, name: str = name) -> None:
            taps[name] = summary(output.clone().movedim(1, -1) if output.ndim == 4 else output.clone())

        hooks.append(module.register_forward_hook(keep))
    logits = network(channels_first(batch)).numpy()
    for hook in hooks:
        hook.remove()
    return logits, taps


def channels_first(batch: np.ndarray) -> torch.Tensor:
    """Returns [B, C, H, W] for [B, H, W, C]."""
    return torch.from_numpy(np.ascontiguousarray(batch.transpose(0, 3, 1, 2)))


def text(value: Any) -> np.ndarray:
    """Returns JSON as bytes, which compress well."""
    return np.frombuffer(json.dumps(value, separators=(",", ":")).encode(), np.uint8)


if __name__ == "__main__":
    main(sys.argv[1:])
