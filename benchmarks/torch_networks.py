"""PyTorch's side of train_step.py: the same networks from torchvision and timm, and a step of each kind.

What neither library has is written here: Simpleconv3, the bilinear heads, ResNet-20, BAM, the Wide ResNet of
MixMatch, and the masked autoencoder around timm's Transformer blocks.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 (PyTorch's own custom)

try:
    import torchvision
except RuntimeError:
    # Its compiled operators do not fit PyTorch's build. It asks for these two by name, and no network here
    # uses them. Where they do fit, to define them twice would end the process.
    _operators = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _operators.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

import timm
from timm.models.vision_transformer import Block

LEARNING_RATE, MOMENTUM = 0.1, 0.9


def simpleconv3(classes: int) -> nn.Module:
    """Returns Simpleconv3 for 48 x 48 pixels."""
    layers, channels = [], (3, 12, 24, 48)
    for inputs, outputs in zip(channels, channels[1:], strict=False):
        layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
    layers += [nn.Flatten(), nn.Linear(1728, 512), nn.ReLU(), nn.Linear(512, 128), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(128, classes))


class BilinearVGG(nn.Module):
    """VGG-16's last map, the product of its channels or a tensor sketch of that, and a classifier."""

    def __init__(self, classes: int, dim: int = 0) -> None:
        super().__init__()
        self.features = torchvision.models.vgg16(weights=None).features[:-1]
        self.dim = dim
        if dim:
            for side in ("first", "second"):
                sketch = torch.zeros(512, dim)
                sketch[torch.arange(512), torch.randint(dim, (512,))] = torch.randint(2, (512,)) * 2.0 - 1
                self.register_buffer(side, sketch)
        self.classifier = nn.Linear(dim or 512**2, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.features(images).flatten(2)  # [B, C, HW]
        if self.dim:
            x = maps.transpose(1, 2)
            a, b = (torch.fft.rfft((x @ sketch).float()) for sketch in (self.first, self.second))
            pooled = torch.fft.irfft((a * b).sum(1), n=self.dim)
        else:
            pooled = (maps @ maps.transpose(1, 2)).flatten(1)
        rooted = pooled.sign() * (pooled.abs() + 1e-12).sqrt()
        return self.classifier(F.normalize(rooted))


class WideBlock(nn.Module):
    """A block of pre-activation: norm, leaky ReLU, convolution, twice."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.skip = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.leaky_relu(self.bn1(x), 0.1)
        skip = x if self.skip is None else self.skip(y)
        return skip + self.conv2(F.leaky_relu(self.bn2(self.conv1(y)), 0.1))


def wide_resnet_28_2(classes: int) -> nn.Module:
    """Returns WRN-28-2 for 32 x 32 pixels."""
    layers, inputs = [nn.Conv2d(3, 16, 3, 1, 1, bias=False)], 16
    for stage, outputs in enumerate((32, 64, 128)):
        for i in range(4):
            layers.append(WideBlock(inputs, outputs, 2 if stage and not i else 1))
            inputs = outputs
    head = [nn.BatchNorm2d(128), nn.LeakyReLU(0.1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, *head, nn.Linear(128, classes))


class ThinBlock(nn.Module):
    """Two convolutions and a shortcut without parameters, which pads the channels with zeros (option A)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.stride, self.missing = stride, outputs - inputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.missing:
            pads = (0, 0, 0, 0, self.missing // 2, self.missing - self.missing // 2)
            x = F.pad(x[:, :, :: self.stride, :: self.stride], pads)
        return F.relu(x + y)


def resnet20(classes: int) -> nn.Module:
    """Returns ResNet-20 for 32 x 32 pixels."""
    layers, inputs = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()], 16
    for outputs in (16, 32, 64):
        for _ in range(3):
            layers.append(ThinBlock(inputs, outputs, outputs // inputs))
            inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))


def densenet_bc(classes: int) -> nn.Module:
    """Returns DenseNet-BC of 100 layers and 12 channels for 32 x 32 pixels."""
    network = torchvision.models.DenseNet(12, (16, 16, 16), 24, num_classes=classes)
    network.features.conv0 = nn.Conv2d(3, 24, 3, 1, 1, bias=False)
    for stem in ("norm0", "relu0", "pool0"):
        network.features[[name for name, _ in network.features.named_children()].index(stem)] = nn.Identity()
    return network


class BAM(nn.Module):
    """Multiplies by 1 and a gate: of the channels' means, times one of 3x3 kernels of dilation 4."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        width = channels // 16
        squeeze = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, width), nn.BatchNorm1d(width)]
        self.channel = nn.Sequential(*squeeze, nn.ReLU(), nn.Linear(width, channels))
        layers = [nn.Conv2d(channels, width, 1), nn.BatchNorm2d(width), nn.ReLU()]
        for _ in range(2):
            layers += [nn.Conv2d(width, width, 3, padding=4, dilation=4), nn.BatchNorm2d(width), nn.ReLU()]
        self.spatial = nn.Sequential(*layers, nn.Conv2d(width, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (1 + torch.sigmoid(self.channel(x)[:, :, None, None] * self.spatial(x)))


def resnet50_bam(classes: int) -> nn.Module:
    """Returns ResNet-50 with BAM behind its first three stages."""
    network = torchvision.models.resnet50(weights=None, num_classes=classes)
    for stage, channels in ((network.layer1, 256), (network.layer2, 512), (network.layer3, 1024)):
        stage.append(BAM(channels))
    return network


class Divided(nn.Module):
    """Divides by 9, which is where airbench's logits start."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / 9


def airbench(widths: tuple[int, int, int], classes: int) -> nn.Module:
    """Returns airbench's network for 32 x 32 pixels, of two convolutions a group (models/airbench.py)."""
    layers, inputs = [nn.Conv2d(3, 24, 2), nn.GELU()], 24
    for outputs in widths:
        first, second = (nn.BatchNorm2d(outputs, eps=1e-12, momentum=0.4) for _ in range(2))
        for norm in (first, second):
            norm.weight.requires_grad_(False)
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.MaxPool2d(2), first, nn.GELU()]
        layers += [nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), second, nn.GELU()]
        inputs = outputs
    return nn.Sequential(*layers, nn.MaxPool2d(3), nn.Flatten(), Divided(), nn.Linear(inputs, classes))


class MaskedAutoencoder(nn.Module):
    """ViT-S/16 on a quarter of the patches, and a decoder of 8 layers of 512; returns the loss."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.encoder = timm.create_model("vit_small_patch16_224", img_size=size, num_classes=0)
        self.embed = nn.Linear(384, 512)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, 512))
        self.position = nn.Parameter(torch.randn(1, 1 + (size // 16) ** 2, 512) * 0.02, requires_grad=False)
        self.blocks = nn.Sequential(*[Block(512, 16, qkv_bias=True) for _ in range(8)], nn.LayerNorm(512))
        self.predict = nn.Linear(512, 16 * 16 * 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        encoder, batch = self.encoder, len(images)
        tokens = encoder.patch_embed(images) + encoder.pos_embed[:, 1:]
        length = tokens.shape[1]
        order = torch.rand(batch, length, device=images.device).argsort(1)
        kept = order[:, : length // 4]
        visible = tokens.gather(1, kept[..., None].expand(-1, -1, tokens.shape[-1]))
        first = (encoder.cls_token + encoder.pos_embed[:, :1]).expand(batch, -1, -1)
        seen = self.embed(encoder.norm(encoder.blocks(torch.cat([first, visible], 1))))
        filled = torch.cat([seen[:, 1:], self.mask_token.expand(batch, length - kept.shape[1], -1)], 1)
        restore = order.argsort(1)
        whole = filled.gather(1, restore[..., None].expand(-1, -1, filled.shape[-1]))
        predicted = self.predict(self.blocks(torch.cat([seen[:, :1], whole], 1) + self.position))[:, 1:]
        target = F.unfold(images.float(), 16, stride=16).transpose(1, 2)
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
        error = (predicted - target).square().mean(-1)
        mask = (restore >= kept.shape[1]).float()
        return (error * mask).sum() / mask.sum()


def build(name: str, classes: int, size: int) -> nn.Module:
    """Returns a network by its name in train_step.py."""
    vision = torchvision.models
    without_auxiliary = dict(weights=None, num_classes=classes, aux_logits=False, init_weights=False)
    own = {
        "simpleconv3": functools.partial(simpleconv3, classes),
        "vgg16_bilinear": functools.partial(BilinearVGG, classes),
        "vgg16_compact": functools.partial(BilinearVGG, classes, 8192),
        "se_resnet50": lambda: timm.create_model("seresnet50", num_classes=classes),
        "wrn_28_2": functools.partial(wide_resnet_28_2, classes),
        "airbench94": functools.partial(airbench, (64, 256, 256), classes),
        "wrn_28_2_mixmatch": functools.partial(wide_resnet_28_2, classes),
        "resnet20": functools.partial(resnet20, classes),
        "densenet_bc_100_12": functools.partial(densenet_bc, classes),
        "resnet50_bam": functools.partial(resnet50_bam, classes),
        "googlenet": lambda: vision.googlenet(**without_auxiliary),
        "inception_v3": lambda: vision.inception_v3(**without_auxiliary),
        "vit_b16": lambda: timm.create_model("vit_base_patch16_224", img_size=size, num_classes=classes),
        "vit_s16": lambda: timm.create_model("vit_small_patch16_224", img_size=size, num_classes=classes),
        "vit_s16_mae": functools.partial(MaskedAutoencoder, size),
    }
    return own[name]() if name in own else getattr(vision, name)(weights=None, num_classes=classes)


def _mixmatch_loss(
    network: nn.Module, labels: torch.Tensor, classes: int, labeled: torch.Tensor, *views: torch.Tensor
) -> torch.Tensor:
    with torch.no_grad():
        guess = sum(network(view).softmax(1) for view in views) / len(views)
        guess = guess.square() / guess.square().sum(1, keepdim=True)
    images = torch.cat([labeled, *views])
    targets = torch.cat([F.one_hot(labels, classes).float(), *[guess] * len(views)])
    lam = torch.distributions.Beta(0.75, 0.75).sample((len(images), 1)).to(images.device)
    lam, pair = torch.maximum(lam, 1 - lam), torch.randperm(len(images), device=images.device)
    images = lam[:, :, None, None] * images + (1 - lam[:, :, None, None]) * images[pair]
    targets = lam * targets + (1 - lam) * targets[pair]
    parts, rows = torch.chunk(images, 1 + len(views)), len(labels)
    mixed = [torch.cat(group) for group in zip(*(torch.chunk(part, 3) for part in parts), strict=True)]
    outputs = [network(part) for part in mixed]
    logits = torch.cat([torch.cat(g) for g in zip(*(torch.chunk(o, 3) for o in outputs), strict=True)])
    unlabeled = (logits[rows:].softmax(1) - targets[rows:]).square().mean()
    return F.cross_entropy(logits[:rows], targets[:rows]) + 75 * unlabeled


def step(
    name: str,
    images: np.ndarray,
    labels: np.ndarray,
    classes: int,
    *,
    training: bool,
    channels_last: bool,
    device: str,
    compiled: bool,
    autocast: bool,
) -> Callable[[], Any]:
    """Returns a function that does one training step, or computes one batch's logits.

    Args:
      name: of the network.
      images: float32 [B, H, W, 3].
      labels: int32 [B].
      classes: K.
      training: forward, backward and SGD with momentum; else logits without gradient.
      channels_last: memory layout.
      device: "cpu" or "cuda".
      compiled: by torch.compile.
      autocast: convolutions and matrix products compute in bfloat16.
    """
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = build(name, classes, images.shape[1]).to(device=device, memory_format=layout).train(training)
    on_gpu = device != "cpu"
    if on_gpu:
        torch.backends.cudnn.benchmark = True  # it tries its algorithms, as XLA does
    if compiled:
        torch.compiler.reset()  # of the forms before, which would count towards its limit
        network = torch.compile(network)
    move = lambda array: torch.from_numpy(array.transpose(0, 3, 1, 2).copy()).to(device, memory_format=layout)  # noqa: E731
    inputs, targets = move(images), torch.from_numpy(labels).long().to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)

    def loss() -> torch.Tensor:
        if name == "vit_s16_mae":
            return network(inputs)
        if name == "wrn_28_2_mixmatch":
            return _mixmatch_loss(network, targets, classes, inputs, inputs, inputs.flip(3))
        return F.cross_entropy(network(inputs), targets)

    def train() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=autocast):
            value = loss()
        value.backward()
        optimizer.step()
        if on_gpu:
            torch.cuda.synchronize()

    def infer() -> None:
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=autocast):
            network(inputs)
        if on_gpu:
            torch.cuda.synchronize()

    return train if training else infer
