"""The laws of the objectives' contract, each for every objective found in the folder."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Sequence
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import imgcls_jax.objectives
from imgcls_jax.contracts.objective import Task
from imgcls_jax.models import cifar_resnet, simpleconv3, vit
from imgcls_jax.train.state import state_digest
from imgcls_jax.train.step import make_init, make_train_step

NAMES = [m.name for m in pkgutil.iter_modules(imgcls_jax.objectives.__path__)]
# Settings under which an objective keeps all the objective state that it can keep. An objective that is not
# here has its defaults, and EXAMPLES where it has none.
OPTIONS = {
    "byol": {"projection_hidden": (8,), "projection_dim": 4, "prediction_hidden": 8},
    "clip": {"dim": 8, "text_width": 8, "text_depth": 1, "context_length": 6, "vocab_size": 20},
    "cnn_rnn": {"hidden": 16, "embedding_dim": 8},
    "compatibility": {"loss": "ale", "ema_decay": 0.9, "dropout": 0.1},
    "deepcluster": {"num_clusters": 5, "hidden": (16,), "pca_dim": 8, "kmeans_iterations": 3},
    "distillation": {"teacher": "runs/teacher", "ema_decay": 0.9, "dropout": 0.1},
    "dino": {"num_prototypes": 12, "projection_hidden": (8, 8), "bottleneck": 4},
    "fixmatch": {"threshold": 0.4},
    "metric_learning": {"ema_decay": 0.9, "center_weight": 0.01, "triplet_weight": 1.0, "dropout": 0.1},
    "jigsaw": {"grid": 2, "patch": 7, "num_permutations": 6, "patch_dim": 8},
    "ma_cnn": {"parts": 2, "hidden": 8, "group_epochs": 0, "alternation_epochs": (0, 1)},
    "mean_teacher": {"ramp_fraction": 0.5},
    "mixmatch": {"alpha": 0.75, "lambda_u": 75.0, "ramp_fraction": 0.5},
    "moco": {"queue_size": 24, "projection_dim": 8},
    "pseudo_label": {"threshold": 0.4, "ramp_fraction": 0.5},
    "rotation": {"transformations": "both"},
    "trinet": {"hidden": 8, "sigma": 0.3, "pool_base": 4, "passes": 2, "init_epochs": 1},
    "multilabel": {"ema_decay": 0.9, "positive_weights": "balanced", "dropout": 0.1},
    "siglip": {"text_width": 8, "text_depth": 1, "context_length": 6, "vocab_size": 20},
    "supervised": {"ema_decay": 0.9, "mixup_alpha": 0.2, "cutmix_alpha": 1.0, "dropout": 0.1},
    "vat": {"ramp_fraction": 0.5},
    "vicreg": {"projection_widths": (8, 8, 8)},
    "mae": {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2},
}
EXAMPLES = {"int": 3, "float": 0.5, "bool": True, "str": "", "Sequence[int]": (3,), "Sequence[float]": (0.5,)}
# The first of these that an objective takes.
BACKBONES = (
    simpleconv3.build(),
    vit.build("vit_tiny", width=16, depth=1, dropout=0.1),
    cifar_resnet.build("resnet20", blocks=1, channels=(4, 4, 8)),
)
SIGNATURES = ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0))
TASK = Task(3, 24, 3, 6, image_shape=(16, 16, 3), class_counts=(8, 8, 8), signatures=SIGNATURES)


def options_of(name, make):
    """Returns the row of OPTIONS, and an example of every further argument that has no default."""
    needed = [p for p in inspect.signature(make).parameters.values() if p.kind is p.KEYWORD_ONLY]
    needed = {p.name: EXAMPLES[p.annotation] for p in needed if p.default is p.empty}
    return needed | OPTIONS.get(name, {})


@lru_cache
def backbone_and_objective(name):
    make = importlib.import_module(f"imgcls_jax.objectives.{name}").make
    options = options_of(name, make)
    refusals = []
    for backbone in BACKBONES:
        try:
            return backbone, make(backbone, TASK, **options)
        except ValueError as error:
            refusals.append(f"{type(backbone).__name__}: {error}")
    pytest.fail(f"{name} takes no backbone. " + "; ".join(refusals))


def build(name):
    return backbone_and_objective(name)[1], optax.sgd(0.05, momentum=0.9)


def batch(step=0, rows=8):
    rng = np.random.default_rng(step)
    images = rng.normal(size=(rows, *TASK.image_shape)).astype(np.float32)
    index = (step * rows + np.arange(rows)) % TASK.num_examples
    examples = {"image": images, "label": np.int32(index % TASK.num_classes), "index": np.int32(index)}
    labeled = {key: column[:4] for key, column in examples.items()}
    text = np.stack([index + 1, 5 + index % 7, np.full(rows, 19)], axis=1) % 20  # start, a word, end
    text = np.pad(text[:, None], [(0, 0), (0, 1), (0, 3)]).astype(np.int32)  # [B, 2, 6], the second is none
    views = (images[:, ::-1], 0.5 * images)
    taught = rng.normal(size=(rows, TASK.num_classes)).astype(np.float32)
    return examples | {"views": views, "labeled": labeled, "text": text, "teacher": taught}


def keys_of(objective, values):
    picked = {key: values[key] for key in objective.batch_keys}
    if objective.multi_label:  # the class and all that come after it
        picked["label"] = np.int32(np.arange(TASK.num_classes) >= picked["label"][:, None])
    return picked


@lru_cache
def init_of(name):
    objective, tx = build(name)
    return jax.jit(make_init(objective, tx, keys_of(objective, batch())))


def initial(name, seed=0):
    """Returns a state on a device of its own, as a restored one is: the step is compiled once for both."""
    return jax.device_put(init_of(name)(jax.random.key(seed)), jax.devices()[0])


@lru_cache
def step_of(name):
    """Returns the compiled step, which takes its state's buffers, and a list that grows with each trace."""
    objective, tx = build(name)
    traces = []

    def augment(rng, values):
        traces.append(rng)
        return values

    return jax.jit(make_train_step(objective, tx, augment), donate_argnums=0), traces


def train(name, state, steps):
    """Runs the steps as the loop does, the plan of each epoch first; returns state, metrics and the number of
    traces that the step has had."""
    objective, _ = build(name)
    step, traces = step_of(name)
    for number in range(int(state.step), steps):
        epoch, position = divmod(number, TASK.steps_per_epoch)
        if objective.plan_epoch is not None and position == 0:
            plan = plan_of(name, state, epoch)
            state = state._replace(params=plan.params, objective_state=plan.objective_state)
        state, metrics = step(state, keys_of(objective, batch(number)))
    return state, metrics, len(traces)


def plan_of(name, state, epoch):
    objective, _ = build(name)

    def embed(key):
        rows = [
            objective.predict(state.params, state.objective_state, batch(step))[key]
            for step in range(TASK.steps_per_epoch)
        ]
        return np.concatenate([np.asarray(r, np.float32) for r in rows])

    return objective.plan_epoch(state.params, state.objective_state, epoch, embed, jax.random.key(epoch))


def shapes(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


def test_there_are_objectives():
    assert "supervised" in NAMES
    assert OPTIONS.keys() <= set(NAMES)


def test_an_objective_that_no_table_knows_is_built_from_its_signature():
    def make(backbone, task, *, clusters: int, widths: Sequence[int], rate: float = 0.1):
        pass

    assert options_of("new", make) == {"clusters": 3, "widths": (3,)}


@pytest.mark.parametrize("name", NAMES)
def test_law_1_objective_state_never_changes_its_form(name):
    before = initial(name)
    after, _, traces = train(name, before, TASK.total_steps)
    assert shapes(before.objective_state) == shapes(after.objective_state)
    assert traces == 1


@pytest.mark.parametrize("name", NAMES)
def test_law_2_params_backbone_is_the_trunk(name):
    images, (backbone, _) = jnp.zeros((2, *TASK.image_shape)), backbone_and_objective(name)
    trunk = jax.eval_shape(lambda: backbone.init(jax.random.key(0), images, train=False))["params"]
    assert shapes(initial(name).params["backbone"]) == shapes(trunk)


@pytest.mark.parametrize("name", NAMES)
def test_law_3_params_and_objective_state_share_no_buffer(name):
    state = initial(name)
    buffers = [
        leaf.unsafe_buffer_pointer()
        for leaf in jax.tree.leaves((state.params, state.objective_state, state.opt_state))
    ]
    assert len(set(buffers)) == len(buffers)
    state, _, _ = train(name, state, 1)  # the step takes all of them
    assert int(state.step) == 1


@pytest.mark.parametrize("name", NAMES)
def test_laws_4_and_5_plans_are_deterministic_and_have_n_entries(name):
    if build(name)[0].plan_epoch is None:
        pytest.skip(f"{name} plans no epochs")
    state = initial(name)
    one, other = plan_of(name, state, 1), plan_of(name, state, 1)
    jax.tree.map(
        np.testing.assert_array_equal,
        (one.params, one.objective_state),
        (other.params, other.objective_state),
    )
    np.testing.assert_array_equal(one.order, other.order)
    assert one.order is None or len(one.order) == TASK.num_examples


@pytest.mark.parametrize("name", NAMES)
def test_law_7_a_stopped_run_goes_on_bit_for_bit(name, tmp_path):
    from imgcls_jax.train import sharding
    from imgcls_jax.train.checkpoint import Checkpoints

    whole, _, _ = train(name, initial(name), TASK.total_steps)
    half, _, _ = train(name, initial(name), TASK.total_steps // 2)
    replicated = sharding.replicated(sharding.data_mesh())
    target = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=replicated), half)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(half, wait=True)
        restored, _ = checkpoints.restore_latest(lambda step: target)
    assert state_digest(restored) == state_digest(half)
    restored = jax.device_put(restored, jax.devices()[0])
    resumed, _, _ = train(name, restored, TASK.total_steps)
    assert state_digest(resumed) == state_digest(whole)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_finite_and_reach_the_backbone(name):
    state, _, _ = train(name, initial(name), 1)
    grads = state.opt_state[0].trace  # the momentum of the first step
    for leaf in jax.tree.leaves(grads):
        assert np.all(np.isfinite(leaf))
    assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(grads["backbone"]))
