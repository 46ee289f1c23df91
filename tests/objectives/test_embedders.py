"""BYOL, SimSiam, MoCo, VICReg and DINO: what each computes, beyond the laws that all objectives keep."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.contracts.objective import Task
from imgcls_jax.losses import l2_normalize
from imgcls_jax.models import cifar_resnet
from imgcls_jax.objectives import byol, dino, moco, vicreg

TASK = Task(num_classes=4, num_examples=32, steps_per_epoch=4, total_steps=8, image_shape=(8, 8, 1))
BACKBONE = cifar_resnet.build("resnet20", blocks=1, channels=(4, 4, 8))
VIEWS = tuple(jax.random.normal(jax.random.key(seed), (4, 8, 8, 1)) for seed in (0, 1))


def started(objective, views=VIEWS):
    batch = {"views": views}
    params, state = jax.jit(objective.init)(jax.random.key(2), batch)
    value, grads = jax.jit(jax.value_and_grad(objective.loss, has_aux=True))(
        params, state, batch, jax.random.key(3), jnp.int32(0)
    )
    return params, state, value, grads


def test_byol_learns_nothing_from_the_target_and_its_target_follows():
    options = {"projection_hidden": (8,), "projection_dim": 4, "prediction_hidden": 8}
    objective = byol.make(BACKBONE, TASK, target_decay=0.9, **options)
    params, state, (value, (moved, metrics)), grads = started(objective)
    assert 0 < value < 8 and metrics["spread"] > 0
    assert jax.tree.structure(state["target"]) == jax.tree.structure(
        {name: params[name] for name in ("backbone", "projector")}
    )
    # At step 0 of 8 the share is 0.1, at step 8 it is 0, halfway 0.05.
    doubled = jax.tree.map(lambda leaf: leaf + 1, params)
    for step, share in ((0, 0.1), (4, 0.05), (8, 0.0)):
        after = objective.after_update(doubled, moved, jnp.int32(step))["target"]
        jax.tree.map(
            lambda new, old, share=share: np.testing.assert_allclose(new, old + share, atol=1e-5),
            after,
            state["target"],
        )
    # A target that the loss does not differentiate: its change alters the value, no gradient reaches it.
    reached = jax.jit(
        jax.grad(
            lambda target: objective.loss(
                params, state | {"target": target}, {"views": VIEWS}, jax.random.key(3), jnp.int32(0)
            )[0]
        )
    )(state["target"])
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(reached))


def test_simsiam_keeps_no_target():
    options = {"projection_hidden": (8, 8), "projection_dim": 4, "prediction_hidden": 2}
    objective = byol.make(BACKBONE, TASK, target_decay=0.0, projection_norm=True, **options)
    _, state, (value, _), grads = started(objective)
    assert "target" not in state and 0 < value < 8
    assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(grads["projector"]))


def test_mocos_queue_holds_the_newest_keys():
    objective = moco.make(BACKBONE, TASK, queue_size=12, projection_dim=3, target_decay=0.5)
    params, state, (_, (moved, _)), _ = started(objective)
    np.testing.assert_allclose(jnp.linalg.norm(moved["queue"], axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(moved["queue"][4:], state["queue"][4:])
    assert np.all(moved["queue"][:4] != state["queue"][:4])
    assert [int(state["position"]), int(moved["position"])] == [0, 4]
    loss = jax.jit(objective.loss)
    for expected in (8, 0, 4):
        moved = loss(params, moved, {"views": VIEWS}, jax.random.key(3), jnp.int32(0))[1][0]
        assert int(moved["position"]) == expected
    assert np.all(moved["queue"] != state["queue"])
    odd = moco.make(BACKBONE, TASK, queue_size=10, projection_dim=3)
    with pytest.raises(ValueError, match="a multiple of the batch size, 4; got 10"):
        started(odd)


def test_vicregs_terms_by_hand():
    objective = vicreg.make(BACKBONE, TASK, projection_widths=(5,), invariance=2, variance=3, covariance=7)
    params, state, (value, (_, metrics)), _ = started(objective)
    projections = []
    for view in VIEWS:
        stats = {"params": params["backbone"], "batch_stats": state["batch_stats"]}
        features, _ = BACKBONE.apply(stats, view, train=True, mutable=["batch_stats"])
        projections.append(np.float64(features.embedding) @ np.float64(params["projector"]["fc1"]["kernel"]))
    first, second = projections
    apart = np.mean((first - second) ** 2)
    hinge = np.mean([np.maximum(0, 1 - np.sqrt(z.var(axis=0, ddof=1) + 1e-4)).mean() for z in projections])
    repeated = 0.0
    for z in projections:
        covariance = np.cov(z.T)
        repeated += (np.sum(covariance**2) - np.sum(np.diag(covariance) ** 2)) / 5
    np.testing.assert_allclose(metrics["covariance"], repeated, rtol=1e-3)
    np.testing.assert_allclose(value, 2 * apart + 3 * hinge + 7 * repeated, rtol=1e-4)


def test_dinos_center_and_held_prototypes():
    options = {"num_prototypes": 6, "projection_hidden": (8,), "bottleneck": 4, "held_epochs": 1}
    objective = dino.make(BACKBONE, TASK, **options)
    small = jax.random.normal(jax.random.key(9), (4, 4, 4, 1))
    views = (*VIEWS, small)  # a local crop of another size
    params, state, (_, (moved, metrics)), grads = started(objective, views)
    assert np.all(grads["prototypes"]["kernel"] == 0)
    later = jax.jit(jax.grad(objective.loss, has_aux=True))(
        params, state, {"views": views}, jax.random.key(3), jnp.int32(TASK.steps_per_epoch)
    )[0]
    assert np.any(later["prototypes"]["kernel"] != 0)
    logits = []
    for view in VIEWS:  # the teacher sees the global crops alone
        stats = {"params": params["backbone"], "batch_stats": state["batch_stats"]}
        x = BACKBONE.apply(stats, view, train=True, mutable=["batch_stats"])[0].embedding
        projector = params["projector"]
        x = jax.nn.gelu(x @ projector["fc1"]["kernel"] + projector["fc1"]["bias"], approximate=False)
        x = l2_normalize(x @ projector["fc2"]["kernel"] + projector["fc2"]["bias"])
        logits.append(x @ l2_normalize(params["prototypes"]["kernel"].T).T)
    np.testing.assert_allclose(moved["center"], 0.1 * jnp.mean(jnp.stack(logits), (0, 1)), atol=1e-5)
    assert 0 <= metrics["teacher_entropy"] <= np.log(6)


@pytest.mark.parametrize("module", [byol, moco, vicreg])
def test_views_are_two_of_one_size(module):
    objective = module.make(BACKBONE, TASK)
    with pytest.raises(ValueError, match="two lines that end in one"):
        jax.eval_shape(objective.init, jax.random.key(0), {"views": (VIEWS[0], VIEWS[1][:, :4])})
