"""Boxes that may hold a part: inside the image, none twice, and what is found of a rectangle."""

import numpy as np
import pytest
from PIL import Image

from imgcls_jax.data import proposals
from imgcls_jax.data.regions import iou


def scene():
    pixels = np.full((300, 400, 3), (60, 120, 60), np.uint8)
    pixels[90:190, 130:290] = (220, 40, 40)
    return pixels


@pytest.mark.parametrize("method", proposals.METHODS)
def test_boxes_of_a_scene(method):
    if method == "selective_search" and not proposals.has_selective_search():
        pytest.skip("OpenCV's contributed modules are not installed")
    propose = proposals.proposer(method)
    boxes = propose(scene())
    assert [0, 0, 400, 300] in boxes.tolist() and len(np.unique(boxes, axis=0)) == len(boxes)
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= np.array([400, 300]) + 1e-9).all()
    assert (boxes[:, 2:] - boxes[:, :2] >= proposals.MIN_SIDE).all()
    best = iou(boxes, np.array([[130, 90, 290, 190.0]])).max()
    assert best > (0.9 if method == "selective_search" else 0.6)
    np.testing.assert_array_equal(propose(scene()), boxes)  # OpenCV itself gives another order each time


def test_the_grid_leaves_no_box_of_its_sizes_and_shapes_far():
    """Any box of a size and a shape between those of the grid overlaps one of it by half."""
    boxes, rng = proposals.grid(scene()), np.random.default_rng(0)
    worst = 1.0
    for _ in range(200):
        side = np.sqrt(400 * 300) * rng.uniform(proposals.GRID_SIZES[0], 0.6)
        shape = np.exp(rng.uniform(-1, 1) * np.log(2))
        sides = np.array([side * np.sqrt(shape), side / np.sqrt(shape)])
        corner = rng.uniform(0, 1, 2) * (np.array([400, 300]) - sides)
        worst = min(worst, iou(boxes, np.concatenate([corner, corner + sides])[None]).max())
    assert worst > 0.5


def test_the_scale():
    assert proposals.scale_of(250, 100) == 2 and proposals.scale_of(1000, 100) == 0.5
    assert proposals.scale_of(10, 10_000) == 0.2  # not 50: at most 2,000 pixels high
    assert proposals.scaled(Image.new("RGB", (250, 100))).size == (500, 200)
    tiny = proposals.proposer("grid")(np.zeros((8, 500, 3), np.uint8))
    assert tiny.tolist() == [[0, 0, 500, 8]]  # the image itself, however thin


def test_what_is_missing_is_told(monkeypatch):
    with pytest.raises(ValueError, match="proposals are one of selective_search, grid; got 'edges'"):
        proposals.proposer("edges")
    monkeypatch.setattr(proposals, "has_selective_search", lambda: False)
    with pytest.raises(ValueError, match=r"pip install 'imgcls-jax\[parts\]'.*--proposals grid"):
        proposals.proposer("selective_search")
