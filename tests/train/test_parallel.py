"""The forms of train.parallel, and how little the number of devices and processes matters.

The slow tests start processes of their own: python -m pytest -m slow tests/train/test_parallel.py -s shows
their table of equivalence, and takes about ten minutes on two cores.
"""

import functools
import importlib.util
import json
import os
import socket
import subprocess
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from imgcls_jax.config.resolve import resolve
from imgcls_jax.config.settings import PARALLEL
from imgcls_jax.config.written import plain
from imgcls_jax.contracts.objective import Task
from imgcls_jax.inference import trained
from imgcls_jax.models import lenet, simpleconv3
from imgcls_jax.objectives import iic, supervised
from imgcls_jax.runtime.stop import Interrupted
from imgcls_jax.train import compiled, sharding
from imgcls_jax.train.checkpoint import Checkpoints
from imgcls_jax.train.compiled import step_and_inputs
from imgcls_jax.train.initial import initial_state
from imgcls_jax.train.run import run
from imgcls_jax.train.setup import Setup
from imgcls_jax.train.state import TrainState, state_digest
from imgcls_jax.train.step import make_init, make_train_step
from tests.train.test_loop import digits_config, stop_after

ROOT = Path(__file__).parents[2]
TASK = Task(4, 64, steps_per_epoch=4, total_steps=8, image_shape=(32, 32, 3), axis_name="data")
ROWS = 32
tree_allclose = functools.partial(
    jax.tree.map, functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-5)
)


def config_of(form, **train):
    config = digits_config(**{"total_steps": 4, "log_every_steps": 1} | train)
    config["train"]["parallel"] = form
    config["model"] = {"name": "simpleconv3"}  # it has batch_stats
    config["objective"] |= {"ema_decay": 0.9, "dropout": 0.1}
    return config


@pytest.mark.parametrize(
    ("platform", "devices", "remat", "flags", "told"),
    [
        ("gpu", 2, True, "", True),
        ("gpu", 1, True, "", False),
        ("gpu", 2, False, "", False),
        ("cpu", 2, True, "", False),
        ("tpu", 2, True, "", False),
        ("gpu", 2, True, f"--{compiled.LATE_GRADIENTS}=true", False),
    ],
)
def test_of_what_is_computed_again_gpus_make_each_gradient_at_once(
    platform, devices, remat, flags, told, monkeypatch
):
    monkeypatch.setenv("XLA_FLAGS", flags)
    device = types.SimpleNamespace(platform=platform)
    setup = types.SimpleNamespace(
        mesh=types.SimpleNamespace(size=devices, devices=np.array([device] * devices)),
        settings=types.SimpleNamespace(model=types.SimpleNamespace(fields={"remat": remat})),
    )
    assert compiled._compiler_options(setup) == ({compiled.LATE_GRADIENTS: False} if told else None)


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}


@pytest.fixture
def small_pieces(monkeypatch):
    """Splits the leaves of small networks, too."""
    monkeypatch.setattr(sharding, "MIN_SPLIT_SIZE", 64)


# ---- where things lie


def test_a_leaf_is_split_along_its_longest_axis_that_divides():
    mesh = sharding.data_mesh()
    spec = lambda *shape: tuple(sharding.split_leaf(shape, mesh).spec)  # noqa: E731
    assert spec(25088, 4096) == ("data",) and spec(3, 3, 256, 512) == (None, None, None, "data")
    assert spec(1001, 512) == (None, "data")
    assert spec(1001, 513) == spec(255, 256) == spec() == ()


def test_params_optimizer_and_average_are_in_pieces_and_all_else_is_whole(small_pieces):
    setup = Setup(resolve(config_of("sharded")))
    state = initial_state(setup)
    for tree in (state.params, state.objective_state["ema"], state.opt_state):
        large = [leaf for leaf in jax.tree.leaves(tree) if leaf.size >= 1024]
        assert large and all(8 * leaf.addressable_shards[0].data.size == leaf.size for leaf in large)
    whole = (state.step, state.rng, state.objective_state["batch_stats"])
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(whole))
    assert jax.tree.map(lambda leaf: leaf.sharding, state) == setup.shardings(state)


def memory_of(config):
    """Returns (bytes of a device's arguments, of the whole state) of a compiled step; allocates neither."""
    setup = Setup(resolve(config))
    step, state, batch = step_and_inputs(setup, setup.phases[0])
    leaves = jax.tree.leaves(state)
    state_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    batch_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(batch)) / setup.mesh.size
    return step.lower(
        state, batch
    ).compile().memory_analysis().argument_size_in_bytes - batch_bytes, state_bytes


def memory_config(form, size, **model):
    config = config_of(form, batch_size=8)
    line = f"upsample({size}) | normalize(0.5, 0.5)"
    config["data"] |= {"train_transforms": line, "eval_transforms": line}
    return config | {"model": {"dtype": "float32", "pretrained": ""} | model}


SMALL_VIT = {"name": "vit", "variant": "vit_tiny", "width": 256, "depth": 1, "patch": 8}


@pytest.mark.parametrize(
    "size, model",
    [
        (16, SMALL_VIT),
        pytest.param(224, {"name": "vgg", "variant": "vgg16"}, marks=pytest.mark.slow),
        pytest.param(224, {"name": "vit", "variant": "vit_b16"}, marks=pytest.mark.slow),
    ],
)
def test_a_device_holds_an_eighth_of_the_state(size, model):
    pieces, state = memory_of(memory_config("sharded", size, **model))
    print(
        f"{model['variant']}: {state / 2**20:.1f} MiB of state, {pieces / 2**20:.1f} MiB on each of 8 devices"
    )
    assert state / 8 <= pieces < state / 8 * (1.1 if size == 224 else 1.25)
    if size < 224:
        whole, _ = memory_of(memory_config("replicated", size, **model))
        assert whole == pytest.approx(state, rel=0.01)


# ---- what is computed


def batch_of(rows=ROWS):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(rows, 32, 32, 3)).astype(np.float32)
    label = rng.integers(0, 4, rows).astype(np.int32)
    return {"image": image, "label": label, "views": (image, image[:, :, ::-1] * 0.9)}


def step_of(objective, axis_name, **options):
    tx = optax.sgd(0.1, momentum=0.9)
    batch = {key: batch_of()[key] for key in objective.batch_keys}
    state = jax.jit(make_init(objective, tx, batch))(jax.random.key(0))
    step = make_train_step(objective, tx, lambda rng, values: values, axis_name=axis_name, **options)
    if axis_name:
        step = sharding.per_replica(step, sharding.data_mesh())
    return jax.jit(step)(state, batch), state, batch


@pytest.mark.parametrize("algorithm", [iic, supervised])
@pytest.mark.parametrize("parts", [1, 2])
def test_without_batchnorm_replicas_compute_what_one_device_does(algorithm, parts):
    backbone = lenet.build("lenet5_cifar")
    if algorithm is iic and parts == 2:
        pytest.skip("which examples a part holds depends on the number of replicas, and IIC compares them")
    whole_task = Task(**{**vars(TASK), "axis_name": None})
    (one, metrics), _, _ = step_of(algorithm.make(backbone, whole_task), None, num_microbatches=parts)
    (all_of_them, theirs), _, _ = step_of(algorithm.make(backbone, TASK), "data", num_microbatches=parts)
    tree_allclose(metrics, theirs)
    tree_allclose(one.params, all_of_them.params)
    tree_allclose(one.objective_state, all_of_them.objective_state)
    assert any(jnp.any(leaf != 0) for leaf in jax.tree.leaves(one.opt_state[0].trace["backbone"]))


def test_each_replica_normalises_by_its_own_rows():
    """Against the mean of eight steps' gradients and statistics, each on its part of the batch."""
    objective = supervised.make(simpleconv3.build(channels=(4, 4, 8), hidden=(16, 8)), TASK, ema_decay=0.9)
    (new, metrics), state, batch = step_of(objective, "data")
    grad = jax.jit(jax.value_and_grad(objective.loss, has_aux=True))
    slices = [jax.tree.map(lambda leaf, i=i: leaf[4 * i : 4 * i + 4], batch) for i in range(8)]
    outputs = [
        grad(state.params, state.objective_state, part, jax.random.key(0), state.step) for part in slices
    ]
    mean = lambda *leaves: np.mean(leaves, axis=0)  # noqa: E731
    grads = jax.tree.map(mean, *[grads for _, grads in outputs])
    tree_allclose(new.opt_state[0].trace, grads)
    tree_allclose(
        new.objective_state["batch_stats"], jax.tree.map(mean, *[o[0][1][0]["batch_stats"] for o in outputs])
    )
    tree_allclose(metrics, jax.tree.map(mean, *[o[0][1][1] for o in outputs]))
    whole = grad(state.params, state.objective_state, batch, jax.random.key(0), state.step)[1]
    difference = jax.tree.map(lambda a, b: np.max(np.abs(a - b)), whole["backbone"], grads["backbone"])
    assert max(jax.tree.leaves(difference)) > 1e-3  # the global batch's statistics are others


def test_each_replica_draws_its_own_numbers_and_all_keep_one_carry():
    def augment(rng, values):
        return values | {"drawn": jax.random.uniform(rng, (1,))}

    def loss(params, objective_state, batch, rng, step):
        seen = objective_state["seen"].at[batch["index"]].set(batch["index"])
        value = params["w"] * jnp.sum(batch["drawn"])
        moved = {"seen": seen, "mean": batch["drawn"][0], "flag": objective_state["flag"]}
        return value, (moved, {"loss": value})

    objective = supervised.Objective(("index",), init=None, loss=loss, predict=None)
    objective_state = {"seen": jnp.full(8, -1), "mean": jnp.float32(0), "flag": jnp.bool_(True)}
    tx = optax.sgd(1.0)
    state = TrainState(
        jnp.int32(0), {"w": jnp.float32(0)}, objective_state, tx.init({"w": 0.0}), jax.random.key(0)
    )
    step = make_train_step(objective, tx, augment, axis_name="data")
    new, _ = jax.jit(sharding.per_replica(step, sharding.data_mesh()))(state, {"index": jnp.arange(8)})
    key = jax.random.fold_in(state.rng, 0)
    keys = [jax.random.split(jax.random.fold_in(key, replica))[0] for replica in range(8)]
    drawn = np.mean([jax.random.uniform(key, (1,)) for key in keys])
    assert new.params["w"] == pytest.approx(-drawn) and new.objective_state["mean"] == pytest.approx(drawn)
    assert new.objective_state["seen"].tolist() == list(range(8)) and bool(new.objective_state["flag"])


# ---- runs


@pytest.mark.parametrize("before, after", [(0, 1), (1, 2), (1, 0)])
def test_a_checkpoint_of_one_form_serves_another(before, after, small_pieces, tmp_path):
    one, other = (Setup(resolve(config_of(PARALLEL[form]))) for form in (before, after))
    state = initial_state(one)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, wait=True)
        restored, _ = checkpoints.restore_latest(other.target)
    assert state_digest(restored) == state_digest(state)
    assert jax.tree.map(lambda leaf: leaf.sharding, restored) == other.shardings(state)


@pytest.mark.slow
def test_a_run_goes_on_in_another_form(small_pieces, tmp_path, monkeypatch):
    """Up to step 4, replicated and sharded, the curve is that of a whole run; per_replica then leaves it."""
    whole = run(config_of("replicated", total_steps=6), tmp_path / "whole")
    for step, form in ((2, "replicated"), (4, "sharded")):
        with monkeypatch.context() as patch, pytest.raises(Interrupted):
            stop_after(patch, step)
            run(config_of(form, total_steps=6), tmp_path / "parts")
    result = run(config_of("per_replica", total_steps=6), tmp_path / "parts")
    assert result["resumed_from_step"] == 4
    one, other = losses(tmp_path / "whole"), losses(tmp_path / "parts")
    assert [one[step] for step in range(1, 5)] == pytest.approx(
        [other[step] for step in range(1, 5)], rel=1e-4
    )
    assert other[6] != one[6] and other[6] == pytest.approx(one[6], rel=0.2)
    assert whole["metrics"]["test"]["num_examples"] == result["metrics"]["test"]["num_examples"] == 359


@pytest.mark.parametrize("form", PARALLEL[1:])
def test_a_stopped_run_ends_as_one_that_was_not(form, small_pieces, tmp_path, monkeypatch):
    whole = run(config_of(form), tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_after(patch, 2)
        run(config_of(form), tmp_path / "parts")
    parts = run(config_of(form), tmp_path / "parts")
    assert parts["resumed_from_step"] == 2 and parts["state_digest"] == whole["state_digest"]
    evaluated = trained.evaluate(tmp_path / "parts")["test"]
    assert evaluated["loss"] == pytest.approx(parts["metrics"]["test"]["loss"], rel=1e-5)
    assert evaluated["num_examples"] == 359


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match="one of replicated, sharded, per_replica; got 'pmap'"):
        Setup(resolve(config_of("pmap")))


# ---- algorithms that compare all examples


def config_file(name, form, **train):
    spec = importlib.util.spec_from_file_location(name, ROOT / "configs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = plain(module.get_config("test"))
    config["train"] |= {"parallel": form, "log_every_steps": 1} | train
    return config


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits_simclr", "digits_deepcluster", "digits_iic"])
def test_forms_of_algorithms_that_compare_examples(name, small_pieces, tmp_path):
    curves, results = {}, {}
    for form in PARALLEL:
        results[form] = run(config_file(name, form), tmp_path / form)
        curves[form] = np.array(list(losses(tmp_path / form).values()))
        metric = {key: value for key, value in next(iter(results[form]["metrics"].values())).items()}
        apart = np.max(np.abs(curves[form] / curves["replicated"] - 1))
        print(f"{name} {form}: {len(curves[form])} steps, largest relative difference {apart:.1e}, {metric}")
    np.testing.assert_allclose(curves["sharded"], curves["replicated"], rtol=1e-3)
    np.testing.assert_allclose(curves["per_replica"], curves["replicated"], rtol=0.5)
    assert not np.array_equal(curves["per_replica"], curves["replicated"])


# ---- devices and processes


def start(folder, config, processes, devices, **variables):
    """Runs tests/train/recorded.py in so many processes and waits for them."""
    folder.mkdir(exist_ok=True)
    (folder / "wanted.json").write_text(json.dumps(config))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)}
    # As imgcls_jax.main has it: only process 0 would find programs there, maybe of another number of cores.
    environment |= {"JAX_ENABLE_COMPILATION_CACHE": "false"} if processes > 1 else {}
    environment |= {name: str(value) for name, value in variables.items()}
    command = [sys.executable, "-m", "tests.train.recorded", str(folder), str(port), str(processes)]
    options = {"cwd": ROOT, "env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    running = [subprocess.Popen([*command, str(i)], text=True, **options) for i in range(processes)]
    try:
        outputs = [process.communicate(timeout=400)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0] * processes, outputs


APART = """
import sys
from pathlib import Path
import jax, numpy as np, optax
from imgcls_jax.train import sharding
from imgcls_jax.train.checkpoint import Checkpoints
from imgcls_jax.train.initial import initial_state
from imgcls_jax.train.compiled import step_and_inputs
from imgcls_jax.train.state import TrainState

folder, port, process = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
jax.distributed.initialize(f"127.0.0.1:{port}", 2, process)
whole = sharding.replicated(sharding.data_mesh())

def state(step, weight):
    step, rng, weight = np.int32(step), jax.random.key_data(jax.random.key(0)), np.full(3, weight, np.float32)
    place = lambda leaf: jax.make_array_from_process_local_data(whole, np.asarray(leaf))
    return TrainState(place(step), {"w": place(weight)}, {}, {}, jax.random.wrap_key_data(place(rng)))

with Checkpoints(folder) as checkpoints:
    checkpoints.save(state(1, 1.0), wait=True)
    try:
        checkpoints.save(state(2, 1.0 + process * 1e-6), wait=True)
    except ValueError as error:
        print(error)
"""


def test_states_that_drifted_apart_are_not_saved(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", APART, str(tmp_path), str(port)]
    options = {"cwd": ROOT, "env": os.environ | {"JAX_NUM_CPU_DEVICES": "1"}, "stdout": subprocess.PIPE}
    running = [subprocess.Popen([*command, str(i)], text=True, **options) for i in range(2)]
    try:
        outputs = [process.communicate(timeout=60)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    for output in outputs:
        assert "differ in the state of step 2 (are they of as many cores?): " in output
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def recorded(folder, process=0):
    return [json.loads(line) for line in (folder / f"{process}.jsonl").read_text().splitlines()]


def batches_of(folder, processes):
    """Returns the indices of each global batch, int [steps, B]."""
    rows = [[line["index"] for line in recorded(folder, i) if "index" in line] for i in range(processes)]
    return np.concatenate(rows, axis=1)


def spread_config(form):
    """Draws on the host and on the device; 359 test examples in batches of 56; all its params in pieces."""
    config = config_of(form, total_steps=10, eval_batch_size=56)
    config["objective"]["ema_decay"] = 0.5  # so that ten steps show in the evaluation
    config["optimizer"] |= {"learning_rate": 0.3, "warmup_epochs": 0.0}  # and lead well above chance
    config["data"]["train_transforms"] = (
        "random_resized_crop(8, (0.6, 1.0)) | affine(10.0) | normalize(0.5, 0.5)"
    )
    config["model"] |= {"channels": (8, 16, 128), "hidden": (1024, 128)}
    return config


ONE_CORE = pytest.mark.skipif(
    hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) < 2,
    reason="on one core XLA gives a process of two devices more threads: they round otherwise, and BatchNorm "
    "over eight rows makes much of it",
)


@pytest.mark.slow
@pytest.mark.parametrize("form", [*PARALLEL[:2], pytest.param("per_replica", marks=ONE_CORE)])
def test_devices_and_processes_change_nothing_but_rounding(form, tmp_path):
    """Of per_replica the same holds for the same number of replicas; one alone has another BatchNorm."""
    print(f"\n{form:12}{'processes x devices':>21}{'curve':>12}{'order':>8}{'accuracy':>10}{'examples':>10}")
    for processes, devices in ((1, 8), (2, 4), (4, 2), (1, 1)):
        folder = tmp_path / f"{processes}x{devices}"
        start(folder, spread_config(form), processes, devices)
        curve = np.array(list(losses(folder / "run").values()))
        order = batches_of(folder, processes)
        result = json.loads((folder / "run" / "result.json").read_text())["metrics"]["test"]
        if devices == 8:
            first, visited, accuracy = curve, order, result["accuracy"]
        apart, same = np.max(np.abs(curve / first - 1)), np.array_equal(order, visited)
        print(
            f"{'':12}{f'{processes} x {devices}':>21}{apart:12.1e}{'same' if same else 'OTHER':>8}"
            f"{result['accuracy']:10.4f}{result['num_examples']:10d}"
        )
        assert same and order.shape == (10, 64) and result["num_examples"] == 359 and len(curve) == 10
        if form != "per_replica" or devices > 1:
            assert apart < 1e-3 and abs(result["accuracy"] - accuracy) < 0.01 and accuracy > 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    "form, before, after",
    [
        ("replicated", (2, 4), (1, 1)),
        ("replicated", (2, 4), (4, 1)),
        ("replicated", (1, 8), (1, 1)),
        ("sharded", (2, 4), (4, 2)),
        ("sharded", (1, 8), (1, 1)),
        ("per_replica", (2, 4), (1, 8)),
    ],
)
def test_a_run_goes_on_with_other_devices_and_processes(form, before, after, tmp_path):
    config = spread_config(form)
    start(tmp_path / "whole", config, 1, 8)
    start(tmp_path / "parts", config, *before, STOP_AFTER=4)
    first = batches_of(tmp_path / "parts", before[0])
    for record in (tmp_path / "parts").glob("*.jsonl"):
        record.unlink()
    start(tmp_path / "parts", config, *after)
    order = np.concatenate([first, batches_of(tmp_path / "parts", after[0])])
    assert np.array_equal(order, batches_of(tmp_path / "whole", 1))
    one, other = losses(tmp_path / "whole" / "run"), losses(tmp_path / "parts" / "run")
    np.testing.assert_allclose(list(other.values()), list(one.values()), rtol=1e-3)
    result = json.loads((tmp_path / "parts" / "run" / "result.json").read_text())
    assert result["resumed_from_step"] == 4 and result["metrics"]["test"]["num_examples"] == 359


@pytest.mark.slow
@pytest.mark.parametrize("form", PARALLEL)
def test_all_hosts_plan_the_same_epochs(form, tmp_path):
    config = config_file("digits_deepcluster", form, total_epochs=2.0, batch_size=256)
    config["model"]["channels"] = (8, 8, 16)
    config["objective"] |= {"num_clusters": 10, "kmeans_iterations": 5, "pca_dim": 8}
    config["evals"] = {}
    start(tmp_path, config, 2, 2)
    plans = [[line for line in recorded(tmp_path, i) if "assignments" in line] for i in range(2)]
    assert len(plans[0]) == 2 and plans[0] == plans[1]
    assert plans[0][0]["assignments"] != plans[0][1]["assignments"]


@pytest.mark.slow
def test_all_processes_leave_out_the_batch_of_which_one_reads_a_nan(tmp_path):
    """In process 1's half of batch 5; whether skipped or gone back from, it leaves one curve."""
    read_batches = {"skip": [1, 2, 3, 4, 5, 6, 7, 8], "rollback": [1, 2, 3, 4, 5, 6, 5, 6, 7, 8]}
    for policy, steps in read_batches.items():
        folder = tmp_path / policy
        config = config_of("replicated", total_steps=8, checkpoint_every_steps=2, on_nonfinite=policy)
        config["train"]["log_every_steps"] = 2
        order = Setup(resolve(config)).batches.order_of(0)[: 8 * 64].reshape(8, 64)
        poisoned = int(order[4, 40])
        start(folder, config, 2, 1, POISON=poisoned)
        assert np.array_equal(batches_of(folder, 2), order[np.array(steps) - 1])
        ends = [recorded(folder, i)[-1]["state"] for i in range(2)]
        assert ends[0] == ends[1]
        notes = list((folder / "run").glob("nonfinite_*"))
        assert [path.name for path in notes] == ["nonfinite_5.json"]
        note = json.loads(notes[0].read_text())
        assert note["on_nonfinite"] == policy and poisoned in note["indices"][32:]
    skipped, gone_back = (losses(tmp_path / policy / "run") for policy in read_batches)
    assert list(skipped) == [2, 4, 6, 8] and gone_back == pytest.approx(skipped, rel=1e-4)
