"""Images of an object store: what list_file and image_folder read there is what they read on a disk."""

import io
import pickle

import numpy as np
import pytest
from PIL import Image

from imgcls_jax.data.packed import pack
from imgcls_jax.data.source import Arrays
from imgcls_jax.data.sources import array_record, csv_file, image_folder, list_file
from imgcls_jax.runtime import buckets


@pytest.fixture
def root(store, tmp_path):
    """Returns a folder of the store, filled as tmp_path is."""
    store.clear()
    buckets.entries.cache_clear()
    files = {"Train.txt": b"a/0.png 0\nb/a 1.png 1\n", "a/.hidden.png": b"x", "a/notes.txt": b"x"}
    for number, name in enumerate(("a/0.png", "a/deep/1.png", "b/a 1.png", "b/2", "b/3.png")):
        image = io.BytesIO()
        Image.new("RGB", (4, 4), (40 * number, 0, 0)).save(image, "PNG")
        files[name] = image.getvalue()
    for name, content in files.items():
        store.put(f"birds/{name}", content)
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    store.put("birds/a/", b"")  # a folder, as the console of a store marks one
    return f"{store.address}/birds"


@pytest.mark.parametrize("make", [image_folder.make, list_file.make], ids=["image_folder", "list_file"])
def test_it_reads_what_lies_on_a_disk(make, root, tmp_path):
    there, here = make("train", root=root), make("train", root=tmp_path)
    assert there.paths == here.paths and there.class_names == here.class_names
    assert dict(there.left_out) == dict(here.left_out)
    assert there.labels.tolist() == here.labels.tolist()
    sent = pickle.loads(pickle.dumps(there))  # to a worker process
    for index in range(len(here)):
        assert there[index]["image"] == here[index]["image"] == sent[index]["image"]
    assert isinstance(there.labels, np.ndarray) and root in there.rule


def test_what_is_not_there_is_told(store, root):
    source = list_file.make("train", root=root)
    store.remove("birds/b/a 1.png")
    with pytest.raises(
        FileNotFoundError, match=r"cannot read b/a 1.png \(Train.txt, line 2\) .*no such object"
    ):
        source[1]
    with pytest.raises(FileNotFoundError, match="//bucket-one/none' is not a folder"):
        image_folder.make("train", root=f"{store.address}/none")
    with pytest.raises(FileNotFoundError, match=r"array_record alone read.*`\w+ (storage|s3) cp"):
        csv_file.make("train", root=root)


def test_a_packed_split_is_copied_once_and_verified(store, tmp_path, monkeypatch, caplog):
    pytest.importorskip("array_record")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store.clear()
    images = np.arange(5 * 12, dtype=np.uint8).reshape(5, 2, 2, 3)
    source = Arrays(images, np.arange(5) % 2, ("a", "b"), "few")
    pack(source, tmp_path / "here", "train", shard_bytes=1, indices=range(5))
    for path in (tmp_path / "here").iterdir():
        store.put(f"packed/{path.name}", path.read_bytes())
    root = f"{store.address}/packed"
    there, here = array_record.make("train", root=root), array_record.make("train", root=tmp_path / "here")
    assert [there[i]["image"].tolist() for i in range(5)] == [here[i]["image"].tolist() for i in range(5)]
    assert f"copying the split 'train', 0.00061 GiB, from {root} to {tmp_path}" in caplog.text
    assert root in there.rule and there.labels.tolist() == here.labels.tolist()
    shards = [name for name in store.objects if name.endswith(".array_record")]
    for name in shards:
        store.put(name, bytes(len(store.objects[name][1])))
    assert array_record.make("train", root=root)[4]["image"].tolist() == here[4]["image"].tolist()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    with pytest.raises(ValueError, match=f"{root}/train-0000.*is not the shard that was packed: copy it"):
        array_record.make("train", root=root)
