"""train.replicas: the same final state, to the bit, on 1, 2, 4 and 8 devices.

The slow tests train in processes of their own, compiled as a user's: python -m pytest -m slow
tests/train/test_replicas.py
"""

import json
import re

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from imgcls_jax.config import compare
from imgcls_jax.config.resolve import resolve
from imgcls_jax.runtime.stop import Interrupted
from imgcls_jax.train import replicas, sharding
from imgcls_jax.train.compiled import compile_step
from imgcls_jax.train.initial import initial_state
from imgcls_jax.train.run import run
from imgcls_jax.train.setup import Setup
from imgcls_jax.train.state import state_digest
from tests.train.test_loop import digits_config, stop_after
from tests.train.test_parallel import config_file, recorded, start, tree_allclose

STEPS = 3


def config_of(**train):
    """Returns a run of a network with BatchNorm, dropout, an average and draws on host and device."""
    config = digits_config(**{"total_steps": 6, "parallel": "per_replica", "replicas": 8} | train)
    config["model"] = {"name": "simpleconv3", "channels": (4, 8, 8), "hidden": (16, 8)}
    config["objective"] |= {"ema_decay": 0.9, "dropout": 0.1}
    config["optimizer"] |= {"warmup_epochs": 0.0}
    config["data"]["train_transforms"] = (
        "random_resized_crop(8, (0.6, 1.0)) | pad_and_crop(1) | normalize(0.5, 0.5)"
    )
    return config


def mesh_of(devices):
    types = (AxisType.Auto,)
    return jax.make_mesh((devices,), (sharding.AXIS,), axis_types=types, devices=jax.devices()[:devices])


def trained_on(devices, config, steps=STEPS):
    """Returns (state, its digest, the metrics of the steps) after some steps on so many devices."""
    setup = Setup(resolve(config), mesh=mesh_of(devices))
    state, step, told = initial_state(setup), compile_step(setup, setup.phases[0]), []
    beside = setup.beside_rows(setup.phases[0])
    for number in range(steps):
        rows = {key: setup.batches[number][key] for key in setup.spec}
        state, metrics = step(state, sharding.place(rows, setup.mesh) | beside)
        told.append(jax.device_get(metrics))
    return jax.device_get(state._replace(rng=None)), state_digest(state), told


@pytest.mark.parametrize("others", [(2,), pytest.param((1, 4), marks=pytest.mark.slow)])
def test_any_number_of_devices_ends_in_the_same_bits(others):
    _, digest, told = trained_on(8, config_of())
    for devices in others:
        _, other, theirs = trained_on(devices, config_of())
        assert other == digest and theirs == told


def test_a_replica_is_what_a_device_is_without_the_field():
    state, _, told = trained_on(8, config_of())
    by_device, _, metrics = trained_on(8, config_of(replicas=0))
    tree_allclose(state.params, by_device.params)
    tree_allclose(state.objective_state, by_device.objective_state)
    tree_allclose(told, metrics)


@pytest.mark.slow
def test_parts_and_a_watched_step_keep_the_bits():
    config = config_of(replicas=4, num_microbatches=2, on_nonfinite="skip")
    (_, one, told), (_, other, theirs) = (trained_on(devices, config, steps=2) for devices in (1, 4))
    assert one == other and told == theirs and told[0]["nonfinite"] == 0.0


@pytest.mark.slow
def test_a_labeled_stream_keeps_the_bits():
    config = config_of(replicas=2)
    config["data"] |= {"labels_per_class": 5, "labeled_batch_size": 32}
    config["objective"] = {"name": "fixmatch"}
    config["data"]["view_transforms"] = ("normalize(0.5, 0.5)", "pad_and_crop(1) | normalize(0.5, 0.5)")
    assert trained_on(1, config, steps=2)[1] == trained_on(2, config, steps=2)[1]


@pytest.mark.slow
def test_a_run_killed_on_eight_devices_goes_on_on_two(tmp_path, monkeypatch):
    """Within the first of two phases, whose backbone is frozen; its images lie on the devices."""

    def phased():
        config = config_of()
        del config["train"]["total_steps"]
        config["data"] |= {"on_device": True, "train_transforms": "pad_and_crop(1) | normalize(0.5, 0.5)"}
        head = {"total_steps": 4, "groups": (("backbone/.*", None),)}
        return config | {"phases": {"1_head": head, "2_all": {"total_steps": 2}}}

    whole = run(phased(), tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_after(patch, 2)
        run(phased(), tmp_path / "parts")
    monkeypatch.setattr(sharding, "data_mesh", lambda: mesh_of(2))
    parts = run(phased(), tmp_path / "parts")
    assert parts["resumed_from_step"] == 2 and parts["state_digest"] == whole["state_digest"]


def test_whole_numbers_take_the_largest_and_what_is_not_touched_stays():
    before = {"seen": np.int32([-1, -1]), "kept": np.float32([1.0]), "mean": np.float32([1.0])}
    outcomes = [
        replicas.Outcome({"seen": np.int32(seen), "kept": None, "mean": np.float32([step])}, {}, {})
        for seen, step in (([-1, 3], 1.0), ([5, -1], 3.0))
    ]
    found = []
    update = replicas.of_total(lambda state, outcome: found.append(outcome), 2)
    update(replicas.TrainState(0, {}, before, {}, None), replicas.added(*outcomes))
    moved = jax.tree.map(np.ndarray.tolist, jax.device_get(found[0].objective_state))
    assert moved == {"seen": [5, 3], "kept": [1.0], "mean": [3.0]}


# ---- what it does not go with


def refused(config, devices=8):
    with pytest.raises(ValueError) as told:
        Setup(resolve(config), mesh=mesh_of(devices))
    return str(told.value)


def test_numbers_that_do_not_divide_are_refused():
    assert "a power of two" in refused(config_of(replicas=6))
    assert "goes with config.train.parallel = 'per_replica'; got 'sharded'" in refused(
        config_of(parallel="sharded")
    )
    assert "replicas = 4 cannot be shared out evenly over 8 devices" in refused(config_of(replicas=4))
    assert re.search(
        "batch_size = 8 does not divide .* each of 16 replicas", refused(config_of(batch_size=8, replicas=16))
    )


@pytest.mark.parametrize("name", ["simclr", "iic", "moco", "dino"])
def test_a_loss_that_compares_all_examples_is_refused(name):
    config = config_of()
    config["objective"] = {"name": name}
    line = config["data"]["train_transforms"]
    config["data"]["view_transforms"] = (line, line)
    assert "compares the examples of all replicas; leave train.replicas at 0" in refused(config)


def test_what_needs_all_replicas_at_once_is_refused():
    config = config_of()
    config["objective"]["class_weights"] = "inverse_frequency"
    assert "divides by a sum over the examples of all replicas" in refused(config)
    config = config_of()
    config["optimizer"]["sam_radius"] = 0.05
    assert "sam_radius takes the gradients of all replicas twice" in refused(config)
    assert "plans epochs from embeddings" in refused(
        config_file("digits_deepcluster", "per_replica", replicas=8)
    )


def test_features_of_a_frozen_backbone_are_not_cached():
    config = config_of()
    config["data"]["train_transforms"] = "normalize(0.5, 0.5)"
    config["optimizer"]["groups"] = (("backbone/.*", None),)
    assert Setup(resolve(config)).phases[0].features is None
    config["train"]["replicas"] = 0
    assert Setup(resolve(config)).phases[0].features is not None


def test_without_the_field_a_run_has_the_digest_that_it_had():
    config = config_of(replicas=0)
    without = {**config, "train": {key: value for key, value in config["train"].items() if key != "replicas"}}
    one, other, eight = (
        compare.digest(Setup(resolve(own)).resolved) for own in (config, without, config_of())
    )
    assert one == other != eight


# ---- processes, compiled as a user's


def end_of(folder, devices, processes=1, config=None, **variables):
    """Returns the digest at the end of a run; None where it was stopped."""
    # On CPUs the number of threads decides how sums are shared out, and NPROC sets it.
    start(folder, config or config_of(), processes, devices, XLA_FLAGS="", NPROC=8, **variables)
    return recorded(folder, 0)[-1].get("state")


@pytest.mark.slow
def test_processes_of_any_number_of_devices_end_in_the_same_bits(tmp_path):
    ends = {
        (processes, devices): end_of(tmp_path / f"{processes}x{devices}", devices, processes)
        for processes, devices in ((1, 8), (1, 4), (1, 2), (1, 1), (2, 4))
    }
    assert end_of(tmp_path / "parts", 8, STOP_AFTER=4) is None
    ends["8, then 2"] = end_of(tmp_path / "parts", 2)
    assert json.loads((tmp_path / "parts" / "run" / "result.json").read_text())["resumed_from_step"] == 4
    assert len(set(ends.values())) == 1, ends
