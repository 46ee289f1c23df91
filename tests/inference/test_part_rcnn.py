"""Part R-CNN against brute force and by hand, and the whole command on a synthetic set of birds."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgcls_jax.config.files import read_config
from imgcls_jax.config.resolve import resolve
from imgcls_jax.data.proposals import proposer
from imgcls_jax.data.regions import iou, within
from imgcls_jax.data.sources.cub200 import Cub200
from imgcls_jax.inference.part_rcnn import detectors, geometry
from imgcls_jax.inference.part_rcnn.detectors import Detector
from imgcls_jax.inference.part_rcnn.examples import images_of
from imgcls_jax.inference.part_rcnn.find import embedded, proposed
from imgcls_jax.inference.part_rcnn.fit import accuracy, chosen_cost, regions_of
from imgcls_jax.inference.part_rcnn.model import Options, described, fit_classifier, signed_power
from imgcls_jax.inference.part_rcnn.trunk import of_configuration

DATA = Path(__file__).parents[3] / "shared/data"


def boxes_at_random(rng, count, side=60):
    low = rng.uniform(0, side, (count, 2))
    return np.concatenate([low, low + rng.uniform(3, side, (count, 2))], axis=1)


def chosen_by_brute_force(boxes, part_scores, roots, root_scores, slack, log_priors, alpha):
    """The best sum over all (root, head, body); a part is -1 only where no box of it lies in the root."""
    best, choice = -np.inf, None
    for root in range(len(roots)):
        allowed = [
            row for row in range(len(boxes)) if within(boxes[row : row + 1], roots[[root]], slack)[0, 0]
        ]
        for parts in itertools.product(allowed or [-1], repeat=part_scores.shape[1]):
            total = root_scores[root]
            for part, row in enumerate(parts):
                if row < 0:
                    total += geometry.MISSING
                else:
                    total += part_scores[row, part] + alpha * log_priors[root, row, part]
            if total > best:
                best, choice = total, (root, parts)
    return best, choice


@pytest.mark.parametrize("alpha", [0.0, 0.1, 1.0])
def test_the_joint_choice_is_that_of_brute_force(alpha):
    rng = np.random.default_rng(0)
    missing = 0
    for _ in range(40):
        boxes, roots = boxes_at_random(rng, 18), boxes_at_random(rng, 6)
        part_scores, root_scores = -rng.exponential(1, (18, 2)), -rng.exponential(1, 6)
        log_priors, slack = rng.normal(0, 2, (6, 18, 2)), rng.uniform(0, 10)
        found = geometry.choose(
            boxes, part_scores, roots, root_scores, slack=slack, log_priors=log_priors, alpha=alpha
        )
        best, choice = chosen_by_brute_force(boxes, part_scores, roots, root_scores, slack, log_priors, alpha)
        assert (found.root, tuple(found.parts)) == choice and abs(found.score - best) < 1e-9
        missing += -1 in found.parts
        if not alpha:
            plain = geometry.choose(boxes, part_scores, roots, root_scores, slack=slack)
            assert plain.root == found.root and (plain.parts == found.parts).all()
    assert missing < 40


def test_a_part_that_lies_in_no_root_is_missing():
    root, far = np.array([[0, 0, 10, 10.0]]), np.array([[50, 50, 60, 60.0], [52, 52, 60, 60]])
    found = geometry.choose(far, np.zeros((2, 2)), root, np.zeros(1), slack=10)
    assert found.parts.tolist() == [-1, -1] and found.score == 2 * geometry.MISSING
    near = np.array([[10, 10, 20, 20.0], [10, 10, 20.01, 20]])  # 10 pixels outside, and more
    found = geometry.choose(near, np.array([[-5.0, -5], [0, 0]]), root, np.zeros(1), slack=10)
    assert found.parts.tolist() == [0, 0]


def test_places_by_hand():
    root, part = np.array([100, 200, 300, 300.0]), np.array([100, 200, 140, 230.0])
    np.testing.assert_allclose(geometry.places(part, root), [-0.4, -0.35, 0.2, 0.3])
    np.testing.assert_allclose(geometry.places(3 * part + 7, 3 * root + 7), [-0.4, -0.35, 0.2, 0.3])
    np.testing.assert_array_equal(geometry.places(root, root), [0, 0, 1, 1])


def test_the_prior_by_its_formula():
    rng = np.random.default_rng(0)
    centers = np.array([[-0.4, -0.3, 0.3, 0.3], [0.4, -0.3, 0.3, 0.3]])
    examples = np.repeat(centers, 60, axis=0) + rng.normal(0, 0.03, (120, 4))
    prior = geometry.fit_prior(examples, 2)
    assert sorted(prior.means[:, 0].round(1)) == [-0.4, 0.4] and abs(prior.weights - 0.5).max() < 0.02
    at = rng.normal(0, 0.3, (3, 5, 4))
    density = 0.0
    for weight, mean, covariance in zip(*prior, strict=True):
        away = at - mean
        power = np.einsum("...i,ij,...j", away, np.linalg.inv(covariance), away)
        density += weight * np.exp(-power / 2) / np.sqrt((2 * np.pi) ** 4 * np.linalg.det(covariance))
    found = geometry.log_density(prior, at)
    assert found.shape == (3, 5)
    near = density > 1e-200  # below it the formula itself underflows
    np.testing.assert_allclose(found[near], np.log(density[near]), rtol=1e-9)
    assert geometry.log_density(prior, at[0, :1]).shape == (1,)


@pytest.mark.parametrize("count, components", [(40, 4), (14, 2), (7, 1), (1, 1)])
def test_a_prior_of_few_examples_has_fewer_gaussians(count, components):
    """Four well apart clusters, as far as the examples go: no Gaussian has under five."""
    clusters = np.repeat(np.arange(4), -(-count // 4))[:count] if count == 40 else np.arange(count) % 2
    examples = clusters[:, None] + np.random.default_rng(0).normal(0, 0.01, (count, 4))
    prior = geometry.fit_prior(examples, 4)
    assert len(prior.weights) == components
    assert np.isfinite(geometry.log_density(prior, examples)).all()


def test_pooling_is_the_mean_of_the_area():
    """Against a map of 20 x 20 points a position, whose mean over a cell is a sum over points."""
    rng = np.random.default_rng(0)
    feature_map, fine = rng.normal(size=(5, 6, 3)).astype(np.float32), 20
    points = feature_map.repeat(fine, axis=0).repeat(fine, axis=1)
    boxes = np.array([[0, 0, 6, 5], [1.5, 0.25, 3.5, 4.25], [2.1, 2.1, 2.5, 2.3]])
    found = detectors.pooled(feature_map, boxes, grid=2)
    for box, cells in zip((boxes * fine).round().astype(int), found, strict=True):
        for row, column in itertools.product(range(2), range(2)):
            height, width = (box[3] - box[1]) // 2, (box[2] - box[0]) // 2
            top, left = box[1] + row * height, box[0] + column * width
            expected = points[top : top + height, left : left + width].mean(axis=(0, 1))
            np.testing.assert_allclose(cells[row, column], expected, atol=1e-4)
    beyond = detectors.pooled(feature_map, np.array([[5, 4, 7, 6.0]]), grid=1)  # a quarter lies on the map
    np.testing.assert_allclose(beyond[0, 0, 0], feature_map[4, 5] / 4, rtol=1e-6)


def test_the_response_map_gives_the_scores_of_pooled_features():
    rng = np.random.default_rng(0)
    feature_map, boxes = rng.normal(size=(7, 9, 4)).astype(np.float32), boxes_at_random(rng, 30, side=4)
    detector = Detector(rng.normal(size=(3, 3, 4)).astype(np.float32), 0.5)
    expected = np.tensordot(detectors.pooled(feature_map, boxes, 3), detector.weight, 3) + 0.5
    np.testing.assert_allclose(detectors.scores(detector, feature_map, boxes), expected, atol=1e-5)


def test_a_detector_finds_what_it_was_shown():
    """A bright square among noise: the best box overlaps it by half in images that the detector never saw."""
    rng = np.random.default_rng(0)
    grid = np.array(
        [[x, y, x + s, y + s] for s in (3, 4, 6) for x in range(0, 9) for y in range(0, 9)], float
    )

    def scene():
        feature_map = rng.normal(0, 0.3, (14, 14, 4)).astype(np.float32)
        x, y = rng.integers(0, 9, 2)
        feature_map[y : y + 4, x : x + 4, 1] += 1
        return feature_map, grid, np.array([x, y, x + 4, y + 4], float)

    scenes = [scene() for _ in range(30)]
    hidden = (scenes[0][0], grid, None)  # gives no negatives, though the square is there
    detector = detectors.fit(lambda: [hidden, *scenes[:20]], 21, rng=np.random.default_rng(1))
    best = [grid[[detectors.scores(detector, seen, boxes).argmax()]] for seen, boxes, _ in scenes[20:]]
    overlaps = [iou(box, true[None])[0, 0] for box, (_, _, true) in zip(best, scenes[20:], strict=True)]
    assert np.mean(np.array(overlaps) >= 0.5) >= 0.9


class MeanColor:
    """Stands in for a network: the embedding of a crop is its mean color."""

    size, fill, embedding_size = 8, (0, 0, 0), 3

    def __init__(self):
        self.crops = 0

    def embeddings(self, crops):
        for crop in crops:
            self.crops += 1
            yield crop.mean(axis=(0, 1)).astype(np.float32)


def test_every_region_is_embedded_in_its_place():
    rng, trunk = np.random.default_rng(0), MeanColor()
    colors = rng.integers(0, 256, (50, 3))
    images = (Image.new("RGB", (40, 30), tuple(color)) for color in colors.tolist())
    boxes = np.tile(np.array([4, 3, 20, 15.0]), (2, 50, 3, 1))
    boxes[1, :, 1] += 5  # another head in the second choice, the same root and body
    hidden = rng.random((2, 50, 3)) < 0.3
    boxes[hidden] = np.nan
    found = np.stack(embedded([trunk] * 3, 0, images, boxes), axis=2)  # [2, 50, 3, 3]
    expected = np.where(hidden[..., None], 0, colors[None, :, None, :])
    np.testing.assert_allclose(found, expected, atol=1e-4)
    both = ~hidden[0] & ~hidden[1]
    assert trunk.crops == (~hidden).sum() - both[:, [0, 2]].sum()


@pytest.mark.parametrize("size", [(3000, 10), (1, 900), (333, 251)])
def test_proposals_lie_in_the_image(size):
    boxes = proposed(Image.new("RGB", size), proposer("grid"))
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= np.array(size) + 1e-6).all()
    assert np.isclose(boxes, [0, 0, *size]).all(axis=1).any()


def test_what_the_classifier_reads():
    assert signed_power(np.array([-8.0, 0, 27]), 1 / 3).round(12).tolist() == [-2, 0, 3]
    head = np.array([[1.0, -1], [0, 0]])  # the second image shows no head
    rows = described([np.full((2, 3), -2.0), head, np.ones((2, 1))])
    assert rows.shape == (2, 6) and rows.dtype == np.float32
    np.testing.assert_allclose(rows[:, :3], -(2**0.3), rtol=1e-6)
    assert rows[1, 3:5].tolist() == [0, 0] and rows[0, 3:5].tolist() == [1, -1]


@pytest.mark.parametrize("classes", [2, 3])
def test_the_classifier_has_a_margin_for_each_class(classes):
    labels = np.arange(30) % classes
    features = np.eye(classes)[labels] + np.random.default_rng(0).normal(0, 0.05, (30, classes))
    classifier = fit_classifier(features.astype(np.float32), labels, 1.0)
    margins = classifier.decide(features)
    assert margins.shape == (30, classes) and (margins.argmax(axis=1) == labels).all()


@pytest.mark.parametrize(
    "fields, message",
    [({"padding": 114}, "padding"), ({"alpha": -1.0}, "alpha"), ({"proposals": "edges"}, "edges")],
)
def test_options_out_of_range(fields, message):
    with pytest.raises(ValueError, match=message):
        Options(**fields)


@pytest.mark.slow
def test_parts_tell_real_birds_apart():
    """The root with its true parts is better than the root alone by 5 points, on the official split of the
    photographs: `python -m pytest -n0 -m slow tests/inference/test_part_rcnn.py`, some minutes."""
    photos, weights = (
        DATA / name for name in ("CUB_200_2011_photos", "weights/mobilenet_v2_1.0_224_folded.npz")
    )
    if not photos.exists() or not weights.exists():
        pytest.skip(f"{photos} or {weights} is not here")
    words = ["--config=configs/cub_transfer.py", f"--config.model.pretrained={weights}"]
    trunk = of_configuration(resolve(read_config(words)))
    train, test = (Cub200(split, root=photos) for split in ("train", "test"))
    rows = {
        source: [one[0] for one in embedded([trunk] * 3, 0, images_of(source), regions_of(source)[None])]
        for source in (train, test)
    }
    found = []
    for regions in (1, 3):
        features, seen = (described(rows[source][:regions]) for source in (train, test))
        cost, _ = chosen_cost(features, train.labels)
        found.append(accuracy(fit_classifier(features, train.labels, cost), seen, test.labels))
    assert found[1] - found[0] >= 0.05
