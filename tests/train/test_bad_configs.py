"""Every field of a configuration set to what it cannot be: a ValueError names it, or a run can begin."""

import copy
import importlib.util
import inspect
import math
import pkgutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from imgcls_jax.config.field_types import fits
from imgcls_jax.config.modules import find_module
from imgcls_jax.config.resolve import resolve
from imgcls_jax.config.settings import Settings
from imgcls_jax.config.written import SECTIONS, Config, flat_fields, plain
from imgcls_jax.contracts.objective import Task
from imgcls_jax.train import build
from imgcls_jax.train.setup import Setup

ROOT = Path(__file__).parents[2]
NUMBERS = (-1, 10**30, math.nan)
QUICK = (None, "x", *NUMBERS, [1, "a"], {"a": 1})
ALL = (*QUICK, True, "", "\0", 0, 1, 2.5, math.inf, -1e30, [], [None], {}, [[]])
# Where the message names the thing by another word than the field's.
ALIASES = {
    "total_epochs": "total_steps",
    "eval_every_epochs": "eval_every_steps",
    "train_split": "split",
    "name": "file",
    "warmup_epochs": "warmup_steps",
    "labels_per_class": "less than one batch",
    "head_fields": "has no field",
}


def digits() -> Config:
    spec = importlib.util.spec_from_file_location("digits", ROOT / "configs" / "digits_simpleconv3.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = plain(module.get_config("test"))
    config["data"] |= {"train_transforms": "normalize(0.5, 0.5)", "eval_transforms": "normalize(0.5, 0.5)"}
    return resolve(config).resolved  # with the fields that have a default


FIELDS = sorted(flat_fields(digits()))


def changed(field: str, value) -> Config:
    config = copy.deepcopy(digits())
    *path, last = field.split(".")
    section = config
    for name in path:
        section = section[name]
    section[last] = value
    return config


def outcome_of(config: Config, *names: str) -> str:
    """Says whether a run of the configuration could begin; a message must hold one of the names."""
    try:
        setup = Setup(resolve(config))
        assert math.isfinite(setup.phases[0].schedule(0)) and setup.settings.train.total_steps >= 0
    except ValueError as error:
        assert any(name in str(error) for name in names), f"{names} not in {str(error)[:300]!r}"
        return "refused"
    return "can begin"


@pytest.mark.parametrize("values", [QUICK, pytest.param(ALL, marks=pytest.mark.slow)], ids=["quick", "all"])
def test_every_field(values):
    outcomes: Counter = Counter()
    for field in FIELDS:
        last = field.rpartition(".")[2]
        for value in values:
            outcome = outcome_of(changed(field, value), last, ALIASES.get(last, last))
            outcomes[outcome] += 1
            if isinstance(value, float) and not math.isfinite(value) or value == 10**30:
                assert outcome == "refused", (field, value)
    print(f"\nfields: {len(FIELDS)}, {outcomes.total()} cases, {dict(outcomes)}", end="")
    assert outcomes["refused"] > 3 * outcomes["can begin"]


@pytest.mark.parametrize("value", [None, 3, "x", [], [{}], {"x": 1}], ids=repr)
@pytest.mark.parametrize("section", [*SECTIONS, "phases"])
def test_every_section(section, value):
    if section == "phases" and not isinstance(value, dict):
        value = value or 3  # absent, None and () all mean a run of one phase
    assert outcome_of(digits() | {section: value}, section) == "refused"


@pytest.mark.parametrize("config", [None, 3, [], "x", {}, {"data": {}}], ids=repr)
def test_what_is_no_configuration(config):
    assert outcome_of(config, "configuration") == "refused"


@pytest.mark.parametrize(
    "field, value",
    [
        ("optimizer.momentum", "x"),
        ("optimizer.nesterov", [1]),
        ("optimizer.groups", [["backbone/(", 1.0]]),
        ("optimizer.groups", [["nothing.*", 1.0]]),
        ("optimizer.groups", [["backbone/.*", "slow"]]),
        ("optimizer.groups", [["backbone/.*"]]),
        ("optimizer.groups", [[".*", None]]),
        ("optimizer.decay_params", "("),
        ("optimizer.decay_params", 3),
        ("optimizer.weight_decay", -0.1),
        ("optimizer.clip_norm", -0.1),
        ("optimizer.schedule", "x"),
        ("optimizer.learning_rate", -0.1),
        ("optimizer.warmup_epochs", [1.0, 2.0]),
        ("objective.ema_decay", 1.0),
        ("objective.dropout", 1.5),
        ("objective.class_weights", [1.0, 2.0]),
        ("objective.class_weights", "even"),
        ("model.dtype", "int8"),
        ("model.dtype", "float1024"),
        ("model.channels", "x"),
        ("model.channels", [1, 2]),
        ("model.channels", [0, 12, 12]),
        ("model.channels", [-1, 12, 12]),
        ("model.hidden", [1.5]),
        ("model.variant", "x"),
        ("model.pretrained", 3),
        ("train.batch_size", 0),
        ("train.batch_size", -64),
        ("train.batch_size", True),
        ("train.num_microbatches", 0),
        ("train.num_microbatches", 1000),
        ("train.keep_checkpoints", 0),
        ("train.seed", -1),
        ("train.seed", 0.5),
        ("data.num_threads", 0),
        ("data.num_workers", -1),
        ("data.prefetch_batches", 0),
        ("data.labels_per_class", 10**6),
        ("data.label_seed", -1),
        ("data.imbalance_factor", 0.5),
        ("data.view_transforms", "flip"),
        ("data.view_transforms", ["flip |"]),
        ("data.eval_transforms", "resize(0)"),
        ("data.eval_transforms", "__import__('os')"),
        ("data.eval_transforms", "resize(10**9)"),
        ("data.eval_transforms", "(" * 300 + ")" * 300),
        ("evals.test.evaluator", "x"),
        ("evals.test.evaluator", 3),
        ("evals.test.splits", "x"),
        ("evals.test.split", "x"),
        ("evals.test.split", ""),
        ("evals.test.split", "unknown:test"),
        ("evals.test.split", "unknown:x"),
    ],
)
def test_impossible_values(field, value):
    last = field.rpartition(".")[2]
    others = {
        "model.channels": "config.model makes no network",
        "optimizer.warmup_epochs": "warmup_epochs",
        "evals.test.evaluator": "evaluator",
    }
    assert outcome_of(changed(field, value), last, others.get(field, field)) == "refused"


@pytest.mark.parametrize(
    "field, fields",
    [
        ("split", {"evaluator": "knn", "split": "val"}),
        ("train_split", {"evaluator": "knn", "split": "test", "train_split": "val"}),
        ("fit_split", {"evaluator": "clustering", "split": "test", "fit_split": "val"}),
        ("unknown_split", {"evaluator": "open_set", "split": "test"}),
    ],
)
def test_a_split_that_is_not_there_is_refused_before_the_first_step(field, fields):
    assert outcome_of(digits() | {"evals": {"late": fields}}, f"config.evals.late.{field} = ") == "refused"


def settings_with(section: str, fields: Config) -> Settings:
    return resolve(digits() | {section: fields}).settings(5)


def make_objective(fields: Config, backbone: Any) -> Any:
    return build.make_objective(settings_with("objective", fields).objective, TASK, backbone)


def make_backbone(fields: Config) -> Any:
    return build.make_backbone(settings_with("model", fields).model)


def make_evaluators(fields: Config) -> Any:
    return build.make_evaluators(settings_with("evals", {"one": fields}).evals, None, None, TASK)


def names_in(room: str) -> list[str]:
    return [module.name for module in pkgutil.iter_modules([str(ROOT / "imgcls_jax" / room)])]


# Values that one objective or evaluator refuses for a reason of its own: file -> (the fields that it needs,
# field -> values). A file without such values needs no row: the tests of types find its fields.
OBJECTIVES = {
    "cnn_rnn": ({}, dict(embedding_dim=[0], hidden=[0], dropout=[-0.1, 1.0], beams=[0], max_labels=[-1, 11])),
    "deepcluster": (
        dict(num_clusters=10),
        dict(num_clusters=[1, 101], hidden=[[0]], reads=["x"], dropout=[-0.1, 1.5], pca_dim=[0],
             kmeans_iterations=[-1], kmeans_start=["x"]),
    ),
    "fixmatch": ({}, dict(threshold=[-0.1], lambda_u=[-1.0], ema_decay=[-0.1, 1.0])),
    "iic": (
        {},
        dict(num_clusters=[-1, 1], num_overclusters=[-1, 1], num_subheads=[0], marginal_weight=[-1.0],
             head_epochs=[[0, 1], [1, -1], [1]]),
    ),
    "mae": (
        {},
        dict(mask_ratio=[-0.5, 0.0, 1.0, 1.5], decoder_width=[-4, 0, 6], decoder_depth=[0],
             decoder_heads=[-1, 0]),
    ),
    "mixmatch": (
        dict(alpha=0.75, lambda_u=75.0),
        dict(alpha=[-1.0], lambda_u=[-1.0], ramp_fraction=[-0.1, 1.5], temperature=[-1.0, 0.0],
             ema_decay=[-0.1, 1.0]),
    ),
    "multilabel": (
        {},
        dict(loss=["x"], positive_weights=["x", [1.0]], alpha=[-0.1, 1.5], gamma=[-1.0], dropout=[-0.1, 1.5],
             ema_decay=[1.0], head_fields=[{"x": 1}]),
    ),
    "pseudo_label": (
        {}, dict(term=["x"], threshold=[-0.1], lambda_u=[-1.0], ramp_fraction=[-0.1, 2.0], ema_decay=[1.0])
    ),
    "simclr": ({}, dict(temperature=[-1.0, 0.0], projection_layers=[0], projection_dim=[0])),
    "supervised": (
        {},
        dict(label_smoothing=[-0.1, 1.5], effective_beta=[-0.1, 1.0], focal_gamma=[-1.0], mixup_alpha=[-1.0],
             cutmix_alpha=[-1.0], logit_adjustment=[-1.0], head=["x"], head_fields=[{"x": 1}]),
    ),
    "trinet": (
        {},
        dict(hidden=[0], dropout=[-0.1, 1.0], smear_std=[-1.0], sigma=[-1.0, 2.0], sigma_smearing=[-0.1, 2.0],
             sigma_decay=[-0.1, 2.0], pool_base=[0], passes=[-1], init_epochs=[0], round_epochs=[0],
             diversity_rounds=[-1]),
    ),
}  # fmt: skip
EVALUATORS = {
    "classification": {},
    "classification_report": dict(
        beta=[0.0], top_k=[[0], [10]], calibration_bins=[0], shots=[[1], [2, 1]], bootstrap=[-1, 1],
        temperature_split=["test"],
    ),
    "clustering": dict(num_clusters=[-1, 1], silhouette_examples=[-1], seed=[-1]),
    "knn": dict(k=[-1, 0, [], [1, 0]], temperature=[-1.0, 0.0], bootstrap=[-1, 1]),
    "linear_probe": dict(
        C=[-1.0, 0.0], labels_per_class=[-1], label_seed=[-1], max_iterations=[0], bootstrap=[-1, 1]
    ),
    "multilabel": dict(threshold=[-0.1, 1.5], top_k=[-1, 11], fit_split=["test"], bootstrap=[-1, 1]),
    "open_set": dict(accept=[0.0, 1.0]),
    "retrieval": dict(k=[0, []], bootstrap=[-1, 1]),
    "shifted": dict(bootstrap=[-1, 1]),
}  # fmt: skip
TASK = Task(10, 100, 5, 50, (8, 8, 1), (10,) * 10)
# An example of each annotation that a field without a default may have.
EXAMPLES = {int: 3, float: 0.5, bool: True, str: "test", Sequence[int]: [3], Sequence[float]: [0.5]}


def fields_of(function) -> dict[str, inspect.Parameter]:
    """Returns the fields that a configuration gives to a `make`."""
    parameters = inspect.signature(function, eval_str=True).parameters
    return {name: p for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY and name != "task"}


def needed_by(function) -> dict[str, Any]:
    return {name: EXAMPLES[p.annotation] for name, p in fields_of(function).items() if p.default is p.empty}


@pytest.mark.parametrize("name", names_in("objectives"))
def test_fields_of_objectives_of_another_type(name):
    make = find_module("objectives", name).make
    assert fields_of(make)
    for field in fields_of(make):
        section = {"name": name} | needed_by(make) | {field: [[None]]}
        with pytest.raises(ValueError, match=f"config.objective.{field} "):
            make_objective(section, None)


@pytest.mark.parametrize("name", names_in("evaluators"))
def test_fields_of_evaluators_of_another_type(name):
    make = find_module("evaluators", name).make
    for field in fields_of(make):
        section = {"evaluator": name} | needed_by(make) | {field: [[None]]}
        with pytest.raises(ValueError, match=f"config.evals.one.{field} "):
            make_evaluators(section)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_fields_of_objectives_out_of_range(name):
    given, fields = OBJECTIVES[name]
    model = {"name": "vit", "variant": "vit_tiny", "patch": 2} if name == "mae" else {"name": "simpleconv3"}
    backbone = make_backbone(model)
    make_objective({"name": name} | given, backbone)
    for field, values in fields.items():
        for value in values:
            section = {"name": name} | given | {field: value}
            with pytest.raises(ValueError, match="has no field 'x'" if field == "head_fields" else field):
                make_objective(section, backbone)


@pytest.mark.parametrize("field", ["dropout", "stochastic_depth"])
@pytest.mark.parametrize("value", [-0.1, 1.5])
def test_probabilities_of_networks(field, value):
    with pytest.raises(ValueError, match=f"config.model.{field} is a probability"):
        make_backbone({"name": "vit", "variant": "vit_tiny", "patch": 2, field: value})


@pytest.mark.parametrize("name", EVALUATORS)
def test_fields_of_evaluators_out_of_range(name):
    section = {"evaluator": name, "split": "test"}
    make_evaluators(section)
    for field, values in EVALUATORS[name].items():
        for value in values:
            with pytest.raises(ValueError, match=field.replace("_", "[_ ]")):
                make_evaluators(section | {field: value})


def test_an_annotation_and_a_value():
    assert fits(1, float) and fits([1, 2.5], tuple[float, ...]) and fits(None, str | None) and fits({}, dict)
    assert (
        not fits(True, int)
        and not fits(1.0, int)
        and not fits("ab", list[str])
        and not fits([1], tuple[int, int])
    )
