"""The transformations of rotation, and what its loss must be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.contracts.objective import Task
from imgcls_jax.models import simpleconv3
from imgcls_jax.objectives import rotation

TASK = Task(num_classes=4, num_examples=32, steps_per_epoch=4, total_steps=8, image_shape=(8, 8, 1))


@pytest.mark.parametrize("name, count", rotation.NUM_TRANSFORMATIONS.items())
def test_label_k_is_k_quarter_turns_and_4_more_for_the_mirrored_image(name, count):
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)
    seen, labels = rotation.transformed(jnp.asarray(images), name)
    assert labels.tolist() == [*range(count)] * 2
    for row, label in enumerate(labels.tolist()):
        image = images[row // count]
        mirrored = label >= 4 or (name == "flip" and label == 1)
        image = np.rot90(image[:, ::-1] if mirrored else image, 0 if name == "flip" else label % 4)
        np.testing.assert_array_equal(seen[row], image)
    assert len(np.unique(np.asarray(seen[:count]).reshape(count, -1), axis=0)) == count


def test_constant_images_tell_nothing():
    """All turns look the same and get the same probabilities p: the mean of -ln p_k is at least ln 4."""
    objective = rotation.make(simpleconv3.build(), TASK)
    batch = {"image": jnp.ones((4, 8, 8, 1))}
    params, state = objective.init(jax.random.key(0), batch)
    loss = jax.jit(lambda params, values: objective.loss(params, state, values, jax.random.key(1), 0)[0])
    value = loss(params, batch)
    assert value >= np.log(4) - 1e-6
    upright = {"image": jnp.arange(256.0).reshape(4, 8, 8, 1) / 100}
    grads = jax.jit(jax.grad(loss))(params, upright)
    lower = jax.tree.map(lambda param, grad: param - 0.01 * grad, params, grads)
    before, after = loss(params, upright), loss(lower, upright)
    assert after < before


def test_images_that_turn_are_square():
    task = Task(4, 32, 4, 8, image_shape=(8, 6, 1))
    with pytest.raises(ValueError, match="must be square; they come as 8 x 6"):
        rotation.make(simpleconv3.build(), task)
    rotation.make(simpleconv3.build(), task, transformations="flip")
