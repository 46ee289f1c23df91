"""Grad-CAM, occlusion and deconvnet against closed forms, loops, and a numpy deconvnet with switches."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

from imgcls_jax.figures import attribution
from imgcls_jax.figures import named_layers as layers
from imgcls_jax.models import simpleconv3, vgg, vit


def test_grad_cam_of_a_linear_head_over_pooling_has_a_closed_form():
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3, 4)).astype(np.float32)
    head = rng.normal(size=(4, 5)).astype(np.float32)
    images = rng.normal(size=(2, 6, 3, 3)).astype(np.float32)

    def logits(images):
        feature_map = checkpoint_name(jax.nn.relu(images @ kernel), "map")
        return feature_map.mean((1, 2)) @ head

    classes = jnp.array([1, 4])
    activation, gradient = attribution.activation_and_gradient(logits, images, classes, "map")
    maps = np.maximum(images @ kernel, 0)
    alpha = head[:, [1, 4]].T / 18  # w_k / (h w)
    np.testing.assert_allclose(gradient, np.broadcast_to(alpha[:, None, None], maps.shape), rtol=1e-5)
    expected = np.maximum((maps * alpha[:, None, None]).sum(-1), 0)
    np.testing.assert_allclose(attribution.grad_cam(activation, gradient), expected, rtol=1e-4, atol=1e-6)
    assert expected.any() and (expected == 0).any()


def test_the_default_is_the_last_layer_that_the_scores_read():
    def logits(images):
        tokens = images.reshape(1, 4, 3)
        tokens = jnp.concatenate([tokens.mean(1, keepdims=True), tokens], axis=1)
        early = checkpoint_name(tokens, "early")
        late = checkpoint_name(early + early.sum(1, keepdims=True), "late")
        checkpoint_name(late[:, 1:].reshape(1, 2, 2, 3), "map")
        return late[:, 0]

    images = jnp.arange(12.0).reshape(1, 2, 2, 3)
    layer, activation, gradient = attribution.last_layer_that_matters(logits, images, jnp.array([0]))
    assert layer == "early"
    np.testing.assert_array_equal(activation, images)  # without the class token
    np.testing.assert_array_equal(gradient, jnp.zeros((1, 2, 2, 3)).at[..., 0].set(1))


def test_a_backbones_layers_bear_their_names_and_are_what_flax_captures():
    backbone = simpleconv3.build()
    images = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
    variables = backbone.init(jax.random.key(1), images, train=False)
    function = lambda x: layers.Tagged(backbone).apply(variables, x, train=False).embedding  # noqa: E731
    names = list(layers.layers(function, images))
    assert names == ["conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "map"]
    features, state = backbone.apply(variables, images, train=False, capture_intermediates=True)
    outputs = layers.layer_outputs(function, images, names)
    for name, output in zip(names[:-1], outputs, strict=False):
        np.testing.assert_allclose(output, state["intermediates"][name]["__call__"][0], atol=1e-5)
    np.testing.assert_allclose(outputs[-1], features.map, atol=1e-5)


def test_tokens_come_as_a_map_without_the_class_token():
    backbone = vit.build("vit_tiny", depth=1)
    images = jax.random.normal(jax.random.key(0), (1, 8, 12, 3))
    variables = backbone.init(jax.random.key(1), images, train=False)
    function = lambda x: layers.Tagged(backbone).apply(variables, x, train=False).embedding  # noqa: E731
    norm, last = layers.layer_outputs(function, images, ["encoder.ln", "map"])
    assert norm.shape == (1, 2, 3, 64)
    np.testing.assert_array_equal(norm, last)


@pytest.mark.parametrize(("patch", "stride"), [(3, 2), (2, 3), (1, 1), (7, 4)])
def test_occlusion_of_a_network_that_reads_one_pixel(patch, stride):
    image = np.random.default_rng(0).uniform(size=(7, 9, 1)).astype(np.float32)
    network = lambda images: jnp.asarray(images[:, 5, 2])  # noqa: E731
    options = dict(patch=patch, stride=stride, fill=np.array([-1.0]))
    found = attribution.occlusion(network, image, **options)
    rows, columns = -(-7 // stride), -(-9 // stride)
    assert found.shape == (rows, columns, 1)
    for i in range(rows):
        for j in range(columns):
            top = np.round((i + 0.5) * 7 / rows - patch / 2)
            left = np.round((j + 0.5) * 9 / columns - patch / 2)
            hidden = top <= 5 < top + patch and left <= 2 < left + patch
            assert found[i, j, 0] == (-1 if hidden else image[5, 2, 0])
    if patch >= stride:  # then some square covers every pixel
        assert (found == -1).any()
    with pytest.raises(ValueError, match="between 1 and the side"):
        attribution.occlusion(network, image, patch=8, stride=1, fill=np.zeros(1))


class Tiny(nn.Module):
    """Two convolutions with ReLU and a pooling between them."""

    activation: object = staticmethod(nn.relu)

    @nn.compact
    def __call__(self, x):
        x = self.activation(checkpoint_name(nn.Conv(4, (3, 3), padding="VALID", name="one")(x), "one"))
        x = nn.max_pool(x, (2, 2), strides=(2, 2))
        return checkpoint_name(nn.Conv(5, (2, 2), padding="VALID", name="two")(x), "two")


def convolved(x, kernel, bias):
    size = kernel.shape[0]
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (0, 1))  # [h, w, C, size, size]
    return np.einsum("hwcij,ijcd->hwd", windows, kernel) + bias


def spread(signal, kernel, shape):
    """The transposed filter: every value of the signal lays its kernel down."""
    down = np.zeros(shape, np.float64)
    size = kernel.shape[0]
    for (i, j, d), value in np.ndenumerate(signal):
        down[i : i + size, j : j + size] += value * kernel[:, :, :, d]
    return down


def numpy_deconvnet(image, params, channel):
    first, second = params["one"], params["two"]
    hidden = np.maximum(convolved(image, first["kernel"], first["bias"]), 0)
    height, width, depth = hidden.shape
    pooled = np.zeros((height // 2, width // 2, depth))
    switches = {}
    for i, j, c in np.ndindex(*pooled.shape):
        window = hidden[2 * i : 2 * i + 2, 2 * j : 2 * j + 2, c]
        row, column = divmod(int(window.argmax()), 2)  # of equal ones the first
        switches[i, j, c] = (2 * i + row, 2 * j + column, c)
        pooled[i, j, c] = window[row, column]
    top = convolved(pooled, second["kernel"], second["bias"])
    place = np.unravel_index(top[:, :, channel].argmax(), top.shape[:2])
    alone = np.zeros_like(top)
    alone[(*place, channel)] = top[(*place, channel)]
    signal = spread(alone, second["kernel"], pooled.shape)
    unpooled = np.zeros_like(hidden)
    for source, target in switches.items():
        unpooled[target] = signal[source]
    return top, place, spread(np.maximum(unpooled, 0), first["kernel"], image.shape)


@pytest.mark.parametrize("even", [False, True], ids=["noise", "ties"])
def test_the_deconvnet_is_the_one_with_switches(even):
    image = np.random.default_rng(0).normal(size=(10, 12, 2)).astype(np.float32)
    image = np.ones_like(image) if even else image
    variables = Tiny().init(jax.random.key(3), image[None])
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    function = lambda images: Tiny().apply(variables, images)  # noqa: E731
    found = attribution.deconvolution(function, image, "two", most=5)
    assert found and [p.strength for p in found] == sorted((p.strength for p in found), reverse=True)
    for projection in found:
        top, place, pixels = numpy_deconvnet(image, params, projection.channel)
        if not even:  # of an even image all places are alike but for the rounding
            assert projection.place == place
            np.testing.assert_allclose(projection.pixels, pixels, rtol=1e-4, atol=1e-5)
        assert projection.strength == pytest.approx(top[:, :, projection.channel].max(), rel=1e-4)
    if even:
        row, column = found[0].place
        shifted = np.zeros_like(image)
        shifted[2 * row : 2 * row + 6, 2 * column : 2 * column + 6] = found[0].pixels[
            2 * row : 2 * row + 6, 2 * column : 2 * column + 6
        ]
        np.testing.assert_array_equal(found[0].pixels, shifted)  # what a unit sees and no more
    silent = [c for c in range(5) if numpy_deconvnet(image, params, c)[0][:, :, c].max() <= 0]
    assert {p.channel for p in found} == set(range(5)) - set(silent)


def test_of_equal_values_the_first_has_the_switch():
    def function(images):
        pooled = nn.max_pool(jax.nn.relu(images), (2, 2), strides=(2, 2))
        return checkpoint_name(pooled, "pool")

    (found,) = attribution.deconvolution(function, np.full((4, 2, 1), 3.0, np.float32), "pool")
    assert found.place == (0, 0) and found.strength == 3
    np.testing.assert_array_equal(found.pixels[:, :, 0], [[3, 0], [0, 0], [0, 0], [0, 0]])


def test_batch_norm_scales_and_recomputed_blocks_change_nothing():
    image = np.random.default_rng(0).normal(size=(32, 32, 3)).astype(np.float32)
    found = []
    for remat in (False, True):
        backbone = vgg.build("vgg11_bn", channels=(3, 4, 4, 4, 4), top=False, remat=remat)
        variables = backbone.init(jax.random.key(0), image[None], train=False)
        function = lambda x: layers.Tagged(backbone).apply(variables, x, train=False).embedding  # noqa: B023, E731
        found.append(attribution.deconvolution(function, image, "features.4", most=2))
    for plain, again in zip(*found, strict=True):
        assert (plain.channel, plain.place) == (again.channel, again.place)
        np.testing.assert_allclose(plain.pixels, again.pixels, rtol=1e-5)


def test_what_has_no_rule_or_is_not_there():
    image = np.ones((10, 12, 2), np.float32)
    variables = Tiny().init(jax.random.key(3), image[None])
    tanh = lambda images: Tiny(activation=nn.tanh).apply(variables, images)  # noqa: E731
    with pytest.raises(ValueError, match="no rule for 'tanh'"):
        attribution.deconvolution(tanh, image, "two")
    assert attribution.deconvolution(tanh, image, "one")  # the tanh comes after it
    with pytest.raises(ValueError, match="no layer 'three' .* it has one, two"):
        attribution.deconvolution(tanh, image, "three")
    with pytest.raises(ValueError, match="channels 0 to 3; got 4"):
        attribution.deconvolution(tanh, image, "one", channels=[4])
