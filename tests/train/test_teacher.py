"""A teacher: frozen, out of the state and the checkpoints, the same at a resume, and refused where it does
not fit."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.config.resolve import resolve
from imgcls_jax.contracts.objective import Teacher
from imgcls_jax.inference import export, trained
from imgcls_jax.runtime.stop import Interrupted
from imgcls_jax.tools import plan, replay
from imgcls_jax.train import teacher as teachers
from imgcls_jax.train.checkpoint import Checkpoints
from imgcls_jax.train.compiled import compile_step, step_and_inputs
from imgcls_jax.train.initial import initial_state
from imgcls_jax.train.run import run
from imgcls_jax.train.setup import Setup
from imgcls_jax.train.sharding import place
from imgcls_jax.train.state import state_digest
from tests.train.test_loop import digits_config, stop_after

STEPS = 4


def student_config(teacher, objective=None, **train):
    config = digits_config(total_steps=STEPS, log_every_steps=1, **train)
    config["model"] = {"name": "mlp", "hidden": (8,)}
    config["objective"] = {"name": "distillation", "teacher": str(teacher), **(objective or {})}
    return config


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """The workdir of a teacher with an average, whose statistics are its own."""
    workdir = tmp_path_factory.mktemp("teacher")
    config = digits_config(total_steps=4) | {"model": MODEL}
    config["objective"] |= {"ema_decay": 0.5}
    run(config, workdir)
    return workdir


@pytest.fixture(scope="module")
def finished(taught, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("student")
    return workdir, run(student_config(taught, {"ema_decay": 0.9}), workdir)


def setup_of(*arguments, **options):
    return Setup(resolve(student_config(*arguments, **options)))


def test_the_batch_gets_the_logits_of_the_teachers_prediction(taught):
    setup = setup_of(taught)
    rows = place({key: setup.batches[0][key] for key in setup.spec}, setup.mesh)
    prepared = setup.phases[0].augment(jax.random.key(0), rows | setup.beside_rows(setup.phases[0]))
    network = trained.load(taught)
    expected = network.objective.predict(network.params, network.objective_state, prepared)["logits"]
    np.testing.assert_allclose(prepared["teacher"], expected, rtol=1e-6)
    assert "ema" in network.objective_state and prepared["teacher"].dtype == jnp.float32


def test_the_state_and_the_checkpoints_hold_nothing_of_it(taught, finished):
    workdir, _ = finished
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        tree = checkpoints._tree_of(STEPS)
    shapes = {
        tuple(leaf.shape) for leaf in jax.tree.leaves(tree, is_leaf=lambda leaf: hasattr(leaf, "shape"))
    }
    theirs = {
        tuple(leaf.shape) for leaf in jax.tree.leaves(setup_of(taught).teacher.variables[0]["backbone"])
    }
    assert not {shape for shape in theirs if len(shape) == 4} & shapes
    assert set(tree) == {"step", "params", "carry", "opt_state", "rng"}
    kept = json.loads((workdir / "teacher.json").read_text())
    assert kept == {"of": f"step 4 of {taught}", "sha256": setup_of(taught).teacher.digest}


def test_a_stopped_run_goes_on_to_the_bit(taught, finished, tmp_path, monkeypatch):
    config = student_config(taught, {"ema_decay": 0.9})
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Interrupted):
            run(config, tmp_path)
    assert run(config, tmp_path)["state_digest"] == finished[1]["state_digest"]


@pytest.mark.parametrize(
    "fields",
    [
        {"parallel": "per_replica"},
        {"parallel": "per_replica", "replicas": 8},
        {"parallel": "sharded"},
        {"num_microbatches": 2},
    ],
)
def test_the_forms_of_a_step_agree(taught, fields, finished, tmp_path):
    result = run(student_config(taught, {"ema_decay": 0.9}, **fields), tmp_path)
    found, expected = (r["metrics"]["test"]["loss"] for r in (result, finished[1]))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_other_weights_are_refused_at_a_resume_and_at_a_replay(taught, tmp_path, monkeypatch):
    config = student_config(taught)
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Interrupted):
            run(config, tmp_path)
    kept = json.loads((tmp_path / "teacher.json").read_text())
    (tmp_path / "teacher.json").write_text(json.dumps(kept | {"sha256": "0" * 64}))
    message = f"was taught by step 4 of {taught}, and config.objective.teacher = .* holds other weights now"
    with pytest.raises(ValueError, match=message):
        run(config, tmp_path)
    with pytest.raises(ValueError, match=message):
        replay.find(Setup(resolve(config)), tmp_path, 2)
    (tmp_path / "teacher.json").write_text("{}")
    with pytest.raises(ValueError, match=r"teacher\.json is damaged: remove it"):
        run(config, tmp_path)


def test_a_replay_repeats_the_step(taught, tmp_path):
    config = student_config(taught)
    run(config, tmp_path)
    lines, bad = replay.report(Setup(resolve(config)), tmp_path, 3)
    assert not bad and "images with a loss that is not finite, each alone: 0 of 64" in lines


def test_a_finished_student_is_evaluated_without_its_teacher(taught, finished, tmp_path):
    workdir, result = finished
    config = json.loads((workdir / "config.json").read_text())
    assert trained.load(workdir).objective.teacher == Teacher(str(taught))
    config["resolved"]["objective"]["teacher"] = config["written"]["objective"]["teacher"] = "gone"
    (workdir / "config.json").write_text(json.dumps(config))
    assert trained.evaluate(workdir)["test"] == result["metrics"]["test"]


def test_plan_counts_it_apart(taught):
    config = resolve(student_config(taught))
    phase = plan.plan(config, None)["phases"][0]
    setup = Setup(config)
    assert phase["beside_bytes"] == plan.tree_bytes(setup.teacher.variables)
    assert phase["input_bytes_per_step"] < phase["beside_bytes"]
    assert setup.beside_rows(setup.phases[0]).keys() == {"teacher"}


# ---- an export, a file of weights


@pytest.fixture(scope="module")
def exported(taught, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    export.write(trained.load(taught), folder, ("cpu",))
    return folder


MODEL = {"name": "simpleconv3"}


def test_an_export_and_its_weights_teach_as_the_workdir_does(taught, exported):
    wanted = setup_of(taught).teacher
    images = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 8, 1)), jnp.float32)
    for path in (exported, exported / "weights.safetensors"):
        teacher = setup_of(path, {"teacher_model": MODEL}).teacher
        np.testing.assert_allclose(
            teacher.logits(teacher.variables, images), wanted.logits(wanted.variables, images), rtol=1e-6
        )


def test_weights_without_a_classifier_are_refused(exported, tmp_path):
    from safetensors.numpy import load_file, save_file

    arrays = load_file(exported / "weights.safetensors")
    save_file({k: a for k, a in arrays.items() if not k.startswith("head/")}, tmp_path / "trunk.safetensors")
    teacher = setup_of(tmp_path / "trunk.safetensors", {"teacher_model": MODEL}).teacher
    with pytest.raises(ValueError, match="trunk.safetensors classifies no 10 classes: .* not in the file"):
        _ = teacher.variables


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"teacher_model": {"name": "simpelconv3"}}, "model.name"),
        ({}, "give objective.teacher_model the fields of the section model"),
    ],
)
def test_weights_need_their_network(exported, fields, message):
    with pytest.raises(ValueError, match=f"config.objective.teacher = .*{message}"):
        setup_of(exported, fields)


def test_a_damaged_export_is_named(exported, tmp_path):
    (tmp_path / "weights.safetensors").write_bytes((exported / "weights.safetensors").read_bytes())
    description = json.loads((exported / "export.json").read_text())
    for fields, message in (
        ({"class_names": 3}, "export.json is damaged"),
        ({"image_shape": [2**20, 2**20, 3]}, "larger than any network reads"),
        ({"eval_transforms": "normalise(0.5)"}, "normalise"),
    ):
        (tmp_path / "export.json").write_text(json.dumps(description | fields))
        with pytest.raises(ValueError, match=message):
            setup_of(tmp_path, {"teacher_model": MODEL})


# ---- what does not fit


def changed(config, **sections):
    for name, fields in sections.items():
        config[name] |= fields
    return config


@pytest.mark.parametrize(
    "sections, message",
    [
        ({"data": {"known_classes": 4}}, "knows 10 classes, and this run has 4: a teacher has the same"),
        (
            {"data": {"train_transforms": "upsample(24) | normalize(0.5, 0.5)"}},
            r"was trained on images of \(8, 8, 1\), and this run makes \(24, 24, 1\)",
        ),
        (
            {"data": {"eval_transforms": "normalize(0.0, 1.0)"}},
            r"whose black is \(-1\) and whose white is \(1\); here they are \(0\) and \(1\)",
        ),
        ({"objective": {"teacher_model": MODEL}}, "is a workdir, which says its network itself"),
        (
            {"objective": {"teacher": "nowhere"}},
            "'nowhere': does not exist: train the teacher first",
        ),
        ({"objective": {"teacher": ""}}, "objective.teacher is the workdir of a trained network"),
        ({"objective": {"temperature": 0.0}}, "objective.temperature is above 0"),
        ({"objective": {"teacher_weight": 1.5}}, r"objective.teacher_weight lies in \[0, 1\]"),
    ],
)
def test_what_does_not_fit_is_named(taught, sections, message):
    with pytest.raises(ValueError, match=message):
        Setup(resolve(changed(student_config(taught), **sections)))


def test_classes_in_another_order_are_named(taught, tmp_path):
    seen = setup_of(taught).teacher.seen
    names = (*seen.class_names[:8], "9", "8")
    with pytest.raises(ValueError, match="has 10; the first that differs is '8', here '9'"):
        teachers.open_teacher(Teacher(str(taught)), seen._replace(class_names=names), None)


def test_the_middle_of_a_line_may_differ():
    one = teachers.levels("upsample(24) | normalize((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))", (8, 8, 3))
    other = teachers.levels("normalize((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))", (16, 16, 3))
    np.testing.assert_allclose(one, other, atol=1e-6)
    np.testing.assert_allclose(one[1], [1.8, 1.6, 1.4], rtol=1e-5)


def test_an_objective_with_one_half_of_the_contract_is_refused(taught):
    from imgcls_jax.objectives import distillation
    from imgcls_jax.train import contract

    setup = setup_of(taught)
    half = dataclasses.replace(setup.objective, teacher=None)
    with pytest.raises(ValueError, match="a teacher where batch_keys name 'teacher', and only there"):
        contract.check_objective(half, distillation.make)


def test_the_teacher_stays_while_the_student_moves(taught):
    setup = setup_of(taught)
    step, *_ = step_and_inputs(setup, setup.phases[0])
    del step
    compiled, state = compile_step(setup, setup.phases[0]), initial_state(setup)
    before, digest = setup.teacher.digest, state_digest(state)
    rows = place({key: setup.batches[0][key] for key in setup.spec}, setup.mesh)
    state, metrics = compiled(state, rows | setup.beside_rows(setup.phases[0]))
    del setup.teacher.__dict__["digest"]
    assert setup.teacher.digest == before and state_digest(state) != digest
    assert {"loss_labels", "loss_teacher", "agreement", "loss"} == set(metrics)
