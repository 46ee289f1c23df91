"""Phases of a run, frozen params, and features computed once."""

import jax
import numpy as np
import pytest

from imgcls_jax.config.resolve import resolve
from imgcls_jax.layers.frozen import Frozen, Precomputed
from imgcls_jax.models import simpleconv3
from imgcls_jax.runtime.stop import Interrupted
from imgcls_jax.train.checkpoint import Checkpoints
from imgcls_jax.train.compiled import compile_step
from imgcls_jax.train.initial import initial_state
from imgcls_jax.train.run import run, train
from imgcls_jax.train.setup import Setup
from tests.train.test_loop import digits_config, stop_after

FREEZE = [["backbone/.*", None]]


def config_of(phases, **train):
    config = digits_config(**train) | {"model": {"name": "simpleconv3"}}  # it has batch_stats
    del config["train"]["total_steps"]
    config["optimizer"] |= {"schedule": "constant", "learning_rate": 0.05, "warmup_epochs": 0.0}
    return config | {"phases": phases}


def two_phases(**train):
    first = {"total_steps": 6, "learning_rate": 0.5, "groups": FREEZE}
    second = {"total_steps": 5, "groups": [["backbone/.*", 0.1]], "schedule": "cosine"}
    return config_of({"1_head": first, "2_all": second}, **train)


def state_of(workdir, setup, step):
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        where = setup.sharding
        return checkpoints.restore_for_prediction(str(step), where)[1:]


def equal(one, other):
    return all(jax.tree.leaves(jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), one, other)))


def test_the_trunk_stays_in_the_first_phase_and_moves_in_the_second(tmp_path, capsys):
    config = two_phases(checkpoint_every_steps=6, keep_checkpoints=3)
    setup = Setup(resolve(config))
    before = initial_state(setup)
    train(setup, tmp_path)
    params, objective_state = state_of(tmp_path, setup, 6)
    assert equal(params["backbone"], before.params["backbone"])
    assert equal(objective_state["batch_stats"], before.objective_state["batch_stats"])
    assert not equal(params["head"], before.params["head"])
    last, objective_state = state_of(tmp_path, setup, 11)
    assert not equal(last["backbone"], before.params["backbone"])
    assert not equal(objective_state["batch_stats"], before.objective_state["batch_stats"])
    shown = capsys.readouterr().out
    assert "phase 1_head: steps 0 to 6" in shown and "phase 2_all: steps 6 to 11" in shown
    assert "features of the frozen backbone computed once: [1438, 128]" in shown


@pytest.mark.parametrize("stop", [4, 6, 9])
def test_a_run_of_two_phases_resumes_to_the_bit(stop, tmp_path, monkeypatch):
    config = two_phases()
    whole = run(config, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_after(patch, stop)
        with pytest.raises(Interrupted):
            run(config, tmp_path / "parts")
    parts = run(config, tmp_path / "parts")
    assert parts["resumed_from_step"] == stop
    assert parts["state_digest"] == whole["state_digest"]


def test_a_frozen_trunk_costs_no_backward_pass_and_no_optimizer_memory():
    frozen = Setup(resolve(config_of({"1": {"total_steps": 2, "groups": FREEZE}}, feature_cache_gib=0.0)))
    free = Setup(resolve(config_of({"1": {"total_steps": 2}})))
    flops = [compile_step(s, s.phases[0]).cost_analysis()["flops"] for s in (frozen, free)]
    assert flops[0] < 0.45 * flops[1]  # a forward pass is about a third of a step
    kept = sum(leaf.size for leaf in jax.tree.leaves(frozen.target(2).opt_state))
    head = sum(leaf.size for leaf in jax.tree.leaves(frozen.target(2).params["head"]))
    assert kept <= head + 4  # the momentum of the head, and counters
    assert frozen.phases[0].why_not_cached.startswith("they would take")


@pytest.mark.parametrize("images_per_class", [1, 4])
def test_cached_features_change_no_result(images_per_class, tmp_path):
    results = []
    for name, gib in (("cached", 1.0), ("not", 0.0)):
        config = config_of({"1": {"total_steps": 12, "groups": FREEZE}}, feature_cache_gib=gib)
        config["data"] = config["data"] | {"images_per_class": images_per_class}
        setup = Setup(resolve(config))
        assert (setup.phases[0].features is not None) == bool(gib)
        train(setup, tmp_path / name)
        results.append(state_of(tmp_path / name, setup, 12)[0]["head"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), *results)


@pytest.mark.parametrize(
    ("section", "fields", "reason"),
    [
        ("data", {"train_transforms": "flip | normalize(0.5, 0.5)"}, "flip of train_transforms"),
        ("objective", {"mixup_alpha": 0.2}, "reads the images"),
        ("data", {"on_bad_example": "skip"}, "on_bad_example"),
        ("data", {"augmentation_repeats": 2}, "augmentation_repeats"),
    ],
)
def test_features_are_not_cached_where_that_would_change_a_result(section, fields, reason):
    config = config_of({"1": {"total_steps": 2, "groups": FREEZE}})
    config[section] |= fields
    phase = Setup(resolve(config)).phases[0]
    assert phase.features is None and reason in phase.why_not_cached


def test_a_phase_may_have_transforms_of_its_own(tmp_path):
    first = {"total_steps": 3, "groups": FREEZE, "train_transforms": "normalize(0.5, 0.5)"}
    config = config_of({"1": first, "2": {"total_steps": 2}})
    config["data"]["train_transforms"] = "flip | normalize(0.5, 0.5)"
    setup = Setup(resolve(config))
    assert setup.phases[0].features is not None and setup.phases[1].features is None
    assert train(setup, tmp_path)["steps"] == 5


@pytest.mark.parametrize(
    ("phases", "train", "message"),
    [
        ({"1": {"learning_rate": 1.0}}, {}, "config.phases.1 needs its length"),
        ({"1": {"total_steps": 3}}, {"total_steps": 3}, "config.train.total_steps: with config.phases"),
        ({"1": {"total_steps": 3, "learning_rat": 1.0}}, {}, "did you mean 'learning_rate'|learning_rat"),
        ({"1": {"total_steps": 3, "train_transforms": "flop"}}, {}, "config.phases.1.train_transforms"),
        ({"1": {"total_steps": 3, "total_epochs": 1.0}}, {}, "config.phases.1 needs its length"),
        ({"1": {"total_steps": 1.5}}, {}, "config.phases.1 needs its length"),
        ({"1": {"total_epochs": 0.0}}, {}, "config.phases.1 needs its length, at least one step"),
    ],
)
def test_mistakes_in_phases_are_named(phases, train, message):
    config = config_of(phases)
    config["train"] |= train
    with pytest.raises(ValueError, match=message):
        Setup(resolve(config))


def test_a_batch_norm_in_a_frozen_part_keeps_its_statistics():
    backbone = simpleconv3.build()
    images = jax.random.normal(jax.random.key(0), (4, 16, 16, 3))
    variables = backbone.init(jax.random.key(1), images, train=False)
    first = lambda path, _: "1" in jax.tree_util.keystr(path[:1])  # noqa: E731
    held = Frozen(backbone, jax.tree_util.tree_map_with_path(first, variables["params"]))
    features, moved = held.apply(variables, images, train=True, mutable=["batch_stats"])
    before, after = variables["batch_stats"], moved["batch_stats"]
    assert equal(before["bn1"], after["bn1"])
    assert not equal(before["bn2"], after["bn2"])
    plain, _ = backbone.apply(variables, images, train=True, mutable=["batch_stats"])
    assert not np.allclose(features.map, plain.map)  # it normalises by them too


def test_a_backbone_frozen_whole_runs_as_in_evaluation():
    backbone = simpleconv3.build()
    images = jax.random.normal(jax.random.key(0), (4, 16, 16, 3))
    variables = backbone.init(jax.random.key(1), images, train=False)
    held = Frozen(backbone, jax.tree.map(lambda leaf: True, variables["params"]))
    features, moved = held.apply(variables, images, train=True, mutable=["batch_stats"])
    wanted = backbone.apply(variables, images, train=False)
    assert equal(features, wanted) and equal(moved["batch_stats"], variables["batch_stats"])
    again, moved = Precomputed(backbone).apply(variables, wanted, train=True, mutable=["batch_stats"])
    assert again is wanted and moved["batch_stats"] is variables["batch_stats"]
