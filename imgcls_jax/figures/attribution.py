"""What in an image a network's answer rests on: Grad-CAM, occlusion, and the deconvnet's projections.

Selvaraju et al. 2017, "Grad-CAM", arXiv:1610.02391; Zeiler, Fergus 2013, "Visualizing and Understanding
Convolutional Networks", arXiv:1311.2901. All are functions of arrays and of functions with named layers
(`tools.layers`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from imgcls_jax.figures.named_layers import Function, as_map, bind, check_layer, layers, run

BATCH = 32  # occluded images at a time
# What the deconvnet's way down passes by its own VJP: all that is affine in the image, max-pooling, and what
# response norms are made of. Other primitives are non-linearities that the paper has no rule for.
PASSED = frozenset(
    "add add_any broadcast_in_dim cond concatenate conv_general_dilated convert_element_type copy "
    "div dot_general integer_pow mul name neg pad platform_index pow reduce_sum reduce_window_max "
    "reduce_window_sum reshape rsqrt slice square squeeze stop_gradient sub transpose".split()
)


# ---- Grad-CAM


def grad_cam(activation: jax.Array, gradient: jax.Array) -> jax.Array:
    """Weighs the channels of a map by their gradients.

    Eq. 1: alpha_k = 1/Z sum_ij dy/dA_ij^k; eq. 2: L = ReLU(sum_k alpha_k A^k).

    Args:
      activation: A, float [B, h, w, D].
      gradient: of the score y of one class (before the softmax) by A, float [B, h, w, D].

    Returns:
      L, float [B, h, w], at least 0.
    """
    alpha = jnp.mean(gradient, axis=(1, 2), keepdims=True)
    return jax.nn.relu(jnp.sum(alpha * activation, axis=-1))


def activation_and_gradient(
    function: Function, images: jax.Array, classes: jax.Array, layer: str
) -> tuple[jax.Array, jax.Array]:
    """Differentiates the scores of classes by what a layer puts out.

    Args:
      function: images -> logits [B, K], with named layers.
      images: float [B, H, W, C].
      classes: int [B], the class of each image's score.
      layer: one of `layers`.

    Returns:
      The layer's output and the gradient, float [B, h, w, D] each.

    Raises:
      ValueError: there is no such layer.
    """
    known = layers(function, images)
    check_layer(layer, known)

    def score(change: jax.Array, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        found: list[jax.Array] = []

        def add_change(name: str, value: jax.Array) -> jax.Array:
            if name != layer or found:
                return value
            found.append(value)
            return value + change

        logits = run(function, images, add_change)
        scores = jnp.take_along_axis(logits, classes[:, None], axis=1)
        return jnp.sum(scores.astype(jnp.float32)), found[0]

    zero = jnp.zeros(known[layer].shape, known[layer].dtype)
    gradient, activation = jax.jit(jax.grad(score, has_aux=True))(zero, images)
    return as_map(activation, known), as_map(gradient, known)


def last_layer_that_matters(
    function: Function, images: jax.Array, classes: jax.Array
) -> tuple[str, jax.Array, jax.Array]:
    """Returns the last layer, with its activation and gradient, on which the scores depend.

    For most networks that is `map`. A Transformer that answers by its class token does not read the other
    tokens of its last layers.

    Args:
      function, images, classes: as in `activation_and_gradient`.

    Raises:
      ValueError: no layer has a gradient.
    """
    for layer in reversed(layers(function, images)):
        activation, gradient = activation_and_gradient(function, images, classes, layer)
        if jnp.any(gradient != 0):
            return layer, activation, gradient
    raise ValueError("the scores of these classes do not change with any map of this network")


# ---- occlusion


def occlusion(
    probabilities: Callable[[np.ndarray], jax.Array],
    image: np.ndarray,
    *,
    patch: int,
    stride: int,
    fill: np.ndarray,
) -> np.ndarray:
    """Hides one square of an image after the other and asks the network again (Zeiler and Fergus, 4.2).

    The squares' centers lie on an even grid of ceil(H / stride) x ceil(W / stride); at the border a part of a
    square is outside.

    Args:
      probabilities: float [n, H, W, C] -> float [n, K], for n = 32.
      image: float [H, W, C], as the network takes it.
      patch: side of the square in pixels, at most that of the image.
      stride: pixels from one square to the next, at least 1.
      fill: float [C], the square's color.

    Returns:
      float32 [rows, columns, K], the probabilities with the square at each place.

    Raises:
      ValueError: patch or stride is out of range.
    """
    height, width = image.shape[:2]
    if not 1 <= patch <= min(height, width) or not 1 <= stride <= min(height, width):
        raise ValueError(
            f"patch and stride lie between 1 and the side of what the network sees, {height}x{width} pixels; "
            f"got {patch} and {stride}"
        )
    hidden = [_covers(length, patch, stride) for length in (height, width)]
    rows, columns = (len(covered) for covered in hidden)
    places = [(i, j) for i in range(rows) for j in range(columns)]
    found = []
    for start in range(0, len(places), BATCH):
        batch = np.broadcast_to(image, (BATCH, *image.shape)).copy()
        for occluded, (i, j) in zip(batch, places[start : start + BATCH], strict=False):
            occluded[np.ix_(hidden[0][i], hidden[1][j])] = fill
        found.append(np.asarray(probabilities(batch), np.float32))
    return np.concatenate(found)[: len(places)].reshape(rows, columns, -1)


def _covers(length: int, patch: int, stride: int) -> np.ndarray:
    """Returns which pixels of an axis each of the squares covers, bool [ceil(length / stride), length]."""
    count = -(-length // stride)
    starts = np.round((np.arange(count) + 0.5) * length / count - patch / 2).astype(int)
    offsets = np.arange(length) - starts[:, None]
    return (offsets >= 0) & (offsets < patch)


# ---- deconvnet


class Projection(NamedTuple):
    """What made a unit respond.

    Attributes:
      channel: of the layer.
      strength: its strongest activation, positive.
      place: (row, column) of it on the map.
      pixels: float32 [H, W, C], the projection, in the units of the network's input; 0 outside of what the
        unit sees.
    """

    channel: int
    strength: float
    place: tuple[int, int]
    pixels: np.ndarray


@jax.custom_vjp
def rectify(x: jax.Array) -> jax.Array:
    """ReLU whose way back is the deconvnet's: the signal that comes down is rectified, whatever went up."""
    return jax.nn.relu(x)


rectify.defvjp(lambda x: (jax.nn.relu(x), None), lambda _, signal: (jax.nn.relu(signal),))


def deconvolution(
    function: Function, image: jax.Array, layer: str, *, channels: Sequence[int] | None = None, most: int = 8
) -> list[Projection]:
    """Projects the strongest activation of channels down to the pixels (Zeiler and Fergus, section 2.1).

    The deconvnet runs a network backwards: it unpools by the switches of the max-poolings, rectifies, and
    filters by the transposed kernels. The VJPs of max-pooling and convolution are just that (of equal values
    in a window the first has the switch), so the projection is the VJP of the layer by the image with another
    rule for ReLU (`rectify`). Of norms the paper's deconvnet says nothing: they too have their VJP, which
    scales each channel of a batch norm in evaluation mode, and nearly scales each value of a response norm.

    Args:
      function: images -> array, with named layers.
      image: float [H, W, C].
      layer: one of `layers`; before it there are only affine operations, ReLU, max-pooling and norms.
      channels: of the layer; None for those of the strongest activations.
      most: how many at most where channels is None.

    Returns:
      A projection for each channel that is active anywhere, the strongest first where channels is None.

    Raises:
      ValueError: there is no such layer or channel, or something before the layer has no rule.
    """

    def output(images: jax.Array) -> jax.Array:
        found: dict[str, jax.Array] = {}

        def visit(name: str, value: jax.Array) -> jax.Array:
            return found.setdefault(name, value) if name == layer else value

        def apply(eqn: Any, operands: Sequence[Any]) -> Sequence[Any]:
            return bind(eqn, operands) if layer in found else _apply_downwards(eqn, operands)

        run(function, images, visit, apply)
        return found[layer][0]

    images = jnp.asarray(image)[None]
    check_layer(layer, layers(function, images))
    activation, way_down = jax.vjp(output, images)
    if activation.ndim != 3:
        raise ValueError(f"the deconvnet has no rule for tokens, which the layer {layer!r} puts out")
    strongest = np.asarray(activation.max(axis=(0, 1)), np.float32)
    if channels is None:
        channels = np.argsort(-strongest, kind="stable")[:most].tolist()
    elif outside := [channel for channel in channels if not 0 <= channel < len(strongest)]:
        raise ValueError(f"the layer {layer!r} has the channels 0 to {len(strongest) - 1}; got {outside[0]}")
    projections = []
    for channel in channels:
        if strongest[channel] > 0:
            place = np.unravel_index(int(jnp.argmax(activation[:, :, channel])), activation.shape[:2])
            alone = jnp.zeros_like(activation).at[(*place, channel)].set(activation[(*place, channel)])
            pixels = np.asarray(way_down(alone)[0][0], np.float32)
            position = int(place[0]), int(place[1])
            projections.append(Projection(channel, float(strongest[channel]), position, pixels))
    return projections


def _apply_downwards(eqn: Any, operands: Sequence[Any]) -> Sequence[Any]:
    """Applies an equation with the deconvnet's rule for its way back."""
    if not any(isinstance(operand, jax.core.Tracer) for operand in operands):
        return bind(eqn, operands)  # of params alone
    name = eqn.primitive.name
    if name == "custom_jvp_call":
        name = eqn.params["call_jaxpr"].eqns[0].params.get("name", name)
    if name == "relu":
        return [rectify(*operands)]
    if name not in PASSED:
        raise ValueError(
            f"the deconvnet has no rule for {name!r}, which comes before this layer: it is for networks of "
            "convolutions, ReLU and max-pooling (lenet, alexnet, zfnet, vgg, simpleconv3, resnet, ...)"
        )
    return bind(eqn, operands)
