"""What the documentation names exists: files, commands, fields, operations, links; and its examples run."""

import ast
import dataclasses
import importlib.util
import re
import shlex
import sys
from pathlib import Path

import jax
import pytest

from imgcls_jax import evaluators, models, trackers
from imgcls_jax.config import compare, settings
from imgcls_jax.config.files import read_config
from imgcls_jax.config.resolve import PATTERNS, resolve
from imgcls_jax.data import sources, transforms
from imgcls_jax.train import tracking
from imgcls_jax.train.run import run
from imgcls_jax.train.writer import MetricWriter

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in PAGES}
EXTENDING = TEXTS["docs/extending.md"]
FOLDERS = "imgcls_jax|configs|tests|launch|benchmarks|results|docs"
EXAMPLE = (
    r"`((?:imgcls_jax|configs)/[\w/]+\.py)`:?\n\n```python\n(.*?)```"  # a file that the page itself shows
)
EXAMPLES = {path: text for page in TEXTS.values() for path, text in re.findall(EXAMPLE, page, re.S)}
FILE_ENDINGS = r"(?:txt|json|onnx|tflite|stablehlo|safetensors)\b"  # train.txt is no field
SECTIONS = ("data", "model", "objective", "optimizer", "train")


def commands():
    """Yields (page, words) of each command line."""
    for page, text in TEXTS.items():
        for block in re.findall(r"```sh\n(.*?)```", text, re.S):
            for line in block.replace("\\\n", " ").splitlines():
                if "python -m imgcls_jax" in line:
                    yield page, shlex.split(line[line.index("python -m imgcls_jax") :])


def arguments_of(pattern, *names):
    """Returns the arguments of the functions, and the annotated attributes of the classes, of these names."""
    found = set()
    for path in (ROOT / "imgcls_jax").glob(pattern):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name in names:
                found |= {argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)}
            elif isinstance(node, ast.ClassDef) and node.name in names:
                targets = [item.target for item in node.body if isinstance(item, ast.AnnAssign)]
                found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


def attributes_of_networks():
    found = {"name", "variant", "pretrained"}
    for path in (ROOT / "imgcls_jax" / "models").glob("*.py"):
        found |= set(re.findall(r"^    (\w+): ", path.read_text(encoding="utf-8"), re.M))
    return found


@pytest.fixture(scope="module")
def fields():
    """The fields of each section; of an optimizer also what optax's sgd and adamw take, and lars and muon."""
    optax = {"name", "momentum", "nesterov", "b1", "b2", "eps", *PATTERNS}
    return {
        "data": arguments_of("**/*.py", "DataSettings") | arguments_of("data/**/*.py", "__init__", "make"),
        "model": attributes_of_networks(),
        "objective": {"name", "head", "head_fields"} | arguments_of("objectives/*.py", "make"),
        "optimizer": optax | arguments_of("**/*.py", "make_schedule", "make_optimizer", "OptimizerSettings"),
        "train": arguments_of("**/*.py", "TrainSettings"),
    }


def in_steps(field):
    return re.sub(r"_(epochs|examples)$", "_steps", field)


@pytest.mark.parametrize("page", TEXTS)
def test_files_exist(page):
    named = set(re.findall(rf"`((?:{FOLDERS})/[\w./-]+)`", TEXTS[page])) - {*EXAMPLES}
    assert sorted(name for name in named if not (ROOT / name).exists()) == []


@pytest.mark.parametrize("page", TEXTS)
def test_links_resolve(page):
    folder = (ROOT / page).parent
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)]+)\)", TEXTS[page]) if ":" not in link]
    assert [link for link in links if link and not (folder / link).exists()] == []


@pytest.mark.parametrize("page", TEXTS)
def test_fields_exist(page, fields):
    named = re.findall(rf"(?:`|--config\.)({'|'.join(SECTIONS)})\.(?!{FILE_ENDINGS})(\w+)", TEXTS[page])
    example = {("data", "count"), ("model", "width")}  # of examples of extending.md
    assert [
        f"{section}.{field}"
        for section, field in sorted(set(named) - example)
        if not {field, in_steps(field)} & fields[section]
    ] == []


def test_a_wrong_field_would_be_seen(fields):
    assert "batch_size" in fields["train"] and "bach_size" not in fields["train"]
    assert "root" in fields["data"] and "learning_rate" in fields["optimizer"]
    assert {"label_smoothing", "beams"} <= fields["objective"] and "dtype" in fields["model"]


def unknown_flags(words):
    """Returns the flags that a command line, from "python" or "-m" on, has and its module does not."""
    words = words[words.index("-m") + 1 :]
    spec = importlib.util.find_spec(words[0])
    assert spec is not None, words
    shared = ROOT / "imgcls_jax" / "runtime" / "command.py"  # flags that several commands have
    source = Path(spec.origin).read_text(encoding="utf-8") + shared.read_text(encoding="utf-8")
    flags = [word.split("=")[0].removeprefix("--") for word in words[1:] if word.startswith("--")]
    known = {flag for flag in flags if f'"{flag}"' in source or f'"--{flag}"' in source}
    return [flag for flag in flags if flag and not flag.startswith("config") and flag not in known]


@pytest.mark.parametrize(
    "page, words", [*commands()], ids=lambda value: value if isinstance(value, str) else ""
)
def test_commands_and_their_flags_exist(page, words):
    assert unknown_flags(words) == []


def named_configurations():
    return sorted({word for _, words in commands() for word in words if re.match(r"configs/\w+\.py", word)})


def test_no_field_of_train_and_optimizer_is_left_out():
    text = TEXTS["docs/configuration.md"]
    sections = ((settings.TrainSettings, "train"), (settings.OptimizerSettings, "optimizer"))
    for record, section in sections:
        names = {field.name for field in dataclasses.fields(record)} - {"fields"}
        assert sorted(name for name in names if f"`{section}.{name}`" not in text) == []


def test_what_may_change_at_a_resume():
    text = TEXTS["docs/configuration.md"].split("## What may change at a resume")[1].split("\n## ")[0]
    paragraph = next(part for part in text.split("\n\n") if part.startswith("`data."))
    assert set(re.findall(r"`([\w.]+)`", paragraph)) == set(compare.FREE_ON_RESUME)


@pytest.mark.parametrize("name", named_configurations())
def test_the_options_of_configurations_exist(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert read_config([f"--config={name}"])


def test_operations_exist():
    tables = re.search(r"### Host operations\n(.*?)\n## ", TEXTS["docs/data.md"], re.S).group(1)
    cells = re.findall(r"^\| (`.*?`) \|", tables, re.M)
    names = [name for cell in cells for name in re.findall(r"`(\w+)[(`]", cell)]
    with pytest.raises(ValueError, match="unknown operation") as error:
        transforms.parse("no_such_operation")
    known = set(re.findall(r"\w+", str(error.value).split("Host operations:")[1]))
    assert len(names) > 20
    assert [name for name in names if name not in known] == []


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [page.removeprefix("docs/") for page in TEXTS if page.startswith("docs/")]
    assert [page for page in pages if f" {page}\n" not in navigation] == []


def extended(tmp_path, monkeypatch, package, path):
    """Adds a file that a page shows to the package that it is meant for."""
    folder = tmp_path / package.__name__
    folder.mkdir()
    (folder / Path(path).name).write_text(EXAMPLES[path])
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])


def overrides(option):
    """Returns the overrides of the command of extending.md that has an option."""
    words = next(words for page, words in commands() if page == "docs/extending.md" and option in words)
    return [word for word in words if word.startswith("--config.")]


def short_config(*words):
    short = ["--config.train.total_epochs=1", "--config.train.eval_every_epochs=1.0"]
    return read_config(["--config=configs/digits_simpleconv3.py", *words, *short])


def test_the_model_and_the_evaluator_run(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    extended(tmp_path, monkeypatch, models, "imgcls_jax/models/tinyconv.py")
    extended(tmp_path, monkeypatch, evaluators, "imgcls_jax/evaluators/confidence.py")
    words = overrides("--config.model.name=tinyconv") + overrides("--config.evals.test.evaluator=confidence")
    metrics = run(short_config(*words), tmp_path / "run")["metrics"]["test"]
    assert metrics["num_examples"] == 359 and 0.1 < metrics["confidence"] < 1


def test_the_source_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    extended(tmp_path, monkeypatch, sources, "imgcls_jax/data/sources/stripes.py")
    result = run(short_config(*overrides("--config.data.source=stripes")), tmp_path / "run")
    assert result["metrics"]["test"]["num_examples"] == 200


def test_the_tracker_runs(tmp_path, monkeypatch):
    extended(tmp_path, monkeypatch, trackers, "imgcls_jax/trackers/one_table.py")
    monkeypatch.setitem(sys.modules, "imgcls_jax.trackers.one_table", None)  # taken back at the end
    del sys.modules["imgcls_jax.trackers.one_table"]
    tracking.require(["one_table"])
    own = MetricWriter(tmp_path, loggers=("one_table",))
    own.write_scalars(3, {"train/loss": 0.5, "train/epoch": 1.0})
    own.close()
    assert (tmp_path / "numbers.csv").read_text().split() == ["3,train/loss,0.5", "3,train/epoch,1.0"]


def test_the_transform_draws_for_each_image():
    text = re.search(r"## A transform.*?```python\n(.*?)```", EXTENDING, re.S).group(1)
    scope = {}
    exec(compile(text, "extending.md", "exec"), scope)
    images = jax.numpy.zeros((3, 4, 4, 1))
    noisy = scope["noise"](0.5)(jax.random.key(0), images)
    assert noisy.shape == images.shape and abs(float(noisy.std()) - 0.5) < 0.2
    assert not (noisy[0] == noisy[1]).any()


def test_the_configuration_resolves(tmp_path):
    path = "configs/digits_quick.py"
    (tmp_path / "digits_quick.py").write_text(EXAMPLES[path])
    whole, short = (
        resolve(read_config([f"--config={tmp_path}/digits_quick.py{option}"])).resolved
        for option in ("", ":test")
    )
    assert (whole["train"]["total_epochs"], short["train"]["total_epochs"]) == (20.0, 2.0)
    assert whole["optimizer"]["b1"] == 0.9  # optax's own default
