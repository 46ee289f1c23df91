"""The pieces of the report's page: escaped, finite, readable."""

import re

import numpy as np
import pytest
from PIL import Image

from imgcls_jax.figures import page


def test_every_text_is_escaped():
    made = page.page("<b>", [page.table(["<i>"], [["<script>alert(1)</script>", 1.5, None]], sorts=True)])
    assert "<script>alert" not in made and "&lt;b&gt;" in made and "&lt;i&gt;" in made
    names = ["</script><b>", *map(str, range(30))]
    made = page.confusion(np.eye(31, dtype=int), names)
    assert "</script><b>" not in made.replace("\\u003c/script>\\u003cb>", "")
    assert "&lt;" in page.picture(Image.new("RGB", (9, 9)), "<x>")


def test_it_fetches_nothing():
    made = page.page(
        "a", [page.picture(Image.new("RGB", (9, 9))), page.chart("c", [(0, [(0, 1), (1, 2)], False)])]
    )
    assert not re.search(r"(?:src|href)=.(?!data:)", made) and "@import" not in made and "url(" not in made


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0, 3600, [0, 1000, 2000, 3000]), (0.97, 0.98, None), (5, 5, None)],
)
def test_ticks_are_round_and_lie_between(low, high, expected):
    found = page.ticks(low, high)
    assert expected is None or found == pytest.approx(expected)
    assert 1 <= len(found) <= 6 and found == sorted(found)
    assert all(low - 1e-9 <= tick <= high + (high - low or abs(high)) for tick in found)


def test_charts_leave_out_what_is_not_finite():
    made = page.chart("loss", [(0, [(0, 1.0), (1, float("nan")), (2, 3.0)], False)])
    assert "nan" not in made and made.count(",") >= 2
    assert page.chart("loss", [(0, [(0, float("inf"))], False)]) == ""


def test_confusions_small_and_large():
    small = page.confusion([[5, 1], [0, 4]], ["a", "b"])
    assert small.count("<td") == 4 and "<img" not in small
    large = page.confusion(np.eye(200, dtype=int).tolist(), [f"c{i}" for i in range(200)])
    assert "<img" in large and '"c199"' in large


def test_numbers_are_short():
    assert [page.text(v) for v in (None, 3, 1234567, 0.123456, 2.0, True, "a&b")] == [
        "–",
        "3",
        "1,234,567",
        "0.1235",
        "2",
        "True",
        "a&amp;b",
    ]
