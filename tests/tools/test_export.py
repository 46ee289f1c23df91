"""tools.export: what --formats asks for, when, and what it leaves of an earlier export."""

import sys
from types import SimpleNamespace

import pytest

from imgcls_jax.inference import litert_file, onnx_file
from imgcls_jax.inference import trained as trained_networks
from imgcls_jax.tools import export


@pytest.fixture
def steps(monkeypatch):
    """The steps that were taken, of stand-ins for all that takes long."""
    taken = []

    def write(trained, folder, platforms):
        taken.append("write")
        folder.mkdir(exist_ok=True)
        for name in ("model.stablehlo", "weights.safetensors", "export.json"):
            (folder / name).write_text("new")

    def write_format(trained, file, batch):
        taken.append((file.name, batch))
        file.write_text("new")
        return 1e-7

    monkeypatch.setattr(export, "write", write)
    monkeypatch.setattr(trained_networks, "load", lambda workdir, checkpoint: taken.append("load"))
    for module in (onnx_file, litert_file):
        monkeypatch.setattr(module, "require_packages", lambda: taken.append("packages"))
        monkeypatch.setattr(module, "write", write_format)
    return taken


def exported(folder, *options):
    return export.main(["--workdir", "w", *options, str(folder)])


def test_formats_are_joined_by_commas(steps, tmp_path, capsys):
    assert exported(tmp_path / "out", "--formats", "onnx,tflite") == 0
    assert steps == ["packages", "packages", "load", "write", ("model.onnx", None), ("model.tflite", 1)]
    assert "model.onnx 0.0 MiB, model.tflite 0.0 MiB" in capsys.readouterr().out
    assert exported(tmp_path / "out", "--formats", "onnx", "--batch", "4") == 0
    assert steps[-1] == ("model.onnx", 4)


@pytest.mark.parametrize(
    "options, told",
    [
        (["--formats", "onnx,coreml"], "--formats are some of onnx, tflite; got onnx,coreml"),
        (["--batch", "2"], "--batch is of --formats, and none is named"),
    ],
)
def test_mistakes(steps, tmp_path, capsys, options, told):
    with pytest.raises(SystemExit):
        exported(tmp_path / "out", *options)
    assert told in capsys.readouterr().err and not steps


def test_a_missing_package_is_told_before_the_network_is_loaded(steps, tmp_path, capsys, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    monkeypatch.setattr(trained_networks, "load", lambda workdir, checkpoint: SimpleNamespace())
    assert exported(tmp_path / "out", "--formats", "onnx") == 2
    assert "jax2onnx is missing: pip install" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_formats_of_an_earlier_export_go_and_other_files_stay(steps, tmp_path, capsys):
    for name in ("model.onnx", "model.onnx.data", "model.tflite", "notes.txt"):
        (tmp_path / name).write_text("old")
    assert exported(tmp_path) == 0  # no export stood there
    assert (tmp_path / "model.tflite").exists() and "removed" not in capsys.readouterr().out
    assert exported(tmp_path, "--formats", "onnx") == 0
    told = capsys.readouterr().out
    assert "model.onnx.data: of an earlier export, removed" in told
    names = {"model.stablehlo", "weights.safetensors", "export.json", "model.onnx", "notes.txt"}
    assert {file.name for file in tmp_path.iterdir()} == names
    assert (tmp_path / "model.onnx").read_text() == "new"
