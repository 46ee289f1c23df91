"""Boxes by hand: overlap, slack, the boxes of parts, and where the warped crop has its border."""

import numpy as np
from PIL import Image

from imgcls_jax.data.regions import grow_and_crop, iou, part_box, suppressed, within

POINTS = np.array([[10, 20, 1], [30, 26, 1], [0, 0, 0], [16, 50, 1]], np.float32)


def test_overlaps_by_hand():
    boxes = np.array([[0, 0, 10, 10], [5, 5, 15, 15], [20, 20, 30, 30], [0, 0, 10, 5]], float)
    expected = [1, 25 / 175, 0, 0.5]
    np.testing.assert_allclose(iou(boxes[:1], boxes)[0], expected)
    np.testing.assert_allclose(iou(boxes, boxes), iou(boxes, boxes).T)
    assert round(iou(boxes[:1], boxes[1:2])[0, 0], 6) == 0.142857


def test_slack_is_still_inside():
    root = np.array([[100, 100, 200, 200.0]])
    parts = np.array(
        [[90, 100, 150, 150], [89.99, 100, 150, 150], [100, 100, 210, 210], [100, 100, 200, 210.01]]
    )
    assert within(parts, root, 10)[:, 0].tolist() == [True, False, True, False]
    assert not within(parts, root, 0).any()


def test_the_best_boxes_without_what_they_overlap():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [50, 0, 60, 10], [0, 0, 10, 4]], float)
    scores = np.array([1.0, 3.0, 2.0, 0.0])
    assert suppressed(boxes, scores, 0.7, most=9).tolist() == [1, 2, 3]  # 0.9, 0, and 4 / 9
    assert suppressed(boxes, scores, 0.95, most=3).tolist() == [1, 2, 0]


def test_the_box_of_a_part_by_hand():
    np.testing.assert_array_equal(part_box(POINTS, (0, 1, 3)), [10, 20, 30, 50])
    np.testing.assert_array_equal(part_box(POINTS, (0, 1, 2)), [10, 20, 30, 26])  # (0, 0) is hidden
    assert part_box(POINTS, (0, 2)) is None  # one point
    assert part_box(POINTS, (0, 1, 2), shared=(1,)) is None  # two points, one of its own
    np.testing.assert_array_equal(part_box(POINTS, (0, 1, 3), shared=(1,)), [10, 20, 30, 50])
    assert part_box(np.array([[10, 20, 1], [30, 20, 1]]), (0, 1)) is None  # no area


def test_the_border_of_the_warped_crop():
    pixels = np.zeros((200, 300, 3), np.uint8)
    pixels[40:140, 80:280] = 255
    image, box = Image.fromarray(pixels), np.array([80, 40, 280, 140.0])
    crop = grow_and_crop(image, box, fill=(9, 8, 7))
    assert crop.shape == (227, 227, 3) and crop.dtype == np.uint8
    white = np.flatnonzero(crop[113, :, 0] > 127), np.flatnonzero(crop[:, 113, 0] > 127)
    assert [(axis[0], axis[-1]) for axis in white] == [(16, 210), (16, 210)]  # both ways, though 2 : 1
    # The grown box ends at 180 + 100 * 227 / 195 = 296.4 and begins at 63.6: nothing of it lies outside.
    assert (crop[0, 0] == 0).all()
    outside = grow_and_crop(image, np.array([-100, 40, 100, 140.0]), size=40, padding=0, fill=(9, 8, 7))
    assert (outside[:, :20] == (9, 8, 7)).all() and (outside[:, 37:, 0] == 255).all()
    plain = grow_and_crop(image, box, size=50, padding=0, fill=(0, 0, 0))
    assert (plain == 255).all()
