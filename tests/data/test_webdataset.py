"""The source webdataset: shards in miniature, their index, and what is refused."""

import pickle
import tarfile
import tracemalloc

import numpy as np
import pytest

from imgcls_jax.data.source import require_source
from imgcls_jax.data.sources import webdataset
from imgcls_jax.data.sources.webdataset import WebDataset
from imgcls_jax.runtime.tar_members import MAX_HEADERS
from tests.data.containers import picture, samples, tar, write


@pytest.fixture
def shards(tmp_path):
    """Five training images in two shards, and two to test."""
    write(tmp_path / "birds-train-000000.tar", tar(samples(0, [0, 1, 2])))
    write(tmp_path / "birds-train-000001.tar", tar(samples(3, [1, 0])))
    write(tmp_path / "birds-val-000000.tar", tar(samples(5, [1, 1])))
    return tmp_path


def test_order_names_and_labels(shards):
    source = WebDataset("train", root=shards)
    require_source(source, "its file")
    assert source.class_names == ("0", "1", "2") and source.labels.tolist() == [0, 1, 2, 1, 0]
    assert source.paths[0] == "birds-train-000000.tar/000000.png"
    assert source.describe(4) == str(shards / "birds-train-000001.tar/000004.png")
    for index in (4, 0, 3, 2, 1, -1):
        assert source[index]["image"] == picture(index % 5)
    assert pickle.loads(pickle.dumps(source))[3] == source[3]
    val = WebDataset("validation", root=shards)  # its classes are those of the training split
    assert val.class_names == ("0", "1", "2") and [val[i]["image"] for i in (0, 1)] == [
        picture(5),
        picture(6),
    ]
    write(shards / "names.txt", "wren\njay\nowl\n")
    assert WebDataset("val", root=shards, classes="names.txt").class_names == ("wren", "jay", "owl")
    with pytest.raises(FileNotFoundError, match="holds no .tar file of the split 'test'; of "):
        WebDataset("test", root=shards)


def test_the_index_is_made_once(shards, monkeypatch):
    first = WebDataset("train", root=shards)
    kept = shards / "birds-train-000001.tar.index.npz"
    assert kept.is_file()
    monkeypatch.setattr(webdataset, "_make", None)
    again = WebDataset("train", root=shards)
    assert again.paths == first.paths and again.labels.tolist() == first.labels.tolist()
    monkeypatch.undo()
    for content in (b"", b"no", kept.read_bytes()[:-9]):
        write(kept, content)
        assert WebDataset("train", root=shards).labels.tolist() == first.labels.tolist()
    identity = np.append(webdataset.identity_of(shards / "birds-train-000001.tar"), 0)
    text = np.frombuffer(b'[["a.png", "b.png"], [0, 1], 0]', np.uint8)
    np.savez(kept, samples=text, offsets=[0, 10**9], sizes=[1, 1], archive=identity)
    assert WebDataset("train", root=shards).paths == first.paths  # not that of another field of labels
    write(shards / "birds-train-000001.tar", tar(samples(3, [2])))  # another shard, another index
    assert WebDataset("train", root=shards).labels.tolist() == [0, 1, 2, 2]


def test_where_labels_stand(tmp_path):
    """.cls goes before .json, and that before .txt; KEY.seg.png is no image of its own."""
    members = [
        ("a/1.jpg", picture(1)), ("a/1.cls", "2\n"), ("a/1.json", '{"label": 0}'),
        ("a/2.JPG", picture(2)), ("a/2.json", '{"label": 1, "width": 5}'), ("a/2.txt", "a long caption"),
        ("b/2.seg.png", b"mask"), ("b/2.webp", picture(3)), ("b/2.txt", "0"),
        ("README.txt", "hello"), (".hidden.jpg", b""),
    ]  # fmt: skip
    write(tmp_path / "shard-000000.tar", tar(members))
    source = WebDataset("train", root=tmp_path)
    assert source.labels.tolist() == [2, 1, 0] and source.left_out == {"beside the images": 1}
    assert [source[index]["image"] for index in range(3)] == [picture(1), picture(2), picture(3)]
    write(tmp_path / "shard-000000.tar", tar(samples(0, ["owl", "jay"], "txt")))
    assert WebDataset("train", root=tmp_path).class_names == ("jay", "owl")
    lists = [
        ("1.png", picture(1)),
        ("1.json", '{"tags": [0, 2]}'),
        ("2.png", picture(2)),
        ("2.json", '{"tags": [1]}'),
    ]
    write(tmp_path / "shard-000000.tar", tar(lists))
    assert WebDataset("train", root=tmp_path, label_key="tags").labels.tolist() == [[1, 0, 1], [0, 1, 0]]
    with pytest.raises(ValueError, match=r"shard-000000.tar/1.png has no label \(None\)"):
        WebDataset("train", root=tmp_path)


@pytest.mark.parametrize(
    "members, message",
    [
        ([("1.png", b"x")], r"s.tar/1.png has no label \(None\); choose a labeled split"),
        ([("1.png", b"x"), ("1.jpg", b"x"), ("1.cls", 0)], "'1.png' and '1.jpg' are two images of one"),
        ([("1.cls", 0)], "s.tar holds no image; each .tar holds KEY.jpg"),
        ([("1.png", b"x"), ("1.json", "{")], "the .json of '1.png' holds no label"),
        ([("1.png", b"x"), ("1.json", "[" * 10**5)], "the .json of '1.png' holds no label"),
        ([("1.png", b"x"), ("1.json", '{"label": 1.5}')], "'label' is a number or a name of a class"),
        ([("1.png", b"x"), ("1.cls", "-1")], r"s.tar/1.png has no label \(-1\)"),
        ([("1.png", b"x"), ("1.cls", "1")], "no example has the label 0, and 1 is one"),
        ([("1.png", b"x"), ("1.cls", "0"), ("2.png", b"x"), ("2.cls", "cat")], "the label 'cat' is a word"),
        ([("1.png", b"x"), ("1.cls", "9" * 2000)], "the .cls of '1.png' holds no label: 2,000 characters"),
        ([("1.png", b"x"), ("1.cls", bytes(2**21))], "'1.cls' has 2,097,152 bytes, more than a label"),
        ([("1.png", b"x"), ("1.cls", b"\xff")], "the .cls of '1.png' holds no label: 'utf-8' codec"),
    ],
)  # fmt: skip
def test_what_is_refused(tmp_path, members, message):
    write(tmp_path / "s.tar", tar(members))
    with pytest.raises(ValueError, match=message) as error:
        WebDataset("train", root=tmp_path)
    assert str(tmp_path / "s.tar") in str(error.value)


def test_damaged_shards(shards):
    path = shards / "birds-train-000001.tar"
    whole = path.read_bytes()
    no_header = whole[:1024] + bytes(512) + whole[1536:]
    twice = whole + whole
    for content in (b"", b"no" * 999, whole[:700], whole[:1636], b"\x1f\x8b" + whole, no_header, twice):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"^{path}[: ]"):
            WebDataset("train", root=shards)
    path.write_bytes(whole)
    source = WebDataset("train", root=shards)
    path.write_bytes(whole[:2600])
    with pytest.raises(OSError, match=f"cannot read {path}/000004.png: the archive has become shorter"):
        source[4]


def header(kind, size, name="x"):
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, size
    return member.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_headers_claim_no_memory(tmp_path, kind):
    """The bytes are there: a hole in a file costs its writer nothing, and its reader all that it reads."""
    path = tmp_path / "s.tar"
    with open(path, "wb") as file:
        file.write(header(kind, 2**26))
        file.truncate(2**26 + 10240)
    tracemalloc.start()
    with pytest.raises(ValueError, match=f"{path}: a header claims 67,108,864 bytes; download it again"):
        WebDataset("train", root=tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 2**23
    tracemalloc.stop()
    example = tar([("0.png", picture(0)), ("0.cls", "0")])[:2048]
    path.write_bytes(example + header(kind, 2**26) + bytes(2**20))  # not the first header
    with pytest.raises(ValueError, match="a header claims 67,108,864 bytes"):
        WebDataset("train", root=tmp_path)


def test_headers_within_headers_have_an_end(tmp_path):
    name = header(tarfile.GNUTYPE_LONGNAME, 512) + b"n" * 511 + b"\0"
    for count in (3 * MAX_HEADERS // len(name), 900):
        write(tmp_path / "s.tar", name * count + tar([("0.png", picture(0))]))
        with pytest.raises(ValueError, match="a header claims 512 bytes|headers without end"):
            WebDataset("train", root=tmp_path)
