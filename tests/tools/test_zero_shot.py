"""A run of CLIP from a table of captions to a classifier of described classes, on images drawn here."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgcls_jax.config import sections
from imgcls_jax.tools import predict, zero_shot
from imgcls_jax.train.run import run
from imgcls_jax.train.setup import Setup
from imgcls_jax.train.workdir import load_configuration
from imgcls_jax.weights.pretrained import write_safetensors

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
MERGES = "#\nr e\nre d</w>\nb l\nbl u\nblu e</w>\n"  # 519 symbols
COLORS = {"red": (200, 30, 30), "blue": (30, 30, 200)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve images of one color each, with one or two captions, and the vocabulary."""
    folder = tmp_path_factory.mktemp("colors")
    rows = ["image,caption,split,class"]
    for number in range(12):
        name = ("red", "blue")[number % 2]
        Image.new("RGB", (16, 16), COLORS[name]).save(folder / f"{number}.png")
        split = "train" if number < 8 else "test"
        rows += [f"{number}.png,a {name} one,{split},{name}"] * (1 + number % 3)
    (folder / "captions.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (folder / "vocabulary.txt").write_text(MERGES, encoding="utf-8")
    (folder / "classes.txt").write_text("cold\tblue\nwarm\tred\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def workdir(folder, tmp_path_factory):
    config, _ = sections("")
    line = "decode | normalize(0.5, 0.5)"
    config.data.update(source="caption_table", root=str(folder), context_length=8)
    config.data.update(vocabulary=str(folder / "vocabulary.txt"), train_transforms=line, eval_transforms=line)
    config.model.update(name="simpleconv3", channels=(4, 4, 4), hidden=(8, 4))
    config.objective.update(name="clip", dim=4, text_width=8, text_depth=1)
    config.objective.update(context_length=8, vocab_size=519)
    config.objective.update(class_prompts=("blue", "red"), templates=("a {} one", "{}"))
    config.objective.vocabulary = config.data.vocabulary
    config.optimizer.update(name="sgd", learning_rate=0.1, groups=(("backbone/.*", None),))
    config.train.update(batch_size=8, total_steps=3)
    config.evals.retrieval = {"evaluator": "image_text", "split": "test", "k": (1, 4)}
    config.evals.zero_shot = {"evaluator": "classification", "split": "test"}
    workdir = tmp_path_factory.mktemp("run")
    run(config, workdir)
    return workdir


def predicted(capsys, *network, image):
    assert predict.main([*map(str, network), "--top_k=2", "--format=json", str(image)]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    return {own["class"]: own["probability"] for own in found["predictions"]}


def test_a_run_measures_retrieval_and_prompts(workdir):
    result = json.loads((workdir / "result.json").read_text())["metrics"]
    assert result["retrieval"]["num_captions"] == 3 + 1 + 2 + 3
    assert 0 <= result["zero_shot"]["accuracy"] <= 1


def test_a_frozen_trunk_is_cached_with_its_captions(workdir):
    (phase,) = Setup(load_configuration(workdir)).phases
    assert phase.features is not None and phase.objective.batch_keys == ("image", "text")


def test_described_classes_as_the_run_predicts_them(folder, workdir, tmp_path, capsys):
    out = tmp_path / "exported"
    (tmp_path / "templates.txt").write_text("a {} one\n{}\n")
    arguments = ["--workdir", str(workdir), "--classes", str(folder / "classes.txt"), str(out)]
    assert (
        zero_shot.main([*arguments, "--templates", str(tmp_path / "templates.txt"), "--platforms=cpu"]) == 0
    )
    assert "2 classes by 2 templates" in capsys.readouterr().out
    image = folder / "8.png"
    described = predicted(capsys, "--exported", out, image=image)
    of_run = predicted(capsys, "--workdir", workdir, image=image)
    assert described["cold"] == pytest.approx(of_run["blue"], abs=1e-4)
    assert described["warm"] == pytest.approx(of_run["red"], abs=1e-4)
    assert described["cold"] != pytest.approx(described["warm"], abs=1e-3)
    assert b"token_embedding" not in (out / "weights.safetensors").read_bytes()  # without the text tower


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--templates=eighty"], "nor one of plain, seven"),
        (["--vocabulary=nowhere"], "no vocabulary of CLIP is there"),
        (["--templates={} " + "red " * 9], "a text has at most 6 tokens"),
    ],
)
def test_mistakes(folder, workdir, tmp_path, capsys, words, message):
    arguments = ["--workdir", str(workdir), "--classes", str(folder / "classes.txt"), str(tmp_path / "out")]
    assert zero_shot.main([*arguments, *words]) == 2
    assert message in capsys.readouterr().err


def test_released_weights_need_no_run(folder, tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("drawing", GOLDEN / "drawing.py")
    drawing = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(drawing)
    shapes = json.loads(np.load(GOLDEN / "towers" / "clip.npz")["open_clip/shapes"].tobytes())
    arrays = drawing.draw_all(shapes | {"token_embedding.weight": [519, 16]}, 1.0)
    write_safetensors(tmp_path / "clip.safetensors", arrays)
    fields = {
        "model.pretrained": tmp_path / "clip.safetensors",
        "objective.dim": 6,
        "objective.text_heads": 2,
        "objective.vocab_size": 519,
        "objective.context_length": 9,
        "objective.text_depth": 2,
        "model.depth": 2,
        "model.patch": 4,
        "data.eval_transforms": "decode | resize(16) | normalize(0.5, 0.5)",
    }
    arguments = [f"--config={ROOT / 'configs' / 'captions_clip.py'}:test"]
    arguments += [f"--config.{name}={value}" for name, value in fields.items()]
    arguments += ["--classes", str(folder / "classes.txt"), "--vocabulary", str(folder / "vocabulary.txt")]
    out = tmp_path / "exported"
    assert zero_shot.main([*arguments, "--platforms=cpu", "--templates={}", str(out)]) == 0
    capsys.readouterr()
    found = predicted(capsys, "--exported", out, image=folder / "8.png")
    assert found.keys() == {"cold", "warm"} and sum(found.values()) == pytest.approx(1)
    arrays.pop("text_projection")
    write_safetensors(tmp_path / "clip.safetensors", arrays)
    assert zero_shot.main([*arguments, str(out)]) == 2
    assert "1 missing: text_projection" in capsys.readouterr().err
