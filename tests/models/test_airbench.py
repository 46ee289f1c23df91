"""Airbench's networks: counts of the published ones, the whitening layer, the first kernels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.config.resolve import resolve
from imgcls_jax.models import airbench
from imgcls_jax.train.initial import initial_state
from imgcls_jax.train.run import run
from imgcls_jax.train.setup import Setup
from tests.train.test_loop import folder_config, folder_of_images

KEY = jax.random.key(0)


@pytest.mark.parametrize("variant, trained", [("airbench94", 1_971_352), ("airbench96", 9_915_416)])
def test_parameter_count_of_the_published_networks(variant, trained):
    """Theirs train the head's kernel without a bias, and not the whitening layer's kernel."""
    net = airbench.build(variant)
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    features, variables = jax.eval_shape(lambda x: net.init_with_output(KEY, x, train=False), image)
    own = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert own - 2 * 2 * 3 * 24 + 10 * net.widths[-1] == trained
    assert features.map.shape == (1, 3, 3, net.widths[-1]) and features.embedding.shape == (1, net.widths[-1])


@pytest.mark.parametrize("shape", [(1, 8, 32, 3), (1, 32, 32, 1)])
def test_images_that_it_cannot_read_are_refused(shape):
    with pytest.raises(ValueError, match="three channels, at least 9 x 9"):
        jax.eval_shape(lambda x: airbench.build("airbench94").init(KEY, x, train=False), jnp.zeros(shape))


def test_a_kernel_starts_as_the_identity_of_its_inputs():
    kernel = airbench.partial_identity(KEY, (3, 3, 4, 10))
    images = jax.random.normal(KEY, (2, 5, 5, 4))
    found = jax.lax.conv_general_dilated(
        images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(found[..., :4], images, rtol=1e-6)
    assert 0.5 / 6 < jnp.abs(kernel[..., 4:]).max() <= 1 / 6 and jnp.std(kernel[..., 4:]) > 0


def test_whitened_patches_are_uncorrelated_and_of_variance_one():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(40, 12, 12, 3)).astype(np.float32).cumsum(1).cumsum(2) / 4
    net = airbench.build("airbench94")
    params = net.init(KEY, jnp.zeros((1, 32, 32, 3)), train=False)["params"]
    kernel = np.asarray(net.fit(params, images)["whiten"]["kernel"]).reshape(12, 24)
    windows = np.lib.stride_tricks.sliding_window_view(images, (2, 2), axis=(1, 2))
    patches = np.moveaxis(windows, 3, 5).reshape(-1, 12)
    whitened = patches.astype(np.float64) @ kernel
    covariance = whitened[:, :12].T @ whitened[:, :12] / len(patches)
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 1e-3
    assert 0.9 < np.diag(covariance)[0] <= 1  # the strongest direction, beside which EPSILON is little
    np.testing.assert_allclose(whitened[:, 12:], -whitened[:, :12], rtol=1e-5)


def test_a_run_fits_the_layer_keeps_it_and_averages_it(tmp_path):
    folder_of_images(tmp_path / "images", size=40)
    line = "decode | resize(32) | normalize(0.5, 0.5)"
    config = folder_config(tmp_path / "images", train_transforms=line, eval_transforms=line)
    config["model"] = {"name": "airbench", "variant": "airbench94", "widths": [4, 4, 4]}
    config["objective"] = {"name": "supervised", "ema_decay": 0.9}
    config["optimizer"] = {"name": "sgd", "learning_rate": 0.1, "groups": (("backbone/whiten/kernel", None),)}
    config["train"] |= {"total_steps": 2}
    setup = Setup(resolve(config))
    state = initial_state(setup)
    kernel = state.params["backbone"]["whiten"]["kernel"]
    expected = setup.backbone.fit(state.params["backbone"], setup.data.some_images(5000))
    np.testing.assert_array_equal(kernel, expected["whiten"]["kernel"])
    np.testing.assert_array_equal(kernel, state.objective_state["ema"]["backbone"]["whiten"]["kernel"])
    assert run(config, tmp_path / "run")["steps"] == 2
