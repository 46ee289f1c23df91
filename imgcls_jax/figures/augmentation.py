"""What the input pipeline feeds a network in training, drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image

from imgcls_jax.config.configuration import Configuration
from imgcls_jax.data.datasets import DataSide
from imgcls_jax.figures import drawing
from imgcls_jax.figures.drawing import THUMBNAIL, Cell
from imgcls_jax.figures.network_input import unnormalized


def draw(configuration: Configuration, *, split: str, phase: str, examples: int, draws: int) -> Image.Image:
    """Draws what training feeds the network: the same examples as several epochs draw them.

    Batches and randomness are the pipeline's own: the examples keep their places in the order, and each draw
    is the first batch of another epoch. A row of views stands below for each line of data.view_transforms.

    Args:
      configuration: of a run.
      split: to draw from; "" for the configuration's training split.
      phase: of the section phases, whose train_transforms are drawn; "" for those of `data`.
      examples, draws: how many.

    Raises:
      ValueError: a mistake in the configuration, no such phase, or too few examples.
    """
    settings, phases = configuration.data, configuration.resolved["phases"]
    if phase and phase not in phases:
        raise ValueError(f"the configuration has no phase {phase!r}; it has {', '.join(phases) or 'none'}")
    data = DataSide(dataclasses.replace(settings, train_split=split) if split else settings)
    settings, train_line = data.settings, settings.train_transforms
    if phase:
        train_line = phases[phase]["train_transforms"]
        data = data.with_train_transforms(f"phases.{phase}", train_line)
    if len(data.training) < examples:
        raise ValueError(f"the split {settings.train_split!r} has {len(data.training)} examples; draw fewer")
    drawn = draw_batches(data, configuration.seed, examples, draws)
    in_order, prepare = data.training_in_order(1), jax.jit(data.prepare)
    rows = []
    for row, index in enumerate(drawn[0]["index"].tolist()):
        plain = np.asarray(prepare({"image": in_order[index]["image"]})["image"])
        first = Cell(
            _shown(settings.eval_transforms, plain),
            (_label(data.training.class_names, drawn[0]["label"][row]),),
        )
        lines = [(train_line, "train", [one["image"] for one in drawn])]
        for number, line in enumerate(settings.view_transforms):
            lines.append((line, f"view {number + 1}", [one["views"][number] for one in drawn]))
        for position, (line, name, images) in enumerate(lines):
            cells = [Cell(_shown(line, np.asarray(image[row : row + 1]))) for image in images]
            start = Cell(drawing.placard(name, first.image.size)) if position else first
            rows.append([start, *cells])
    notes = f"train: {train_line}"
    notes += "".join(f" · view {n}: {line}" for n, line in enumerate(settings.view_transforms, start=1))
    return drawing.sheet(
        f"What training feeds: {settings.source}, {settings.train_split}",
        rows,
        notes=notes,
        columns=("evaluation", "training"),
    )


def draw_batches(data: DataSide, seed: int, examples: int, draws: int) -> list[dict[str, Any]]:
    """Returns the first batch of several epochs as an objective gets it, of the same examples each time."""
    order = data.train_batches(examples, seed).order_of(0)
    batches = data.train_batches(examples, seed, order)
    augment = jax.jit(data.augment)
    drawn = []
    for epoch in range(draws):
        step = epoch * batches.steps_per_epoch
        batch = batches[step]
        batch.pop("bad_examples")
        drawn.append(augment(jax.random.fold_in(jax.random.key(seed), step), batch))
    return drawn


def _shown(line: str, image: np.ndarray) -> Image.Image:
    return drawing.to_image(unnormalized(line, image)[0], THUMBNAIL)


def _label(names: Sequence[str], label: Any) -> str:
    """Returns the name of a label, or the names of several."""
    if np.ndim(label):
        return ", ".join(name for name, on in zip(names, label, strict=True) if on) or "no label"
    return names[int(label)] if label >= 0 else "label hidden"
