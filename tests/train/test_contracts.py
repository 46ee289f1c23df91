"""What a new objective, evaluator or model leaves out is told in one line, before the first step."""

import importlib
import sys

import pytest

from imgcls_jax.config.resolve import resolve
from imgcls_jax.train import loop
from imgcls_jax.train.run import run
from imgcls_jax.train.setup import Setup
from tests.train.test_loop import digits_config

OBJECTIVE = """
import jax
import jax.numpy as jnp
from imgcls_jax.contracts.backbone import apply_backbone, init_backbone
from imgcls_jax.contracts.objective import EpochPlan, Objective
from imgcls_jax.layers.heads import Linear
from imgcls_jax.losses import softmax_cross_entropy

def make(backbone, task, *, keys=("image", "label")):
    head = Linear(task.num_classes)

    def init(rng, batch):
        params, stats, features = init_backbone(backbone, rng, batch["image"])
        state = {"batch_stats": stats, "seen": jnp.zeros(10, jnp.int32)}
        params = {"backbone": params, "head": head.init(rng, features.embedding, train=False)["params"]}
        INIT

    def loss(params, state, batch, rng, step):
        features, stats = apply_backbone(
            backbone, params["backbone"], state["batch_stats"], batch["image"], train=True, rng=rng
        )
        logits = head.apply({"params": params["head"]}, features.embedding, train=False)
        value = jnp.mean(softmax_cross_entropy(logits, batch["label"]))
        LOSS

    def predict(params, state, batch):
        features, _ = apply_backbone(
            backbone, params["backbone"], state["batch_stats"], batch["image"], train=False
        )
        logits = head.apply({"params": params["head"]}, features.embedding, train=False)
        PREDICT

    def after_update(params, state, step):
        AFTER

    def plan_epoch(params, state, epoch, embed, rng):
        PLAN

    def project(params):
        PROJECT

    planned = plan_epoch if HAS_ONE else None
    return Objective(keys, init, loss, predict, after_update, project, planned)
"""
SOUND = {
    "INIT": "return params, state",
    "LOSS": 'return value, (state | {"batch_stats": stats}, {"half": value / 2})',
    "PREDICT": 'return {"logits": logits, "embedding": features.embedding}',
    "AFTER": "return state",
    "PROJECT": "return params",
    "PLAN": "return EpochPlan(params, state, None)",
    "HAS_ONE": "False",
    '("image", "label")': '("image", "label")',
    "make(backbone, task, *,": "make(backbone, task, *,",
    "return Objective(": "return Objective(",
}
EVALUATOR = """
def make(predict, open_split, *, task, split):
    def evaluate(params, state):
        RETURN
    return evaluate
"""
MODEL = """
import flax.linen as nn
from imgcls_jax.layers.features import Features

class Mine(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(8)(x.reshape(len(x), -1))
        RETURN

def build(variant="mine", **fields):
    return Mine(**fields)
"""


@pytest.fixture
def file_in(tmp_path, monkeypatch):
    """Adds a file to a room of the package, from a folder of its own."""
    added = []

    def add(room, text, name="mine"):
        package = importlib.import_module(f"imgcls_jax.{room}")
        folder = tmp_path / "new" / room
        folder.mkdir(parents=True)
        (folder / f"{name}.py").write_text(text)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
        importlib.invalidate_caches()
        added.append((package, name))

    yield add
    for package, name in added:
        sys.modules.pop(f"{package.__name__}.{name}", None)
        vars(package).pop(name, None)


def objective(**changed):
    text = OBJECTIVE
    for place, sound in SOUND.items():
        assert place in text
        text = text.replace(place, changed.get(place, sound))
    return text


def line_of(text, words):
    return next(number for number, line in enumerate(text.splitlines(), start=1) if words in line)


def config_with(**sections):
    config = digits_config(total_steps=3, log_every_steps=1)
    config["objective"] = {"name": "mine"}
    return config | sections


def refusal(config):
    with pytest.raises(ValueError) as refused:
        Setup(resolve(config))
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_sound_objective_trains_and_the_step_tells_its_loss(file_in, tmp_path, capsys):
    file_in("objectives", objective(HAS_ONE="True"))
    result = run(config_with(), tmp_path / "run")
    assert result["steps"] == 3 and result["metrics"]["test"]["num_examples"] == 359
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("step 2/3"))
    numbers = dict(zip(line.split()[2::2], line.split()[3::2], strict=False))
    assert float(numbers["loss"]) == pytest.approx(2 * float(numbers["half"]), rel=1e-3)


FORM = "returns objective_state in the structure, shapes and dtypes that init gave it; it "
LOSS = "objectives/mine.py: loss returns (scalar, (objective_state, metrics))"
BREACHES = {
    "loss loses a key": (
        {"LOSS": 'return value, ({"batch_stats": stats}, {})'},
        f"objectives/mine.py: loss {FORM}lacks seen, which init made",
    ),
    "loss changes a dtype": (
        {"LOSS": 'return value, (state | {"seen": state["seen"] + 0.5}, {})'},
        f"objectives/mine.py: loss {FORM}has seen as float32[10], where init made int32[10]",
    ),
    "loss changes a shape": (
        {"LOSS": 'return value, (state | {"seen": state["seen"][:3]}, {})'},
        f"objectives/mine.py: loss {FORM}has seen as int32[3], where init made int32[10]",
    ),
    "loss without objective_state": (
        {"LOSS": 'return value, {"accuracy": value}'},
        f"{LOSS}; it returned a tuple (float32[], a dict of accuracy)",
    ),
    "loss of an example": (
        {"LOSS": 'return jnp.zeros(4), (state, {})'},
        f"{LOSS}, whose first is a float of shape (); it returned float32[4]",
    ),
    "metrics that are none": (
        {"LOSS": 'return value, (state, value)'},
        f"{LOSS}, metrics being a dict; it returned float32[]",
    ),
    "metrics of an example": (
        {"LOSS": 'return value, (state, {"hits": logits[:, 0]})'},
        "objectives/mine.py: loss returns metrics that are scalars, means over the batch; 'hits' is "
        "float32[64]",
    ),
    "init without objective_state": (
        {"INIT": "return params"},
        "objectives/mine.py: init returns (params, objective_state), two dicts, params with the key "
        "'backbone'; it returned a dict of backbone, head",
    ),
    "init without a backbone": (
        {"INIT": 'return {"head": params["head"]}, state'},
        "objectives/mine.py: init returns params with the key 'backbone', the part that other runs can take "
        "over; they have head",
    ),
    "after_update adds a key": (
        {"AFTER": 'return state | {"more": step}'},
        f"objectives/mine.py: after_update {FORM}has more, which init did not make",
    ),
    "project loses a param": (
        {"PROJECT": 'return {"backbone": params["backbone"]}'},
        "objectives/mine.py: project returns params in the structure, shapes and dtypes that init gave it; "
        "it lacks head/classifier/bias, head/classifier/kernel, which init made",
    ),
    "a batch key that the data lack": (
        {'("image", "label")': '("image", "label", "text")'},
        "config.objective.name = 'mine' reads text of each example, which config.data.source = 'digits' does "
        "not give as it is set: it gives ",
    ),
    "an unknown batch key": (
        {'("image", "label")': '("image", "indeks")'},
        "objectives/mine.py: make: batch_keys names 'indeks', and a batch has image, views, label, index, "
        "labeled, text, teacher: did you mean 'index'?",
    ),
    "one batch key": (
        {'("image", "label")': '"image"'},
        "objectives/mine.py: make: batch_keys is a tuple of names; got 'image'",
    ),
    "predict returns an array": (
        {"PREDICT": "return logits"},
        "objectives/mine.py: predict returns a dict of arrays with a row for each image, such as "
        "{'logits': ..., 'embedding': ...}; it returned float32[1, 10]",
    ),
    "predict returns a mean": (
        {"PREDICT": 'return {"logits": logits, "embedding": jnp.mean(logits)}'},
        "of 1 images, 'embedding' is float32[]",
    ),
    "predict without what is evaluated": (
        {"PREDICT": 'return {"embedding": logits}'},
        "config.evals.test: evaluators/classification.py reads 'logits' of what the objective predicts, and "
        "objectives/mine.py: predict returns embedding: choose another evaluator, or let predict return it",
    ),
    "make returns nothing": (
        {"return Objective(": "Objective("},
        "objectives/mine.py: make returns an Objective; it returned None",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BREACHES)
def test_what_an_objective_leaves_out(name, file_in):
    changed, wanted = BREACHES[name]
    file_in("objectives", objective(**changed))
    assert wanted in refusal(config_with())


@pytest.mark.parametrize(
    "place, code, error",
    [
        ("LOSS", "return value + no_such_name, (state, {})", "NameError: name 'no_such_name' is not defined"),
        ("LOSS", 'return value, (state | {"seen": batch["index"]}, {})', "KeyError: 'index'"),
        ("LOSS", 'value = logits @ batch["label"]; return value, (state, {})', "TypeError: "),
        ("INIT", 'return {"backbone": params["trunk"]}, state', "KeyError: 'trunk'"),
        ("PREDICT", 'return {"logits": features.pooled}', "AttributeError: 'Features' object has no"),
        ("AFTER", "return state.updated(step)", "AttributeError: 'dict' object has no attribute 'updated'"),
    ],
)
def test_an_error_of_an_objective_names_its_line(place, code, error, file_in):
    text = objective(**{place: code})
    file_in("objectives", text)
    said = refusal(config_with())
    assert said.startswith(f"objectives/mine.py, line {line_of(text, code)}: {error}"), said


def test_a_plan_that_is_none(file_in, tmp_path):
    file_in("objectives", objective(HAS_ONE="True", PLAN="return params, state, None"))
    with pytest.raises(ValueError, match="mine.py: plan_epoch returns an EpochPlan") as refused:
        run(config_with(), tmp_path / "run")
    assert "it returned a tuple" in str(refused.value) and not list(
        (tmp_path / "run" / "checkpoints").iterdir()
    )


def test_a_plan_of_another_order(file_in, tmp_path):
    file_in("objectives", objective(HAS_ONE="True", PLAN="return EpochPlan(params, state, jnp.arange(7))"))
    with pytest.raises(ValueError, match=r"order is not 1438 indices in \[0, 1438\); it is int32\[7\]"):
        run(config_with(), tmp_path / "run")


def test_an_objective_whose_make_lacks_an_argument(file_in):
    file_in("objectives", "def make(backbone, *, keys=()):\n    return None\n")
    assert refusal(config_with()) == (
        "objectives/mine.py: make takes the arguments backbone, task and its own options; it lacks task, and "
        "takes backbone, keys"
    )


@pytest.mark.parametrize(
    "returned, wanted",
    [
        ("return x", "models/mine.py: a network returns Features(map, embedding, aux) of layers/features.py; "
         "Mine returned float32[2, 8]"),
        ("return x @ x", "config.model makes no network for images of shape (8, 8, 1): models/mine.py, line "
         "9: TypeError: "),
    ],
)  # fmt: skip
def test_a_model_that_returns_no_features(returned, wanted, file_in):
    file_in("models", MODEL.replace("RETURN", returned))
    config = digits_config() | {"model": {"name": "mine"}}
    assert wanted in refusal(config)


def test_an_evaluator_without_task(file_in):
    file_in("evaluators", EVALUATOR.replace("RETURN", "return {}").replace(" task,", ""))
    config = digits_config() | {"evals": {"test": {"evaluator": "mine", "split": "test"}}}
    assert "evaluators/mine.py: make takes the arguments predict, open_split, task" in refusal(config)


@pytest.mark.parametrize("reads, named", [('("logits", "votes")', "'votes'"), ('[("a", "b")]', "'a' or 'b'")])
def test_an_evaluator_says_what_it_reads(reads, named, file_in):
    file_in("evaluators", f"READS = {reads}\n" + EVALUATOR.replace("RETURN", "return {}"))
    config = digits_config() | {"evals": {"test": {"evaluator": "mine", "split": "test"}}}
    assert f"evaluators/mine.py reads {named} of what the objective predicts" in refusal(config)


def test_one_of_several_will_do(file_in):
    text = 'READS = (("probabilities", "logits"),)\n' + EVALUATOR.replace("RETURN", "return {}")
    file_in("evaluators", text)
    Setup(resolve(digits_config() | {"evals": {"test": {"evaluator": "mine", "split": "test"}}}))


def test_every_evaluator_of_the_package_declares_what_it_reads():
    from imgcls_jax import evaluators

    for path in sorted(__import__("pathlib").Path(evaluators.__path__[0]).glob("*.py")):
        text = path.read_text()
        assert "\ndef make(" not in text or "\nREADS = " in text or "\ndef reads(" in text, path


@pytest.mark.parametrize(
    "returned, told",
    [
        ("return 0.5", "returns a dict of names and numbers; it returned 0.5"),
        ("import numpy; return {'x': numpy.float32(1)}", "'x' is float32[]: float(...)"),
    ],
)
def test_an_evaluator_that_returns_something_else(returned, told, file_in, tmp_path):
    """Only its run can tell: what was trained is saved first."""
    file_in("evaluators", EVALUATOR.replace("RETURN", returned))
    config = digits_config(total_steps=3) | {"evals": {"test": {"evaluator": "mine", "split": "test"}}}
    with pytest.raises(loop.Failed) as failed:
        run(config, tmp_path / "run")
    assert told in str(failed.value) and "the evaluation 'test' failed" in str(failed.value)
    assert "The state of step 3 is saved: the same command goes on from there" in str(failed.value)
    assert (tmp_path / "run" / "checkpoints" / "3").is_dir()
