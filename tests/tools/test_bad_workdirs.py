"""Damaged workdirs, exports and indices: each tool says in one line what is wrong; and commands in a pipe."""

import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgcls_jax.config.written import plain
from imgcls_jax.inference import trained
from imgcls_jax.tools import export, index, predict, report, results, retrieve
from imgcls_jax.train.run import run
from imgcls_jax.train.workdir import load_configuration

ROOT = Path(__file__).parents[2]
DELETED = object()


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run of one step, with its export and its index."""
    spec = importlib.util.spec_from_file_location("digits", ROOT / "configs" / "digits_simpleconv3.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = plain(module.get_config("test"))
    config["data"] |= {"train_transforms": "normalize(0.5, 0.5)", "eval_transforms": "normalize(0.5, 0.5)"}
    for key in ("total_epochs", "eval_every_epochs"):
        del config["train"][key]
    path = tmp_path_factory.mktemp("run") / "workdir"
    run(config | {"train": config["train"] | {"total_steps": 1}}, path)
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
    lines = capsys.readouterr().err.splitlines()
    (error,) = [line for line in lines if not line.startswith("warning: these images are far ")]
    assert error.startswith("error: ")
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
            if field in ("class_counts", "signatures") and value in (DELETED, []):
                continue  # may be unknown, or none
            cases += 1
            assert "task.json" in refused(capsys, predict.main, "--workdir", copy, copy / "pictures"), (
                field,
                value,
            )
    print(f"\ntask.json: {cases} fields changed, all refused", end="")


RELIABILITY = {"confidence": [0.5], "accuracy": [0.5], "count": [3]}
WORDS = {"method": "M", "protocol": "P", "command": "C", "published": "-"}


def replaced(content: dict, path: str, value) -> dict:
    """Returns the JSON object with a field, such as "device.cores", of another value or DELETED."""
    name, _, rest = path.partition(".")
    if rest:
        return content | {name: replaced(content[name], rest, value)}
    return {k: v for k, v in content.items() if k != name} | ({} if value is DELETED else {name: value})


def readers(copy, config):
    """What reads result.json, each as a function that raises ValueError."""
    yield lambda: run(config, copy)
    yield lambda: results.gather([copy], "test/accuracy", **WORDS)
    yield lambda: report.build([report.read_run(copy, split="", data=None)])


def test_damaged_results(copy):
    path = copy / "result.json"
    whole, config = json.loads(path.read_text()), load_configuration(copy).written
    for read in readers(copy, config):
        read()
    texts = [text for text in TEXTS if text] + [path.read_text()[:-10]]
    fields = (
        "config",
        "metrics",
        "steps",
        "wall_seconds",
        "config_digest",
        "state_digest",
        "versions",
        "device",
    )
    changed = [replaced(whole, field, value) for field in fields for value in (DELETED, None, True, [])]
    changed += [replaced(whole, f"device.{field}", {}) for field in ("platform", "kind", "cores")]
    changed += [replaced(whole, "metrics.test", value) for value in (None, 3, [1])]
    for content in [*texts, *map(json.dumps, changed)]:
        path.write_text(content)
        for read in readers(copy, config):
            with pytest.raises(ValueError, match=r"result\.json"):
                read()
    print(f"\nresult.json: {len(texts) + len(changed)} damaged, all refused", end="")


@pytest.mark.parametrize(
    "field, value",
    [
        *(
            (f"config.{name}", value)
            for name in ("model", "objective.name", "evals.test")
            for value in (3, [])
        ),
        *(("metrics.test.confusion_matrix", value) for value in (3, "x", [[1]], [["a"] * 10] * 10, [1] * 10)),
        *(("metrics.test.reliability", value) for value in (3, {}, RELIABILITY | {"accuracy": [0.1, 0.2]})),
        ("metrics.test.ece", "x"),
    ],
)
def test_what_a_page_cannot_show(copy, capsys, field, value):
    path = copy / "result.json"
    sound = replaced(json.loads(path.read_text()), "metrics.test.reliability", RELIABILITY)
    path.write_text(json.dumps(replaced(sound, "metrics.test.ece", 0.1)))
    assert report.main([str(copy), "--no_data"]) == 0
    path.write_text(json.dumps(replaced(replaced(sound, "metrics.test.ece", 0.1), field, value)))
    assert "result.json" in refused(capsys, report.main, copy, "--no_data")


def test_damaged_records(copy, capsys):
    path = copy / "metrics.jsonl"
    good = path.read_text()
    for line in ("", "{", "\0", "[" * 100_000, "\xff", '{"step": 3, "train/lo'):
        path.write_text(good + line, encoding="latin-1")  # as a kill leaves it
        assert report.main([str(copy), "--no_data"]) == 0
    number = good.count("\n") + 1
    for line in ("{", "3", "[]", "null", "{}", '{"step": "3"}', '{"step": 3, "train/loss": "x"}', "\xff"):
        path.write_text(f"{good}{line}\n{good}", encoding="latin-1")
        assert f"metrics.jsonl, line {number}," in refused(capsys, report.main, copy, "--no_data"), line
    path.unlink()
    assert "metrics.jsonl" in refused(capsys, report.main, copy, "--no_data")


def test_a_run_goes_on_from_a_file_of_metrics_cut_short(copy):
    path = copy / "metrics.jsonl"
    good = path.read_text()
    (copy / "result.json").unlink()
    path.write_bytes(good.encode() + b'{"step": 1, "train/lo\xff')
    run(load_configuration(copy).written, copy)
    assert path.read_text().startswith(good) and '"train/lo' not in path.read_text().replace("train/loss", "")


def test_damaged_results_files(tmp_path, copy):
    path = tmp_path / "kept" / "a.json"
    path.parent.mkdir()
    whole = results.gather([copy], "test/accuracy", **WORDS)
    for field in ("method", "protocol", "published", "device", "device.cores", "runs"):
        for value in (DELETED, None, True, []):
            path.write_text(json.dumps(replaced(whole, field, value)))
            with pytest.raises(ValueError, match=r"a\.json"):
                results.table(path.parent)
    for damaged in (3, {}, {"value": "x", "wall_seconds": 1.0}, {"value": 0.5}):
        path.write_text(json.dumps(whole | {"runs": [damaged]}))
        with pytest.raises(ValueError, match=r"a\.json: runs\[0\]"):
            results.table(path.parent)


def test_an_evaluation_without_a_batch_size(copy):
    content = json.loads((copy / "config.json").read_text())
    for size in (DELETED, None, "x", -1, 0, 2.5):
        changed = replaced(content, "resolved.train.batch_size", size)
        (copy / "config.json").write_text(json.dumps(changed))
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


def test_an_index_takes_no_more_memory_than_its_file(copy, capsys):
    stored = dict(np.load(copy / "index.npz"))
    np.savez_compressed(copy / "index.npz", **stored | {"path": np.full(10_000, "a" * 1000)})
    assert "it is compressed" in refused(capsys, retrieve.main, "--workdir", copy, copy / "pictures")
    for shape, dtype in (((10**9,), "<U0"), ((10**9,), "<U1"), ((2**62, 2**62), "<U1")):
        np.savez(copy / "index.npz", **stored)
        header = io.BytesIO()
        fields = {"descr": dtype, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(header, fields)
        with zipfile.ZipFile(copy / "index.npz") as archive:
            columns = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(copy / "index.npz", "w") as archive:
            for name, content in (columns | {"path.npy": header.getvalue()}).items():
                archive.writestr(name, content)
        message = refused(capsys, retrieve.main, "--workdir", copy, copy / "pictures")
        assert "path.npy claims more than the file holds" in message


def test_a_command_in_a_pipe_that_closes():
    """As `python -m imgcls_jax.tools.NAME | head -1`: no traceback, and the status a shell gives SIGPIPE."""
    code = (
        "from imgcls_jax.runtime.command import exit_with\n"
        "exit_with(lambda: [print(n) for n in range(10**5)] and 0)"
    )
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
