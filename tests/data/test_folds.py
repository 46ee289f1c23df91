"""Cross-validation: the folds share out the training split, class by class, and nothing leaks."""

import numpy as np
import pytest
from PIL import Image
from sklearn.model_selection import StratifiedKFold

from imgcls_jax.config import compare
from imgcls_jax.config.resolve import resolve_data
from imgcls_jax.data.datasets import DataSide
from imgcls_jax.data.folds import fold_numbers

SECTION = dict(source="digits", train_transforms="normalize(0.5, 0.5)", eval_transforms="normalize(0.5, 0.5)")


class Labeled:
    def __init__(self, labels, groups=None, count=0):
        self.labels = None if labels is None else np.asarray(labels)
        self.count = count
        if groups is not None:
            self.groups = np.asarray(groups)

    def __len__(self):
        return self.count if self.labels is None else len(self.labels)


def side(**fields):
    return DataSide(resolve_data(SECTION | fields))


def spread(table):
    """The largest difference between folds, of a table [folds, ...]."""
    return int((table.max(axis=0) - table.min(axis=0)).max())


def test_folds_are_pinned_and_depend_on_the_seed():
    labels = [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]
    assert fold_numbers(Labeled(labels), 3, 0).tolist() == [0, 2, 1, 0, 1, 2, 0, 1, 2, 0]
    assert len({tuple(fold_numbers(Labeled(labels), 3, seed)) for seed in range(8)}) > 4


@pytest.mark.parametrize("folds", [2, 5, 7])
def test_sizes_differ_by_one_at_most_over_all_and_in_each_class(folds):
    labels = np.random.default_rng(0).permutation(np.repeat([0, 2, 3, 9], [31, 4, 18, 50]))
    numbers = fold_numbers(Labeled(labels), folds, 1)
    assert spread(np.bincount(numbers, minlength=folds)) <= 1
    by_class = np.array([np.bincount(labels[numbers == fold], minlength=10) for fold in range(folds)])
    assert spread(by_class) <= 1


def test_balanced_classes_give_the_sizes_of_scikit_learn():
    labels = np.tile(np.arange(6), 11)
    reference = StratifiedKFold(4, shuffle=True, random_state=0).split(labels, labels)
    sizes = [len(held_out) for _, held_out in reference]
    assert sorted(np.bincount(fold_numbers(Labeled(labels), 4, 0))) == sorted(sizes)


def test_several_labels_are_stratified_by_their_set():
    labels = np.random.default_rng(0).integers(0, 2, (200, 3))
    numbers = fold_numbers(Labeled(labels), 5, 0)
    sets = labels @ [4, 2, 1]
    assert spread(np.array([np.bincount(sets[numbers == fold], minlength=8) for fold in range(5)])) <= 1


def test_without_labels_the_folds_are_as_large():
    numbers = fold_numbers(Labeled(None, count=11), 3, 0)
    assert sorted(np.bincount(numbers)) == [3, 4, 4] and numbers.tolist() != sorted(numbers)


def test_groups_stay_whole_and_classes_even():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), rng.integers(1, 9, 60))
    labels = np.repeat(rng.integers(0, 3, 60), np.bincount(groups))
    numbers = fold_numbers(Labeled(labels, groups), 5, 0)
    assert all(len(set(numbers[groups == group])) == 1 for group in range(60))
    by_class = np.array([np.bincount(labels[numbers == fold], minlength=3) for fold in range(5)])
    assert spread(by_class) <= 4 and spread(by_class.sum(axis=1)) <= 8  # a group has up to 8 examples
    # By hand: the group of three comes first, then each single one goes where its class is rarest.
    assert len(set(fold_numbers(Labeled([0, 0, 0, 1, 0, 1], [7, 7, 7, 1, 2, 3]), 2, 0)[[0, 4]])) == 2


def test_too_few_are_refused():
    with pytest.raises(ValueError, match="3 examples do not make 4 folds"):
        fold_numbers(Labeled([0, 1, 1]), 4, 0)
    with pytest.raises(ValueError, match="2 groups do not make 3 folds"):
        fold_numbers(Labeled([0, 1, 1], [5, 5, 6]), 3, 0)
    with pytest.raises(ValueError, match=r"config\.data\.folds: 1438 examples do not make 1439 folds"):
        side(folds=1439).source("train")


# ---- the section `data`


def test_each_example_is_held_out_once():
    whole = side().training
    images, held_out = [], []
    for fold in range(4):
        data = side(folds=4, fold=fold, fold_seed=3)
        parts = (data.training, data.source("fold"))
        assert sum(map(len, parts)) == len(whole) and data.source("train") is data.training
        assert not set(parts[0].indices) & set(parts[1].indices)
        images.append(parts[1].gather(np.arange(len(parts[1])))["image"])
        held_out += parts[1].indices.tolist()
        assert len(data.source("test")) == 359
    assert sorted(held_out) == list(range(len(whole)))
    assert sum(map(len, images)) == len(whole)


def test_other_choices_are_made_within_the_folds():
    plain = side(folds=5, fold=2)
    fold = plain.source("fold").indices.tolist()
    for fields in (dict(labels_per_class=4), dict(imbalance_factor=10.0), dict(oversample=True)):
        data = side(folds=5, fold=2, **fields)
        assert data.source("fold").indices.tolist() == fold
        assert set(data.training.source.indices) <= set(plain.training.indices)
    assert len(side(folds=5, fold=2, labels_per_class=4).training) == 40
    known = side(folds=5, fold=2, known_classes=8)
    assert len(known.source("fold")) + len(known.source("unknown:fold")) == len(fold)
    assert set(known.source("unknown:fold").labels) == {8, 9}


def test_what_a_run_says_of_a_fold():
    data = side(folds=5, fold=2)
    assert data.rule("fold").endswith("fold 2 of 5, stratified by class")
    assert "288 of 1438 images" in data.rule("fold") and "without fold 2 of 5" in data.rule("train")
    assert "fold" not in data.rule("test")


@pytest.mark.parametrize(
    "fields, line",
    [
        (dict(folds=1), "at least 2; got 1"),
        (dict(fold=1), r"set data\.folds"),
        (dict(folds=3, fold=3), "between 0 and 2, data.folds being 3; got 3"),
        (dict(folds=3, train_split="fold"), "the split to share out"),
        (dict(folds=-1), "at least 0; got -1"),
    ],
)
def test_mistakes(fields, line):
    with pytest.raises(ValueError, match=line):
        side(**fields)


def test_a_fold_without_folds():
    with pytest.raises(
        ValueError, match=r"'fold' is what a cross-validation holds out .* set config\.data\.folds"
    ):
        side().source("fold")


def test_runs_of_before_are_the_same_run():
    now = {"data": {"source": "digits", "folds": 0, "fold": 0, "fold_seed": 0}}
    before = {"data": {"source": "digits"}}
    assert compare.differing_fields(before, now) == {} and compare.digest(before) == compare.digest(now)
    now["data"]["folds"] = 5
    assert compare.differing_fields(before, now) == {"data.folds": (compare.ABSENT, 5)}


def test_groups_of_a_csv_file(tmp_path):
    rows = ["file,label,split,patient"]
    for number in range(12):
        rows.append(f"{number}.png,{'ab'[number % 2]},{'train' if number < 10 else 'test'},p{number // 3}")
        Image.new("L", (4, 4)).save(tmp_path / f"{number}.png")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    section = dict(SECTION, source="csv_file", root=str(tmp_path), group_column="patient", folds=2)
    data = DataSide(resolve_data(section))
    patients = [{int(path[0]) // 3 for path in paths_of(data.source(split))} for split in ("train", "fold")]
    assert not patients[0] & patients[1] and patients[0] | patients[1] == {0, 1, 2, 3}
    assert data.shared_with_training("fold") == 0 and data.rule("fold").endswith("groups kept whole")
    with pytest.raises(ValueError, match="which column is the group"):
        DataSide(resolve_data(section | {"group_column": "person"})).source("train")
    (tmp_path / "labels.csv").write_text("\n".join(",".join(row.split(",")[::3]) + ",a" for row in rows))
    with pytest.raises(ValueError, match="no column split"):
        DataSide(resolve_data(section | {"label_column": "a"})).source("train")


def paths_of(source):
    return [source.source.paths[index] for index in source.indices]
