"""Several images of one example, and a second stream of labeled examples."""

import jax
import numpy as np
import pytest

from imgcls_jax.config.resolve import resolve_data
from imgcls_jax.data.datasets import DataSide
from imgcls_jax.data.sources.digits import Digits
from imgcls_jax.data.subsets import balanced_subset

NORMALIZE = "normalize(0.5, 0.5)"


def section(**fields):
    return {"source": "digits", "train_transforms": NORMALIZE, "eval_transforms": NORMALIZE} | fields


def batch_of(side, step=0, batch_size=32, seed=3):
    batch = side.train_batches(batch_size, seed)[step]
    return batch, side.augment(jax.random.key(7), {k: v for k, v in batch.items() if k != "bad_examples"})


def test_views_are_drawn_independently_and_of_the_same_examples():
    line = f"affine(10.0, 0.1) | {NORMALIZE}"
    raw, seen = batch_of(DataSide(resolve_data(section(view_transforms=[line, line, NORMALIZE]))))
    one, other, plain = seen["views"]
    assert one.shape == other.shape == (32, 8, 8, 1)
    assert not np.allclose(one, other)
    np.testing.assert_array_equal(plain, seen["image"])
    np.testing.assert_allclose(plain, raw["image"] / 255 * 2 - 1, atol=1e-6)


def test_a_view_with_host_operations_starts_from_the_original():
    side = DataSide(
        resolve_data(section(train_transforms="resize(6) | flip", view_transforms=["random_crop(4)"] * 2))
    )
    raw, seen = batch_of(side)
    assert raw["image"].shape == (32, 6, 6, 1)
    assert [view.shape for view in seen["views"]] == [(32, 4, 4, 1)] * 2
    assert not np.array_equal(*raw["view_images"])
    again, _ = batch_of(side)
    jax.tree.map(np.testing.assert_array_equal, raw, again)
    original = Digits("train")[int(raw["index"][0])]["image"]
    patch = raw["view_images"][0][0]
    cuts = [original[i : i + 4, j : j + 4] for i in range(5) for j in range(5)]
    assert any(np.array_equal(patch, cut) for cut in cuts)


def test_hidden_labels_and_the_labeled_stream():
    side = DataSide(resolve_data(section(labels_per_class=3, labeled_batch_size=8, label_seed=1)))
    truth = Digits("train").labels
    known = balanced_subset(truth, 3, 1)
    assert np.bincount(truth[known]).tolist() == [3] * 10
    seen = []
    for step in range(15):
        batch, _ = batch_of(side, step)
        revealed = batch["label"] >= 0
        np.testing.assert_array_equal(revealed, np.isin(batch["index"], known))
        np.testing.assert_array_equal(batch["label"][revealed], truth[batch["index"][revealed]])
        labeled = batch["labeled"]
        np.testing.assert_array_equal(labeled["label"], truth[labeled["index"]])
        seen += labeled["index"].tolist()
    assert len(seen) == 120  # four passes of 30 over 15 batches of 8: none cut short
    for start in range(0, 120, 30):
        assert sorted(seen[start : start + 30]) == known.tolist()
    assert seen[:30] != seen[30:60]


def test_the_labeled_stream_is_the_same_over_any_number_of_processes():
    fields = section(labels_per_class=3, labeled_batch_size=8)
    whole = DataSide(resolve_data(fields)).train_batches(32, 0)[5]
    parts = [DataSide(resolve_data(fields), (rank, 4)).train_batches(32, 0)[5] for rank in range(4)]
    joined = jax.tree.map(lambda *rows: np.concatenate(rows), *parts)
    jax.tree.map(np.testing.assert_array_equal, whole, joined)


def test_labels_without_a_second_stream_leave_the_labeled_examples_alone():
    side = DataSide(resolve_data(section(labels_per_class=4)))
    assert len(side.training) == 40
    batch, _ = batch_of(side, batch_size=40)
    assert np.bincount(batch["label"]).tolist() == [4] * 10
    assert len(side.source("train")) == 1438  # evaluations of the split still see all of it


def test_more_labels_keep_those_that_fewer_chose():
    labels = np.arange(100) % 5
    few, more = (set(balanced_subset(labels, n, seed=2).tolist()) for n in (3, 7))
    assert few < more
    assert few != set(balanced_subset(labels, 3, seed=3).tolist())


@pytest.mark.parametrize(
    ("fields", "keys", "message"),
    [
        ({}, ("views",), "view_transforms"),
        ({}, ("labeled",), "labels_per_class"),
    ],
)
def test_an_objective_that_needs_a_stream_says_so(fields, keys, message):
    with pytest.raises(ValueError, match=message):
        DataSide(resolve_data(section(**fields))).placed(keys)


def test_mistakes_in_the_fields_are_named():
    with pytest.raises(ValueError, match="labeled_batch_size needs"):
        DataSide(resolve_data(section(labeled_batch_size=8)))
    with pytest.raises(ValueError, match="labels_per_class: class . has .* cannot choose 500"):
        len(DataSide(resolve_data(section(labels_per_class=500))).training)
    with pytest.raises(ValueError, match="view_transforms: unknown operation"):
        DataSide(resolve_data(section(view_transforms=["flop"])))


def test_images_of_a_class_come_in_groups():
    data = DataSide(resolve_data(section(images_per_class=4)))
    batches = data.train_batches(16, seed=0)
    for step in (0, 1, batches.steps_per_epoch):
        assert set(np.bincount(batches[step]["label"])) <= {0, 4, 8, 12}
    assert batches[0]["index"].tolist() != batches[batches.steps_per_epoch]["index"].tolist()
    with pytest.raises(ValueError, match="18, has to be a multiple of data.images_per_class, 4"):
        data.train_batches(18, seed=0)
    with pytest.raises(ValueError, match="labeled_batch_size hides"):
        DataSide(resolve_data(section(images_per_class=4, labels_per_class=3, labeled_batch_size=8)))


def test_a_long_tail_and_its_repeats():
    tail = DataSide(resolve_data(section(imbalance_factor=10.0)))
    counts = np.bincount(tail.training.labels)
    assert tail.class_counts == tuple(counts) and counts[0] == 10 * counts[-1] + counts[0] % 10
    evened = DataSide(resolve_data(section(imbalance_factor=10.0, oversample=True)))
    assert evened.class_counts == tail.class_counts
    assert set(np.bincount(evened.training.labels)) == {counts[0]}
    assert evened.train_batches(8, seed=0).steps_per_epoch == len(evened.training) // 8
    with pytest.raises(ValueError, match="leave out data.imbalance_factor"):
        DataSide(resolve_data(section(imbalance_factor=10.0, labels_per_class=3)))
    with pytest.raises(ValueError, match="config.data.imbalance_factor: an imbalance factor of 1000"):
        len(DataSide(resolve_data(section(imbalance_factor=1000.0))).training)
