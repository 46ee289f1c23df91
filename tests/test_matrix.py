"""Any objective with any backbone: every file in objectives/ trains each kind of network, or says why not."""

import functools
import importlib
import pkgutil
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import imgcls_jax.objectives
from imgcls_jax.contracts.objective import Task
from imgcls_jax.models import cifar_resnet, simpleconv3, vgg, vit
from imgcls_jax.train.checkpoint import Checkpoints
from imgcls_jax.train.state import state_digest
from imgcls_jax.train.step import make_init, make_train_step

NAMES = [m.name for m in pkgutil.iter_modules(imgcls_jax.objectives.__path__)]
options_of = runpy.run_path(str(Path(__file__).with_name("test_objectives.py")))["options_of"]
SIGNATURES = ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0))
TASK = Task(3, 24, 6, 12, image_shape=(32, 32, 3), class_counts=(8, 8, 8), signatures=SIGNATURES)
ROWS = 4
# All of a family's parts, in as few and narrow layers as it can be built from.
BACKBONES = {
    "simpleconv3": simpleconv3.build(channels=(4, 4, 8), hidden=(16, 8)),
    "cifar_resnet": cifar_resnet.build("resnet20", blocks=1, channels=(4, 8, 8)),
    "vgg11_bn": vgg.build("vgg11_bn", channels=(4, 4, 8, 8, 8), hidden=(16, 16)),
    "vit_tiny": vit.build("vit_tiny", patch=8, width=16, depth=1, dropout=0.1),
}
PAIRS = [(name, network) for name in NAMES for network in BACKBONES]
# The suite trains each objective on one of these, in turn; the others go by request, with simpleconv3, the
# network of tests/test_objectives.py, and VGG, which is to the objectives what the residual one is.
QUICK = {name: ("vit_tiny", "cifar_resnet")[number % 2] for number, name in enumerate(NAMES)} | {
    "mae": "vit_tiny"
}


@functools.cache
def make(name, network):
    """Returns the objective, or what it says of a network that it does not take."""
    function = importlib.import_module(f"imgcls_jax.objectives.{name}").make
    try:
        return function(BACKBONES[network], TASK, **options_of(name, function))
    except ValueError as refusal:
        return refusal


def batch(start=0, rows=ROWS):
    index = np.arange(start, start + rows, dtype=np.int32) % TASK.num_examples
    images = np.random.default_rng(start).normal(size=(rows, *TASK.image_shape)).astype(np.float32)
    examples = {"image": images, "label": index % TASK.num_classes, "index": index}
    text = np.tile(np.int32([1, 5, 19, 0, 0, 0]), (rows, 1, 1))
    views = (images[:, ::-1], 0.5 * images)
    taught = np.eye(TASK.num_classes, dtype=np.float32)[examples["label"]]
    return examples | {"views": views, "labeled": examples, "text": text, "teacher": taught}


def keys_of(objective, values):
    picked = {key: values[key] for key in objective.batch_keys}
    if objective.multi_label:  # the class and all that come after it
        picked["label"] = np.int32(np.arange(TASK.num_classes) >= picked["label"][:, None])
    return picked


def plan_first_epoch(objective, state):
    """Does what the loop does before an epoch."""
    if objective.plan_epoch is None:
        return state
    predict = jax.jit(objective.predict)
    embed = lambda key: np.asarray(  # noqa: E731
        predict(state.params, state.objective_state, batch(0, TASK.num_examples))[key], np.float32
    )
    plan = objective.plan_epoch(state.params, state.objective_state, 0, embed, jax.random.key(0))
    return state._replace(params=plan.params, objective_state=plan.objective_state)


def assert_finite(tree):
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        assert np.all(np.isfinite(leaf)), jax.tree_util.keystr(path)


def assert_survives_a_checkpoint(state, folder):
    state = jax.device_put(state, jax.devices()[0])
    target = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), state)
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(state, wait=True)
        restored, _ = checkpoints.restore_latest(lambda step: target)
    assert state_digest(restored) == state_digest(state)


@pytest.mark.parametrize(
    "name, network",
    [pytest.param(*pair, marks=() if QUICK[pair[0]] == pair[1] else pytest.mark.slow) for pair in PAIRS],
)
def test_the_objective_trains_the_backbone_or_names_it_in_its_refusal(name, network, tmp_path):
    objective, traces = make(name, network), []
    if isinstance(objective, ValueError):
        assert type(BACKBONES[network]).__name__ in str(objective)
        return

    def augment(rng, values):
        traces.append(rng)
        return values

    tx = optax.sgd(0.01, momentum=0.9)  # its memory is the gradient after one step
    state = jax.jit(make_init(objective, tx, keys_of(objective, batch())))(jax.random.key(0))
    state = plan_first_epoch(objective, state)
    step = jax.jit(make_train_step(objective, tx, augment))
    for number in range(2):
        state, metrics = step(state, keys_of(objective, batch(ROWS * number)))
        assert_finite({"metrics": metrics, "gradients": state.opt_state})
    assert len(traces) == 1
    assert any(jnp.any(leaf != 0) for leaf in jax.tree.leaves(state.opt_state[0].trace["backbone"]))
    assert_survives_a_checkpoint(state, tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_every_objective_takes_some_backbone(name):
    assert any(not isinstance(make(name, network), ValueError) for network in BACKBONES)


def test_only_mae_is_choosy_among_the_first_eleven():
    first = "cnn_rnn deepcluster fixmatch iic mae mixmatch multilabel pseudo_label simclr supervised trinet"
    refused = {pair for pair in PAIRS if pair[0] in first.split() and isinstance(make(*pair), ValueError)}
    assert refused == {("mae", network) for network in BACKBONES if network != "vit_tiny"}
