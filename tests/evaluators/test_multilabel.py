"""Multi-label figures against scikit-learn and cases reckoned by hand."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sk

from imgcls_jax.evaluators import classification, classification_report, multilabel
from imgcls_jax.evaluators.multilabel import best_thresholds, report
from imgcls_jax.metrics.ranking import interpolated_precision


def drawn(seed, size=60, labels=5):
    rng = np.random.default_rng(seed)
    truth = rng.uniform(size=(size, labels)) < 0.35
    return 1 / (1 + np.exp(-(rng.normal(size=truth.shape) + 1.5 * truth - 1))), truth


@pytest.mark.parametrize("seed", range(4))
def test_against_scikit_learn(seed):
    probabilities, truth = drawn(seed)
    chosen = probabilities >= 0.5
    found = report(probabilities, chosen, truth)
    expected = {
        "exact_match": sk.accuracy_score(truth, chosen),
        "hamming_loss": sk.hamming_loss(truth, chosen),
        "map": sk.average_precision_score(truth, probabilities),
        "macro_roc_auc": sk.roc_auc_score(truth, probabilities),
        "CP": sk.precision_score(truth, chosen, average="macro"),
        "CR": sk.recall_score(truth, chosen, average="macro"),
        "macro_f1": sk.f1_score(truth, chosen, average="macro"),
        "OP": sk.precision_score(truth, chosen, average="micro"),
        "OR": sk.recall_score(truth, chosen, average="micro"),
        "OF1": sk.f1_score(truth, chosen, average="micro"),
        "average_precision": sk.average_precision_score(truth, probabilities, average=None),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-12, err_msg=name)


def test_a_case_by_hand():
    chosen = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 1, 0, 0]], bool)
    truth = np.array([[1, 1, 0, 0], [0, 0, 1, 0], [1, 1, 1, 0], [1, 0, 0, 0], [1, 0, 0, 0]], bool)
    found = report(chosen.astype(float), chosen, truth)
    expected = {
        "CP": 0.4375,
        "CR": 0.3125,
        "CF1": 0.364583,
        "macro_f1": 1 / 3,
        "OP": 3 / 7,
        "OR": 0.375,
        "OF1": 0.4,
        "exact_match": 0.2,
        "hamming_loss": 0.45,
        "jaccard": 0.26667,
    }
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, err_msg=name)
    assert found["average_precision"][3] is None and found["roc_auc"][3] is None


def test_empty_sets_agree():
    nothing = np.zeros((3, 2), bool)
    found = report(np.zeros((3, 2)), nothing, nothing)
    assert found["exact_match"] == found["jaccard"] == 1 and found["OF1"] == 0 and found["map"] is None


def test_what_is_ignored_counts_neither_way():
    """The figures of a label are those of the images which are left."""
    probabilities, truth = drawn(7)
    ignored = np.random.default_rng(1).uniform(size=truth.shape) < 0.3
    chosen = probabilities >= 0.5
    found = report(probabilities, chosen, truth, ignored)
    for k in range(truth.shape[1]):
        rows = ~ignored[:, k]
        own = (truth[rows, k], chosen[rows, k])
        assert found["precision"][k] == pytest.approx(sk.precision_score(*own))
        assert found["recall"][k] == pytest.approx(sk.recall_score(*own))
        assert found["support"][k] == own[0].sum()
        assert found["average_precision"][k] == pytest.approx(
            sk.average_precision_score(own[0], probabilities[rows, k])
        )
        limits = best_thresholds(probabilities, truth, ignored)
        assert limits[k] == best_thresholds(probabilities[rows, k : k + 1], truth[rows, k : k + 1])[0]
    assert found["hamming_loss"] == pytest.approx(np.mean((chosen != truth)[~ignored]))
    two = np.array([[True, True]])
    by_hand = report(np.ones((1, 2)), two, ~two, np.array([[True, False]]))
    assert by_hand["hamming_loss"] == 1 and by_hand["exact_match"] == 0
    assert report(np.ones((1, 2)), two, ~two, two)["exact_match"] == 1
    assert report(probabilities, chosen, truth, np.zeros_like(truth)) == report(probabilities, chosen, truth)


def test_average_precision_of_voc_by_hand():
    """Hits at ranks 1, 3 and 6 of 6: precision 1, 2/3 and 1/2 at recall 1/3, 2/3 and 1."""
    truth = np.array([True, False, True, False, False, True])
    scores = np.linspace(1, 0, 6)
    area = interpolated_precision(truth, scores)
    assert area == pytest.approx((1 + 2 / 3 + 1 / 2) / 3)
    # Recalls 0 to 0.3 have precision 1, 0.4 to 0.6 have 2/3, 0.7 to 1 have 1/2.
    assert interpolated_precision(truth, scores, points=11) == pytest.approx((4 * 1 + 3 * 2 / 3 + 4 / 2) / 11)
    # A later precision that is higher counts for all before it: ranks 2 and 3 of 3.
    late = np.array([False, True, True])
    assert interpolated_precision(late, np.array([3.0, 2, 1])) == pytest.approx(2 / 3)
    assert sk.average_precision_score(late, [3, 2, 1]) == pytest.approx(
        (1 / 2 + 2 / 3) / 2
    )  # which this is not
    assert interpolated_precision(late & False, scores[:3]) is None
    ten = np.arange(10) < 3  # recall 0.3 exactly, of thirds and tenths of ten
    assert interpolated_precision(np.ones(10, bool), scores[:1].repeat(10), points=11) == 1
    assert interpolated_precision(ten, -np.arange(10.0), points=11) == 1


def test_the_evaluator_reads_what_a_source_ignores():
    probabilities, truth = drawn(3)
    ignored = truth & (probabilities < 0.4)  # all that is missed most
    batches = lambda split: [  # noqa: E731
        {
            "label": jnp.asarray(truth, int),
            "ignore": jnp.asarray(ignored, int),
            "mask": jnp.ones(len(truth), bool),
        }
    ]
    predict = lambda params, objective_state, batch: {"probabilities": jnp.asarray(probabilities)}  # noqa: E731
    task = SimpleNamespace(num_classes=truth.shape[1], class_counts=())
    found = multilabel.make(predict, batches, task=task, split="test", voc_year=2007)({}, {})
    rows = ~ignored[:, 0]
    voc = interpolated_precision(truth[rows, 0], probabilities[rows, 0].astype(np.float32), points=11)
    assert found["voc_average_precision"][0] == pytest.approx(voc) and 0 < found["voc_map"] < 1
    assert found["map"] == pytest.approx(report(probabilities, truth, truth, ignored)["map"], abs=1e-6)
    assert found["map"] > report(probabilities, truth, truth)["map"] + 0.01


def test_labels_of_another_kind():
    probabilities, truth = drawn(0)
    with pytest.raises(ValueError, match="the data give one label an image: use 'classification'"):
        evaluator({"test": (probabilities, truth[:, 0])})
    batches = lambda split: [{"label": jnp.zeros((2, 5), jnp.int32), "mask": jnp.ones(2, bool)}]  # noqa: E731
    predict = lambda params, objective_state, batch: {"logits": jnp.zeros((2, 5))}  # noqa: E731
    task = SimpleNamespace(num_classes=5, class_counts=())
    for module, fields in ((classification, {}), (classification_report, {"top_k": (1,)})):
        evaluate = module.make(predict, batches, task=task, split="test", **fields)
        with pytest.raises(ValueError, match="give any number of labels an image: use 'multilabel'"):
            evaluate({}, {})


def test_thresholds_make_f1_largest():
    probabilities, truth = drawn(7, size=40)
    limits = best_thresholds(probabilities, truth)
    for k, limit in enumerate(limits):
        best = max(sk.f1_score(truth[:, k], probabilities[:, k] >= t) for t in probabilities[:, k])
        np.testing.assert_allclose(sk.f1_score(truth[:, k], probabilities[:, k] >= limit), best)
    assert best_thresholds(probabilities, np.zeros_like(truth)).tolist() == [0.5] * 5


def evaluator(splits, outputs=lambda p: {"probabilities": p}, **fields):
    def open_split(split):
        probabilities, labels = splits[split]
        for start in range(0, len(labels), 16):
            rows = np.arange(start, start + 16)
            mask = rows < len(labels)
            rows = np.where(mask, rows, 0)
            yield {
                "image": jnp.asarray(probabilities[rows]),
                "label": jnp.asarray(labels[rows], jnp.int32),
                "mask": jnp.asarray(mask),
            }

    predict = lambda params, objective_state, batch: outputs(batch["image"])  # noqa: E731
    return multilabel.make(predict, open_split, task=SimpleNamespace(num_classes=5), split="test", **fields)(
        {}, {}
    )


def test_the_evaluator_over_batches():
    splits = {"test": drawn(0, 45), "val": drawn(1)}
    probabilities, truth = splits["test"]
    found = evaluator(splits)
    assert found["exact_match"] == report(probabilities, probabilities >= 0.5, truth)["exact_match"]
    limits = best_thresholds(*splits["val"])
    fitted = evaluator(splits, fit_split="val")
    np.testing.assert_allclose(fitted["thresholds"], limits, rtol=1e-6)
    given = evaluator(splits, lambda p: {"probabilities": p, "chosen": p > 0.9})
    assert given["OR"] == report(probabilities, probabilities > 0.9, truth)["OR"]
    three = evaluator(splits, top_k=3)
    assert three["OP"] * 3 * 45 == pytest.approx(three["OR"] * truth.sum())
    for fields in ({"threshold": 2.0}, {"top_k": 6}, {"fit_split": "test"}):
        with pytest.raises(ValueError, match="multilabel needs"):
            evaluator(splits, **fields)
