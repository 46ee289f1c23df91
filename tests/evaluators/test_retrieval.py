"""Recall@k and MAP@R against values by hand and brute force."""

import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.contracts.evaluator import SplitFacts
from imgcls_jax.evaluators import retrieval


def evaluate(splits, **options):
    def open_split(name):
        degrees, labels = splits[name]
        angle = np.deg2rad(np.array(degrees, np.float32))
        for row in range(len(labels)):  # and one row of padding, of another direction
            vectors = np.stack([[np.cos(angle[row]), np.sin(angle[row])], [1.0, 0.0]])
            yield {
                "image": jnp.asarray(vectors),
                "label": jnp.asarray([labels[row], 7], jnp.int32),
                "mask": jnp.asarray([True, False]),
            }

    predict = lambda params, objective_state, batch: {"embedding": 3 * batch["image"]}  # noqa: E731
    return retrieval.make(predict, open_split, task=None, split="test", **options)(None, {})


def test_by_hand():
    # Directions in degrees. The neighbors of each, nearest first:
    # 0 (class 0): 5 a hit, 12, 40 a hit. 5 (0): 0 a hit, 12, 40 a hit. 40 (0): 12, 5 a hit, 0 a hit.
    # 12 (1): 5, 0, 40: class 1 has no other, so it is left out.
    found = evaluate({"test": ([0, 5, 40, 12], [0, 0, 0, 1])}, k=(1, 2))
    assert found["num_examples"] == 3
    assert found["recall_at_1"] == pytest.approx(2 / 3) and found["recall_at_2"] == 1.0
    # R = 2: (1 + 0) / 2 twice, and (0 + 1/2) / 2.
    assert found["map_at_r"] == pytest.approx((0.5 + 0.5 + 0.25) / 3)


def test_a_gallery_of_its_own():
    splits = {"test": ([0, 90], [0, 1]), "train": ([1, 80, 100], [1, 0, 1])}
    found = evaluate(splits, gallery_split="train", k=(1, 3))
    # 0: 1 (class 1), then 80, a hit. 90: 80 or 100 as near, both 10 degrees off.
    assert found["num_examples"] == 2 and found["recall_at_3"] == 1.0
    splits["train"] = ([1, 80, 99], [1, 0, 1])
    found = evaluate(splits, gallery_split="train", k=1)
    assert found["recall_at_1"] == 0.5
    assert found["map_at_r"] == pytest.approx((0 + (1 + 0) / 2) / 2)  # R = 1 and 2; 90: 99 a hit, then 80


def test_precision_at_r_counts_the_first_r_places_alone():
    hits = np.array([[1, 0, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1]], bool)
    found = retrieval.precision_at_r(hits, np.array([3, 1, 4]))
    np.testing.assert_allclose(found, [(1 + 2 / 3) / 3, 0.0, 1.0])


def test_errors():
    with pytest.raises(ValueError, match="at least 1"):
        evaluate({}, k=())
    with pytest.raises(ValueError, match="k = 2 is more than the 1 images"):
        evaluate({"test": ([0, 1], [0, 0])}, k=2)
    with pytest.raises(ValueError, match="no image of test has another"):
        evaluate({"test": ([0, 1], [0, 1])}, k=1)


def test_what_its_splits_do_not_offer_is_refused_before_the_first_step():
    own = SplitFacts("test", 4, ("a", "b"), (4, 0), False)
    other = SplitFacts("train", 9, ("a", "b"), (0, 9), False)
    retrieval.check({"split": own, "gallery_split": own}, {"k": (1, 3)}, None)
    with pytest.raises(ValueError, match="k = 4 is more than the 3 images"):
        retrieval.check({"split": own, "gallery_split": own}, {"k": 4}, None)
    with pytest.raises(ValueError, match="no class of split = 'test' is in gallery_split = 'train'"):
        retrieval.check({"split": own, "gallery_split": other}, {"k": 1}, None)
