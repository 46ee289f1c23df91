"""What distillation computes, beyond the laws that all objectives keep."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.contracts.objective import Task
from imgcls_jax.models import mlp
from imgcls_jax.objectives import distillation

TASK = Task(num_classes=3, num_examples=32, steps_per_epoch=4, total_steps=8, image_shape=(2, 2, 1))


def batch():
    rng = np.random.default_rng(0)
    return {
        "image": rng.normal(size=(4, *TASK.image_shape)).astype(np.float32),
        "label": np.int32([0, 1, -1, 2]),
        "teacher": rng.normal(size=(4, 3)).astype(np.float32) * 3,
    }


def value_of(**options):
    objective = distillation.make(mlp.build(hidden=(5,)), TASK, teacher="runs/x", **options)
    params, objective_state = objective.init(jax.random.key(0), batch())
    value, (_, metrics) = objective.loss(params, objective_state, batch(), jax.random.key(0), jnp.int32(0))
    logits = objective.predict(params, objective_state, batch())["logits"]
    return float(value), metrics, np.asarray(logits, np.float64)


def softmax(z):
    return np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("temperature, weight", [(1.0, 0.5), (4.0, 0.9), (4.0, 1.0), (2.0, 0.0)])
def test_the_loss_is_hintons(temperature, weight):
    value, metrics, s = value_of(temperature=temperature, teacher_weight=weight)
    labels, t = batch()["label"], batch()["teacher"].astype(np.float64)
    known = labels >= 0
    from_labels = -np.log(softmax(s)[known, labels[known]]).sum() / 4  # the hidden label counts nothing
    p, q = softmax(t / temperature), softmax(s / temperature)
    from_teacher = temperature**2 * (p * np.log(p / q)).sum(axis=1).mean()
    np.testing.assert_allclose(value, (1 - weight) * from_labels + weight * from_teacher, rtol=1e-5)
    np.testing.assert_allclose(metrics["agreement"], (s.argmax(1) == t.argmax(1)).mean())


def test_hard_takes_the_teachers_class_as_a_label():
    value, _, s = value_of(hard=True, teacher_weight=1.0)
    expected = -np.log(softmax(s)[np.arange(4), batch()["teacher"].argmax(1)]).mean()
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_half_precision_changes_the_loss_by_rounding_alone():
    def of(dtype):
        objective = distillation.make(mlp.build(hidden=(5,), dtype=dtype), TASK, teacher="runs/x")
        params, objective_state = objective.init(jax.random.key(0), batch())
        value, _ = objective.loss(params, objective_state, batch(), jax.random.key(0), jnp.int32(0))
        return value

    half, whole = of("bfloat16"), of(None)
    assert half.dtype == whole.dtype == jnp.float32 and half != whole
    np.testing.assert_allclose(half, whole, rtol=2e-2)
