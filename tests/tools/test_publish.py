"""tools.publish, from a trained network to a folder that is read back, and to what it refuses."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from imgcls_jax.config.settings import ModelSettings
from imgcls_jax.inference import trained as trained_networks
from imgcls_jax.models import vit
from imgcls_jax.tools import publish
from imgcls_jax.weights import hub, pretrained
from tests.inference.test_model_card import run

FIELDS = {"depth": 1, "width": 12, "heads": 3, "patch": 8}
SHAPE = (16, 16, 3)


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    """A finished run, whose networks are drawn: params of ones and their average."""
    folder = tmp_path / "run"
    folder.mkdir()
    target = pretrained.target_shapes(vit.build("vit_ti16", **FIELDS), SHAPE, 2)
    rng = np.random.default_rng(0)
    averaged = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), target["params"])
    ones = jax.tree.map(np.ones_like, averaged)
    made = run(folder)
    made.settings.model = ModelSettings("vit", "vit_ti16", fields=FIELDS)
    made.params, made.objective_state = ones, {"ema": averaged | {"projector": {"kernel": np.ones((2, 2))}}}
    monkeypatch.setattr(trained_networks, "load", lambda workdir, checkpoint: made)
    return SimpleNamespace(path=folder, trained=made, target=target, averaged=averaged)


def published(workdir, output, *options):
    return publish.main(["--workdir", str(workdir.path), "--output", str(output), *options])


@pytest.mark.parametrize("naming", ["timm", "hugging_face"])
def test_the_average_is_written_and_read_back_to_the_bit(workdir, tmp_path, capsys, naming):
    assert published(workdir, tmp_path / "birds", "--naming", naming) == 0
    assert "model.safetensors, config.json" in capsys.readouterr().out
    params, _, report = pretrained.load(
        hub.locate(str(tmp_path / "birds")).path, vit, "vit_ti16", workdir.target
    )
    jax.tree.map(np.testing.assert_array_equal, params, workdir.averaged)
    assert not report.notes
    config = json.loads((tmp_path / "birds" / "config.json").read_text())
    assert config.get("label_names", list(config.get("id2label", {}).values())) == ["a", "b|c"]
    assert (tmp_path / "birds" / "README.md").read_text().startswith("---\nlibrary_name: ")


def test_a_backbone_without_a_classifier(workdir, tmp_path, capsys):
    del workdir.trained.objective_state["ema"]["head"]
    assert published(workdir, tmp_path / "birds") == 0
    config = json.loads((tmp_path / "birds" / "config.json").read_text())
    assert config["num_classes"] == 0 and config["label_names"] == []
    assert published(workdir, tmp_path / "others", "--naming", "hugging_face") == 2
    assert "this run has none; --naming timm" in capsys.readouterr().err
    assert not (tmp_path / "others").exists()


def test_a_network_without_public_names_is_refused(workdir, tmp_path, capsys):
    workdir.trained.settings.model = ModelSettings("alexnet", "alexnet")
    assert published(workdir, tmp_path / "birds") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "models/alexnet.py has no names of timm; of the families" in error


def test_it_is_pushed_only_when_asked(workdir, tmp_path, capsys, monkeypatch):
    pushed = []
    monkeypatch.setattr(publish, "push", lambda *args, private: pushed.append((*args, private)) or "address")
    assert published(workdir, tmp_path / "birds") == 0 and not pushed
    assert published(workdir, tmp_path / "birds", "--push", "me/birds", "--private") == 0
    files = ("model.safetensors", "config.json", "README.md")
    assert pushed == [(tmp_path / "birds", files, "me/birds", True)]
    assert "pushed to address" in capsys.readouterr().out
    for name in ("birds", "me/birds@main", "me/../birds"):
        with pytest.raises(SystemExit):
            published(workdir, tmp_path / "birds", "--push", name)
        assert "--push names a repository by OWNER/NAME" in capsys.readouterr().err


def test_only_what_it_wrote_itself_is_replaced(workdir, tmp_path, capsys):
    folder, files = tmp_path / "birds", {"model.safetensors", "config.json", "README.md", "published.json"}
    for naming, more in (("hugging_face", {"preprocessor_config.json"}), ("timm", set())):
        assert published(workdir, folder, "--naming", naming) == 0
        assert {file.name for file in folder.iterdir()} == files | more
    (folder / "README.md").write_text("a card of my own")
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "README.md").write_text("a project")
    for output, name in (
        (folder, "README.md"),
        (workdir.path, "config.json"),
        (tmp_path / "project", "README.md"),
    ):
        before = {file.name: file.read_bytes() for file in output.iterdir()}
        capsys.readouterr()
        assert published(workdir, output) == 2
        error = capsys.readouterr().err
        assert f"{output / name} is not as an earlier publish wrote it" in error and error.count("\n") == 1
        assert {file.name: file.read_bytes() for file in output.iterdir()} == before


@pytest.mark.parametrize("name", ["checkpoints", "task.json"])
def test_a_workdir_gets_no_network(workdir, tmp_path, capsys, name):
    (tmp_path / "other" / name).mkdir(parents=True)
    assert published(workdir, tmp_path / "other") == 2
    assert f"holds {name}, so it is the workdir of a run" in capsys.readouterr().err
    assert [file.name for file in (tmp_path / "other").iterdir()] == [name]
