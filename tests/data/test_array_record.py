"""tools.dataset pack, and the source array_record that reads what it wrote."""

import json
import pickle
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from imgcls_jax.data import packed
from imgcls_jax.data.contents import contents
from imgcls_jax.data.source import Arrays, require_source
from imgcls_jax.data.sources import array_record
from imgcls_jax.data.sources.array_record import ArrayRecord
from imgcls_jax.data.sources.csv_file import CsvFile
from imgcls_jax.data.sources.image_folder import ImageFolder
from imgcls_jax.data.subsets import Subset
from imgcls_jax.tools import dataset
from tests.data.containers import picture, write

pytest.importorskip("array_record", reason="array_record is not installed")
CONFIG = """
from imgcls_jax.config import sections


def get_config(arg=""):
    config, _ = sections(arg)
    config.data.source = "image_folder"
    config.data.root = {root!r}
    config.data.train_transforms = "decode | resize(8)"
    config.data.eval_transforms = "decode | resize(8)"
    config.model.name = "simpleconv3"
    config.objective.name = "supervised"
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 0.001
    config.train.batch_size = 4
    config.train.total_epochs = 1.0
    return config
"""


@pytest.fixture
def folder(tmp_path):
    for seed, name in enumerate(
        f"{split}/{own}" for split in ("train", "val") for own in ("jay/a", "owl/b", "owl/ü")
    ):
        write(tmp_path / "images" / f"{name}.png", picture(seed))
    write(tmp_path / "config.py", CONFIG.format(root=str(tmp_path / "images")))
    return tmp_path


def pack(source, folder, split="train", shard_bytes=2**20):
    return packed.pack(source, folder, split, shard_bytes=shard_bytes, indices=range(len(source)))


def same(first, second):
    assert len(first) == len(second) and first.class_names == second.class_names
    assert contents(first) == contents(second)
    for index in np.random.default_rng(0).permutation(len(first)):
        one, other = first[index], second[index]
        assert one.keys() == other.keys() and type(one["image"]) is type(other["image"])
        for key in one:
            assert np.array_equal(one[key], other[key])
            assert np.asarray(one[key]).dtype == np.asarray(other[key]).dtype


def test_the_command(folder, capsys):
    out = str(folder / "packed")
    for split in ("train", "val"):
        assert dataset.main(["pack", "--config", f"{folder}/config.py", "--split", split, "--out", out]) == 0
    printed = capsys.readouterr().out
    assert "packed: train, 3 images in 1 shards" in printed
    assert f"--config.data.source=array_record --config.data.root={out}" in printed
    assert sorted(path.name for path in (folder / "packed").iterdir()) == [
        "train-00000-of-00001.array_record", "train.index.safetensors", "train.json",
        "val-00000-of-00001.array_record", "val.index.safetensors", "val.json",
    ]  # fmt: skip
    for split in ("train", "val"):
        source = ArrayRecord(split, root=out)
        require_source(source, "its file")
        same(source, ImageFolder(split, root=folder / "images"))
        assert source.paths == ["jay/a.png", "owl/b.png", "owl/ü.png"] and source[-1]["label"] == 1
        assert source.describe(2) == f"{out}/{split}-00000-of-00001.array_record: owl/ü.png"
    assert len(ArrayRecord("validation", root=out)) == 3
    assert dataset.main(["pack", "--config", f"{folder}/config.py", "--out", out]) == 2
    assert f"{out}/train.json is there: remove it, or name another folder" in capsys.readouterr().err
    again = ["pack", "--config", f"{folder}/config.py", "--out", out, "--name", "more", "--config.data.rot=x"]
    assert dataset.main(again) == 2 and "rot" in capsys.readouterr().err
    assert dataset.main([*again[:-1], f"--config.data.root={folder}/none"]) == 2
    assert "none' is not a folder" in capsys.readouterr().err and not (folder / "packed/more.json").exists()
    with pytest.raises(SystemExit):
        dataset.main(["check", out, "--fraction", "1"])


class Rich(Arrays):
    """Arrays with further fields, groups, and several labels an image."""

    def __init__(self):
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (9, 4, 3, 1), np.uint8)
        super().__init__(images, np.arange(9) % 3, ("a", "b", "c"), "rich")
        self.labels = rng.integers(0, 2, (9, 3), np.int32)
        self.groups = np.arange(9) // 2

    def __getitem__(self, index):
        box, parts = np.full(4, index, np.float32), np.zeros((index % 2, 3), np.int64)
        return super().__getitem__(index) | {"box": box, "parts": parts, "flag": np.bool_(True)}


class Texts(Rich):
    def __getitem__(self, index):
        return super().__getitem__(index) | {"text": "x"}


def test_fields_labels_groups_and_shards(tmp_path):
    rich = Rich()
    made = pack(rich, tmp_path / "to", shard_bytes=1)
    assert [shard.examples for shard in made.shards] == [1] * 9
    assert len(list((tmp_path / "to").iterdir())) == 9 + 2
    source = ArrayRecord("train", root=tmp_path / "to")
    require_source(source, "its file")
    assert source.groups.tolist() == rich.groups.tolist() and source.paths[8] == "rich[8]"
    for index in (8, 0, 5):
        one, other = source[index], rich[index]
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[key], other[key]) and one[key].dtype == other[key].dtype for key in one)
    copy = pickle.loads(pickle.dumps(source))
    assert copy[4]["box"].tolist() == [4] * 4 and not pickle.loads(pickle.dumps(source))._readers


def test_few_files_stay_open(tmp_path, monkeypatch):
    monkeypatch.setattr(array_record, "MAX_OPEN", 2)
    pack(Rich(), tmp_path, shard_bytes=1)
    source = ArrayRecord("train", root=tmp_path)
    assert [int(source[index]["box"][0]) for index in (0, 5, 0, 8, 5, 0)] == [0, 5, 0, 8, 5, 0]
    assert list(source._readers) == [5, 0]


def test_packed_again(folder):
    first = ImageFolder("train", root=folder / "images")
    pack(first, folder / "a")
    pack(ArrayRecord("train", root=folder / "a"), folder / "b")
    same(first, ArrayRecord("train", root=folder / "b"))
    for path in (folder / "a").iterdir():  # byte for byte, but for what it says of where it comes from
        assert path.suffix == ".json" or path.read_bytes() == (folder / "b" / path.name).read_bytes()


def test_csv_groups(folder):
    write(
        folder / "images/labels.csv",
        "filename,label,split,bird\ntrain/jay/a.png,x,train,1\ntrain/owl/b.png,x,train,1\n",
    )
    source = CsvFile("train", root=folder / "images", group_column="bird")
    pack(source, folder / "to")
    assert ArrayRecord("train", root=folder / "to").groups.tolist() == [0, 0]


def test_an_interrupted_pack_leaves_nothing(folder):
    source = ImageFolder("train", root=folder / "images")

    def interrupted():
        yield from range(2)
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            packed.pack(source, folder / "to", "train", shard_bytes=1, indices=interrupted())
        assert not list((folder / "to").iterdir())
    with pytest.raises(
        FileNotFoundError, match="train.json is missing: no split was packed there, or not to its"
    ):
        ArrayRecord("train", root=folder / "to")
    (folder / "to/.train.packing").mkdir()  # of a command that runs, or was killed
    with pytest.raises(
        ValueError, match=r".train.packing is there: another command writes this split, or was killed"
    ):
        pack(source, folder / "to")
    (folder / "to/.train.packing").rmdir()
    (folder / "images/train/owl/b.png").unlink()
    with pytest.raises(FileNotFoundError, match="owl/b.png"):
        pack(source, folder / "to")
    assert not list((folder / "to").iterdir())


@pytest.mark.parametrize("moment", range(5))
def test_killed_while_files_are_moved(folder, monkeypatch, moment):
    """Only the last of five moves makes the split."""
    moved = []

    def replace(path, target):
        if len(moved) == moment:
            raise KeyboardInterrupt
        moved.append(path.name)
        path.rename(target)

    monkeypatch.setattr(packed.Path, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        pack(ImageFolder("train", root=folder / "images"), folder / "to", shard_bytes=1)
    with pytest.raises(FileNotFoundError, match="train.json is missing"):
        ArrayRecord("train", root=folder / "to")
    monkeypatch.undo()
    pack(ImageFolder("train", root=folder / "images"), folder / "to")
    assert len(ArrayRecord("train", root=folder / "to")) == 3


def test_what_cannot_be_packed(folder):
    source = ImageFolder("train", root=folder / "images")
    with pytest.raises(ValueError, match=r"'train\[:1\]/x' cannot begin the names of files"):
        pack(source, folder / "to", "train[:1]/x")
    with pytest.raises(
        ValueError, match=r"rich\[0\]: the field 'text' \(<U1\) cannot be packed; it holds no"
    ):
        pack(Texts(), folder / "to")
    with pytest.raises(ValueError, match="the split has no examples"):
        pack(Subset(source, np.arange(0)), folder / "to")


@pytest.fixture
def whole(folder):
    pack(ImageFolder("train", root=folder / "images"), folder / "to", shard_bytes=1)
    return folder / "to"


def test_damaged_shards(whole):
    shard = whole / "train-00001-of-00003.array_record"
    content = shard.read_bytes()
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=f"{shard} is missing; copy it again"):
        ArrayRecord("train", root=whole)
    shard.write_bytes(content[:-9])
    with pytest.raises(ValueError, match=f"{shard} has .* bytes, and .* when it was packed; copy it again"):
        ArrayRecord("train", root=whole)
    half = len(content) // 2
    for broken in (bytes(len(content)), content[:half] + bytes(len(content) - half)):
        shard.write_bytes(broken)
        source = ArrayRecord("train", root=whole)
        with pytest.raises(ValueError, match=f"{shard}.*(: owl/b.png: |damaged).*copy or pack it again$"):
            source[1]
        assert source[0]["image"] == picture(0)
    other = (whole / "train-00002-of-00003.array_record").read_bytes()
    shard.write_bytes(other[: len(content)].ljust(len(content)))
    with pytest.raises(ValueError, match=f"cannot read {shard}: owl/b.png"):
        ArrayRecord("train", root=whole)[1]


def test_shards_that_changed_places(whole):
    told = json.loads((whole / "train.json").read_text())
    told["shards"][:2] = told["shards"][1::-1]
    write(whole / "train.json", json.dumps(told))
    source = ArrayRecord("train", root=whole)
    with pytest.raises(ValueError, match="train-00001-.*: jay/a.png: another example lies in its place"):
        source[0]
    assert source[2]["image"] == picture(2)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda told: told.update(format="other"), "its format is not 'imgcls_jax packed 1'"),
        (lambda told: told.pop("digest"), "it lacks 'digest'"),
        (lambda told: told.update(examples="3"), "examples and bytes are whole numbers"),
        (lambda told: told.update(class_names=["a", 1]), "class_names are no names"),
        (lambda told: told["shards"][0].update(file="../x"), "must be relative to root and stay inside it"),
        (lambda told: told["shards"].pop(), "the files of 'train' are not of one split; pack it again"),
        (lambda told: told.update(examples=4), "the files of 'train' are not of one split"),
        (lambda told: told["class_names"].reverse(), "safetensors is not what train.json describes"),
    ],
)  # fmt: skip
def test_descriptions_that_are_refused(whole, change, message):
    told = json.loads((whole / "train.json").read_text())
    change(told)
    write(whole / "train.json", json.dumps(told))
    with pytest.raises(ValueError, match=message) as error:
        ArrayRecord("train", root=whole)
    assert str(whole) in str(error.value)


def test_indices_that_are_refused(whole):
    path = whole / "train.index.safetensors"
    columns, content = load_file(path), path.read_bytes()
    for change, message in (
        ({"labels": columns["labels"][::-1].copy()}, "is not what train.json describes"),
        ({"labels": columns["labels"].astype(np.int64)}, "its labels or groups are of another form"),
        ({"names": np.frombuffer(b"[1]", np.uint8)}, "its names are none"),
        ({"names": np.frombuffer(b"[" * 10**5, np.uint8)}, "is no index of a packed split"),
    ):
        save_file(columns | change, path)
        with pytest.raises(ValueError, match=f"{path} .*{message}"):
            ArrayRecord("train", root=whole)
    for broken in (b"", content[:20], b"\xff" * 99):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=f"{path} is no index of a packed split: .*; pack it again"):
            ArrayRecord("train", root=whole)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"{path} is missing"):
        ArrayRecord("train", root=whole)


def test_the_missing_package_is_named(whole, monkeypatch):
    monkeypatch.setitem(sys.modules, "array_record.python.array_record_module", None)
    with pytest.raises(ImportError, match=r"pip install 'imgcls-jax\[array_record\]'"):
        ArrayRecord("train", root=whole)[0]
    with pytest.raises(ImportError, match=r"pip install 'imgcls-jax\[array_record\]'"):
        pack(Rich(), whole, "more")
    assert not (whole / ".more.packing").exists()
