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


def small(variant: str, make: Callable[[int], torch.nn.Module], *sizes: int, **fields: Any) -> Case:
    """Returns the quick case of a small network, for small images."""
    return Case(variant, make, sizes or SMALL_SIZES, fields, slow=False, gain=1.0)


def regnet_line(depth: int, first_width: int, slope: float, step: float, group: int) -> dict[str, Any]:
    """Returns the fields of this package's RegNet, by name."""
    return dict(depth=depth, first_width=first_width, slope=slope, step=step, group=group)


def timm_regnet(line: Mapping[str, Any], se_ratio: float) -> torch.nn.Module:
    """Returns timm's RegNet."""
    names = dict(depth="depth", first_width="w0", slope="wa", step="wm", group="group_size")
    config = timm.models.regnet.RegNetCfg(**{names[k]: v for k, v in line.items()}, se_ratio=se_ratio)
    return timm.models.regnet.RegNet(config)


def vision_regnet(line: Mapping[str, Any], **options: Any) -> torch.nn.Module:
    """Returns torchvision's RegNet."""
    params = VISION.regnet.BlockParams.from_init_params(*line.values(), **options)
    return VISION.RegNet(params, norm_layer=torch.nn.BatchNorm2d)


def v2_stages(channels: tuple[int, ...], repeats: tuple[int, ...]) -> list[list[Any]]:
    """Returns the stages of this package's EfficientNetV2-S with other channels and repeats."""
    kinds = (("fused", 1, 1), *[("fused", 4, 2)] * 2, ("gated", 4, 2), ("gated", 6, 1), ("gated", 6, 2))
    return [[*kind, c, n] for kind, c, n in zip(kinds, channels, repeats, strict=True)]


def vision_v2(stages: list[list[Any]]) -> torch.nn.Module:
    """Returns torchvision's EfficientNetV2."""
    kinds = {"fused": VISION.efficientnet.FusedMBConvConfig, "gated": VISION.efficientnet.MBConvConfig}
    inputs = [stages[0][3], *(stage[3] for stage in stages)]
    settings = [kinds[k](e, 3, s, i, c, n) for i, (k, e, s, c, n) in zip(inputs, stages, strict=False)]
    norm = functools.partial(torch.nn.BatchNorm2d, eps=1e-3)
    return VISION.EfficientNet(settings, 0.0, last_channel=1280, norm_layer=norm)


def timm_v2(depth: float) -> torch.nn.Module:
    """Returns timm's EfficientNetV2-S of fewer repeats, as TensorFlow has it."""
    make = timm.models.efficientnet._gen_efficientnetv2_s
    return make("tf_efficientnetv2_s", depth_multiplier=depth, bn_eps=1e-3, pad_type="same")


def vision_convnext(depths: list[int], widths: list[int]) -> torch.nn.Module:
    """Returns torchvision's ConvNeXt."""
    ends = [*widths[1:], None]
    settings = [VISION.convnext.CNBlockConfig(*s) for s in zip(widths, ends, depths, strict=True)]
    return VISION.ConvNeXt(settings)


def timm_convnext(depths: list[int], widths: list[int], **options: Any) -> torch.nn.Module:
    """Returns timm's ConvNeXt, or V2."""
    return timm.models.convnext.ConvNeXt(depths=depths, dims=widths, **options)


def vision_swin(depths: list[int], width: int, heads: list[int], window: int) -> torch.nn.Module:
    """Returns torchvision's Swin Transformer."""
    return VISION.SwinTransformer([4, 4], width, depths, heads, [window] * 2)


def timm_swin(size: int, depths: list[int], width: int, heads: list[int], window: int) -> torch.nn.Module:
    """Returns timm's Swin Transformer."""
    return timm.models.swin_transformer.SwinTransformer(
        size, window_size=window, embed_dim=width, depths=depths, num_heads=heads
    )


def timm_bit() -> torch.nn.Module:
    """Returns timm's BiT network of one block a stage."""
    conv = functools.partial(timm.layers.StdConv2d, eps=1e-8)
    return timm.models.resnetv2.ResNetV2(ONES, stem_type="fixed", conv_layer=conv)


ONES, FEW = [1, 1, 1, 1], [2, 3, 2, 2]
SMALL_SIZES = (64, 75)
CONVNEXT = dict(depths=[1, 1, 2, 1], widths=[8, 16, 24, 32])
SWIN = dict(depths=[2, 2, 2], width=24, heads=[2, 4, 8], window=4)
LINE_X, LINE_Y = regnet_line(6, 40, 40.0, 2.0, 16), regnet_line(6, 24, 24.0, 2.0, 8)
V2_SMALL = v2_stages((8, 16, 16, 24, 32, 40), (1, 2, 1, 2, 1, 1))
V2_SHORT = v2_stages((24, 48, 64, 128, 160, 256), (1, 1, 1, 1, 1, 2))
CASES: dict[str, tuple[Case, ...]] = {
    "alexnet": (vision("alexnet", 224, 131, slow=False),),
    "vgg": tuple(map(vision, ("vgg11_bn", "vgg11", "vgg13", "vgg16", "vgg16_bn", "vgg19"))),
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
        small("resnet18d", lambda size: timm.create_model("resnet18d", layers=ONES), stage_sizes=ONES),
        small("resnet50d", lambda size: timm.create_model("resnet50d", layers=ONES), stage_sizes=ONES),
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
    "convnext": (
        small("convnext_tiny", lambda size: vision_convnext(**CONVNEXT), **CONVNEXT),
        small("convnext_xlarge", lambda size: timm_convnext(**CONVNEXT), **CONVNEXT),
        small(
            "convnextv2_tiny",
            lambda size: timm_convnext(**CONVNEXT, use_grn=True, ls_init_value=None),
            **CONVNEXT,
        ),
        small(
            "convnextv2_nano",
            lambda size: timm_convnext(**CONVNEXT, use_grn=True, ls_init_value=None, conv_mlp=True),
            **CONVNEXT,
        ),
    ),
    "efficientnet_v2": (
        small("efficientnet_v2_s", lambda size: vision_v2(V2_SMALL), stages=V2_SMALL),
        small("tf_efficientnetv2_s", lambda size: timm_v2(0.1), stages=V2_SHORT),
    ),
    "mobilenet_v3": (
        vision("mobilenet_v3_small", *SMALL_SIZES, slow=False, gain=1.0),
        vision("mobilenet_v3_large", gain=1.0),
        Case("mobilenetv3_small_100", lambda size: timm.create_model("mobilenetv3_small_100"), gain=1.0),
        Case("mobilenetv3_large_100", lambda size: timm.create_model("mobilenetv3_large_100"), gain=1.0),
        Case(
            "tf_mobilenetv3_small_100",
            lambda size: timm.create_model("tf_mobilenetv3_small_100"),
            SMALL_SIZES,
            slow=False,
            gain=1.0,
        ),
    ),
    "regnet": (
        small("regnet_x_400mf", lambda size: vision_regnet(LINE_X), **LINE_X),
        small("regnet_y_400mf", lambda size: vision_regnet(LINE_Y, se_ratio=0.25), **LINE_Y),
        small("regnetx_004", lambda size: timm_regnet(LINE_X, 0.0), **LINE_X),
        small("regnety_008", lambda size: timm_regnet(LINE_Y, 0.25), **LINE_Y),
    ),
    "resnetv2": (small("resnetv2_50x1_bit", lambda size: timm_bit(), depths=ONES),),
    "swin": (
        small("swin_t", lambda size: vision_swin(**SWIN), 64, 75, 46, **SWIN),
        small("swin_l", lambda size: timm_swin(size, **SWIN), 64, 128, **SWIN),
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
    """Returns the network with drawn weights, and the shapes of its state dict without integers."""
    network = case.make(size)
    state = network.state_dict()
    shapes = {name: list(v.shape) for name, v in state.items() if v.is_floating_point()}
    drawn = {name: torch.from_numpy(array) for name, array in draw_all(shapes, case.gain).items()}
    network.load_state_dict(state | drawn)
    return network, shapes


def run(network: torch.nn.Module, batch: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Returns the logits and the summaries of evenly spaced convolutions and norms, channels last."""
    kinds = (torch.nn.Conv2d, torch.nn.BatchNorm2d, torch.nn.LayerNorm)
    # Of timm's norms with an activation inside, the output is not the norm's.
    layers = [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, kinds) and not type(module).__name__.endswith(("Act", "Act2d"))
    ]
    taps: dict[str, np.ndarray] = {}
    hooks = []
    for place in np.linspace(0, len(layers) - 1, TAPS).astype(int):
        name, module = layers[place]

        def keep(module: Any, inputs: Any, output: torch.Tensor, name: str = name) -> None:
            is_first = output.ndim == 4 and type(module).__name__ != "LayerNorm"
            taps[name] = summary(output.clone().movedim(1, -1) if is_first else output.clone())

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
