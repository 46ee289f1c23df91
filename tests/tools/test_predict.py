"""Which classes `predict` names of an image of one label and of several; a missing package is one line."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest
from PIL import Image

from imgcls_jax.tools import predict
from tests.inference.test_strange_exports import planted

NAMES = ["cat", "dog", "cow", "hen"]


def network(images):
    """Says cat 0.5, dog 0.75, cow 0.25, hen 0.0625 of a light image, and a fifth of that of a dark one."""
    light = jnp.where(images.mean((1, 2, 3)) > 100, 1.0, 0.2)[:, None]
    return {"probabilities": light * jnp.array([0.5, 0.75, 0.25, 0.0625])}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for name, value in (("dark", 9), ("light", 200)):
        Image.new("RGB", (4, 4), (value,) * 3).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports")
    kinds = {"old": {}, "single": {"multi_label": False}, "multi": {"multi_label": True}}
    for name, fields in kinds.items():
        planted(folder / name, network, class_names=NAMES, **fields)
    return folder


@pytest.mark.parametrize(
    "kind, options, light, dark",
    [
        ("multi", [], ["dog", "cat"], []),
        ("multi", ["--threshold=0.2"], ["dog", "cat", "cow"], []),
        ("multi", ["--threshold=0.1"], ["dog", "cat", "cow"], ["dog", "cat"]),
        ("multi", ["--top_k=1"], ["dog"], ["dog"]),
        ("multi", ["--top_k=1", "--threshold=0.5"], ["dog"], []),
        ("multi", ["--threshold=0.1", "--unknown_below=0.2"], ["dog", "cat", "cow"], []),
        ("single", [], ["dog"], ["dog"]),
        ("single", ["--top_k=2"], ["dog", "cat"], ["dog", "cat"]),
        ("single", ["--unknown_below=0.5"], ["dog"], []),
        ("old", [], ["dog"], ["dog"]),
        ("old", ["--threshold=0.5"], ["dog", "cat"], []),
    ],
)
def test_which_classes_are_named(exports, pictures, capsys, kind, options, light, dark):
    arguments = ["--exported", str(exports / kind), *options, str(pictures)]
    assert predict.main([*arguments, "--format=json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [[p["class"] for p in row["predictions"]] for row in found] == [dark, light]
    assert predict.main([*arguments, "--format=csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    for name, classes in (("dark", dark), ("light", light)):
        ranked = [(row["class"], row["rank"]) for row in rows if Path(row["path"]).stem == name]
        assert ranked == ([(c, str(rank)) for rank, c in enumerate(classes, 1)] or [("", "")])
    assert predict.main(arguments) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].endswith(("none" if kind == "multi" else "unknown") if not dark else "0")


@pytest.mark.parametrize("text", ["1.5", "-0.1", "nan", "half"])
def test_the_threshold_is_a_probability(text, capsys):
    with pytest.raises(SystemExit):
        predict.main(["--exported", "x", f"--threshold={text}", "y.png"])
    assert "expected a number from 0 to 1" in capsys.readouterr().err


BLOCKED = """
import runpy, sys
class No:
    def find_spec(self, name, *rest):
        if name.split(".")[0] == {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, No())
sys.argv[1:] = {arguments}
runpy.run_module("imgcls_jax.{module}", run_name="__main__", alter_sys=True)
"""


TRAINING = "training needs pip install 'imgcls-jax[train]'"
PREDICTION = "prediction from an export needs pip install 'imgcls-jax[predict]'"
CONVERTED = "x.npz y.safetensors --family resnet --variant resnet18"


@pytest.mark.parametrize(
    "module, arguments, absent, told",
    [
        ("tools.predict", "--exported x y.png", "PIL", f"pillow is missing; {PREDICTION}; {TRAINING}"),
        ("tools.retrieve", "--workdir x y.png", "orbax", f"orbax-checkpoint is missing; {TRAINING}"),
        ("tools.convert", CONVERTED, "flax", f"flax is missing; {TRAINING}"),
        (
            "main",
            "--config configs/digits_mae.py",
            "ml_collections",
            f"ml_collections is missing; {TRAINING}",
        ),
    ],
)
def test_a_package_that_is_missing_is_one_line(module, arguments, absent, told):
    script = BLOCKED.format(module=module, absent=absent, arguments=arguments.split())
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode and done.stderr == f"error: the package {told}\n"
