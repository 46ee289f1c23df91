"""The classes of an index: those of the folders, as training tells them; an image is stored once."""

import numpy as np

from imgcls_jax.inference.index import Index, class_of, class_roots, joined


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
