"""The square around landmarks by hand and at random, and what becomes of a folder; no face is looked for."""

import importlib.util

import numpy as np
import pytest
from PIL import Image

from imgcls_jax.tools import crop_regions
from imgcls_jax.tools.crop_regions import square_region


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(40, 50), (60, 58), (50, 54)], (35, 39, 65, 69)),  # a box of 20 x 8: a side of 30 around (50, 54)
        ([(0, 50), (20, 58)], (0, 39, 30, 69)),  # moved inside from the left
        ([(80, 70), (99, 79)], (72, 52, 100, 80)),  # 28.5 rounds to 28, moved from the right and below
        ([(10, 0), (90, 80)], (10, 0, 90, 80)),  # 120 does not fit: the shorter side, 80, around (50, 40)
        ([(50, 40)], (50, 40, 51, 41)),  # a point is a pixel
    ],
)
def test_squares_worked_out_by_hand(points, expected):
    assert square_region(np.array(points, float), scale=1.5, width=100, height=80) == expected


def test_squares_at_random():
    rng = np.random.default_rng(0)
    for _ in range(300):
        width, height = rng.integers(1, 200, 2).tolist()
        points = rng.uniform(-20, 220, (rng.integers(1, 6), 2))
        left, top, right, bottom = square_region(points, scale=rng.uniform(1, 4), width=width, height=height)
        assert right - left == bottom - top >= 1
        assert 0 <= left and 0 <= top and right <= width and bottom <= height
    for _ in range(300):  # wherever the square fits, all points lie in it, and it is scale times as large
        points, scale = rng.uniform(400, 600, (5, 2)), rng.uniform(1.1, 2)
        region = square_region(points, scale=scale, width=1000, height=1000)
        assert (points >= np.array(region[:2]) - 1).all() and (points <= np.array(region[2:]) + 1).all()
        assert abs(region[2] - region[0] - scale * np.ptp(points, axis=0).max()) <= 0.5


def test_a_folder(tmp_path, capsys, monkeypatch):
    photos, output = tmp_path / "photos", tmp_path / "mouths"
    (photos / "smile").mkdir(parents=True)
    gray = np.full((80, 100, 3), 127, np.uint8)
    for name, value in (("a.png", 255), ("b.jpg", 0)):
        image = gray.copy()
        image[39:69, 35:65] = value
        Image.fromarray(image).save(photos / "smile" / name)
    Image.fromarray(gray).save(photos / "nobody.png")
    (photos / "broken.png").write_bytes(b"nothing")
    landmarks = np.zeros((68, 2))
    landmarks[48:68] = np.linspace((40, 50), (60, 58), 20)

    def finder(predictor, cascade, min_neighbors):
        assert (predictor.name, cascade, min_neighbors) == ("points.dat", None, 7)
        return lambda image: landmarks if image[50, 50, 0] != 127 else None

    monkeypatch.setattr(crop_regions, "landmark_finder", finder)
    command = ["--landmarks", "points.dat", "--min_neighbors", "7", str(photos), str(output)]
    assert crop_regions.main(command) == 1
    printed = capsys.readouterr()
    assert "2 of 4 images cut out" in printed.out
    assert "nobody.png: no face found" in printed.err and "broken.png: " in printed.err
    region = np.asarray(Image.open(output / "smile" / "a.png.png"))
    assert region.shape == (30, 30, 3) and (region == 255).all()
    assert (output / "smile" / "b.jpg.png").is_file() and len(list(output.rglob("*.png"))) == 2
    assert crop_regions.main([*command, "--points", "68:70"]) == 2
    assert "68 points: none of 68:70" in capsys.readouterr().err


def test_mistakes(tmp_path, capsys):
    command = ["--landmarks", str(tmp_path / "absent.dat")]
    assert crop_regions.main([*command, str(tmp_path), "out"]) == 2
    assert "is no folder with images" in capsys.readouterr().err
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert crop_regions.main([*command, str(tmp_path), "out"]) == 2
    installed = importlib.util.find_spec("cv2") and importlib.util.find_spec("dlib")
    expected = "absent.dat does not exist" if installed else "pip install 'imgcls-jax[crop]'"
    assert expected in capsys.readouterr().err
    for wrong in (["--points", "68:48"], ["--points", "mouth"], ["--scale", "0.5"]):
        with pytest.raises(SystemExit):
            crop_regions.main([*command, *wrong, str(tmp_path), "out"])
        assert wrong[0] in capsys.readouterr().err
