"""A configuration resolved: what is left out, what is changed, what is compared at a resume."""

import copy
import json
from pathlib import Path

import pytest

from imgcls_jax.config import compare, files, settings
from imgcls_jax.config.resolve import resolve, resolve_data
from imgcls_jax.config.written import plain, sections
from imgcls_jax.inference import trained
from imgcls_jax.train import workdir
from imgcls_jax.train.run import run

ROOT = Path(__file__).parents[2]
DIGITS = {
    "data": {
        "source": "digits",
        "train_transforms": "normalize(0.5, 0.5)",
        "eval_transforms": "normalize(0.5, 0.5)",
    },
    "model": {"name": "mlp", "hidden": [8]},
    "objective": {"name": "supervised"},
    "optimizer": {"name": "sgd", "learning_rate": 0.05, "momentum": 0.9},
    "train": {"batch_size": 64, "total_steps": 4, "log_every_steps": 2},
    "evals": {"test": {"evaluator": "classification", "split": "test"}},
}


def digits(**changes):
    """Returns the configuration with fields changed, such as train__seed=1."""
    config = copy.deepcopy(DIGITS)
    for name, value in changes.items():
        section, _, field = name.partition("__")
        config[section][field] = value
    return config


def digest(config, steps_per_epoch=22):
    return compare.digest(resolve(config).in_steps(steps_per_epoch))


def test_every_field_is_filled():
    resolved = resolve(DIGITS).resolved
    assert resolved["train"]["seed"] == 0 and resolved["train"]["feature_cache_gib"] == 4.0
    assert resolved["objective"]["effective_beta"] == 0.999
    assert resolved["optimizer"]["nesterov"] is False and resolved["optimizer"]["warmup_steps"] == 0
    assert resolved["model"]["variant"] == "mlp" and resolved["model"]["dtype"] is None
    assert resolved["data"]["root"] is None and resolved["data"]["prefetch_batches"] == 4
    assert resolved["evals"]["test"] == {"evaluator": "classification", "views": None, "split": "test"}
    assert json.loads(json.dumps(resolved)) == resolved


@pytest.mark.parametrize(
    "written",
    [
        {"objective__label_smoothing": 0.0},
        {"optimizer__clip_norm": 0.0, "optimizer__nesterov": False},
        {"optimizer__warmup_epochs": 0.0},
        {"model__variant": "mlp", "model__pretrained": "", "model__dtype": None},
        {"train__seed": 0, "train__eval_every_epochs": 0},
        {"train__num_microbatches": 1, "optimizer__weight_decay": 0},
        {"data__num_threads": 7},
    ],
)
def test_a_default_written_or_left_out_is_the_same_run(written):
    assert digest(digits(**written)) == digest(DIGITS)


def test_epochs_and_steps_that_mean_the_same_are_the_same_run():
    one, other = digits(), digits(optimizer__warmup_epochs=2.0)
    one["optimizer"]["warmup_steps"] = 44
    del one["train"]["total_steps"], other["train"]["total_steps"]
    one["train"]["total_epochs"], other["train"]["total_examples"] = 3, 66 * 64
    assert digest(one) == digest(other)
    assert resolve(one).in_steps(22)["train"]["total_steps"] == 66
    assert digest(one) != digest(one, steps_per_epoch=23)


def test_a_younger_field_of_an_evaluator_that_says_nothing_is_not_counted():
    """The digests of runs that are older than the fields stay."""

    def evaluated(**fields):
        own = {"evaluator": "classification_report", "split": "test"}
        return resolve(digits() | {"evals": {"any": own | fields}}).in_steps(22)

    older = copy.deepcopy(evaluated())
    del older["evals"]["any"]["bootstrap"], older["evals"]["any"]["temperature_split"]
    assert compare.digest(older) == compare.digest(evaluated())
    assert compare.digest(evaluated(bootstrap=1000)) != compare.digest(older)
    assert compare.digest(evaluated(temperature_split="train")) != compare.digest(older)


def test_what_matters_changes_the_digest():
    assert digest(digits(train__seed=1)) != digest(DIGITS)
    assert digest(digits(optimizer__momentum=0.8)) != digest(DIGITS)


def test_a_default_left_out_is_resumed(tmp_path):
    first = run(digits(objective__label_smoothing=0.0, optimizer__warmup_epochs=0.0), tmp_path)
    again = run(DIGITS, tmp_path)
    assert again["config_digest"] == first["config_digest"] and again["steps"] == 4


def test_a_default_changed_in_the_code_is_refused(tmp_path, monkeypatch):
    run(DIGITS, tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    field = settings.OptimizerSettings.__dataclass_fields__["decay_params"]
    assert field.default == r".*/kernel"
    changed = settings.OptimizerSettings.__init__.__defaults__
    new = tuple(".*" if value == field.default else value for value in changed)
    monkeypatch.setattr(settings.OptimizerSettings.__init__, "__defaults__", new)
    with pytest.raises(
        ValueError, match=r"optimizer.decay_params: '.\*/kernel' in the workdir, '.\*' now"
    ) as e:
        run(DIGITS, tmp_path)
    assert "a default of the code, which has changed" in str(e.value)
    assert (tmp_path / "config.json").read_bytes() == before


def test_a_field_that_is_new_in_the_code_changes_no_run_by_itself(tmp_path):
    whole = run(DIGITS, tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    del content["resolved"]["optimizer"]["weight_decay"], content["resolved"]["data"]["oversample"]
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert run(DIGITS, tmp_path)["state_digest"] == whole["state_digest"]
    with pytest.raises(ValueError, match="optimizer.weight_decay: 'absent' in the workdir, 0.8 now"):
        run(digits(optimizer__weight_decay=0.8), tmp_path)


def test_what_is_written_otherwise_is_told_from_a_default(tmp_path):
    run(DIGITS, tmp_path)
    with pytest.raises(ValueError, match="optimizer.momentum: 0.9 in the workdir, 0.8 now") as refused:
        run(digits(optimizer__momentum=0.8), tmp_path)
    assert "default" not in str(refused.value)


@pytest.mark.parametrize("schedule", ["constant", "step"])
def test_a_finished_run_may_become_longer(schedule, tmp_path):
    fields = {"optimizer__schedule": schedule}
    fields |= {"optimizer__decay_every_steps": 3} if schedule == "step" else {}
    whole = run(digits(train__total_steps=8, **fields), tmp_path / "whole")
    run(digits(**fields), tmp_path / "grown")
    grown = run(digits(train__total_steps=8, **fields), tmp_path / "grown")
    assert grown["steps"] == 8 and grown["resumed_from_step"] == 4
    assert grown["state_digest"] == whole["state_digest"]
    assert json.loads((tmp_path / "grown" / "result_4.json").read_text())["steps"] == 4
    with pytest.raises(ValueError, match="train.total_steps: 8 in the workdir, 4 now"):
        run(digits(**fields), tmp_path / "grown")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"optimizer__schedule": "cosine"}, "optimizer.schedule = 'cosine' spreads over all of the run"),
        ({"objective__name": "pseudo_label"}, "the objective 'pseudo_label' reads the length of the run"),
    ],
)
def test_a_run_whose_numbers_depend_on_its_length_may_not(fields, reason, tmp_path):
    labels = {"data__labels_per_class": 4, "data__labeled_batch_size": 16}
    fields |= labels if "objective__name" in fields else {}
    run(digits(**fields), tmp_path)
    with pytest.raises(ValueError, match=f"has 4 steps and cannot become one of 8: {reason}"):
        run(digits(train__total_steps=8, **fields), tmp_path)
    assert json.loads((tmp_path / "result.json").read_text())["steps"] == 4


def test_another_length_of_an_epoch_is_refused(tmp_path):
    run(DIGITS, tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(content | {"steps_per_epoch": 21}))
    (tmp_path / "result.json").unlink()
    with pytest.raises(ValueError, match="a run of 21 steps an epoch, and the training split has 22 now"):
        run(DIGITS, tmp_path)


def test_a_workdir_of_the_first_version_resumes_and_predicts(tmp_path, caplog):
    """Its config.json was the written form alone, with one field under its former name."""
    first = run(DIGITS, tmp_path)
    (tmp_path / "result.json").unlink()
    old = digits(train__accumulate_steps=1, objective__label_smoothing=0.0)
    (tmp_path / "config.json").write_text(json.dumps(old))
    assert trained.evaluate(tmp_path)["test"]["accuracy"] == first["metrics"]["test"]["accuracy"]
    again = run(DIGITS, tmp_path)
    assert again["resumed_from_step"] == 4 and again["state_digest"] == first["state_digest"]
    assert "of a version that kept no defaults" in caplog.text
    assert workdir.load_configuration(tmp_path).resolved["train"]["num_microbatches"] == 1


@pytest.mark.parametrize(("former", "present"), [(False, ""), (True, "box")])
def test_a_workdir_with_a_field_under_its_former_name(tmp_path, former, present):
    config = digits()
    config["data"] |= {"source": "cub200", "root": "data"}
    resolved = resolve(config).in_steps(22)
    del resolved["data"]["region"]
    for form in (config, resolved):
        form["data"]["crop_to_box"] = former
    content = {"written": config, "resolved": resolved, "steps_per_epoch": 22}
    (tmp_path / "config.json").write_text(json.dumps(content))
    loaded = workdir.load_configuration(tmp_path)
    assert loaded.data.fields["region"] == present and loaded.written["data"]["region"] == present
    same = copy.deepcopy(config)
    del same["data"]["crop_to_box"]
    same["data"]["region"] = present
    assert compare.differing_fields(loaded.in_steps(22), resolve(same).in_steps(22)) == {}


def test_a_workdir_of_the_first_version_that_says_the_same_in_other_words(tmp_path):
    """Its configurations wrote float32 and a decay of 0, and its averages had no warm-up."""
    first = run(digits(objective__ema_decay=0.9, objective__ema_warmup=False), tmp_path)
    (tmp_path / "result.json").unlink()
    old = digits(objective__ema_decay=0.9, model__dtype="float32")
    (tmp_path / "config.json").write_text(json.dumps(old))
    again = run(digits(objective__ema_decay=0.9, objective__ema_warmup=False), tmp_path)
    assert again["resumed_from_step"] == 4 and again["state_digest"] == first["state_digest"]
    assert digest(digits(objective__ema_decay=0.0)) == digest(digits(objective__ema_decay=None))


def test_a_run_is_loaded_with_the_values_it_used(tmp_path, monkeypatch):
    run(DIGITS, tmp_path)
    defaults = settings.DataSettings.__init__.__defaults__
    monkeypatch.setattr(settings.DataSettings.__init__, "__defaults__", defaults)
    content = json.loads((tmp_path / "config.json").read_text())
    content["resolved"]["objective"]["effective_beta"] = 0.5  # as if that had been the default then
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert trained.load(tmp_path).settings.objective.fields["effective_beta"] == 0.5


def test_phases_are_resolved_on_top_of_the_optimizer():
    config = digits(optimizer__warmup_epochs=1.0)
    del config["train"]["total_steps"]
    config["phases"] = {
        "1": {"total_epochs": 2, "learning_rate": 1.0, "warmup_steps": 3},
        "2": {"total_steps": 5, "name": "adamw", "train_transforms": "flip | normalize(0.5, 0.5)"},
    }
    first, second = resolve(config).settings(22).phases
    assert (first.total_steps, second.total_steps) == (44, 5)
    assert first.optimizer.warmup_steps == 3 and second.optimizer.warmup_steps == 22
    assert first.optimizer.fields["momentum"] == 0.9 and "momentum" not in second.optimizer.fields
    assert first.train_transforms == "normalize(0.5, 0.5)" and second.train_transforms.startswith("flip")
    assert resolve(config).settings(22).train.total_steps == 49


def test_the_data_alone():
    assert resolve_data(DIGITS["data"]).num_threads == 2
    with pytest.raises(ValueError, match="config.data.roots: no such field; did you mean 'root'"):
        resolve_data(DIGITS["data"] | {"roots": "x"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer__momentun": 0.9}, "config.optimizer.momentun: no such field; did you mean 'momentum'"),
        ({"optimizer__b1": 0.9}, "config.optimizer.b1: no such field"),
        ({"train__total_epochs": 3.0}, "total_steps and total_epochs are one duration"),
        ({"train__accumulate_steps": 2}, "is called train.num_microbatches"),
        ({"data__crop_to_box": True}, "is called data.region now; write '' for False; write 'box' for True"),
        ({"model__widht": 3}, "config.model: .*widht"),
        ({"evals__test": {"evaluator": "classification"}}, "config.evals.test.split is missing"),
        ({"evals__test": {"evaluator": "knn", "split": "test", "views": 3}}, "config.evals.test.views"),
    ],
)
def test_mistakes_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        resolve(digits(**changes))


# ---- the empty configuration of a file


def test_sections_and_options():
    config, options = sections("compact,test", compact=False, two_streams=False, test=False)
    assert options.compact and options.test and not options.two_streams
    config.data.source = "digits"
    assert plain(config)["data"] == {"source": "digits"} and plain(config)["phases"] == {}
    with pytest.raises(ValueError, match="no option 'compakt'; it has compact, test"):
        sections("compakt", compact=False, test=False)


def test_read_config_is_the_command_lines(tmp_path):
    config = files.read_config(["--config=configs/digits_simpleconv3.py:test", "--config.train.seed=3"])
    assert resolve(config).seed == 3


def test_a_duration_above_nothing_is_a_step_at_least():
    """Of 4 steps an epoch: what rounds to 0 would switch off, or end a run before it begins."""
    config = digits()
    del config["train"]["total_steps"]
    config["train"] |= {"total_epochs": 0.1, "eval_every_epochs": 0.1, "checkpoint_every_examples": 1}
    config["optimizer"] |= {"warmup_epochs": 0.1, "decay_at_epochs": [0.0, 0.1, 0.6]}
    in_steps = resolve(config).in_steps(4)
    assert [in_steps["train"][f"{name}_steps"] for name in ("total", "eval_every", "checkpoint_every")] == [
        1
    ] * 3
    assert in_steps["train"]["log_every_steps"] == 2
    assert in_steps["optimizer"]["warmup_steps"] == 1 and in_steps["optimizer"]["decay_every_steps"] == 0
    assert in_steps["optimizer"]["decay_at_steps"] == [0, 1, 2]
    config["train"]["total_epochs"] = 0.0  # evaluates alone
    assert resolve(config).settings(4).train.total_steps == 0
    del config["train"]["total_epochs"]
    config["phases"] = {"1": {"total_epochs": 0.1}, "2": {"total_epochs": 1.6, "decay_every_epochs": 0.01}}
    in_steps = resolve(config).in_steps(4)
    assert [in_steps["phases"][name]["total_steps"] for name in "12"] == [1, 6]
    assert in_steps["phases"]["2"]["decay_every_steps"] == 1 and in_steps["train"]["total_steps"] == 7


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("train", "total_epochs", -0.01),
        ("optimizer", "warmup_epochs", -0.01),
        ("optimizer", "decay_every_epochs", -0.01),
        ("optimizer", "decay_at_epochs", [-0.01]),
    ],
)
def test_a_negative_duration_is_refused(section, field, value):
    config = digits()
    if section == "train":
        del config["train"]["total_steps"]
    config[section][field] = value
    stem = field.rpartition("_")[0]
    with pytest.raises(ValueError, match=f"{section}.{stem}_.*(at least|not negative)"):
        resolve(config).settings(4)


@pytest.mark.parametrize("fields", [{"model__dtype": "float16"}, {"optimizer__mu_dtype": "float16"}])
def test_float16_is_refused_with_the_way_out(fields):
    if "optimizer__mu_dtype" in fields:
        fields = fields | {"optimizer__name": "adamw"}
    with pytest.raises(
        ValueError, match="dtype is one of .*'float16': gradients below 6e-8 .*'bfloat16' has"
    ):
        resolve(digits(**fields))
