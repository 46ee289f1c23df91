"""A run that begins with public weights: it keeps their commit, and says what differs from their training."""

import json
import shutil

import pytest
import safetensors.numpy

from imgcls_jax.config.resolve import resolve
from imgcls_jax.data import transforms
from imgcls_jax.train.initial import differing_transforms, initial_state
from imgcls_jax.train.of_weights import written_out
from imgcls_jax.train.run import run
from imgcls_jax.train.setup import Setup
from imgcls_jax.train.workdir import load_configuration
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


WORDS = {
    "train_transforms": "decode | rgb | random_resized_crop(of_weights, (0.5, 1.0)) | flip | "
    "normalize(of_weights)",
    "eval_transforms": "of_weights",
}
SMALL = TIMM | {"pretrained_cfg": TIMM["pretrained_cfg"] | {"input_size": [3, 16, 16], "crop_pct": 0.8}}
NORMALIZED = "normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))"


def test_the_transforms_of_the_weights_are_written_out_once(server, tmp_path, capfd, caplog):
    weights = safetensors.numpy.save(vit_arrays())
    server.add("some/vit", model_safetensors=weights, config_json=SMALL)
    config = config_of()
    config["data"] |= WORDS
    run(config, tmp_path)
    kept = json.loads((tmp_path / "config.json").read_text())
    crop = "random_resized_crop(16, (0.5, 1.0), interpolation='bicubic')"
    lines = {
        "train_transforms": f"decode | rgb | {crop} | flip | {NORMALIZED}",
        "eval_transforms": f'decode | rgb | resize_short(20, "bicubic") | center_crop(16) | {NORMALIZED}',
    }
    assert {field: kept["resolved"]["data"][field] for field in lines} == lines
    assert {field: kept["written"]["data"][field] for field in WORDS} == WORDS
    assert "data.train_transforms = " in capfd.readouterr().out
    assert "some/vit: config.data" not in caplog.text  # nothing differs
    assert load_configuration(tmp_path).data.eval_transforms == lines["eval_transforms"]

    server.add("some/vit", config_json=TIMM)  # another description later changes no run, and nobody is asked
    server.asked.clear()
    (tmp_path / "result.json").unlink()
    run(config, tmp_path)
    again = json.loads((tmp_path / "config.json").read_text())
    assert again["resolved"] == kept["resolved"] and not server.asked


def test_words_that_nothing_stands_behind(server):
    server.add("some/vit", model_safetensors=safetensors.numpy.save(vit_arrays()))
    for fields, line, message in (
        (
            {},
            "of_weights",
            "config.data.eval_transforms says of_weights, and nothing beside hf:some/vit tells",
        ),
        ({"pretrained": ""}, "of_weights", "config.model.pretrained names no weights"),
    ):
        config = config_of(**fields)
        config["data"] |= {"eval_transforms": line}
        with pytest.raises(ValueError, match=message):
            written_out(resolve(config))
    server.add("some/vit", config_json=TIMM)
    config["model"]["pretrained"] = "hf:some/vit"
    for line in ("decode | center_crop(of_weights)", "decode | resize(height=of_weights)"):
        config["data"]["eval_transforms"] = line
        with pytest.raises(ValueError, match=r"first argument of normalize.*|stands for what"):
            transforms.parse(written_out(resolve(config))[0].data.eval_transforms)
    with pytest.raises(ValueError, match="write out the line 'of_weights'"):
        transforms.parse("of_weights")


def test_lines_of_views_and_phases_are_written_out(server):
    server.add("some/vit", model_safetensors=safetensors.numpy.save(vit_arrays()), config_json=SMALL)
    config = config_of()
    config["data"] |= {"view_transforms": ("normalize(of_weights)", "flip | normalize(0.5, 0.5)")}
    config["phases"] = {"one": {"total_steps": 1, "train_transforms": "resize(of_weights)"}}
    del config["train"]["total_steps"]
    resolved = written_out(resolve(config))[0].resolved
    assert resolved["data"]["view_transforms"] == [NORMALIZED, "flip | normalize(0.5, 0.5)"]
    assert resolved["phases"]["one"]["train_transforms"] == "resize(16, 16, interpolation='bicubic')"
