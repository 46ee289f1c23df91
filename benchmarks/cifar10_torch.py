"""The recipe of configs/cifar10_fast.py in PyTorch: what its time to the same accuracy is on one machine.

  python benchmarks/cifar10_torch.py [--goal 95] [--seed 0] [--root data/cifar10] [--epochs 15] [--json FILE]
  python -m imgcls_jax.main --config configs/cifar10_fast.py:95

Network, transforms, optimizer, schedule and views are those of the configuration, in bfloat16 by autocast and
with channels last; images, crops and flips are made on the device, all of an epoch at once. The first line
tells the seconds of training, without start and evaluation. Needs PyTorch, torchvision and timm.
"""

import argparse
import math
import os
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 (PyTorch's own custom)
from torch_networks import airbench

from imgcls_jax.data.sources import cifar10
from imgcls_jax.runtime.files import write_json

WIDTHS, EPOCHS = {"94": (64, 256, 256), "95": (128, 384, 384)}, {"94": 20, "95": 15}
MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
BATCH, EVAL_BATCH, SHIFT, SMOOTHING = 2000, 250, 2, 0.2
RATE, SLOW, BETA, DECAY = 0.24, 0.05, 0.6, 0.12  # SLOW is the factor on the rate of the head and the biases
COEFFICIENTS, ITERATIONS = (3.4445, -4.775, 2.0315), 3


class Muon(torch.optim.Optimizer):
    """Momentum made orthogonal by Newton-Schulz, as optax.contrib.muon; a kernel is [D, C kh kw]."""

    def __init__(self, kernels: Iterable[nn.Parameter]) -> None:
        super().__init__(kernels, {"lr": RATE})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        del closure
        for group in self.param_groups:
            for kernel in group["params"]:
                state = self.state[kernel]
                mean, count = state.get("mean", torch.zeros_like(kernel)), state.get("count", 0) + 1
                state["mean"], state["count"] = mean.lerp_(kernel.grad, 1 - BETA), count
                ahead = BETA * mean / (1 - BETA ** (count + 1))
                update = orthogonal((ahead + (1 - BETA) * kernel.grad / (1 - BETA**count)).flatten(1))
                outputs, inputs = update.shape
                update *= max(1, outputs / inputs) ** 0.5
                kernel.sub_(group["lr"] * (update.view_as(kernel) + DECAY * kernel))


def orthogonal(x: torch.Tensor) -> torch.Tensor:
    """Returns a matrix with the singular vectors of x and singular values of about 1."""
    a, b, c = COEFFICIENTS
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-8)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


def images_of(split: str, root: str, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns (images float [N, 3, 32, 32], normalized; labels int64 [N])."""
    source = cifar10.make(split, root=root)
    records = [source[i] for i in range(len(source))]
    images = torch.from_numpy(np.stack([record["image"] for record in records])).to(device)
    labels = torch.tensor([int(record["label"]) for record in records], device=device)
    normal = (images / 255 - torch.tensor(MEAN, device=device)) / torch.tensor(DEVIATION, device=device)
    return normal.permute(0, 3, 1, 2), labels


def begin(network: nn.Sequential, images: torch.Tensor) -> None:
    """Sets the whitening layer from images, and the other convolutions to the identity as far as it goes."""
    whiten, *convolutions = (layer for layer in network if isinstance(layer, nn.Conv2d))
    patches = F.unfold(images, 2).transpose(1, 2).reshape(-1, 12).double()
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = (vectors / (values + 5e-4).sqrt()).T.flip(0).view(12, 3, 2, 2)
    whiten.weight.data = torch.cat([filters, -filters]).float()
    whiten.weight.requires_grad_(False)
    for convolution in convolutions:
        nn.init.dirac_(convolution.weight[: convolution.in_channels].data)


def moved(images: torch.Tensor, flips: torch.Tensor) -> torch.Tensor:
    """Returns the images mirrored where `flips` says so, each shifted by up to SHIFT pixels."""
    images = torch.where(flips[:, None, None, None], images.flip(3), images)
    padded = F.pad(images, [SHIFT] * 4, "reflect")
    shifts = torch.randint(0, 2 * SHIFT + 1, (2, len(images)), device=images.device)
    made = torch.empty_like(images)
    for top in range(2 * SHIFT + 1):
        for left in range(2 * SHIFT + 1):
            chosen = (shifts[0] == top) & (shifts[1] == left)
            made[chosen] = padded[chosen, :, top : top + 32, left : left + 32]
    return made


def accuracies(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """Returns the accuracy of one view and of ten: center and corners of a border of 1, each mirrored."""
    right = torch.zeros(2)
    for batch, targets in zip(images.split(EVAL_BATCH), labels.split(EVAL_BATCH), strict=True):
        padded = F.pad(batch, [1] * 4)
        places = ((1, 1), (0, 0), (0, 2), (2, 0), (2, 2))
        crops = [padded[:, :, top : top + 32, left : left + 32] for top, left in places]
        probabilities = [network(view).float().softmax(1) for crop in crops for view in (crop, crop.flip(3))]
        for i, guess in enumerate((probabilities[0], sum(probabilities))):
            right[i] += (guess.argmax(1) == targets).sum().cpu()
    one, ten = (right / len(labels)).tolist()
    return one, ten


def main() -> None:
    """Trains, and prints seconds and accuracies."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--goal", choices=WIDTHS, default="95")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--root", default="data/cifar10")
    parser.add_argument("--epochs", type=int, default=0, help="instead of the configuration's")
    parser.add_argument("--json", default="", help="file for the figures")
    arguments = parser.parse_args()
    started = time.perf_counter()
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images, labels = images_of("train", arguments.root, device)
    network = airbench(WIDTHS[arguments.goal], 10).to(device)
    begin(network, images[:BATCH])
    network.to(memory_format=torch.channels_last)
    kernels = [p for p in network.parameters() if p.ndim == 4 and p.requires_grad]
    others = [p for p in network.parameters() if p.ndim != 4 and p.requires_grad]
    # With so large a decay of its momentum NAdam's is constant, as in optax.
    optimizers = [Muon(kernels), torch.optim.NAdam(others, SLOW * RATE, momentum_decay=1e3)]
    steps = (arguments.epochs or EPOCHS[arguments.goal]) * (len(images) // BATCH)
    schedules = [torch.optim.lr_scheduler.LambdaLR(own, lambda step: 1 - step / steps) for own in optimizers]
    mirrored = torch.rand(len(images), device=device) < 0.5
    step, begun = 0, time.perf_counter()
    while step < steps:
        epoch = moved(images, ~mirrored if step // (len(images) // BATCH) % 2 else mirrored)
        for rows in torch.randperm(len(images), device=device).split(BATCH)[: len(images) // BATCH]:
            with torch.autocast(device, torch.bfloat16):
                logits = network(epoch[rows].contiguous(memory_format=torch.channels_last))
                loss = F.cross_entropy(logits, labels[rows], label_smoothing=SMOOTHING)
            for own in optimizers:
                own.zero_grad()
            loss.backward()
            for own, schedule in zip(optimizers, schedules, strict=True):
                own.step()
                schedule.step()
            step += 1
            if not math.isfinite(loss.item()):
                raise SystemExit(f"error: the loss of step {step} is not finite")
        print(f"step {step}/{steps}, loss {loss.item():.4f}, {time.perf_counter() - begun:.0f} s", flush=True)
    seconds = time.perf_counter() - begun
    network.eval()
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16):
        one, ten = accuracies(network, *images_of("test", arguments.root, device))
    whole = time.perf_counter() - started
    print(f"{seconds:.0f} s of training, {whole:.0f} s in all; one view {one:.2%}, ten views {ten:.2%}")
    if arguments.json:
        figures = {"train_seconds": seconds, "wall_seconds": whole, "one_view": one, "ten_views": ten}
        write_json(Path(arguments.json), figures | {"steps": steps, "torch": torch.__version__}, way_out="")


if __name__ == "__main__":
    main()
