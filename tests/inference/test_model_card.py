"""The card of a published network: figures with their split, names escaped, no folder of the user's."""

import json
import math
import shlex
from types import SimpleNamespace

import pytest

from imgcls_jax.inference import model_card, model_folder
from imgcls_jax.metrics.intervals import of_share
from imgcls_jax.weights.described import Preprocessing
from imgcls_jax.weights.publishing import Published

RESULT = {
    "config": {},
    "metrics": {"test": {"num_examples": 200, "accuracy": 0.9, "loss": 0.5, "per_class_accuracy": [1.0]}},
    "steps": 30,
    "wall_seconds": 1.0,
    "config_digest": "c" * 64,
    "state_digest": "d" * 64,
    "versions": {"jax": "0.10.2"},
    "device": {"platform": "cpu", "kind": "cpu", "cores": 2, "count": 1},
}
WRITTEN = {
    "data": {"root": "/home/me/secret", "source": "folder"},
    "model": {"variant": "vit_ti16", "depth": 2},
}
PREPROCESSING = Preprocessing(16, 16, 0, "bilinear", (0.5,), (0.5,))


def run(tmp_path, result=RESULT, step=30, pretrained="", best_metric="", split="test", names=("a", "b|c")):
    """Returns a trained network as model_card.py reads it, beside the files of its workdir."""
    (tmp_path / "config.json").write_text(json.dumps({"written": WRITTEN}))
    if result:
        (tmp_path / "result.json").write_text(json.dumps(result))
    settings = SimpleNamespace(
        model=SimpleNamespace(name="vit", variant="vit_ti16", pretrained=pretrained),
        train=SimpleNamespace(best_metric=best_metric, seed=7),
        evals=(SimpleNamespace(name="test", fields={"split": split}),),
    )
    return SimpleNamespace(
        settings=settings,
        task=SimpleNamespace(num_classes=len(names), image_shape=(16, 16, 3)),
        class_names=names,
        objective=SimpleNamespace(multi_label=False),
        objective_state={},
        data=SimpleNamespace(settings=SimpleNamespace(eval_transforms="normalize(0.5, 0.5)")),
        step=step,
    )


def card(tmp_path, trained, naming="timm", untold=(), **words):
    network = Published({}, {}, "vit_base_patch16_224")
    told = model_folder.Told(PREPROCESSING, untold)
    words = model_card.Words(**{"title": "birds", "repository": "", **words})
    return model_card.write(trained, tmp_path, naming, network, told, words)


def test_figures_stand_with_split_interval_and_seed(tmp_path):
    text = card(tmp_path, run(tmp_path))
    assert "| test | test | 200 | accuracy | 0.9000 | 0.8506 to 0.9343 |" in text
    assert "| test | test | 200 | loss | 0.5000 |  |" in text
    assert "per_class" not in text and "One run, of seed 7" in text


def test_wilsons_interval_by_hand():
    """Wilson 1927: (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)."""
    z, n, p = 1.959963984540054, 200, 0.9
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    expected = [(middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)]
    assert of_share(180, 200) == pytest.approx(expected, abs=1e-9)


def test_a_resampled_interval_is_taken_where_there_is_one(tmp_path):
    measured = {"test": RESULT["metrics"]["test"] | {"intervals": {"accuracy": [0.5, 0.75]}}}
    assert "| 0.9000 | 0.5000 to 0.7500 |" in card(tmp_path, run(tmp_path, RESULT | {"metrics": measured}))


@pytest.mark.parametrize(
    "options, words",
    [
        ({"split": "held_out"}, {}),
        ({"best_metric": "test/accuracy"}, {}),
        ({}, {"development": ["test"]}),
    ],
)
def test_a_development_split_is_called_so(tmp_path, options, words):
    text = card(tmp_path, run(tmp_path, **options), **words)
    assert "(development split)" in text and "Choices were, or may have been, made" in text
    assert "development" not in card(tmp_path, run(tmp_path))


def test_figures_of_other_weights_are_not_told(tmp_path):
    trained = run(tmp_path, step=20)
    text = card(tmp_path, trained)
    assert "Nothing was measured of these weights, of step 20; the run's result is of step 30." in text
    (tmp_path / "eval_20.json").write_text(
        json.dumps({"step": 20, "test": {"accuracy": 0.25, "num_examples": 4}})
    )
    assert "| accuracy | 0.2500 |" in card(tmp_path, trained) and "0.9000" not in card(tmp_path, trained)
    (tmp_path / "result.json").unlink()
    (tmp_path / "eval_20.json").unlink()
    assert "of step 20; the run is not finished." in card(tmp_path, trained)


def test_the_front_matter(tmp_path):
    trained = run(tmp_path, pretrained="hf:timm/vit_tiny@main")
    head = card(tmp_path, trained, license="mit", tags=["birds", "timm"], datasets=["me/birds"]).split("---")[
        1
    ]
    fields = {
        key: json.loads(value) for key, _, value in (line.partition(": ") for line in head.split("\n")[1:-1])
    }
    assert fields == {
        "license": "mit",
        "library_name": "timm",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "timm", "imgcls_jax", "jax", "birds"],
        "datasets": ["me/birds"],
        "metrics": ["accuracy"],
        "base_model": "timm/vit_tiny",
    }
    assert "license" not in card(tmp_path, run(tmp_path)).split("---")[1]


def test_names_are_escaped_and_folders_left_out(tmp_path):
    text = card(tmp_path, run(tmp_path, names=("<b>", "x\n# y")), untold=("upsample(24)",))
    assert "\\<b\\>, x" in text and "\n# y" not in text
    assert "/home/me" not in text and str(tmp_path) not in text and '"(a path)"' in text
    assert "made with upsample(24), which the configuration here cannot say" in text


@pytest.mark.parametrize(
    "naming, repository, told",
    [
        ("timm", "", 'timm.create_model("local-dir:FOLDER"'),
        ("timm", "me/birds", 'timm.create_model("hf-hub:me/birds"'),
        ("hugging_face", "me/birds", 'from_pretrained("me/birds")'),
        ("timm", "me/birds", "--config.model.depth=2 --config.model.pretrained=hf:me/birds\n"),
    ],
)
def test_how_to_load_it(tmp_path, naming, repository, told):
    assert told in card(tmp_path, run(tmp_path), naming, repository=repository)


@pytest.mark.parametrize(
    "line, short_side, interpolation, untold",
    [
        (
            'decode | rgb | resize_short(20, "bicubic") | center_crop(16) | normalize(0.5, 0.25)',
            20,
            "bicubic",
            0,
        ),
        ("decode | gray | resize(16) | normalize(0.5, 0.25)", 0, "bilinear", 0),
        ("normalize(0.5, 0.25)", 0, "bilinear", 0),
        ("upsample(16) | normalize(0.5, 0.25)", 0, "bilinear", 1),
        ("decode | rgb | resize(20) | center_crop(16) | normalize(0.5, 0.25)", 0, "bilinear", 2),
    ],
)
def test_what_is_told_of_a_line(line, short_side, interpolation, untold):
    told = model_folder.of_line(line, (16, 16, 3))
    assert told.preprocessing == Preprocessing(16, 16, short_side, interpolation, (0.5,) * 3, (0.25,) * 3)
    assert len(told.untold) == untold


@pytest.mark.parametrize("value", ["it's", "$(id); `id`", "a b", 'x\\"y', (1, "'"), True, 0.5])
def test_a_shell_reads_a_flag_as_it_was(value):
    assert shlex.split(f"--config.model.a={model_card._flag(value)}") == [f"--config.model.a={value}"]


def test_files_and_folders_are_left_out_by_their_fields():
    own = {
        "data": {
            "source": "csv_file",
            "root": "of_mrs_smith",
            "table": "smith.csv",
            "known_classes": "smith",
        },
        "model": {"name": "vit", "pretrained": "smith/run"},
        "objective": {"teacher": "smith@best", "vocabulary": "smith.txt.gz", "templates": "smith.txt"},
        "train": {"resume_from": "runs/smith", "loggers": ["tensorboard", "/home/smith"]},
    }
    shown = model_card._without_paths(own)
    assert "smith" not in json.dumps(shown)
    assert shown["data"] == {"source": "csv_file"} | dict.fromkeys(
        ("root", "table", "known_classes"), "(a path)"
    )
    told = {
        "data": {"known_classes": 5, "signatures": "", "eval_transforms": "resize(8) | normalize(0.5, 0.5)"},
        "model": {"pretrained": "timm/vit_tiny.a@main"},
        "objective": {"teacher": "average", "templates": ["a photo of a {}.", "a {}."]},
    }
    assert model_card._without_paths(told) == told
