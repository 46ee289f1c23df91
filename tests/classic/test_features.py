"""Classical features against numbers worked out by hand, published formulas and scikit-image."""

import numpy as np
import pytest
from sklearn.mixture import GaussianMixture

from imgcls_jax.classic import coding, features, fisher, histograms, packages, pyramid, sift


def picture(seed=0, side=48, channels=3):
    return np.random.default_rng(seed).integers(0, 256, (side, side, channels), np.uint8)


# ---- pyramids


def test_cells_are_read_row_by_row_and_level_by_level():
    """One point in the upper right quarter, of word 2: x grows to the right, y downwards."""
    points, found, weight = np.array([[0.9, 0.1]]), np.array([[2]]), np.array([[1.0]])
    cells = pyramid.pooled(points, found, weight, 3, largest=False)
    assert cells.shape == (21, 3) and cells.sum() == 3
    assert [tuple(at) for at in np.argwhere(cells)] == [(0, 2), (1 + 1, 2), (5 + 3, 2)]
    below = pyramid.pooled(np.array([[0.1, 0.9]]), found, weight, 3, largest=False)
    assert [at for at, _ in np.argwhere(below)] == [0, 1 + 2, 5 + 12]


def test_the_border_belongs_to_the_last_cell():
    cells = pyramid.pooled(np.array([[1.0, 1.0]]), np.array([[0]]), np.array([[1.0]]), 1, largest=False)
    assert np.flatnonzero(cells).tolist() == [0, 4, 20]


@pytest.mark.parametrize("largest", [False, True])
def test_one_cell_does_not_know_the_order(largest):
    rng = np.random.default_rng(0)
    points, found = rng.random((30, 2)), rng.integers(0, 7, (30, 3))
    weights = rng.integers(-8, 9, (30, 3)) / 8  # sums of eighths are exact in any order
    order = rng.permutation(30)

    def pooled(points, levels):
        return pyramid.pooled(points, found, weights, 7, largest=largest, levels=levels)

    np.testing.assert_array_equal(pooled(points, (1,)), pooled(points[order], (1,)))
    assert (pooled(points, (1, 2)) != pooled(points[order], (1, 2))).any()


def test_the_largest_weight_of_a_cell():
    found, weights = np.array([[0, 1], [0, 1]]), np.array([[0.3, 0.7], [0.9, -0.4]])
    cells = pyramid.pooled(np.full((2, 2), 0.5), found, weights, 3, largest=True, levels=(1,))
    np.testing.assert_allclose(cells, [[0.9, 0.7, 0.0]], rtol=1e-6)


def test_levels_weigh_a_quarter_a_quarter_and_a_half():
    points, found = np.array([[0.1, 0.1], [0.9, 0.9]]), np.array([[0], [1]])
    vector = pyramid.histogram(pyramid.pooled(points, found, np.ones((2, 1)), 2, largest=False))
    assert vector.shape == (42,)
    np.testing.assert_allclose(
        [vector[:2].sum(), vector[2:10].sum(), vector[10:].sum()], np.array([0.25, 0.25, 0.5]) / 3, rtol=1e-6
    )


# ---- codes


BOOK = np.array([(0, 0), (1, 0), (0, 1), (5, 5)], float)


def test_llc_by_hand():
    found, weights = coding.llc_codes(np.array([[0.25, 0.5]]), BOOK, neighbours=3)
    assert found.tolist() == [[0, 2, 1]]
    np.testing.assert_allclose(weights, [[0.250036, 0.499964, 0.250000]], atol=1e-6)
    np.testing.assert_allclose((weights[0] @ BOOK[found[0]]), [0.25, 0.49996], atol=1e-5)


def test_llc_of_a_word_itself_is_finite():
    found, weights = coding.llc_codes(np.array([[1.0, 0.0]]), BOOK, neighbours=1)
    assert found.tolist() == [[1]] and weights.tolist() == [[1.0]]
    _, weights = coding.llc_codes(np.zeros((1, 2)), np.zeros((5, 2)), neighbours=3)  # tr(C) = 0
    np.testing.assert_allclose(weights, 1 / 3)


def test_the_nearest_words_come_first():
    rng = np.random.default_rng(0)
    x, words = rng.normal(size=(20, 4)), rng.normal(size=(9, 4))
    order = np.argsort(((x[:, None] - words) ** 2).sum(axis=2), axis=1)
    assert (coding.nearest(x, words, 5) == order[:, :5]).all()
    assert (coding.hard_codes(x, words)[0] == order[:, :1]).all()


def test_a_codebook_finds_clusters_and_repeats_itself():
    rng = np.random.default_rng(0)
    centers = np.array([[0, 0], [10, 0], [0, 10]])
    drawn = (centers[rng.integers(0, 3, 300)] + rng.normal(0, 0.1, (300, 2))).astype(np.float32)
    words = coding.codebook(drawn, 3, seed=0)
    assert sorted(map(tuple, np.round(words).astype(int).tolist())) == [(0, 0), (0, 10), (10, 0)]
    np.testing.assert_array_equal(words, coding.codebook(drawn, 3, seed=0))
    with pytest.raises(ValueError, match="4 words need as many descriptors; the training images gave 3"):
        coding.codebook(drawn[:3], 4, seed=0)


# ---- Fisher vectors


X = np.array([[0.0], [1.0], [3.0]])
MIXTURE = fisher.Mixture(
    np.zeros(1, np.float32),
    np.eye(1, dtype=np.float32),
    np.array([0.5, 0.5]),
    np.array([[0.0], [2.0]]),
    np.ones((2, 1)),
)


def test_fisher_by_hand():
    """The variances have the paper's sign: a point far from a mean makes its entry grow."""
    raw = fisher.gradients(X, MIXTURE)
    np.testing.assert_allclose(raw, [0.261139, 0.114838, -0.245636, 0.119203], atol=1e-6)
    assert fisher.gradients(np.array([[-9.0]]), MIXTURE)[2] > 0
    vector = fisher.improved(raw)
    np.testing.assert_allclose(vector, [0.593719, 0.393720, -0.575825, 0.401133], atol=1e-6)
    np.testing.assert_allclose(fisher.fisher_vector(X, MIXTURE), vector, rtol=1e-6)
    # The published sheet's values have the weights among them: the same numbers at another norm.
    np.testing.assert_allclose(vector[:2] / vector[0], np.array([0.558817, 0.370575]) / 0.558817, atol=1e-5)
    assert fisher.improved(np.zeros(4)).tolist() == [0] * 4


def test_fisher_is_the_gradient():
    """Against finite differences of the mean log-likelihood, by the Fisher information's closed form."""
    rng = np.random.default_rng(0)
    weights, means, variances = np.array([0.3, 0.7]), rng.normal(size=(2, 3)), rng.uniform(0.5, 2, (2, 3))
    x = rng.normal(size=(5, 3))

    def likelihood(means, deviations):
        density = np.exp(-0.5 * ((x[:, None] - means) / deviations) ** 2) / deviations
        return np.log((weights * density.prod(axis=2)).sum(axis=1)).mean()

    deviations, small = np.sqrt(variances), 1e-6
    wanted = np.zeros((2, 2, 3))
    for k, d in np.ndindex(2, 3):
        move = np.zeros((2, 3))
        move[k, d] = small
        of_mean = (likelihood(means + move, deviations) - likelihood(means - move, deviations)) / (2 * small)
        of_deviation = (likelihood(means, deviations + move) - likelihood(means, deviations - move)) / (
            2 * small
        )
        wanted[0, k, d] = of_mean * deviations[k, d] / np.sqrt(weights[k])
        wanted[1, k, d] = of_deviation * deviations[k, d] / np.sqrt(2 * weights[k])
    found = fisher.gradients(x, MIXTURE._replace(weights=weights, means=means, variances=variances))
    np.testing.assert_allclose(found, wanted.ravel(), atol=1e-7)


def test_fisher_beside_scikit_image():
    skimage = pytest.importorskip("skimage.feature")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3))
    gmm = GaussianMixture(4, covariance_type="diag", random_state=0).fit(rng.normal(size=(200, 3)))
    theirs = skimage.fisher_vector(x, gmm, improved=False)[4:]  # without the weights
    own = MIXTURE._replace(weights=gmm.weights_, means=gmm.means_, variances=gmm.covariances_)
    signs = np.repeat([1, -1], 12)
    np.testing.assert_allclose(fisher.gradients(x, own), signs * theirs, atol=1e-10)


def test_a_mixture_is_fitted_to_whitened_components():
    drawn = (np.random.default_rng(0).normal(size=(500, 70)) * np.linspace(1, 9, 70)).astype(np.float32)
    mixture = fisher.fit_mixture(drawn, 4, seed=0)
    reduced = mixture.reduced(drawn)
    assert reduced.shape == (500, 64) and mixture.means.shape == (4, 64)
    np.testing.assert_allclose(np.cov(reduced.T), np.eye(64), atol=1e-3)
    assert fisher.fisher_vector(drawn[:9], mixture).shape == (2 * 4 * 64,)
    with pytest.raises(ValueError, match="300 Gaussians .* need more descriptors than the 500"):
        fisher.fit_mixture(drawn, 300, seed=0)


# ---- images


def test_gray_is_that_of_bt_601():
    colors = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]], np.uint8)
    assert histograms.gray(colors).tolist() == [[76, 150, 29, 255]]
    assert (histograms.gray(picture(channels=1)) == picture(channels=1)[:, :, 0]).all()


@pytest.mark.parametrize("height, width, length", [(128, 64, 3780), (32, 32, 324), (48, 48, 900)])
def test_the_length_of_hog(height, width, length):
    pytest.importorskip("skimage")
    vector = histograms.hog(np.resize(picture(side=128), (height, width, 3)))
    assert vector.shape == (length,) and vector.dtype == np.float32
    assert np.linalg.norm(vector[:36]) == pytest.approx(1, abs=1e-3)


def test_hog_reads_the_channel_of_the_largest_gradient():
    pytest.importorskip("skimage")
    one = np.zeros((16, 16, 3), np.uint8)
    one[:, 8:, 2] = 200
    np.testing.assert_allclose(histograms.hog(one), histograms.hog(one[:, :, 2:]), atol=1e-6)


def test_lbp_by_cells():
    pytest.importorskip("skimage")
    vector = histograms.lbp(picture()).reshape(16, 59)
    np.testing.assert_allclose(vector.sum(axis=1), 1, rtol=1e-5)
    flat = histograms.lbp(np.full((18, 18, 1), 7, np.uint8)).reshape(16, 59)
    assert ((flat > 0).sum(axis=1) == 1).all()  # the border, where 0 lies beyond, is left out
    upper = np.concatenate([picture()[:24], np.full((24, 48, 3), 9, np.uint8)])
    cells = histograms.lbp(upper).reshape(4, 4, 59)
    assert (cells[:1].max(axis=2) < 1).all() and (cells[3:].max(axis=2) == 1).all()


def test_small_images_are_refused():
    with pytest.raises(ValueError, match="at least 16 x 16 pixels; got 8 x 9"):
        histograms.hog(np.zeros((8, 9, 3), np.uint8))
    with pytest.raises(ValueError, match="at least 6 x 6 pixels; got 5 x 9"):
        histograms.lbp(np.zeros((5, 9, 3), np.uint8))


def test_the_grid_of_patches():
    points = sift.grid(20, 24, 4, 16)
    assert points.tolist() == [[x, y] for y in (8, 12) for x in (8, 12, 16)]
    assert not len(sift.grid(15, 24, 4, 16))


def test_root_sift():
    rows = sift.root_sift(np.array([[9.0, 16.0, 0.0], [0.0, 0.0, 0.0]], np.float32))
    np.testing.assert_allclose(rows, [[0.6, 0.8, 0], [0, 0, 0]], rtol=1e-6)


def test_dense_sift():
    pytest.importorskip("cv2")
    points, rows = sift.dense_sift(picture(side=32), step=8, patches=(16, 24))
    assert points.shape == (9 + 4, 2) and rows.shape == (13, 128) and rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-4)
    assert points[0].tolist() == [0.25, 0.25] and points[1].tolist() == [0.5, 0.25]
    _, flat = sift.dense_sift(np.full((32, 32, 3), 80, np.uint8), step=8, patches=(16,))
    assert not flat.any()
    with pytest.raises(ValueError, match="no patch of 40 or 48 pixels fits into an image of 32 x 32"):
        sift.dense_sift(picture(side=32), step=8, patches=(40, 48))


def test_a_patch_is_as_large_as_it_says():
    """What lies further from the center than a patch and its blur changes nothing of a descriptor."""
    pytest.importorskip("cv2")
    whole = picture(side=96, channels=1)
    near = whole.copy()
    near[:, : 48 - 24], near[:, 48 + 24 :] = 0, 0
    inner = whole.copy()
    inner[:, : 48 - 6] = 0
    (points, rows), (_, same), (_, other) = (
        sift.dense_sift(image, step=1, patches=(16,)) for image in (whole, near, inner)
    )
    (center,) = np.flatnonzero((points == 0.5).all(axis=1))
    np.testing.assert_allclose(rows[center], same[center], atol=1e-3)
    assert np.abs(rows[center] - other[center]).max() > 0.05


# ---- by name


@pytest.mark.parametrize(
    "name, length", [("sift_bow", 21 * 8), ("sift_llc", 21 * 8), ("sift_fisher", 2 * 4 * 64)]
)
def test_the_lengths_of_sift(name, length):
    pytest.importorskip("cv2")
    options = features.Options(words=8, gaussians=4, descriptors=400)
    images = [picture(seed) for seed in range(4)]
    feature = features.fit(name, iter(images), 4, options, seed=0)
    vector = feature.describe(images[0])
    assert vector.shape == (length,) and vector.dtype == np.float32 and np.isfinite(vector).all()
    norm = 1 if name != "sift_bow" else None
    assert norm is None or np.linalg.norm(vector) == pytest.approx(1, abs=1e-4)
    again = features.fit(name, iter(images), 4, options, seed=0)
    np.testing.assert_array_equal(vector, again.describe(images[0]))
    other = features.fit(name, iter(images), 4, options, seed=1)
    assert (vector != other.describe(images[0])).any()


def test_features_of_sift_hold_no_more_descriptors_than_asked(monkeypatch):
    drawn = []
    monkeypatch.setattr(sift, "dense_sift", lambda image, **_: (None, np.ones((50, 128), np.float32)))
    monkeypatch.setattr(coding, "codebook", lambda sample, *_: drawn.append(sample.shape))
    features.fit("sift_bow", iter([picture()] * 10), 10, features.Options(descriptors=95), seed=0)
    assert drawn == [(100, 128)]


def test_a_missing_package_names_the_extra(monkeypatch):
    import sys

    for module, name in (("skimage", "scikit-image"), ("cv2", "opencv-python-headless")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(
            ValueError, match=rf"the package {name} is missing: pip install 'imgcls-jax\[classic"
        ):
            packages.require(module)
