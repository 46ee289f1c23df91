"""A run that begins with public weights: it keeps their commit, and says what differs from their training."""

import json
import shutil

import pytest
import safetensors.numpy

from imgcls_jax.config.resolve import resolve
from imgcls_jax.train.initial import differing_transforms, initial_state
from imgcls_jax.train.run import run
from imgcls_jax.train.setup import Setup
from imgcls_jax.weights.described import Preprocessing
from tests.train.test_loop import digits_config
from tests.weights.test_hub import COMMIT, TIMM, server, vit_arrays

assert server  # a fixture


def config_of(**model):
    config = digits_config(total_steps=0)
    config["model"] = {"name": "vit", "variant": "vit_tiny", "pretrained": "hf:some/vit"} | model
    return config


def test_the_commit_is_kept_and_taken_again(server, tmp_path, capfd, caplog):
    server.add("some/vit", model_safetensors=safetensors.numpy.save(vit_arrays()), config_json=TIMM)
    run(config_of(), tmp_path)
    kept = json.loads((tmp_path / "config.json").read_text())
    assert kept["pretrained"] == {"name": "hf:some/vit", "revision": COMMIT, "file": "model.safetensors"}
    assert kept["resolved"]["model"]["pretrained"] == "hf:some/vit"
    assert f"pretrained weights from hf:some/vit, revision {COMMIT}: " in capfd.readouterr().out
    assert "no resize_short(size=235, interpolation='bicubic'), no center_crop(size=224)" in caplog.text
    assert "--config.data.eval_transforms='decode | rgb | resize_short(235," in caplog.text

    server.head = "c" * 40  # the repository has gone on
    server.asked.clear()
    shutil.rmtree(tmp_path / "checkpoints")
    (tmp_path / "result.json").unlink()
    run(config_of(), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["pretrained"] == kept["pretrained"]
    assert server.asked and all(f"/resolve/{COMMIT}/" in path for path in server.asked)

    server.asked.clear()
    (tmp_path / "result.json").unlink()  # a resume reads the checkpoint, and asks nobody
    run(config_of(), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["pretrained"] == kept["pretrained"]
    assert not server.asked


def test_another_gelu_is_refused(server):
    weights = safetensors.numpy.save(vit_arrays())
    server.add("some/vit", model_safetensors=weights, config_json={"hidden_act": "quick_gelu"})
    with pytest.raises(
        ValueError, match="hf:some/vit was trained with quick_gelu, .* set config.model.quick_gelu=True"
    ):
        initial_state(Setup(resolve(config_of())))
    initial_state(Setup(resolve(config_of(quick_gelu=True))))


@pytest.mark.parametrize(
    "evaluated, trained, lines",
    [
        ("resize(32, 32) | normalize((0.5, 0.5, 0.5), 0.5)", "flip | normalize(0.5, 0.5)", 0),
        ("resize(32) | normalize(0.5, 0.5)", "normalize(0.5, 0.5)", 0),
        ("resize(32) | normalize(0.5, 0.25)", "normalize(0.5, 0.5)", 1),
        ("resize(32, interpolation='bicubic') | normalize(0.5, 0.5)", "normalize(0.4, 0.5)", 2),
    ],
)
def test_what_differs(evaluated, trained, lines):
    config = config_of()
    config["data"] |= {"eval_transforms": evaluated, "train_transforms": trained}
    preprocessing = Preprocessing(32, 32, 0, "bilinear", (0.5,) * 3, (0.5,) * 3)
    assert len(differing_transforms(preprocessing, resolve(config).data)) == lines
    assert differing_transforms(None, resolve(config).data) == []
