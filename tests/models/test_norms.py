"""Networks with group or instance normalization in place of BatchNorm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.models import resnet, simpleconv3, vgg

KEY = jax.random.key(0)
NETWORKS = {
    "simpleconv3": (simpleconv3.build, dict(channels=(4, 4, 8), hidden=(8,)), 16),
    "vgg": (vgg.build, dict(blocks=((3,), (3,)), channels=(4, 8), hidden=(8, 8), dropout=0.0), 16),
    "resnet": (resnet.build, dict(variant="resnet18_cifar", stage_sizes=(1,), remat=True), 8),
}


@pytest.mark.parametrize("norm", ["group", "instance"])
@pytest.mark.parametrize("network", NETWORKS)
def test_images_do_not_see_each_other_and_nothing_is_kept(network, norm):
    build, fields, size = NETWORKS[network]
    backbone = build(**fields, norm=norm)
    images = jax.random.normal(KEY, (2, size, size, 3))
    variables = backbone.init(KEY, images, train=False)
    assert list(variables) == ["params"]
    batch, moved = backbone.apply(
        variables, images, train=True, mutable=["batch_stats"], rngs={"dropout": KEY}
    )
    assert not moved
    alone = backbone.apply(variables, images[1:], train=False)
    np.testing.assert_allclose(batch.embedding[1:], alone.embedding, atol=1e-5)
    assert np.std(alone.embedding) > 0


@pytest.mark.parametrize("network", NETWORKS)
def test_the_name_batch_is_the_default_norm_and_params_have_its_names(network):
    build, fields, size = NETWORKS[network]
    fields = fields | ({"variant": "vgg16_bn"} if network == "vgg" else {})
    image = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)

    def variables(**more):
        return jax.eval_shape(lambda x: build(**fields, **more).init(KEY, x, train=False), image)

    assert variables() == variables(norm="batch")
    assert variables()["params"] == variables(norm="group")["params"]
