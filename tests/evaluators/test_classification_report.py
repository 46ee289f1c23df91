"""The report's figures against scikit-learn, the book's worked example and figures reckoned by hand."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sk

from imgcls_jax.contracts.evaluator import SplitFacts
from imgcls_jax.evaluators import classification_report
from imgcls_jax.evaluators.classification_report import accuracy_by_shots, calibration, report

LABELS = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 1])
PREDICTED = np.array([0, 0, 1, 1, 1, 2, 2, 0, 2, 2])


def drawn(seed, size=80, classes=6):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, size)
    logits = rng.normal(size=(size, classes)) + 1.5 * np.eye(classes)[labels]
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), labels


@pytest.mark.parametrize("seed", range(4))
def test_against_scikit_learn(seed):
    probabilities, labels = drawn(seed)
    predicted = probabilities.argmax(axis=1)
    found = report(probabilities, labels, beta=0.5, top_k=(2, 5))
    expected = {
        "accuracy": sk.accuracy_score(labels, predicted),
        "error_rate": 1 - sk.accuracy_score(labels, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(labels, predicted),
        "top2_accuracy": sk.top_k_accuracy_score(labels, probabilities, k=2),
        "top5_accuracy": sk.top_k_accuracy_score(labels, probabilities, k=5),
        "macro_roc_auc": sk.roc_auc_score(labels, probabilities, multi_class="ovr"),
        "macro_average_precision": sk.average_precision_score(np.eye(6)[labels], probabilities),
        "precision": sk.precision_score(labels, predicted, average=None),
        "recall": sk.recall_score(labels, predicted, average=None),
        "f1": sk.f1_score(labels, predicted, average=None),
        "f_beta": sk.fbeta_score(labels, predicted, beta=0.5, average=None),
        "confusion_matrix": sk.confusion_matrix(labels, predicted),
        "support": np.bincount(labels),
    }
    for average in ("macro", "weighted", "micro"):
        expected[f"{average}_precision"] = sk.precision_score(labels, predicted, average=average)
        expected[f"{average}_recall"] = sk.recall_score(labels, predicted, average=average)
        expected[f"{average}_f1"] = sk.f1_score(labels, predicted, average=average)
        expected[f"{average}_f_beta"] = sk.fbeta_score(labels, predicted, beta=0.5, average=average)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-12, err_msg=name)
    for c in range(6):  # the specificity of a class is the recall of all that is not it
        rest = sk.recall_score(labels != c, predicted != c)
        np.testing.assert_allclose(found["specificity"][c], rest, rtol=1e-12)


def test_a_case_by_hand():
    found = report(np.eye(3)[PREDICTED], LABELS)
    assert found["confusion_matrix"] == [[2, 1, 0], [0, 2, 1], [1, 0, 3]]
    for name in ("precision", "recall", "f1"):
        np.testing.assert_allclose(found[name], [2 / 3, 2 / 3, 0.75])
    np.testing.assert_allclose(found["macro_f1"], 25 / 36)
    np.testing.assert_allclose(found["balanced_accuracy"], 25 / 36)
    np.testing.assert_allclose(found["specificity"], [6 / 7, 6 / 7, 5 / 6])
    assert found["accuracy"] == found["micro_f1"] == 0.7


def test_the_books_example():
    """200 images, 170 of them cats; 160 are called cats, of which 140 are: the book prints precision 87.5 %,
    recall 82.3 % and, by its own table, an accuracy of 75 % (150 of 200)."""
    labels = np.repeat([1, 1, 0, 0], [140, 30, 20, 10])
    predicted = np.repeat([1, 0, 1, 0], [140, 30, 20, 10])
    found = report(np.eye(2)[predicted], labels)
    assert found["confusion_matrix"] == [[10, 20], [30, 140]]
    assert found["precision"][1] == 0.875
    np.testing.assert_allclose(found["recall"][1], 140 / 170)
    assert found["accuracy"] == 0.75 and found["error_rate"] == 0.25


def test_classes_that_never_occur():
    probabilities = np.array([[0.7, 0.2, 0.1, 0.0], [0.6, 0.3, 0.1, 0.0], [0.1, 0.8, 0.1, 0.0]])
    found = report(probabilities, np.array([0, 0, 1]))
    assert found["recall"][2:] == [0, 0] and found["precision"][2:] == [0, 0]
    assert found["macro_recall"] == 0.5 and found["balanced_accuracy"] == 1
    assert found["roc_auc"] == [1, 1, None, None] and found["macro_roc_auc"] == 1
    alone = report(np.eye(3)[[0, 1]], np.array([0, 0]))
    assert alone["macro_roc_auc"] is None and alone["specificity"] == [0, 0.5, 1]


def test_a_tie_is_an_error_of_the_prediction_too():
    """As in the evaluator `classification`: a collapsed network scores nothing."""
    found = report(np.full((4, 3), 1 / 3), np.array([0, 0, 1, 2]))
    assert found["accuracy"] == 0
    assert found["confusion_matrix"] == [[0, 2, 0], [1, 0, 0], [1, 0, 0]]
    below = report(np.array([[0.2, 0.4, 0.4]]), np.array([0]))
    assert below["confusion_matrix"][0] == [0, 1, 0]


def test_ties_are_errors_among_the_top_k():
    found = report(np.full((6, 3), 1 / 3), np.arange(6) % 3, top_k=(1, 2))
    assert found["top1_accuracy"] == found["top2_accuracy"] == 0


def test_calibration_by_hand():
    bins, ece = calibration(np.array([0.5, 0.55, 0.9, 1.0]), np.array([1, 0, 1, 1]), bins=2)
    assert bins["count"] == [1, 3]
    np.testing.assert_allclose(bins["confidence"], [0.5, 2.45 / 3])
    np.testing.assert_allclose(bins["accuracy"], [1, 2 / 3])
    np.testing.assert_allclose(ece, (0.5 + 0.45) / 4)
    assert calibration(np.array([1.0]), np.array([True]), bins=3)[0]["accuracy"] == [None, None, 1]


def test_a_calibrated_predictor_has_hardly_an_error():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 200_000)
    assert calibration(confidence, rng.uniform(size=200_000) < confidence, bins=15)[1] < 0.01
    assert calibration(confidence, np.ones(200_000), bins=15)[1] == pytest.approx(0.25, abs=0.01)


def test_groups_by_shots():
    recall, support = np.array([0.9, 0.5, 0.7, 0.1, 0.0]), np.array([5, 5, 5, 5, 0])
    found = accuracy_by_shots(recall, support, np.array([101, 100, 20, 19, 3]), (20, 100))
    assert found == {"many_accuracy": 0.9, "medium_accuracy": pytest.approx(0.6), "few_accuracy": 0.1}
    found = accuracy_by_shots(recall, support, np.full(5, 50), (20, 100))
    assert found["many_accuracy"] is None and found["few_accuracy"] is None


def test_the_evaluator_over_batches():
    probabilities, labels = drawn(0)

    def open_split(split):
        assert split == "test"
        logits = np.log(probabilities)
        for start in range(0, len(labels), 32):
            rows = np.arange(start, start + 32)
            mask = rows < len(labels)
            rows = np.where(mask, rows, 0)
            yield {
                "image": jnp.asarray(logits[rows]),
                "label": jnp.asarray(labels[rows]),
                "mask": jnp.asarray(mask),
            }

    task = SimpleNamespace(num_classes=6, class_counts=(6, 6, 6, 6, 6, 0))

    def predict(params, objective_state, batch):
        return {"logits": batch["image"]}

    make = lambda **fields: classification_report.make(  # noqa: E731
        predict, open_split, task=task, split="test", **fields
    )
    found = make(shots=(1, 6))({}, {})
    whole = report(probabilities, labels, top_k=(5,))
    for name in ("accuracy", "top5_accuracy", "macro_f_beta", "macro_roc_auc", "ece"):
        np.testing.assert_allclose(found[name], whole[name], rtol=1e-5)
    assert found["confusion_matrix"] == whole["confusion_matrix"]
    assert found["few_accuracy"] == pytest.approx(found["recall"][5])
    assert found["many_accuracy"] is None
    for fields in ({"beta": 0}, {"calibration_bins": 0}, {"top_k": (6,)}, {"shots": (5, 1)}):
        with pytest.raises(ValueError, match="classification_report"):
            make(**fields)


def test_the_fifth_rank_is_of_more_than_five_classes():
    def predict(params, objective_state, batch):
        return {"logits": jnp.log(batch["image"])}

    for classes, has_rank in ((3, False), (6, True)):
        task = SimpleNamespace(num_classes=classes, class_counts=())
        probabilities, labels = drawn(0, classes=classes)
        batch = {"image": jnp.array(probabilities), "label": jnp.array(labels), "mask": jnp.ones(80, bool)}
        evaluate = classification_report.make(predict, lambda _, b=batch: [b], task=task, split="test")
        assert ("top5_accuracy" in evaluate({}, {})) == has_rank
    with pytest.raises(ValueError, match="top_k from 1 to 2"):
        task = SimpleNamespace(num_classes=3, class_counts=())
        classification_report.make(predict, None, task=task, split="test", top_k=(5,))


def evaluator_of(splits, **fields):
    """The evaluator over {split: (logits, labels)}."""

    def open_split(split):
        logits, labels = splits[split]
        mask = jnp.ones(len(labels), bool)
        yield {"image": jnp.asarray(logits, jnp.float32), "label": jnp.asarray(labels), "mask": mask}

    task = SimpleNamespace(num_classes=6, class_counts=(9, 9, 9, 9, 9, 1))
    return classification_report.make(
        lambda params, objective_state, batch: {"logits": batch["image"]},
        open_split,
        task=task,
        split="test",
        **fields,
    )({}, {})


def split_of(seed, size=200, scale=1.0):
    probabilities, labels = drawn(seed, size)
    return scale * np.log(probabilities), labels


def test_every_number_has_an_interval_around_it():
    splits = {"test": split_of(0), "val": split_of(1)}
    fields = {"shots": (5, 9), "top_k": (2,), "temperature_split": "val", "bootstrap": 300}
    found = evaluator_of(splits, **fields)
    numbers = {name for name, value in found.items() if isinstance(value, float)}
    assert set(found["intervals"]) == numbers - {"temperature"} | {"many_accuracy"}
    assert found["intervals"]["many_accuracy"] is None and found["many_accuracy"] is None
    for name, bounds in found["intervals"].items():
        if bounds:
            assert bounds[0] <= found[name] <= bounds[1], name
    width = np.diff(found["intervals"]["accuracy"])[0]
    spread = np.sqrt(found["accuracy"] * found["error_rate"] / 200)
    assert width == pytest.approx(2 * 1.96 * spread, rel=0.15)
    assert "intervals" not in evaluator_of(splits)


def test_the_rankings_of_many_probabilities_have_no_interval(monkeypatch):
    monkeypatch.setattr(classification_report, "MAX_RANKED", 10)
    found = evaluator_of({"test": split_of(0)}, bootstrap=100)["intervals"]
    assert "macro_f1" in found and "macro_roc_auc" not in found


def test_a_temperature_of_another_split():
    """Logits three times too large; the fit never sees the images measured."""
    splits = {"test": split_of(0, scale=3.0), "val": split_of(1, 2000, scale=3.0)}
    found = evaluator_of(splits, temperature_split="val")
    logits, labels = splits["test"]
    probabilities = np.exp(logits / found["temperature"])
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    assert found["scaled_loss"] == pytest.approx(sk.log_loss(labels, probabilities), rel=1e-4)
    hits = probabilities.argmax(axis=1) == labels
    ece = calibration(probabilities.max(axis=1), hits, bins=15)[1]
    assert found["scaled_ece"] == pytest.approx(ece, abs=1e-4) and found["scaled_ece"] < found["ece"]
    assert found["scaled_loss"] < found["loss"]
    other = evaluator_of(splits | {"test": split_of(2)}, temperature_split="val")
    assert other["temperature"] == found["temperature"]
    without = evaluator_of(splits)
    assert {name: found[name] for name in without} == without


def test_a_temperature_is_not_fitted_where_it_is_measured():
    with pytest.raises(ValueError, match="temperature_split = 'test' is the split measured"):
        evaluator_of({}, temperature_split="test")
    names = tuple("abcdef")
    splits = {
        field: SplitFacts(name, 2, names, (), False, lambda own=own: own)
        for field, name, own in (
            ("split", "test", {"1.png", "2.png"}),
            ("temperature_split", "val", {"2.png", "3.png"}),
        )
    }
    task = SimpleNamespace(num_classes=6)
    with pytest.raises(ValueError, match="1 images of temperature_split = 'val' are measured, too"):
        classification_report.check(splits, {}, task)
    apart = splits | {"temperature_split": SplitFacts("val", 2, names, (), False)}
    classification_report.check(apart, {}, task)


def test_selective_prediction_is_in_the_report():
    probabilities, labels = drawn(0)
    found = report(probabilities, labels)
    assert found["risk_coverage"]["risk"][-1] == pytest.approx(found["error_rate"])
    assert found["aurc"] < found["error_rate"] and found["accuracy_at_coverage_50"] > found["accuracy"]
