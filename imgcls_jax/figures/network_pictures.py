"""Pictures of what a trained network sees: filters, features, Grad-CAM, occlusion, deconvnet."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from imgcls_jax.config.field_types import did_you_mean
from imgcls_jax.figures import attribution, drawing
from imgcls_jax.figures import named_layers as layers
from imgcls_jax.figures.drawing import Cell
from imgcls_jax.figures.network_input import Images, gray, network_of
from imgcls_jax.inference.trained import Trained, probabilities
from imgcls_jax.train.build import make_backbone, make_objective

SIDE, PART, TILE = 240, 160, 84  # pixels of an image, of a part of one, and of a filter or channel
FILTERS, LAYERS, CHANNELS, CHANNELS_OF_ONE = 128, 6, 10, 40  # shown at most


def with_named_layers(trained: Trained) -> Trained:
    """Returns the same network, whose predictions bear the names of its layers."""
    backbone = layers.Tagged(make_backbone(trained.settings.model))
    objective = make_objective(trained.settings.objective, trained.task, backbone)
    return dataclasses.replace(trained, objective=objective)


def tagged(trained: Trained, wanted: Callable[[dict[str, jax.Array]], jax.Array]) -> Any:
    """Returns the function prepared images -> `wanted` of the prediction, its layers named."""
    predict = with_named_layers(trained).objective.predict
    return lambda images: wanted(predict(trained.params, trained.objective_state, {"image": images}))


def anything(outputs: dict[str, jax.Array]) -> jax.Array:
    """Returns an output of an objective, whichever."""
    return next(iter(outputs.values()))


def logits(outputs: dict[str, jax.Array]) -> jax.Array:
    """Returns the scores of classes before the softmax.

    Raises:
      ValueError: there are none.
    """
    if "logits" not in outputs:
        raise ValueError("this run's objective predicts no logits, which Grad-CAM differentiates")
    return outputs["logits"]


def names_of(trained: Trained, count: int) -> Sequence[str]:
    """Returns the names of `count` outputs: the classes', or clusters where no label was learned from."""
    learned = {"label", "labeled"} & set(trained.objective.batch_keys)
    if learned and len(trained.class_names) == count:
        return trained.class_names
    return [f"cluster {number}" for number in range(count)]


def choose(name: str | None, names: Sequence[str], found: np.ndarray) -> np.ndarray:
    """Returns the class that each row of probabilities [n, K] is asked about: the named or likeliest one.

    Raises:
      ValueError: there is no class of that name.
    """
    if name is None:
        return found.argmax(axis=1)
    if name not in names:
        hint = did_you_mean(name, names) or f"there are {', '.join(names[:10])}, ..."
        raise ValueError(f"the network knows no class {name!r}; {hint}")
    return np.full(len(found), list(names).index(name))


def said(names: Sequence[str], row: np.ndarray, asked: int) -> tuple[str, ...]:
    """Returns captions: the predicted class, and the one asked about where that is another."""
    best = int(row.argmax())
    lines = [f"{names[best]}  {row[best]:.3f}"]
    return (*lines, f"shown: {names[asked]}  {row[asked]:.3f}") if asked != best else tuple(lines)


def in_columns(groups: Sequence[list[Cell]], titles: tuple[str, ...]) -> dict[str, Any]:
    """Returns rows and column titles of a sheet: a group of cells an image, two a row where they are many."""
    per_row = 2 if len(groups) > 3 else 1
    rows = [
        [cell for group in groups[i : i + per_row] for cell in group] for i in range(0, len(groups), per_row)
    ]
    return {"rows": rows, "columns": titles * per_row}


# ---- filters and features


def filters(trained: Trained) -> Image.Image:
    """Draws the filters of the first convolution that reads the images.

    Raises:
      ValueError: there is none.
    """
    channels = trained.task.image_shape[2]
    images = jnp.zeros((1, *trained.task.image_shape))
    params = trained.objective_state.get("ema", trained.params)["backbone"]
    for layer in layers.layers(tagged(trained, anything), images):
        module = params
        for name in layer.split("/"):
            module = module.get(name, {})
        kernel = np.asarray(module.get("kernel", ()), np.float32)
        if kernel.ndim == 4 and kernel.shape[2] == channels <= 4:
            break
    else:
        raise ValueError(f"no convolution of this network reads the {channels} channels of its images")
    shown = np.moveaxis(kernel, 3, 0)[:FILTERS]  # [n, kh, kw, C]
    if channels in (2, 4):
        shown = np.concatenate(np.split(shown, channels, axis=3), axis=2)
    tiles = [drawing.to_image(drawing.stretched(one), TILE) for one in shown]
    count, (height, width) = kernel.shape[3], kernel.shape[:2]
    notes = (
        f"{network_of(trained)}: {layer}, {len(shown)} of {count} filters of {height}x{width}x{channels}, "
        "each stretched to its own least and largest weight."
    )
    return drawing.sheet("First-layer filters", [[Cell(drawing.tiled(tiles, columns=12))]], notes=notes)


def features(trained: Trained, images: Images, layer: str | None) -> Image.Image:
    """Draws what layers make of an image: the channels whose response, its positive part on average, is
    strongest.

    Raises:
      ValueError: there is no such layer.
    """
    function = tagged(trained, anything)
    known = list(layers.layers(function, images.prepared))
    if layer is not None:
        layers.check_layer(layer, known)
    spread = np.unique(np.linspace(0, len(known) - 1, LAYERS).round().astype(int))
    names = [layer] if layer is not None else [known[i] for i in spread]
    shown, columns = (CHANNELS_OF_ONE, 8) if layer is not None else (CHANNELS, CHANNELS)
    outputs = jax.jit(lambda x: layers.layer_outputs(function, x, names))(images.prepared)
    rows = [[Cell(drawing.to_image(images.shown[0], SIDE), (images.paths[0].name,))]]
    for name, output in zip(names, outputs, strict=True):
        maps = np.asarray(output[0], np.float32)
        strongest = np.argsort(-np.maximum(maps, 0).mean(axis=(0, 1)), kind="stable")[:shown]
        tiles = [drawing.stretched(maps[:, :, channel])[..., None] for channel in strongest]
        drawn = drawing.tiled([drawing.to_image(tile, TILE) for tile in tiles], columns=columns)
        height, width, depth = maps.shape
        caption = f"{name}: {len(strongest)} of {depth} channels of {height}x{width}"
        rows.append([Cell(drawn, (caption,))])
    notes = (
        f"{network_of(trained)}. The channels of strongest response, the strongest first, as the modules put "
        "them out (before an activation that follows), each stretched from its least (black) to its "
        "largest value."
    )
    return drawing.sheet("Feature maps", rows, notes=notes)


# ---- what an answer rests on


def grad_cam(trained: Trained, images: Images, name: str | None, layer: str | None) -> Image.Image:
    """Draws Grad-CAM over images, for their likeliest class or a named one.

    Raises:
      ValueError: no such class or layer, or nothing that predicts classes.
    """
    function = tagged(trained, logits)
    found = np.asarray(jax.jit(tagged(trained, probabilities))(images.prepared), np.float32)
    names = names_of(trained, found.shape[1])
    classes = choose(name, names, found)
    asked = function, jnp.asarray(images.prepared), jnp.asarray(classes)
    if layer is None:
        layer, activation, gradient = attribution.last_layer_that_matters(*asked)
    else:
        activation, gradient = attribution.activation_and_gradient(*asked, layer)
    maps = np.asarray(attribution.grad_cam(activation, gradient), np.float32)
    groups = []
    for row, path in enumerate(images.paths):
        overlay = drawing.overlaid(images.shown[row], drawing.stretched(maps[row], 0.0))
        answer = said(names, found[row], int(classes[row]))
        groups.append(
            [
                Cell(drawing.to_image(images.shown[row], SIDE), (path.name,)),
                Cell(drawing.to_image(overlay, SIDE), answer),
            ]
        )
    notes = (
        f"{network_of(trained)}, layer {layer} of {maps.shape[1]}x{maps.shape[2]}. Where the evidence for "
        "the class lies; pale yellow is the most of each image. Below: the predicted class, its probability."
    )
    return drawing.sheet("Grad-CAM", notes=notes, **in_columns(groups, ("input", "evidence")))


def occlusion(trained: Trained, images: Images, name: str | None, *, patch: int, stride: int) -> Image.Image:
    """Draws how the probability of a class changes as a gray square hides one place after the other.

    Raises:
      ValueError: no such class, patch or stride, or nothing that predicts classes.
    """
    function = jax.jit(tagged(trained, probabilities))
    fill = gray(trained.data.settings.eval_transforms, 0.5, images.prepared.shape[-1])
    found = np.asarray(function(images.prepared), np.float32)
    names = names_of(trained, found.shape[1])
    classes = choose(name, names, found)
    groups = []
    for row, path in enumerate(images.paths):
        maps = attribution.occlusion(function, images.prepared[row], patch=patch, stride=stride, fill=fill)
        values = maps[:, :, classes[row]]
        size = images.shown[row].shape[:2]
        least, most = float(values.min()), float(values.max())
        drawn = drawing.to_image(drawing.heat(drawing.enlarged(drawing.stretched(values), size)), SIDE)
        overlay = drawing.overlaid(images.shown[row], drawing.stretched(-values))
        groups.append(
            [
                Cell(drawing.to_image(images.shown[row], SIDE), (path.name,)),
                Cell(drawing.with_scale(drawn, f"{least:.5f}", f"{most:.5f}")),
                Cell(drawing.to_image(overlay, SIDE), said(names, found[row], int(classes[row]))),
            ]
        )
    notes = (
        f"{network_of(trained)}. A gray square of {patch} pixels hides one place after the other, {stride} "
        "pixels apart. Middle: the probability of the class by the square's center, from the least to the "
        "most of each image. Right: where hiding costs most."
    )
    return drawing.sheet("Occlusion", groups, notes=notes, columns=("input", "probability", "what matters"))


def parts(trained: Trained, images: Images) -> Image.Image:
    """Draws the attention map of each part over images.

    Raises:
      ValueError: the objective predicts none.
    """
    predict = trained.objective.predict
    outputs = jax.jit(lambda x: predict(trained.params, trained.objective_state, {"image": x}))
    found = outputs(images.prepared)
    if "part_attention" not in found:
        raise ValueError("this run's objective predicts no part_attention; the objective ma_cnn does")
    maps = np.asarray(found["part_attention"], np.float32)  # [n, N, h, w]
    groups = []
    for row, path in enumerate(images.paths):
        shown = images.shown[row]
        overlays = [drawing.overlaid(shown, drawing.stretched(one)) for one in maps[row]]
        groups.append(
            [
                Cell(drawing.to_image(shown, SIDE), (path.name,)),
                *(Cell(drawing.to_image(one, SIDE)) for one in overlays),
            ]
        )
    titles = ("input", *(f"part {number}" for number in range(maps.shape[1])))
    notes = (
        f"{network_of(trained)}, maps of {maps.shape[2]}x{maps.shape[3]}. Where each part is found, from the "
        "least (clear) to the most (pale yellow) of its own map in each image."
    )
    return drawing.sheet("Part attention", groups, notes=notes, columns=titles)


def deconvolution(trained: Trained, images: Images, layer: str | None, channel: int | None) -> Image.Image:
    """Draws what in an image made the units of a layer respond, by a deconvnet.

    Raises:
      ValueError: no such layer or channel, one that is not active, or a network without a deconvnet.
    """
    function, image = tagged(trained, anything), jnp.asarray(images.prepared[0])
    layer = layers.MAP if layer is None else layer
    channels = None if channel is None else [channel]
    found = attribution.deconvolution(function, image, layer, channels=channels)
    if not found:
        which = "no channel" if channel is None else f"channel {channel}"
        raise ValueError(f"{images.paths[0]}: of the layer {layer!r} {which} is active")
    cells = []
    for projection in found:
        box, pixels = _box(projection.pixels), projection.pixels
        signed = pixels / (2 * np.abs(pixels).max() or 1) + 0.5  # gray stands for 0
        signed = signed if pixels.shape[2] in (1, 3) else signed.mean(axis=2, keepdims=True)
        pair = [drawing.to_image(part[box], PART) for part in (signed, images.shown[0])]
        (row, column), strength = projection.place, projection.strength
        captions = (
            f"channel {projection.channel}",
            f"activation {strength:,.4g} at row {row}, column {column}",
        )
        cells.append(Cell(drawing.tiled(pair, columns=2), captions))
    notes = (
        f"{network_of(trained)}, layer {layer}. Left of each pair: the strongest activation of a channel, "
        "projected down to the pixels (gray is 0); right: the part of the image that it saw."
    )
    rows = [[Cell(drawing.to_image(images.shown[0], SIDE), (images.paths[0].name,))]]
    rows += [cells[i : i + 3] for i in range(0, len(cells), 3)]
    return drawing.sheet("Deconvnet", rows, notes=notes)


def _box(pixels: np.ndarray) -> tuple[slice, slice]:
    """Returns the part of a projection that is not 0."""
    rows, columns = (np.flatnonzero(np.abs(pixels).max(axis=axis)) for axis in ((1, 2), (0, 2)))
    if not len(rows):
        return slice(None), slice(None)
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
