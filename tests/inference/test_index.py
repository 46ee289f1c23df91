"""The classes of an index: those of the folders, as training tells them; an image is stored once."""

import numpy as np
import pytest

from imgcls_jax.inference.index import (
    Index,
    aligned,
    class_of,
    class_roots,
    joined,
    read,
    search,
    write,
)


def test_classes_are_those_of_training(tmp_path):
    for place in (
        "birds/Train/wren",
        "birds/Train/auk",
        "birds/Val/wren",
        "plain/wren",
        "plain/auk",
        "raven",
    ):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "0.png").write_bytes(b"")
    folders = [tmp_path / name for name in ("birds", "plain", "raven")]
    roots = class_roots(folders)
    for path, name in (
        ("birds/Train/wren/0.png", "wren"),
        ("birds/Val/wren/deep/0.png", "wren"),
        ("plain/auk/0.png", "auk"),
        ("raven/0.png", "raven"),
    ):
        assert class_of(tmp_path / path, roots) == name


def test_an_image_under_another_path_is_the_same(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "birds")
    (tmp_path / "birds").mkdir()

    def index(path, value):
        return Index(np.full((1, 2), value, np.float32), np.array([str(path)]), np.array(["wren"]), 3)

    (tmp_path / "birds/0.png").write_bytes(b"")
    both = joined(index(tmp_path / "birds/0.png", 1), index(tmp_path / "link/../link/0.png", 2))
    assert len(both.path) == 1 and both.embedding[0, 0] == 2
    assert len(joined(index(tmp_path / "birds/1.png", 1), index(tmp_path / "link/0.png", 2)).path) == 2


@pytest.mark.parametrize("offset", [0, 4, 60])
def test_an_array_is_moved_to_a_boundary_once(offset):
    memory = np.zeros(64 + offset + 48, np.uint8)
    start = -memory.ctypes.data % 64 + offset
    array = memory[start : start + 48].view(np.float32).reshape(3, 4)
    array[:] = np.arange(12).reshape(3, 4)
    moved = aligned(array)
    assert moved.ctypes.data % 64 == 0 and moved.dtype == array.dtype
    np.testing.assert_array_equal(moved, array)
    assert (moved is array) == (offset == 0) and aligned(moved) is moved


def test_what_is_read_stands_at_a_boundary(tmp_path):
    names = np.array([f"{i}.png" for i in range(7)])
    written = Index(np.random.default_rng(0).standard_normal((7, 5), np.float32), names, names, 3)
    write(tmp_path, written)
    index = read(tmp_path, 3)
    assert index.embedding.ctypes.data % 64 == 0
    np.testing.assert_array_equal(index.embedding, written.embedding)
    cosines, rows = search(index, written.embedding[2:3], 2)
    assert rows[0, 0] == 2 and abs(cosines[0, 0] - 1) < 1e-6
