"""`crop_parts` on a small run of ma_cnn: where the squares lie, what is written, and networks combined."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgcls_jax.config.files import read_config
from imgcls_jax.inference.trained import load
from imgcls_jax.tools import crop_parts, visualise
from imgcls_jax.tools.crop_parts import object_square, part_square, square
from imgcls_jax.train.run import run as train

ROOT = Path(__file__).parents[2]
DIGITS = [f"--config={ROOT}/configs/digits_simpleconv3.py:test"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Class folders, 12 images of 16x16: a red square on the left or a blue one on the right."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, number in (("train", 4), ("test", 2)):
        for label, left in (("left", 1), ("right", 9)):
            for image in range(number):
                pixels = rng.integers(0, 40, (16, 16, 3), np.uint8)
                pixels[4:10, left : left + 6, left // 4] = 220
                file = root / split / label / f"{image}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(file)
    return root


def configuration(root, objective, **options):
    config = read_config(DIGITS)
    line = "decode | resize(24) | normalize(0.5, 0.5)"
    config["data"] = {
        "source": "image_folder",
        "root": str(root),
        "train_transforms": line,
        "eval_transforms": line,
    }
    config["objective"] = {"name": objective} | options
    config["train"] = {"batch_size": 8, "total_steps": 2}
    config["evals"] = {}
    return config


@pytest.fixture(scope="module")
def workdir(images, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("ma_cnn") / "run"
    train(configuration(images, "ma_cnn", parts=2, hidden=4, group_epochs=1, response_scale=10.0), workdir)
    return workdir


@pytest.fixture(scope="module")
def folder(workdir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("crops") / "crops"
    assert crop_parts.main(["write", "--workdir", str(workdir), str(folder), "--half_side", "0.25"]) == 0
    return folder


@pytest.fixture(scope="module")
def part_run(folder, tmp_path_factory):
    """A run of `supervised` on the crops of a part."""
    workdir = tmp_path_factory.mktemp("part") / "run"
    train(configuration(folder / "part_0", "supervised"), workdir)
    return str(workdir)


def test_squares_keep_their_size_and_stay_inside():
    assert square((50, 50), 20, (100, 200)) == (40, 40, 60, 60)
    assert square((2, 199), 20, (100, 200)) == (180, 0, 200, 20)
    assert square((50, 50), 500, (100, 200)) == (0, 0, 100, 100)
    # The release at 448 pixels: position (13, 0) of 28x28 is pixel 16 * 13 + 8 = 216, and 8, moved inside.
    assert part_square(np.array([13, 0]), (28, 28), (448, 448), half_side=64 / 448) == (0, 152, 128, 280)


def test_the_object_is_what_is_active():
    activity = np.zeros((8, 8), np.float32)
    activity[2:4, 4:7] = 1
    left, top, right, bottom = object_square(activity, (80, 80))
    assert right - left == bottom - top and 30 <= right - left <= 40
    assert abs((left + right) / 2 - 55) <= 1 and abs((top + bottom) / 2 - 30) <= 1
    assert object_square(np.zeros((4, 4), np.float32), (20, 30)) == (5, 0, 25, 20)


def test_crops_of_one_image_have_one_name_and_lie_around_its_parts(workdir, folder, images):
    assert sorted(path.name for path in folder.iterdir()) == ["object", "part_0", "part_1", "whole"]
    names = [sorted(str(p.relative_to(c)) for p in c.rglob("*.png")) for c in folder.iterdir()]
    assert len(names[0]) == 12 and all(one == names[0] for one in names)
    assert "train/right/000004.png" in names[0]
    trained = load(workdir)
    whole = np.asarray(Image.open(folder / "whole/test/right/000002.png"))
    original = Image.open(images / "test/right/0.png").resize((24, 24), Image.Resampling.BILINEAR)
    assert np.abs(whole.astype(int) - np.asarray(original)).max() <= 2
    batch = {"image": whole[None]}
    maps = np.asarray(trained.predict(trained.params, trained.objective_state, batch)["part_attention"])[0]
    for part, attention in enumerate(maps):
        peak = np.array(np.unravel_index(attention.argmax(), attention.shape))
        left, top, right, bottom = part_square(peak, attention.shape, (24, 24), half_side=0.25)
        found = np.asarray(Image.open(folder / f"part_{part}/test/right/000002.png"))
        assert found.shape == (12, 12, 3)
        np.testing.assert_array_equal(found, whole[top:bottom, left:right])


def test_runs_on_the_crops_are_combined(part_run, capsys):
    capsys.readouterr()
    assert crop_parts.main(["combine", part_run, part_run]) == 0
    told = [line.split(": ") for line in capsys.readouterr().out.splitlines()]
    assert [what for what, _ in told] == [
        part_run,
        part_run,
        "mean of the probabilities",
        "linear classifier on all embeddings",
    ]
    assert told[0][1] == told[1][1] == told[2][1]  # the mean of a run with itself
    assert told[3][1] == "1.0000 (4 of 4)"  # red or blue


def test_mistakes_become_one_line(workdir, folder, part_run, tmp_path, capsys):
    out = str(tmp_path / "out")
    for arguments, message in (
        (["write", "--workdir", part_run, out], "predicts no part_attention"),
        (["write", "--workdir", str(workdir), str(folder)], "is not an empty folder"),
        (["combine", part_run, str(tmp_path / "absent")], "absent"),
        (["combine", part_run, str(workdir)], "does not hold the images of"),
    ):
        assert crop_parts.main(arguments) == 2
        captured = capsys.readouterr()
        assert message in captured.err and len(captured.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit):
        crop_parts.main(["write", "--workdir", str(workdir), out, "--half_side", "0.6"])


def test_the_picture_of_the_parts(workdir, images, tmp_path, capsys):
    output, one = tmp_path / "parts.png", str(images / "test/left/0.png")
    assert visualise.main(["parts", "--workdir", str(workdir), one, "--output", str(output)]) == 0
    picture = np.asarray(Image.open(output))
    side = 240  # of the input and of two parts, beside each other
    assert picture.shape[1] == 2 * 20 + 3 * side + 2 * 12
