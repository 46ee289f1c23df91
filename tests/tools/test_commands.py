"""What all tools share: their frame, their paths, and what they print of names that anybody may choose."""

import importlib
import inspect
import io
import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from imgcls_jax import tools
from imgcls_jax.inference import index as indices
from imgcls_jax.runtime.files import write_json
from imgcls_jax.tools import crop_regions, dataset, predict, report, results, retrieve

ROOT = Path(__file__).parents[2]
NAMES = sorted(module.name for module in pkgutil.iter_modules(tools.__path__))
ODD = ("\x1b[31mred", "a\nb", os.fsdecode(b"caf\xe9"), "naïve 日本", "=1+1")
SHOWN = (r"\x1b[31mred", r"a\nb", r"caf\xe9", "naïve 日本", "=1+1")


def main_of(name):
    return importlib.import_module(f"imgcls_jax.tools.{name}").main


@pytest.mark.parametrize("name", NAMES)
def test_every_tool_stands_in_the_same_frame(name, capsys):
    main = main_of(name)
    assert hasattr(main, "__wrapped__"), "decorate main by runtime.command.command"
    assert list(inspect.signature(main).parameters) == ["argv"]
    assert len(inspect.getsource(main.__wrapped__).splitlines()) <= 60
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    out, err = capsys.readouterr()
    assert end.value.code == 0 and f"python -m imgcls_jax.tools.{name}" in out and err == ""
    with pytest.raises(SystemExit) as end:
        main(["--no_such_flag"])
    assert end.value.code == 2 and "error: " in capsys.readouterr().err


@pytest.mark.parametrize("name", ["export", "index", "predict", "replay", "retrieve"])
def test_an_empty_path_is_refused(name, capsys):
    with pytest.raises(SystemExit):
        main_of(name)(["--workdir=", "x"])
    assert "--workdir: the path is empty" in capsys.readouterr().err


def test_an_address_is_no_path(capsys):
    with pytest.raises(SystemExit):
        predict.main(["--workdir=https://bucket/run", "x"])
    assert "--workdir: https://bucket/run is an address; name a folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        predict.main(["--workdir=run", "gs://bucket/image.png"])
    assert "gs://bucket/image.png is an address; name a folder or file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "tool, arguments",
    [
        ("predict", ["ADDRESS/a.png", "--workdir=run"]),
        ("report", ["run", "--output=ADDRESS/report.html"]),
        ("export", ["ADDRESS/exported", "--workdir=run"]),
        ("ensemble", ["a", "b", "--output=ADDRESS/a.json"]),
        ("sweep", ["--config=a.py", "--workdir=ADDRESS/sweep"]),
    ],
)
@pytest.mark.parametrize("address, by", [("gs://b", "gcloud storage cp -r"), ("s3://b", "aws s3 cp")])
def test_what_lies_on_this_machine_alone_is_told(tool, arguments, address, by, capsys):
    with pytest.raises(SystemExit):
        main_of(tool)([own.replace("ADDRESS", address) for own in arguments])
    told = " ".join(capsys.readouterr().err.split())
    assert f"{address}/" in told and f"a folder or file of this machine, where `{by}" in told


def test_an_object_store_without_its_package_names_the_extra(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        predict.main(["--workdir=gs://bucket/run", "x"])
    assert "gs:// needs gcsfs: pip install 'imgcls-jax[gcs]'" in capsys.readouterr().err


def test_a_home_is_found(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    for main in (predict.main, retrieve.main):
        assert main(["--workdir=~/runs/a", __file__]) == 2
        assert f"error: {tmp_path}/runs/a" in capsys.readouterr().err


@pytest.fixture
def odd(tmp_path):
    """A folder of class folders of odd names, an image of such a name in each."""
    for name in ODD:
        (tmp_path / "odd" / name).mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(tmp_path / "odd" / name / f"{name}.png")
    return tmp_path / "odd"


@pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii:strict"])
def test_odd_names_on_a_terminal(odd, encoding):
    done = subprocess.run(
        [sys.executable, "-m", "imgcls_jax.tools.dataset", "check", str(odd)],
        cwd=ROOT, capture_output=True, timeout=120, env=os.environ | {"PYTHONIOENCODING": encoding},
    )  # fmt: skip
    assert done.stderr == b"" and done.returncode == 1 and b"\x1b" not in done.stdout
    lines = done.stdout.decode("utf-8").splitlines()
    names = [line.split(None, 1)[1] for line in lines[1:6]]
    expected = [name.encode("ascii", "backslashreplace").decode() for name in SHOWN]
    assert sorted(names) == sorted(SHOWN if encoding.startswith("utf-8") else expected)


def test_odd_names_in_json(odd, capsys):
    assert dataset.main(["check", "--format", "json", str(odd)]) == 1
    out = capsys.readouterr().out
    out.encode("ascii", errors="strict")
    assert set(json.loads(out)["counts"][""]) == set(ODD)


def test_odd_names_among_predictions():
    found = [{"path": n, "predictions": [{"class": n, "probability": 1.0}]} for n in ODD]
    found.append({"path": "-x.png", "error": "\x1b]0;a\x07\n@b"})
    table, cells = io.StringIO(), io.StringIO()
    predict.write_table(found, table)
    predict.write_csv(found, cells)
    width = max(map(len, SHOWN))
    assert table.getvalue() == "".join(f"{name:<{width}}  {name} 1.0000\n" for name in SHOWN)
    lines = cells.getvalue().splitlines()
    assert lines[5:] == ["'=1+1,1,'=1+1,1.000000,", r"'-x.png,,,,\x1b]0;a\x07\n@b"]
    assert "\x1b" not in cells.getvalue() and len(lines) == 1 + len(found)


def test_odd_names_among_neighbours(capsys):
    retrieve.write_answer(
        {"path": ODD[0], "class": ODD[1], "neighbours": [{"path": ODD[2], "class": ODD[0], "similarity": 1}]}
    )
    assert capsys.readouterr().out == f"{SHOWN[0]}  {SHOWN[1]}\n  1.0000  {SHOWN[0]}  {SHOWN[2]}\n"


def test_odd_names_in_a_table_of_results(tmp_path, capsys):
    run = {"value": 0.5, "wall_seconds": 60.0}
    device = {"platform": "cpu", "kind": "cpu", "cores": 2}
    content = {"method": "a|b\n", "protocol": "\x1b[31m", "published": "-", "device": device, "runs": [run]}
    write_json(tmp_path / "a.json", content)
    assert results.main(["table", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[2].startswith(r"| a\|b\n | \x1b[31m | 50.00 % |")
    (tmp_path / "a.json").unlink()
    assert results.main(["table", str(tmp_path)]) == 2
    assert "holds no results file" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["cat/a\nb.png", " cat/a.png", "cat /a.png"])
def test_a_name_that_no_list_can_hold_is_named(tmp_path, name, capsys):
    file = tmp_path / name
    file.parent.mkdir()
    for one in (file, file.parent / "1.png", file.parent / "2.png"):
        Image.new("RGB", (8, 8)).save(one, "PNG")
    assert dataset.main(["split", "--fraction", "0.4", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "rename it" in error and error.count("\n") == 1 and "cat" in error
    assert not list(tmp_path.glob("*.txt"))


def test_what_cannot_be_written_is_named(tmp_path, monkeypatch):
    stored = indices.Index(*map(indices.np.array, ([[1.0]], ["a"], ["b"])), 1)
    with pytest.raises(OSError, match=r"absent/index\.npz cannot be written: No such file"):
        indices.write(tmp_path / "absent", stored)
    (tmp_path / "index.npz").mkdir()
    with pytest.raises(OSError, match=r"index\.npz cannot be written: Is a directory"):
        indices.write(tmp_path, stored)


def test_a_full_disk_under_a_report(monkeypatch, capsys):
    monkeypatch.setattr(report, "build", lambda *told: "page")
    monkeypatch.setattr(
        report, "read_run", lambda *args, **options: report.Run("a", {}, [], (), None, "", None)
    )
    if not os.path.exists("/dev/full"):
        pytest.skip("Linux has it")
    assert report.main(["a", "--output", "/dev/full"]) == 2
    assert capsys.readouterr().err == "error: /dev/full cannot be written: No space left on device\n"


def test_photographs_that_cannot_be_cut_are_told_in_a_line_each(tmp_path, capsys, monkeypatch):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "\x1b.png").write_bytes(b"nothing")
    monkeypatch.setattr(crop_regions, "landmark_finder", lambda *_: None)
    assert crop_regions.main([str(tmp_path / "in"), str(tmp_path / "out"), "--landmarks", "x"]) == 2
    out, err = capsys.readouterr()
    assert "\\x1b.png: image cannot be decoded" in err and err.count("\n") == 1 and "0 of 1" in out
