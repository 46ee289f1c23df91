"""The configurations of the project: each resolves with every option, and states nothing but choices."""

import ast
import contextlib
import copy
import itertools
import json
import re
import runpy
from pathlib import Path
from unittest import mock

import pytest

import imgcls_jax.config
from imgcls_jax.config import compare, sections
from imgcls_jax.config.files import find, load
from imgcls_jax.config.resolve import resolve
from imgcls_jax.config.written import flat_fields
from imgcls_jax.data.datasets import DataSide
from imgcls_jax.tools import results

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "configs").glob("*.py"))
MAX_LINES = 65
# Of the training splits that results/ measured on.
NUM_EXAMPLES = {"digits": 1438, "mnist": 50_000, "cifar10": 45_000}
NAMED_FILE = re.compile(r"\b(?:configs|results)/[\w.]+\.(?:py|json)\b")
COMMAND = re.compile(r"--config (\S+)((?:\s+(?:\\\n\s*)?--config\.\S+)*)")


def options_of(path):
    """Returns the names of options that a file passes to `sections`, each with the field it belongs to."""
    passed = {}

    def record(arg, **options):
        passed.update(options)
        return sections(arg, **options)

    with mock.patch.object(imgcls_jax.config, "sections", record):
        runpy.run_path(str(path))["get_config"]("")
    return [
        (field, name)
        for field, choice in passed.items()
        for name in (choice if isinstance(choice, tuple) else (field,))
    ]


def forms_of(path):
    """Returns the arguments of a file: none, every option, and every two that go together."""
    options = options_of(path)
    pairs = [(a, b) for (one, a), (other, b) in itertools.combinations(options, 2) if one != other]
    return ["", *(name for _, name in options), *(",".join(pair) for pair in pairs)]


FORMS = [pytest.param(path, arg, id=f"{path.stem}:{arg}") for path in FILES for arg in forms_of(path)]
BY_FILE = [pytest.param(path, id=path.stem) for path in FILES]


def written(path, arg, **overrides):
    return load(find(f"{path}:{arg}" if arg else str(path), overrides))[0]


def without(config, name):
    """Returns a copy without one field, named as "train.batch_size"; None where the field is not there."""
    config = copy.deepcopy(config)
    *outer, field = name.split(".")
    section = config
    for key in outer:
        section = section[key]
    del section[field]
    return config


def fields_at_their_default(config):
    """Returns the written fields without which the resolved configuration is the same."""
    resolved = resolve(config).resolved
    found = []
    for name in flat_fields(config):
        with contextlib.suppress(ValueError):  # a field that is required
            if resolve(without(config, name)).resolved == resolved:
                found.append(name)
    return found


def test_every_configuration_has_options():
    assert len(FILES) >= 40
    assert all("test" in [name for _, name in options_of(path)] for path in FILES)


@pytest.mark.parametrize(("path", "arg"), FORMS)
def test_resolves_and_writes_no_default(path, arg):
    config = written(path, arg)
    settings = resolve(config).settings(steps_per_epoch=1000)
    assert settings.train.batch_size >= 1
    DataSide(settings.data)  # refuses random operations in an evaluation
    assert fields_at_their_default(config) == []


def test_a_field_at_its_default_is_found():
    config = written(ROOT / "configs" / "digits_mae.py", "")
    config["train"]["seed"] = 0
    config["optimizer"]["eps"] = 1e-8
    config["model"]["dtype"] = None
    config["evals"]["knn"]["temperature"] = 0.07
    expected = ["train.seed", "optimizer.eps", "model.dtype", "evals.knn.temperature"]
    assert sorted(fields_at_their_default(config)) == sorted(expected)


@pytest.mark.parametrize("path", BY_FILE)
def test_an_unknown_option_is_refused_by_name(path):
    with pytest.raises(
        ValueError, match=rf"{path.name}: this configuration has no option 'tset'; it has .*test"
    ):
        written(path, "tset")


def test_options_that_exclude_each_other_are_refused():
    path = ROOT / "configs" / "digits_long_tail.py"
    with pytest.raises(ValueError, match="takes one of plain, .*; got weighted and focal"):
        written(path, "focal,weighted")
    assert written(path, "plain") == written(path, "")


@pytest.mark.parametrize("path", BY_FILE)
def test_is_short_and_flat(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_LINES
    functions = [node.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    assert functions == ["get_config"]


@pytest.mark.parametrize("path", BY_FILE)
def test_the_docstring_names_what_exists(path):
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    named = NAMED_FILE.findall(docstring)
    assert f"configs/{path.name}" in named
    assert [name for name in named if not (ROOT / name).is_file()] == []
    commands = COMMAND.findall(docstring)
    assert commands
    for config, overrides in commands:
        fields = dict(word.removeprefix("--config.").split("=") for word in overrides.split() if word != "\\")
        name, _, arg = config.partition(":")
        resolve(written(ROOT / name, arg, **fields))


@pytest.mark.parametrize("path", BY_FILE)
def test_a_source_with_a_folder_has_a_default_one(path):
    assert resolve(written(path, "")).resolved["data"].get("root", "") != "", path


@pytest.mark.parametrize("path", results.kept(ROOT / "results"), ids=lambda path: path.stem)
def test_the_command_of_a_result_makes_the_run_that_was_measured(path):
    content = json.loads(path.read_text(encoding="utf-8"))
    ((config, overrides),) = COMMAND.findall(content["command"])
    name, _, arg = config.partition(":")
    for run in content["runs"]:
        fields = dict(word.removeprefix("--config.").split("=") for word in overrides.split())
        fields |= {field: str(run["seeds"][field]) for field, value in fields.items() if value == "SEED"}
        configuration = resolve(written(ROOT / name, arg, **fields))
        data = configuration.resolved["data"]
        assert {"train.seed": configuration.seed, "data.label_seed": data["label_seed"]} == run["seeds"]
        num_examples = NUM_EXAMPLES[data["source"]]
        if data["labels_per_class"] and not data["labeled_batch_size"]:
            num_examples = 10 * data["labels_per_class"]
        resolved = configuration.in_steps(num_examples // configuration.batch_size)
        assert resolved["train"]["total_steps"] == run["steps"]
        assert set(run["metrics"]) == set(resolved["evals"])
        assert compare.digest(resolved) == run["config_digest"]
