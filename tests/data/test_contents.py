"""imgcls_jax.data.contents: what changed in a data set, by names and labels alone."""

import json

import numpy as np
import pytest

from imgcls_jax.data.contents import contents, differing, pack
from imgcls_jax.data.subsets import subset


class Named:
    def __init__(self, rows, class_names=("cat", "dog")):
        self.paths = [path for path, _ in rows]
        self.labels = np.array([label for _, label in rows], np.int32)
        self.class_names = class_names

    def __len__(self):
        return len(self.paths)


ROWS = [("a.png", 0), ("b.png", 1), ("caf\udce9.png", 1)]


def changes(rows, class_names=("cat", "dog")):
    old, new = Named(ROWS), Named(rows, class_names)
    kept = json.loads(json.dumps(pack({"train": contents(old)}, old.class_names)))
    return differing(kept, {"train": contents(new), "other": contents(new)}, new.class_names)


def test_the_same():
    assert changes(ROWS) == {}
    whole = Named(ROWS)
    assert contents(subset(whole, [0])) == contents(whole)  # a choice of the configuration is no change


@pytest.mark.parametrize(
    ("rows", "line", "grown"),
    [
        ([*ROWS, ("c.png", 0)], "split 'train': 1 image more ('c.png')", True),
        (ROWS[1:], "split 'train': 1 image gone ('a.png')", False),
        ([*ROWS[1:], ("c.png", 0)], "split 'train': 1 image more ('c.png'), 1 image gone ('a.png')", False),
        ([("a.png", 1), *ROWS[1:]], "split 'train': 1 image with another label ('a.png')", False),
        (ROWS[::-1], "split 'train': the same images in another order", False),
    ],
)
def test_what_changed_is_named(rows, line, grown):
    (found,) = changes(rows).values()
    assert found.lines == (line,) and found.grown is grown


def test_classes():
    for names, line in (
        (("cat", "dogs"), "classes: 'dog' is gone, 'dogs' is new"),
        (("dog", "cat"), "classes: they have another order"),
        (("cat", "dog", "elk"), "classes: 'elk' is new"),
    ):
        assert changes(ROWS, names)["classes"].lines == (line,) and not changes(ROWS, names)["classes"].grown


def test_arrays_and_damage():
    class Plain:
        class_names = ("0", "1")

        def __init__(self, labels):
            self.labels = labels

        def __len__(self):
            return 3 if self.labels is None else len(self.labels)

    kept = pack({"train": contents(Plain(np.array([0, 1, 1])))}, ("0", "1"))
    for labels, text in (
        ([0, 1, 1, 0], "4 examples, 3 before"),
        ([1, 1, 0], "other labels or another order"),
    ):
        (found,) = differing(kept, {"train": contents(Plain(np.array(labels)))}, ("0", "1")).values()
        assert text in found.lines[0] and not found.grown
    assert contents(Plain(None)).digest != contents(Plain(np.array([0, 1, 1]))).digest
    assert (
        contents(Plain(np.eye(3, 2, dtype=np.int32))).labels[0] != contents(Plain(np.zeros((3, 2)))).labels[0]
    )
    damaged = pack({"train": contents(Named(ROWS))}, ("cat", "dog")) | {"names": "no base64"}
    (found,) = differing(damaged, {"train": contents(Named(ROWS[1:]))}, ("cat", "dog")).values()
    assert found.lines == ("split 'train': 2 examples, 3 before",)
