"""Sources with captions: a table of them, and those of CUB-200-2011."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgcls_jax.data.pipeline import TrainBatches
from imgcls_jax.data.sources.caption_table import CaptionTable
from imgcls_jax.data.sources.cub200 import Cub200

DATA = Path(__file__).parents[3] / "shared/data"
START, END, WORDS = 514, 515, {"owl": 513}


@pytest.fixture
def root(tmp_path):
    (tmp_path / "clip.txt").write_text("#\no w\now l</w>\n", encoding="utf-8")  # 516 symbols
    for name in "abcde":
        Image.new("RGB", (4, 3)).save(tmp_path / f"{name}.png")
    return tmp_path


def table(root, text, split="train", **fields):
    (root / "captions.csv").write_text(text, encoding="utf-8")
    return CaptionTable(split, root=root, vocabulary=str(root / "clip.txt"), context_length=4, **fields)


def test_an_image_in_several_rows_has_several_captions(root):
    text = 'Image,Caption,split\na.png,owl,train\nb.png,"owl, owl",Training\na.png,owl owl owl,train\n'
    source = table(root, text.replace("Training", "train") + "c.png,owl,val\n")
    assert (source.paths, source.class_names) == (["a.png", "b.png"], ("any",))
    comma = 256 + ord(",") - 33
    expected = [[START, 513, END, 0], [START, 513, 513, END]]
    assert source[0]["text"].tolist() == expected and source[0]["text"].dtype == np.int32
    assert source[1]["text"].tolist() == [[START, 513, comma, END], [0] * 4]
    assert source.describe(1) == "b.png (captions.csv, line 3)"
    held_out = CaptionTable("validation", root=root, vocabulary=str(root / "clip.txt"), context_length=4)
    assert held_out.paths == ["c.png"] and held_out[0]["text"].shape == (1, 4)
    again = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(again[0]["text"], source[0]["text"])
    assert source.labels.tolist() == [0, 0] and source[0]["label"] == 0


def test_a_table_with_classes_and_without_a_split(root):
    rows = "".join(f"{name}.png;owl;{kind}\n" for name, kind in zip("abcde", "yxyxx", strict=True))
    whole = [table(root, "file;title;class\n" + rows, split, test_fraction=0.4) for split in ("train", "val")]
    assert sorted(whole[0].paths + whole[1].paths) == [f"{name}.png" for name in "abcde"]
    assert len(whole[1]) == 2 and whole[0].class_names == whole[1].class_names == ("x", "y")
    assert "0.4 of all, held out" in whole[1].rule


def test_batches_carry_the_captions(root):
    from imgcls_jax.data.transforms import parse

    source = table(root, "image,caption,split\n" + "".join(f"{n}.png,owl,train\n" for n in "abcde"))
    batch = TrainBatches(source, parse("decode")[0], batch_size=4, seed=0)[0]
    assert batch["text"].shape == (4, 1, 4) and batch["text"].dtype == np.int32


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,label\na.png,cat\n", r"line 1: which column is the caption\? Set config.data.caption_column"),
        ("image,caption\n", "holds no row under its header"),
        ("image,caption\na.png,\n", "line 2: expected 2 columns, with 'image', 'caption'; got"),
        ("image,caption\na.png,owl,owl\n", "line 2: expected 2 columns"),
        ("image,caption\n../a.png,owl\n", "line 2: the path must be relative"),
        ("image,caption,class\na.png,owl,x\na.png,owl,y\n", "line 3: 'a.png' has another class or split"),
        ("image,caption,split\na.png,owl,val\n", "no row of the split 'train'; its splits are .'val'."),
    ],
)
def test_mistakes_in_a_table(root, text, message):
    with pytest.raises(ValueError, match=message):
        table(root, text)


def test_captions_of_birds():
    folder = DATA / "CUB_200_2011_photos"
    if not folder.is_dir() or not (DATA / "clip").is_dir():
        pytest.skip(f"{folder} is not here")
    source = Cub200("train", root=folder, vocabulary=str(DATA / "clip"), context_length=40)
    text = source[0]["text"]
    assert text.shape == (10, 40) and np.all(text[:, 0] == 49406)
    assert np.all(np.sum(text == 49407, axis=1) == 1)
    assert "text" not in Cub200("train", root=folder)[0]
    with pytest.raises(FileNotFoundError, match="elsewhere.*txt is missing"):
        Cub200("train", root=folder, vocabulary=str(DATA / "clip"), captions="elsewhere")
