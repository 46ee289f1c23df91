"""The recipe of configs/cifar10_fast.py in PyTorch: what its time to the same accuracy is on one machine.

  python benchmarks/cifar10_torch.py [--goal 95] [--seed 0] [--root data/cifar10] [--epochs 1] [--json FILE]
  python -m imgcls_jax.main --config configs/cifar10_fast.py:95

The numbers are read from the configuration; transforms, optimizer, schedule and views are written anew, in
bfloat16 by autocast and with channels last. All crops of an epoch are made at once, on the device. The last
line tells the seconds of training, without start and evaluation. Needs PyTorch, torchvision and timm.
"""

import argparse
import math
import os
import runpy
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 (PyTorch's own custom)
from torch_networks import airbench

from imgcls_jax.data.sources import cifar10
from imgcls_jax.models.airbench import VARIANTS
from imgcls_jax.runtime.files import write_json

RECIPE = runpy.run_path(str(Path(__file__).parents[1] / "configs" / "cifar10_fast.py"))
SHIFT, COEFFICIENTS = 2, (3.4445, -4.775, 2.0315)


class Muon(torch.optim.Optimizer):
    """Momentum made orthogonal by Newton-Schulz, as optax.contrib.muon; a kernel is [D, C kh kw]."""

    def __init__(self, kernels: Iterable[nn.Parameter], settings: Any) -> None:
        super().__init__(kernels, {"lr": settings.learning_rate})
        self.beta, self.decay, self.iterations = settings.beta, settings.weight_decay, settings.ns_steps

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        del closure
        for group in self.param_groups:
            for kernel in group["params"]:
                state, beta = self.state[kernel], self.beta
                mean, count = state.get("mean", torch.zeros_like(kernel)), state.get("count", 0) + 1
                state["mean"], state["count"] = mean.lerp_(kernel.grad, 1 - beta), count
                ahead = beta * mean / (1 - beta ** (count + 1))
                ahead += (1 - beta) * kernel.grad / (1 - beta**count)
                update = orthogonal(ahead.flatten(1), self.iterations)
                outputs, inputs = update.shape
                update *= max(1, outputs / inputs) ** 0.5
                kernel.sub_(group["lr"] * (update.view_as(kernel) + self.decay * kernel))


def orthogonal(x: torch.Tensor, iterations: int) -> torch.Tensor:
    """Returns a matrix with the singular vectors of x and singular values of about 1."""
    a, b, c = COEFFICIENTS
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-8)
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


def images_of(split: str, root: str, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns (images float [N, 3, 32, 32], normalized; labels int64 [N])."""
    source = cifar10.make(split, root=root)
    images, labels = torch.from_numpy(source.images).to(device), torch.from_numpy(source.labels).to(device)
    mean, deviation = (torch.tensor(RECIPE[name], device=device) for name in ("MEAN", "DEVIATION"))
    return ((images / 255 - mean) / deviation).permute(0, 3, 1, 2), labels.long()


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


def accuracies(
    network: nn.Module, images: torch.Tensor, labels: torch.Tensor, batch_size: int
) -> tuple[float, float]:
    """Returns the accuracy of one view and of ten: center and corners of a border of 1, each mirrored."""
    right = torch.zeros(2)
    for batch, targets in zip(images.split(batch_size), labels.split(batch_size), strict=True):
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
    parser.add_argument("--goal", choices=("94", "95"), default="95")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--root", default="data/cifar10")
    parser.add_argument("--epochs", type=int, default=0, help="instead of the configuration's")
    parser.add_argument("--json", default="", help="file for the figures")
    arguments = parser.parse_args()
    started = time.perf_counter()
    config = RECIPE["get_config"](arguments.goal)
    settings, batch_size = config.optimizer, config.train.batch_size
    smoothing = config.objective.label_smoothing
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images, labels = images_of("train", arguments.root, device)
    network = airbench(VARIANTS[config.model.variant]["widths"], 10).to(device)
    begin(network, images[:batch_size])
    network.to(memory_format=torch.channels_last)
    kernels = [p for p in network.parameters() if p.ndim == 4 and p.requires_grad]
    others = [p for p in network.parameters() if p.ndim != 4 and p.requires_grad]
    slow = settings.groups[1][1] * settings.learning_rate
    # With so large a decay of its momentum NAdam's is constant, as in optax.
    optimizers = [Muon(kernels, settings), torch.optim.NAdam(others, slow, momentum_decay=1e3)]
    epochs, steps_per_epoch = arguments.epochs or config.train.total_epochs, len(images) // batch_size
    steps = epochs * steps_per_epoch
    schedules = [torch.optim.lr_scheduler.LambdaLR(own, lambda step: 1 - step / steps) for own in optimizers]
    mirrored = torch.rand(len(images), device=device) < 0.5
    begun = time.perf_counter()
    for epoch in range(epochs):
        made = moved(images, ~mirrored if epoch % 2 else mirrored)
        for rows in torch.randperm(len(images), device=device).split(batch_size)[:steps_per_epoch]:
            with torch.autocast(device, torch.bfloat16):
                logits = network(made[rows].contiguous(memory_format=torch.channels_last))
                loss = F.cross_entropy(logits, labels[rows], label_smoothing=smoothing)
            for own in optimizers:
                own.zero_grad()
            loss.backward()
            for own, schedule in zip(optimizers, schedules, strict=True):
                own.step()
                schedule.step()
        last, spent = loss.item(), time.perf_counter() - begun
        if not math.isfinite(last):
            raise SystemExit(f"error: the loss of epoch {epoch + 1} is not finite")
        print(f"epoch {epoch + 1}/{epochs}, loss {last:.4f}, {spent:.0f} s", flush=True)
    seconds = time.perf_counter() - begun
    network.eval()
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16):
        one, ten = accuracies(
            network, *images_of("test", arguments.root, device), config.train.eval_batch_size
        )
    whole = time.perf_counter() - started
    print(f"{seconds:.0f} s of training, {whole:.0f} s in all; one view {one:.2%}, ten views {ten:.2%}")
    if arguments.json:
        figures = {"train_seconds": seconds, "wall_seconds": whole, "one_view": one, "ten_views": ten}
        write_json(Path(arguments.json), figures | {"steps": steps, "torch": torch.__version__}, way_out="")


if __name__ == "__main__":
    main()
