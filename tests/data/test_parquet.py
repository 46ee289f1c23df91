"""The source parquet: folders of the Hugging Face hub in miniature, and what is refused."""

import pickle
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imgcls_jax.data import parquet_files
from imgcls_jax.data.source import require_source
from imgcls_jax.data.sources.image_folder import ImageFolder
from imgcls_jax.data.sources.parquet import Parquet
from tests.data.containers import FEATURES, parquet, picture, write


@pytest.fixture
def hub(tmp_path):
    """Seven training images in two files, and three to test."""
    parquet(tmp_path / "data/train-00000-of-00002.parquet", [0, 1, 2, 0, 1], features=FEATURES)
    parquet(tmp_path / "data/train-00001-of-00002.parquet", [2, 2], first=5, features=FEATURES)
    parquet(tmp_path / "data/test-00000-of-00001.parquet", [1, 0, 1], first=7, features=FEATURES)
    return tmp_path


def test_order_names_and_labels(hub):
    source = Parquet("train", root=hub)
    require_source(source, "its file")
    assert source.class_names == ("wren", "jay", "owl") and source.labels.tolist() == [0, 1, 2, 0, 1, 2, 2]
    assert source.paths == [
        *(f"data/train-00000-of-00002.parquet/{row}" for row in range(5)),
        *(f"data/train-00001-of-00002.parquet/{row}" for row in range(2)),
    ]
    assert source.describe(6) == str(hub / "data/train-00001-of-00002.parquet/1")
    for index in (6, 0, 4, 2, 5, -1):
        assert source[index]["image"] == picture(index % 7)
    with pytest.raises(IndexError):
        source[7]
    copy = pickle.loads(pickle.dumps(source))
    assert copy[3] == source[3] and len(pickle.dumps(copy)) == len(pickle.dumps(Parquet("train", root=hub)))
    test = Parquet("testing", root=hub)
    assert [test[index]["image"] for index in range(3)] == [picture(7), picture(8), picture(9)]
    with pytest.raises(
        FileNotFoundError, match=r"no .parquet file of the split .val.; of \['test', 'train'\]"
    ):
        Parquet("val", root=hub)


def test_a_snapshot_of_links_with_a_readme(tmp_path):
    """As the hub's cache has it: links to files without a suffix, and the classes in README.md."""
    blob = parquet(tmp_path / "blobs/a1b2", [2, 0])
    snapshot = tmp_path / "snapshot"
    (snapshot / "plain_text").mkdir(parents=True)
    (snapshot / "plain_text/train-00000-of-00001.parquet").symlink_to(blob)
    names = "names:\n          '0': wren\n          '1': jay\n          '2': owl"
    write(
        snapshot / "README.md",
        "---\nlicense: mit\ndataset_info:\n- config_name: other\n  features: []\n- config_name: plain_text\n"
        f"  features:\n  - name: image\n    dtype: image\n  - name: label\n    dtype:\n"
        f"      class_label:\n        {names}\n"
        "---\n# Birds\n",
    )
    for root in (snapshot, snapshot / "plain_text"):
        source = Parquet("train", root=root)
        assert source.class_names == ("wren", "jay", "owl") and source.labels.tolist() == [2, 0]
        assert source[1]["image"] == picture(1)
    write(snapshot / "README.md", "---\na: &a [1, 2]\nb: [*a, *a]\n---\n")
    with pytest.raises(ValueError, match="README.md: its head between .* is no plain YAML: it has aliases"):
        Parquet("train", root=snapshot)
    write(snapshot / "README.md", "---\na: !!python/object/apply:os.system ['touch /tmp/evil']\n---\n")
    with pytest.raises(ValueError, match="no plain YAML: could not determine a constructor"):
        Parquet("train", root=snapshot)


def test_a_folder_above_has_a_readme_of_its_own(tmp_path):
    parquet(tmp_path / "data/train.parquet", ["owl"])
    write(tmp_path / "README.md", "---\n: no YAML [\n---\n")
    assert Parquet("train", root=tmp_path / "data").class_names == ("owl",)


def test_the_source_image_folder_names_this_one(hub):
    with pytest.raises(ValueError, match="data.source = 'parquet' reads .parquet"):
        ImageFolder("train", root=hub)


def test_words_numbers_and_lists(tmp_path):
    words = parquet(tmp_path / "words/train.parquet", ["owl", "10", "9", "owl"]).parent
    parquet(words / "test.parquet", ["9"])
    assert Parquet("train", root=words).class_names == ("9", "10", "owl")
    assert Parquet("test", root=words).labels.tolist() == [0]
    numbers = parquet(tmp_path / "numbers/train/0000.parquet", [1, 0, 2]).parents[1]
    parquet(numbers / "test/0000.parquet", [1])
    assert Parquet("test", root=numbers).class_names == ("0", "1", "2")
    write(numbers / "names.txt", "a\nb\nc\nd\n")
    assert Parquet("test", root=numbers, classes="names.txt").class_names == ("a", "b", "c", "d")
    lists = parquet(tmp_path / "lists/0000.parquet", [[0, 2], [], [1]]).parent
    several = Parquet("train", root=lists)
    require_source(several, "its file")
    assert several.labels.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    told = {"image": {"_type": "Image"}, "label": {"feature": FEATURES["label"], "_type": "List"}}
    parquet(lists / "0000.parquet", [[0], [1]], features=told)
    assert Parquet("train", root=lists).class_names == ("wren", "jay", "owl")


def test_columns(tmp_path):
    path = tmp_path / "train.parquet"
    fine = {"fine": {"names": ["a", "b"], "_type": "ClassLabel"}}
    parquet(path, ["x", "y"], features=FEATURES | fine, fine=[0, 1], other=[picture(9), None])
    with pytest.raises(ValueError, match="train.parquet/0: the label 'x' is none of the 3"):
        Parquet("train", root=tmp_path)
    chosen = Parquet("train", root=tmp_path, label_column="fine", image_column="other")
    assert chosen.class_names == ("a", "b") and chosen[0]["image"] == picture(9)
    with pytest.raises(ValueError, match=f"{path}/1 has no image, or names a file that is elsewhere"):
        chosen[1]
    with pytest.raises(ValueError, match=r"which column is the label.? Set config.data.label_column"):
        Parquet("train", root=tmp_path, label_column="none")
    with pytest.raises(ValueError, match="the column 'fine' holds int64, no encoded images"):
        Parquet("train", root=tmp_path, label_column="fine", image_column="fine")
    with pytest.raises(ValueError, match=r"the column 'other' holds binary, neither integers"):
        Parquet("train", root=tmp_path, label_column="other")


def test_labels_that_are_refused(tmp_path):
    path = tmp_path / "train.parquet"
    for labels, message in (
        ([0, -1], r"train.parquet/1 has no label \(-1\); choose a labeled split"),
        ([0, None], r"train.parquet/1 has no label \(None\)"),
        ([0, 3], "train.parquet/1: the label 3 is none of the 3 of the data set"),
    ):
        parquet(path, labels, features=FEATURES)
        with pytest.raises(ValueError, match=message):
            Parquet("train", root=tmp_path)
    parquet(path, [0, 2])
    with pytest.raises(ValueError, match="no example has the label 1, and 2 is one: labels count from 0"):
        Parquet("train", root=tmp_path)
    parquet(path, ["a", "b"])
    parquet(tmp_path / "test.parquet", ["c"])
    with pytest.raises(ValueError, match="test.parquet/0: the label .c. is none of the 2 of the train"):
        Parquet("test", root=tmp_path)
    parquet(path, ["a", "b" * 2000])
    with pytest.raises(ValueError, match="the labels are texts, no names of classes"):
        Parquet("train", root=tmp_path)


def test_folders_that_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no .parquet file, with a column.*hf download"):
        Parquet("train", root=tmp_path)
    for name in ("de/train-00000-of-00001.parquet", "fr/train-00000-of-00001.parquet"):
        parquet(tmp_path / name, [0, 1])
    with pytest.raises(ValueError, match=r"lie in 2 folders, as those of several data sets do \(de, fr\)"):
        Parquet("train", root=tmp_path)
    assert len(Parquet("train", root=tmp_path / "fr")) == 2


def test_damaged_files(hub):
    path = hub / "data/train-00000-of-00002.parquet"
    whole = path.read_bytes()
    for content in (b"", b"no" * 999, whole[:-300], whole[:4] + bytes(len(whole) - 4)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{path} cannot be read as a Parquet file: .*; download"):
            Parquet("train", root=hub)
    path.write_bytes(whole[:4] + b"\xff" * 40 + whole[44:])  # the head of the first page
    source = Parquet("train", root=hub)
    with pytest.raises(ValueError, match=f"{path} cannot be read as a Parquet file"):
        [source[index] for index in range(5)]
    assert source[5]["image"] == picture(5)  # the other file is whole
    path.write_bytes(whole)
    with pytest.raises(ValueError, match=f"{path} has changed since it was opened"):
        source[0]


def test_bytes_at_random_raise_one_kind_of_error(hub):
    path = hub / "data/train-00001-of-00002.parquet"
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(150):
        broken = bytearray(whole)
        for place in rng.integers(0, len(whole), 4):
            broken[place] = rng.integers(256)
        path.write_bytes(broken)
        try:
            source = Parquet("train", root=hub)
            [source[index] for index in range(len(source))]
        except ValueError as error:
            assert str(hub) in str(error)


def test_memory_is_bounded(tmp_path, monkeypatch):
    path = tmp_path / "train.parquet"
    table = pa.table({"image": [bytes(2**20)] * 64, "label": [0] * 64})
    pq.write_table(table, path, compression="zstd", use_dictionary=False)
    assert path.stat().st_size < 2**16
    monkeypatch.setattr(parquet_files, "MAX_GROUP_BYTES", 2**24)
    with pytest.raises(ValueError, match=r"a row group with 0.0625 GiB of images, which is read whole"):
        Parquet("train", root=tmp_path)
    monkeypatch.setattr(parquet_files, "_require_group", lambda *_: None)  # a footer that lies
    with pytest.raises(ValueError, match="has a row group of over 16,777,216 bytes"):
        Parquet("train", root=tmp_path)[0]
    rows = pa.table({"image": pa.nulls(10**6, pa.binary()), "label": pa.array(np.zeros(10**6, np.int8))})
    pq.write_table(rows, path)
    with pytest.raises(ValueError, match="claims 1,000,000 rows, more than it has bytes"):
        Parquet("train", root=tmp_path)


def test_row_groups_are_read_once_and_forgotten(hub, monkeypatch):
    monkeypatch.setattr(parquet_files, "RECENT_BYTES", 1)
    source = Parquet("train", root=hub)
    read, made = source._rows._read, []
    monkeypatch.setattr(source._rows, "_read", lambda *place: made.append(place) or read(*place))
    gate = threading.Barrier(8)

    def load(index):
        gate.wait()
        assert source[index]["image"] == picture(index)

    threads = [threading.Thread(target=load, args=(index % 3,)) for index in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert made == [(0, 0)]
    source[5], source[0]
    assert made == [(0, 0), (1, 0), (0, 0)]


def test_the_missing_package_is_named(hub, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install 'imgcls-jax\[parquet\]'"):
        Parquet("train", root=hub)
