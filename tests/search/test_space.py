"""Spaces of a search: what a text stands for, what is refused, and what is tried."""

import itertools
import math

import numpy as np
import pytest

from imgcls_jax.search.proposals import Outcome, propose
from imgcls_jax.search.pruning import pruned_at
from imgcls_jax.search.space import parse, space_of

RATE, DECAY = "optimizer.learning_rate", "optimizer.weight_decay"


def tried(search, space, count, seed=0, earlier=(), maximize=True):
    options = dict(seed=seed, earlier=earlier, maximize=maximize)
    return [propose(search, space, number, **options) for number in range(count)]


# ---- texts


def test_texts_become_dimensions():
    assert parse(RATE, "[0.1, 'adamw', None]").choices == (0.1, "adamw", None)
    assert parse("optimizer.groups", [[("a", None)], []]).choices == ([["a", None]], [])
    assert str(parse(RATE, " log(1e-4, 1e-1) ")) == "log(0.0001, 0.1)"
    assert parse(RATE, "log(1e-4, 1e-1, 4)").grid() == [1e-4, 1e-3, 1e-2, 1e-1]
    assert parse(RATE, "uniform(-1, 1, 5)").grid() == [-1, -0.5, 0, 0.5, 1]
    assert parse("train.batch_size", "int(3, 5)").grid() == [3, 4, 5]


def test_quantiles():
    assert [parse("a.b", "int(3, 5)").at(q) for q in (0, 0.34, 0.999)] == [3, 4, 5]
    assert [parse("a.b", "['x', 'y']").at(q) for q in (0, 0.49, 0.5, 1.0)] == ["x", "x", "y", "y"]
    assert parse("a.b", "log(1e-4, 1)").at(0.5) == 0.01 and parse("a.b", "uniform(2, 4)").at(0.25) == 2.5


@pytest.mark.parametrize(
    "text, line",
    [
        ("__import__('os').system('touch /tmp/pwned')", "the values of a.b are"),
        ("log(__import__('os').getpid(), 2)", "the values of a.b are"),
        ("[open('/etc/passwd')]", "the values of a.b are"),
        ("[1, 2].append", "the values of a.b are"),
        ("log(a=1, b=2)", "the values of a.b are"),
        ("normal(0, 1)", "the values of a.b are"),
        ("(" * 500, "the values of a.b are"),
        ("", "the values of a.b are"),
        ("0.1", "the values of a.b are"),
        ("log(0, 1)", "needs numbers above 0"),
        ("log(1e-1, 1e-4)", "from a smaller to a larger"),
        ("uniform(1, 1e999)", "from a smaller to a larger"),
        ("int(1, 2.5)", "two whole numbers"),
        ("int(1, 2, 3)", "two whole numbers"),
        ("uniform(1)", "expected uniform"),
        ("log(1, 2, 1)", "2 to 100,000 points"),
        ("[1, 1]", "different values"),
        ("[]", "different values"),
        ("[{1, 2}]", "values of JSON"),
    ],
)
def test_other_texts_are_refused(text, line):
    with pytest.raises(ValueError, match=line):
        parse("a.b", text)


def test_the_command_line_goes_before_the_file():
    space = space_of([f"{RATE}=[1.0]"], {RATE: "[2.0]", DECAY: [0.0, 0.1]})
    assert [(own.field, own.choices) for own in space] == [(RATE, (1.0,)), (DECAY, (0.0, 0.1))]
    for texts, line in (
        ([], "nothing to search"),
        (["rate=[1]"], "SECTION.FIELD=VALUES"),
        ([RATE], "SECTION.FIELD=VALUES"),
        ([f"{RATE}=[1]", f"{RATE}=[2]"], "twice"),
        (["train.seed=[1, 2]"], "is not searched"),
    ):
        with pytest.raises(ValueError, match=line):
            space_of(texts, {})


# ---- what is tried


def test_a_grid_is_the_product_in_order():
    space = space_of(["a.x=[1, 2]", "a.y=int(0, 2)"], {})
    found = [*itertools.takewhile(lambda own: own is not None, tried("grid", space, 9))]
    assert [(own["a.x"], own["a.y"]) for own in found] == [*itertools.product((1, 2), (0, 1, 2))]
    with pytest.raises(ValueError, match=r"how many points of a.z\? Write log\(1, 2, POINTS\)"):
        tried("grid", space_of(["a.z=log(1, 2)"], {}), 1)


def test_random_draws_are_a_function_of_seed_and_number():
    space = space_of(["a.x=log(1e-4, 1)", "a.y=['p', 'q', 'r']"], {})
    found = tried("random", space, 300)
    assert found[7:9] == tried("random", space, 9)[7:] and found != tried("random", space, 300, seed=1)
    logs = np.log10([own["a.x"] for own in found])
    assert all(1e-4 <= own["a.x"] <= 1 for own in found)
    assert np.abs(np.histogram(logs, 4, (-4, 0))[0] - 75).max() < 30  # 4 standard deviations
    assert all(60 < sum(own["a.y"] == name for own in found) < 140 for name in "pqr")
    assert found[0] == {"a.x": float(f"{found[0]['a.x']:.6g}"), "a.y": found[0]["a.y"]}


def test_tpe_finds_the_optimum_of_a_parabola():
    pytest.importorskip("optuna")
    space, done = space_of(["a.rate=log(1e-4, 1)", "a.kind=[[1], 'b']"], {}), []
    for number in range(30):
        fields = propose("tpe", space, number, seed=0, earlier=done, maximize=False)
        value = math.log10(fields["a.rate"] / 0.02) ** 2 + (fields["a.kind"] == "b")
        done.append(Outcome(fields, None if number == 3 else value, [value]))
    best = min((own for own in done if own.value is not None), key=lambda own: own.value)
    assert best.fields["a.kind"] == [1] and abs(math.log10(best.fields["a.rate"] / 0.02)) < 0.1
    again = propose("tpe", space, 29, seed=0, earlier=done[:29], maximize=False)
    assert again == done[29].fields  # taken up again it tries the same


# ---- pruning


def test_the_median_rule():
    earlier = [[0.1, 0.2, 0.9], [0.3, 0.4, 0.9], [0.5, 0.6, 0.9], [0.2, 0.5, 0.9], [0.4, 0.7, 0.9]]
    medians = [0.3, 0.5]  # of the first two evaluations
    assert pruned_at([medians[0], medians[1]], earlier, maximize=True) is None
    assert pruned_at([0.29], earlier, maximize=True) == 0
    assert pruned_at([0.3, 0.49], earlier, maximize=True) == 1
    assert pruned_at([0.5, 0.1], earlier, maximize=True) is None  # its best so far counts
    assert pruned_at([0.5, 0.5, 0.1], earlier, maximize=True) is None  # the last one gives up nothing
    assert pruned_at([0.31], earlier, maximize=False) == 0
    assert pruned_at([0.0], earlier[:4], maximize=True) is None
    # What was no number is worse than all others, whichever way is better, and keeps its place.
    for maximize in (True, False):
        assert pruned_at([None], earlier, maximize=maximize) == 0
        assert pruned_at([0.5, None], [[None, *own[1:]] for own in earlier], maximize=maximize) is None
    assert pruned_at([None, 0.49], [[0.0, *own[1:]] for own in earlier], maximize=True) == 0
