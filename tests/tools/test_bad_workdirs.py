"""Damaged workdirs, exports and indices: each tool says in one line what is wrong; and commands in a pipe."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgcls_jax.tools import export, index, predict, retrieve
from imgcls_jax.train import experiment, loop, trained

ROOT = Path(__file__).parents[2]
DELETED = object()


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run of one step, with its export and its index."""
    spec = importlib.util.spec_from_file_location("digits", ROOT / "configs" / "digits_simpleconv3.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = experiment.plain(module.get_config("test"))
    config["data"] |= {"train_transforms": "normalize(0.5, 0.5)", "eval_transforms": "normalize(0.5, 0.5)"}
    for key in ("total_epochs", "eval_every_epochs"):
        del config["train"][key]
    path = tmp_path_factory.mktemp("run") / "workdir"
    loop.run(config | {"train": config["train"] | {"total_steps": 1}}, path)
    (path / "pictures/a").mkdir(parents=True)
    Image.new("L", (8, 8), 128).save(path / "pictures/a/0.png")
    assert export.main(["--workdir", str(path), str(path / "exported"), "--platforms", "cpu"]) == 0
    assert index.main(["--workdir", str(path), str(path / "pictures")]) == 0
    return path


@pytest.fixture
def copy(workdir, tmp_path):
    return shutil.copytree(workdir, tmp_path / "workdir")


def refused(capsys, main, *arguments) -> str:
    """Runs a tool that must end with status 2 and one line."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


TEXTS = ("", "{", "[]", "3", '"a"', "null", "{}", '{"a": 1}', "[" * 100_000, "\0", "NaN", '{"data": 1}')


@pytest.mark.parametrize("name", ["config.json", "task.json"])
def test_damaged_json(copy, capsys, name):
    whole = (copy / name).read_bytes()
    damaged = [text.encode() for text in TEXTS] + [
        b"\xff\xfe",
        *(whole[: len(whole) * k // 9] for k in range(9)),
    ]
    for content in damaged:
        (copy / name).write_bytes(content)
        assert name in refused(capsys, predict.main, "--workdir", copy, copy / "pictures"), content[:50]
    (copy / name).unlink()
    assert "is absent" in refused(capsys, predict.main, "--workdir", copy, copy / "pictures")
    (copy / name).mkdir()
    assert name in refused(capsys, predict.main, "--workdir", copy, copy / "pictures")
    print(f"\n{name}: {len(damaged) + 2} damaged, all refused", end="")


def test_every_field_of_the_task(copy, capsys):
    whole = json.loads((copy / "task.json").read_text())
    cases = 0
    for field in whole:
        for value in (DELETED, None, "x", -1.5, [], ["a", "b"], {"a": 1}):
            changed = (
                whole | {field: value}
                if value is not DELETED
                else {k: v for k, v in whole.items() if k != field}
            )
            (copy / "task.json").write_text(json.dumps(changed))
            if field == "class_counts" and value in (DELETED, []):
                continue  # may be unknown
            cases += 1
            assert "task.json" in refused(capsys, predict.main, "--workdir", copy, copy / "pictures"), (
                field,
                value,
            )
    print(f"\ntask.json: {cases} fields changed, all refused", end="")


def test_an_evaluation_without_a_batch_size(copy):
    config = json.loads((copy / "config.json").read_text())
    for size in (DELETED, None, "x", -1, 0, 2.5):
        train = {k: v for k, v in config["train"].items() if k != "batch_size"}
        train |= {} if size is DELETED else {"batch_size": size}
        (copy / "config.json").write_text(json.dumps(config | {"train": train}))
        with pytest.raises(ValueError, match="config.train.batch_size"):
            trained.evaluate(copy)


def test_damaged_exports(copy, capsys):
    folder = copy / "exported"
    description = json.loads((folder / "export.json").read_text())
    model = (folder / "model.stablehlo").read_bytes()

    def fails():
        assert "exported" in refused(capsys, predict.main, "--exported", folder, copy / "pictures")

    for content in [text.encode() for text in TEXTS] + [b"\xff"]:
        (folder / "export.json").write_bytes(content)
        fails()
    for field in ("class_names", "eval_transforms", "image_shape", "sha256"):
        for value in (None, "x", 3, [], [1] * 10, ["a", "b", "c"], {"a": 1}):
            (folder / "export.json").write_text(json.dumps(description | {field: value}))
            if not (field == "eval_transforms" and value == "x"):
                fails()
    assert "unknown operation 'x'" in refused(
        capsys, predict.main, "--exported", _with_line(folder, description), copy
    )
    (folder / "export.json").write_text(json.dumps(description))
    rng = np.random.default_rng(0)
    for _ in range(40):
        damaged = bytearray(model)
        damaged[int(rng.integers(len(model)))] ^= 1 << int(rng.integers(8))
        (folder / "model.stablehlo").write_bytes(damaged)
        fails()
        (folder / "model.stablehlo").write_bytes(model[: int(rng.integers(len(model)))])
        fails()
    print("\nexports: 120 damaged, all refused", end="")


def _with_line(folder: Path, description: dict) -> Path:
    (folder / "export.json").write_text(json.dumps(description | {"eval_transforms": "x"}))
    return folder


def test_damaged_indices(copy, capsys):
    stored = dict(np.load(copy / "index.npz"))
    whole = (copy / "index.npz").read_bytes()
    rows = {name: stored[name] for name in ("embedding", "path", "label")}
    wrong = [
        *({k: v for k, v in stored.items() if k != name} for name in stored),
        *(stored | {name: np.concatenate([column, column])} for name, column in rows.items()),
        *(stored | {name: column[:0]} for name, column in rows.items()),
        *(stored | {name: np.array([{}], object)} for name in stored),
        *(stored | {"embedding": array} for array in (
            rows["embedding"][0], rows["embedding"] * np.nan, rows["embedding"].astype(int), rows["path"]
        )),
        *(stored | {"step": step} for step in ([1, 1], "x", np.nan, 7)),
        stored | {"path": np.array([1])},
        {name: column[:0] for name, column in rows.items()} | {"step": 1},
        stored | {"embedding": rows["embedding"][:, 1:]},
    ]  # fmt: skip

    def fails():
        assert "index" in refused(capsys, retrieve.main, "--workdir", copy, copy / "pictures")

    for columns in wrong:
        np.savez(copy / "index.npz", **columns)
        fails()
    np.save(copy / "index.npy", rows["embedding"])
    for content in (
        b"",
        b"x",
        (copy / "index.npy").read_bytes(),
        *(whole[: len(whole) * k // 9] for k in range(9)),
    ):
        (copy / "index.npz").write_bytes(content)
        fails()
    print(f"\nindices: {len(wrong) + 12} damaged, all refused", end="")


def test_a_command_in_a_pipe_that_closes():
    """As `python -m imgcls_jax.tools.NAME | head -1`: no traceback, and the status a shell gives SIGPIPE."""
    code = "from imgcls_jax.tools import exit_with; exit_with(lambda: [print(n) for n in range(10**5)] and 0)"
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "0\n"
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait(60) == 141


def test_a_command_whose_reader_is_gone_before_it_writes(tmp_path):
    (tmp_path / "a").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "a/0.png")
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "imgcls_jax.tools.dataset", "check", str(tmp_path)],
        cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=120,
    )  # fmt: skip
    os.close(writing)
    assert (done.stderr, done.returncode) == ("", 141)
