"""Tri-net: who labels for whom, what is thrown out again, and which gradients reach the trunk."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from imgcls_jax.contracts.objective import Task
from imgcls_jax.layers.features import Features
from imgcls_jax.layers.normalization import batch_norm
from imgcls_jax.objectives import trinet
from imgcls_jax.train.step import make_init, make_train_step

TASK = Task(num_classes=4, num_examples=32, steps_per_epoch=4, total_steps=8, image_shape=(8, 8, 1))
ROUNDS = trinet.Rounds(
    init_epochs=5,
    round_epochs=2,
    diversity_rounds=4,
    pool_base=1000,
    sigma=0.95,
    sigma_smearing=0.25,
    sigma_decay=0.05,
)
IMAGES = np.random.default_rng(0).normal(size=(TASK.num_examples, *TASK.image_shape)).astype(np.float32)
LABELS = np.arange(TASK.num_examples, dtype=np.int32) % TASK.num_classes


class Trunk(nn.Module):
    """The smallest backbone that keeps the contract."""

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.Dense(12)(images.reshape(images.shape[0], -1))
        return Features(images, nn.relu(batch_norm(use_running_average=not train)(x)))


def examples(index):
    return {"image": IMAGES[index], "label": LABELS[index], "index": np.int32(index)}


def batch(rows=range(8), labeled=range(4)):
    main = examples(np.array(rows))
    return {"image": main["image"], "index": main["index"], "labeled": examples(np.array(labeled))}


def make(**options):
    return trinet.make(Trunk(), TASK, **{"hidden": 16, **options})


def begin(objective, seed=0):
    return jax.jit(objective.init)(jax.random.key(seed), batch())


def loss_of(objective, params, objective_state, seed=0):
    return jax.jit(objective.loss)(params, objective_state, batch(), jax.random.key(seed), jnp.int32(0))


def embed_of(objective, params, objective_state):
    predict = jax.jit(objective.predict)
    return lambda key: np.asarray(predict(params, objective_state, {"image": IMAGES})[key], np.float32)


def in_a_round(objective_state, pseudo):
    return objective_state | {"pseudo": jnp.asarray(pseudo, jnp.int32), "smearing": jnp.bool_(False)}


NO_PSEUDO = np.full((3, TASK.num_examples), -1)


# ---- labels for each other


def one_hots(classes, confidence):
    """Probabilities [n, 3, 4] with the given first classes and confidences."""
    classes, confidence = np.asarray(classes), np.asarray(confidence, np.float32)
    rest = (1 - confidence) / 3
    rows = np.broadcast_to(rest[..., None], (*rest.shape, 4)).copy()
    np.put_along_axis(rows, classes[..., None], confidence[..., None], axis=-1)
    return rows


def test_two_that_agree_and_are_sure_label_for_the_third():
    probabilities = one_hots(
        [[1, 1, 1], [2, 2, 0], [3, 0, 3], [0, 1, 2], [2, 2, 2]],
        [[0.9, 0.9, 0.9], [0.9, 0.9, 0.9], [0.9, 0.9, 0.69], [0.9, 0.9, 0.9], [0.5, 0.95, 0.95]],
    )
    labels = trinet.agreed_labels(probabilities, np.zeros((5, 3)), threshold=0.8, tolerated=3)
    np.testing.assert_array_equal(
        labels,
        [
            [1, -1, -1, -1, 2],  # by modules 1 and 2
            [1, -1, -1, -1, -1],  # by 0 and 2: in example 2 they agree with a mean of 0.795, in 4 of 0.725
            [1, 2, -1, -1, -1],  # by 0 and 1
        ],
    )
    assert labels.dtype == np.int32


def test_no_module_labels_for_itself():
    rng = np.random.default_rng(0)
    probabilities = one_hots(rng.integers(0, 2, (200, 3)), rng.uniform(0.5, 1, (200, 3)))
    options = {"threshold": 0.8, "tolerated": 0}
    labels = trinet.agreed_labels(probabilities, np.zeros((200, 3)), **options)
    for module in range(3):
        other = probabilities.copy()
        other[:, module] = rng.dirichlet(np.ones(4), 200)
        np.testing.assert_array_equal(
            trinet.agreed_labels(other, np.zeros((200, 3)), **options)[module], labels[module]
        )
    assert 20 < (labels >= 0).sum() < 580


def test_three_alike_give_three_alike_sets_and_a_sigma_above_one_gives_none():
    rng = np.random.default_rng(1)
    probabilities = np.repeat(rng.dirichlet(np.full(4, 0.2), 50)[:, None], 3, axis=1)
    labels = trinet.agreed_labels(probabilities, np.zeros((50, 3)), threshold=0.8, tolerated=0)
    assert (labels == labels[0]).all() and 0 < (labels >= 0).sum() < 150
    nothing = trinet.agreed_labels(probabilities, np.zeros((50, 3)), threshold=1.01, tolerated=0)
    assert (nothing == -1).all()


def test_what_dropout_contradicts_too_often_is_thrown_out():
    probabilities = one_hots([[1, 1, 1]] * 3, [[0.9] * 3] * 3)
    changes = np.array([[3, 4, 0], [0, 9, 3], [4, 4, 4]])
    labels = trinet.agreed_labels(probabilities, changes, threshold=0.8, tolerated=9 * trinet.UNSTABLE_SHARE)
    np.testing.assert_array_equal(labels, [[1, 1, -1], [-1, -1, -1], [1, 1, -1]])


# ---- votes


def votes_of(passes, dropout, rows=slice(None), gain=1.0):
    module = trinet.LabelingModule(num_classes=4, hidden=16, dropout=dropout)
    embedding = jnp.asarray(np.random.default_rng(2).normal(size=(32, 6)) * gain, jnp.float32)
    params = [module.init(jax.random.key(i), embedding, train=False)["params"] for i in range(3)]
    table = trinet.votes(trinet.ask_modules(module, params), embedding[rows], passes)
    return np.asarray(table).reshape(-1, 3, 5), [
        jax.nn.softmax(module.apply({"params": p}, embedding, train=False)) for p in params
    ]


def test_votes_are_probabilities_and_counts_of_changed_passes():
    votes, probabilities = votes_of(9, 0.5)
    np.testing.assert_allclose(votes[..., :4], np.stack(probabilities, axis=1), atol=1e-6)
    counts = votes[..., 4]
    assert (counts == np.round(counts)).all() and counts.min() == 0 and 0 < counts.max() <= 9
    np.testing.assert_array_equal(votes_of(9, 0.5)[0], votes)


def test_without_dropout_or_passes_nothing_is_unstable():
    assert (votes_of(9, 0.0)[0][..., 4] == 0).all()
    assert (votes_of(0, 0.5)[0][..., 4] == 0).all()


def test_an_examples_votes_do_not_depend_on_its_batch():
    np.testing.assert_allclose(votes_of(5, 0.5)[0][10:13], votes_of(5, 0.5, slice(10, 13))[0], atol=1e-6)


# ---- smearing


def test_smeared_labels_are_probabilities_around_the_label():
    labels, index = jnp.arange(400) % 4, jnp.arange(400)
    smeared = trinet.smear(jax.random.key(0), labels, index, num_classes=4, std=0.05)
    np.testing.assert_allclose(jnp.sum(smeared, axis=-1), 1.0, rtol=1e-6)
    assert jnp.min(smeared) >= 0
    np.testing.assert_array_equal(jnp.argmax(smeared, axis=-1), labels)
    np.testing.assert_array_equal(
        trinet.smear(jax.random.key(0), labels, index, num_classes=4, std=0.0), jax.nn.one_hot(labels, 4)
    )
    # relu(N(0, s^2)) has mean s / sqrt(2 pi), and is 0 half of the time.
    others = np.asarray(smeared)[np.asarray(jax.nn.one_hot(labels, 4)) == 0]
    np.testing.assert_allclose(others.mean(), 0.05 / np.sqrt(2 * np.pi), rtol=0.15)
    np.testing.assert_allclose((others == 0).mean(), 0.5, atol=0.05)


def test_the_noise_belongs_to_example_and_key():
    smear = lambda key, index: trinet.smear(  # noqa: E731
        jax.random.key(key), jnp.zeros(3, int), jnp.array(index), num_classes=4, std=0.1
    )
    np.testing.assert_array_equal(smear(0, [5, 6, 7])[::-1], smear(0, [7, 6, 5]))
    assert not np.array_equal(smear(0, [5, 6, 7]), smear(1, [5, 6, 7]))


# ---- the schedule


def test_rounds_and_pools():
    assert [ROUNDS.at(epoch) for epoch in (0, 1, 4, 5, 6, 7)] == [
        (0, True),
        (0, False),
        (0, False),
        (1, True),
        (1, False),
        (2, True),
    ]
    assert [ROUNDS.pool(t, 10_000) for t in range(1, 6)] == [2000, 4000, 8000, 10_000, 10_000]


def test_smearing_comes_back_once_the_pool_is_whole_and_the_threshold_falls():
    assert [t for t in range(13) if ROUNDS.smears(t, 10_000)] == [0, 4, 8, 12]
    assert [t for t in range(13) if ROUNDS.smears(t, 40_000)] == [0, 8, 12]
    thresholds = [ROUNDS.threshold(t, 10_000) for t in (1, 2, 3, 5, 6, 7, 9, 10)]
    np.testing.assert_allclose(thresholds, [0.7, 0.95, 0.95, 0.65, 0.9, 0.9, 0.6, 0.85])


# ---- the loss


def test_without_targets_of_its_own_every_module_learns_the_labeled_rows_alone():
    objective = make(dropout=0.0)
    params, objective_state = begin(objective)
    objective_state = in_a_round(objective_state, NO_PSEUDO)
    value, (moved, metrics) = loss_of(objective, params, objective_state)
    images = np.concatenate([IMAGES[:4], IMAGES[:8]])
    features, _ = Trunk().apply(
        {"params": params["backbone"], "batch_stats": objective_state["batch_stats"]},
        images,
        train=True,
        mutable=["batch_stats"],
    )
    # The first four rows of the main stream are known too, by the labeled stream.
    rows, labels = np.r_[0:8], np.r_[LABELS[:4], LABELS[:4]]
    module = trinet.LabelingModule(4, 16, 0.0)
    expected = 0.0
    for name in trinet.HEADS:
        log_p = jax.nn.log_softmax(module.apply({"params": params[name]}, features.embedding, train=False))
        expected -= np.mean(np.asarray(log_p)[rows, labels])
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["with_target"], 8 / 12)
    np.testing.assert_array_equal(moved["label"], np.r_[LABELS[:4], np.full(28, -1)])


def test_pseudo_labels_are_learnt_by_their_module_alone_and_true_ones_go_before():
    objective = make(dropout=0.0)
    params, objective_state = begin(objective)
    plain = loss_of(objective, params, in_a_round(objective_state, NO_PSEUDO))
    grad = jax.jit(jax.grad(lambda p, c: loss_of(objective, p, c)[0]))
    without = grad(params, in_a_round(objective_state, NO_PSEUDO))
    pseudo = NO_PSEUDO.copy()
    pseudo[1, 6] = 2
    with_one = grad(params, in_a_round(objective_state, pseudo))
    for name in ("backbone", "head_0", "head_2"):
        jax.tree.map(np.testing.assert_array_equal, with_one[name], without[name])
    assert not np.allclose(with_one["head_1"]["hidden"]["kernel"], without["head_1"]["hidden"]["kernel"])
    pseudo[:, :4] = (LABELS[:4] + 1) % 4  # wrong, of examples whose label is known
    pseudo[1, 6] = -1
    assert loss_of(objective, params, in_a_round(objective_state, pseudo))[0] == plain[0]


def test_in_a_round_the_trunk_follows_module_0_alone_but_all_while_smearing():
    objective = make(dropout=0.0)
    params, objective_state = begin(objective)

    grad = jax.jit(jax.grad(lambda p, c: loss_of(objective, p, c)[0]))

    def trunk_gradient(smearing, silenced):
        muted = params | {name: jax.tree.map(jnp.zeros_like, params[name]) for name in silenced}
        return grad(muted, objective_state | {"smearing": jnp.bool_(smearing)})["backbone"]

    alone = trunk_gradient(False, ("head_1", "head_2"))
    jax.tree.map(np.testing.assert_array_equal, trunk_gradient(False, ()), alone)
    of_the_others = trunk_gradient(False, ("head_0",))
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(of_the_others))
    assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(trunk_gradient(True, ("head_0",))))


def test_smeared_targets_differ_by_module_and_stay_through_the_round():
    objective, other = make(dropout=0.0, smear_std=0.5), make(dropout=0.0, smear_std=0.0)
    params, objective_state = begin(objective)
    params |= {name: params["head_0"] for name in trinet.HEADS}  # three alike
    grads = jax.jit(jax.grad(lambda p: loss_of(objective, p, objective_state)[0]))(params)
    assert not np.allclose(grads["head_0"]["hidden"]["kernel"], grads["head_1"]["hidden"]["kernel"])
    assert (
        loss_of(objective, params, objective_state)[0]
        == loss_of(objective, params, objective_state, seed=1)[0]
    )
    anew = objective_state | {"smear_seed": jnp.uint32(7)}
    assert loss_of(objective, params, objective_state)[0] != loss_of(objective, params, anew)[0]
    assert loss_of(other, params, objective_state)[0] == loss_of(other, params, anew)[0]


# ---- prediction and plan


def test_prediction_is_the_mean_of_three_probabilities():
    objective = make()
    params, objective_state = begin(objective)
    predicted = objective.predict(params, objective_state, {"image": IMAGES})
    probabilities = np.asarray(predicted["votes"]).reshape(-1, 3, 5)[..., :4]
    np.testing.assert_allclose(np.exp(predicted["logits"]), probabilities.mean(axis=1), rtol=1e-5)
    assert predicted["embedding"].shape == (32, 12)


def plan(objective, params, objective_state, epoch, seed=3):
    return objective.plan_epoch(
        params, objective_state, epoch, embed_of(objective, params, objective_state), jax.random.key(seed)
    )


def test_the_plan_of_a_round_labels_a_pool_and_visits_what_has_a_target():
    objective = make(init_epochs=2, round_epochs=2, pool_base=5, sigma=0.0, passes=0)
    params, objective_state = begin(objective)
    params |= {"head_1": params["head_0"]}  # two that agree
    first = plan(objective, params, objective_state, 0)
    assert first.order is None and first.objective_state["smearing"]
    objective_state = first.objective_state | {"label": objective_state["label"].at[:4].set(LABELS[:4])}
    smearing = plan(objective, params, objective_state, 1)
    assert set(smearing.order) == {0, 1, 2, 3} and len(smearing.order) == 32
    jax.tree.map(np.testing.assert_array_equal, smearing.objective_state, objective_state)
    begun = plan(objective, params, objective_state, 2)
    pseudo = np.asarray(begun.objective_state["pseudo"])
    labeled = np.flatnonzero((pseudo >= 0).any(axis=0))
    assert (
        not begun.objective_state["smearing"] and begun.metrics["round"] == 1 and begun.metrics["pool"] == 10
    )
    assert len(labeled) == (pseudo[2] >= 0).sum() == 10 and labeled.min() >= 4
    assert set(begun.order) == {0, 1, 2, 3, *labeled.tolist()} and len(begun.order) == 32
    np.testing.assert_allclose(begun.metrics["pseudo_labels"], (pseudo >= 0).sum() / 3)
    going_on = plan(objective, params, begun.objective_state, 3, seed=4)
    jax.tree.map(np.testing.assert_array_equal, going_on.objective_state, begun.objective_state)
    assert set(going_on.order) == set(begun.order) and not np.array_equal(going_on.order, begun.order)
    jax.tree.map(
        np.testing.assert_array_equal,
        plan(objective, params, objective_state, 2).objective_state,
        begun.objective_state,
    )


def test_a_whole_pool_is_all_that_is_unlabeled_and_diversity_drops_the_labels_again():
    objective = make(init_epochs=1, pool_base=100, sigma=0.0, sigma_smearing=0.0, diversity_rounds=2)
    params, objective_state = begin(objective)
    objective_state |= {"label": objective_state["label"].at[:4].set(LABELS[:4])}
    begun = plan(objective, params, objective_state, 1)
    assert begun.metrics["pool"] == 28
    smearing = plan(objective, params, begun.objective_state, 2, seed=9)
    assert smearing.objective_state["smearing"] and (smearing.objective_state["pseudo"] == -1).all()
    assert smearing.objective_state["smear_seed"] != begun.objective_state["smear_seed"]
    assert set(smearing.order) == {0, 1, 2, 3}


def test_all_labels_are_known_after_the_labeled_stream_went_by_once():
    objective, tx = make(), optax.sgd(0.1)
    state = jax.jit(make_init(objective, tx, batch()))(jax.random.key(0))
    step = jax.jit(make_train_step(objective, tx, lambda rng, values: values))
    for start in (0, 4, 8):
        state, metrics = step(state, batch(labeled=range(start, start + 4)))
    np.testing.assert_array_equal(state.objective_state["label"], np.r_[LABELS[:12], np.full(20, -1)])
    assert np.isfinite(metrics["loss"])


@pytest.mark.parametrize(
    "options", [{"sigma": 1.5}, {"dropout": 1.0}, {"init_epochs": 0}, {"passes": -1}, {"smear_std": -0.1}]
)
def test_numbers_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=f"objective.{next(iter(options))}"):
        make(**options)
