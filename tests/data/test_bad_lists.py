"""Wrong list files, tables, CUB files and binary batches, some hundred: refused by name and line, or
read right.

Each case states its outcome: a part of the message, or the labels that must come out.
"""

import functools
import gzip
import io
import os
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgcls_jax.data.lists import read_table
from imgcls_jax.data.sources.cifar10 import Cifar10
from imgcls_jax.data.sources.csv_file import CsvFile
from imgcls_jax.data.sources.cub200 import Cub200
from imgcls_jax.data.sources.label_table import LabelTable
from imgcls_jax.data.sources.list_file import ListFile
from imgcls_jax.data.sources.mnist import Mnist

REFUSED = (ValueError, FileNotFoundError, OSError)
COUNTS: Counter = Counter()


@pytest.fixture(scope="module", autouse=True)
def figures():
    """Prints the figures of the module at its end."""
    COUNTS.clear()
    yield
    for (kind, outcome), count in sorted(COUNTS.items()):
        print(f"\n{kind}: {count} {outcome}", end="")


def write(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (5, 4)).save(stream, "PNG")
    return stream.getvalue()


def refused(kind: str, make, *words: str) -> bool:
    """Returns whether make() refuses; the message must hold the words, and be short enough to read."""
    try:
        make()
    except REFUSED as error:
        text = str(error)
        assert all(word in text for word in words), f"{words} not in {text!r}"
        COUNTS[kind, "refused"] += 1
        return True
    COUNTS[kind, "read"] += 1
    return False


# ---- list files

LIST_CASES = [
    ("a.png", "line 1"),
    ("a.png 0\nb c.png", "line 2"),
    ("a.png 0\nb c.png zero", "line 2"),
    ("a.png -1", "line 1"),
    ("a.png +1", "line 1"),
    ("a.png 1.0", "line 1"),
    ("a.png 1e0", "line 1"),
    ("a.png 0x1", "line 1"),
    ("a.png \N{ARABIC-INDIC DIGIT THREE}", "line 1"),
    ("a.png \N{SUPERSCRIPT TWO}", "line 1"),
    ("a.png 1000000", "line 1"),
    ("a.png 999999", "no image has the label 0"),
    ("a.png 1\nb c.png 2", "no image has the label 0"),
    ("a.png 0\nb c.png 2", "no image has the label 1"),
    ("a.png " + "9" * 5000, "line 1"),
    ("a.png 0 # cat", "line 1"),
    ("a.png,0", "line 1"),
    ("0", "line 1"),
    ("", "is empty"),
    ("\n\r\n \t\n", "is empty"),
    ("\ufeff", "is empty"),
    ("a.png 0\n" + "x" * 70_000 + " 1", "line 2"),
    ("a.png 0\n\0.png 1", "line 2"),
    ("x" * 300 + ".png 0", "line 1"),
    ("x/" * 3000 + "a.png 0", "line 1"),
    ("../a.png 0", "line 1"),
    ("b/../../a.png 0", "line 1"),
    ("/etc/passwd 0", "line 1"),
    (".. 0", "line 1"),
    (". 0", "line 1"),
    ("~/a.png 0", "line 1"),
    ("a.png 0\n./a.png 1", "line 2"),
    ("a.png 0\nsub/../a.png 0", "line 2"),
    ("A.PNG 0", "line 1"),
    ("a.png 0".encode("utf-16"), "line 1"),
    ("a.png 0".encode("utf-32"), "line 1"),
    (b"\xff\xfe\xfa 0", "line 1"),
    (png() + b" 0", "line"),
]
LIST_READ = [
    ("a.png 0\nb c.png 1", [0, 1]),
    ("a.png 0\r\nb c.png 1\r\n", [0, 1]),
    ("a.png 0\rb c.png 1\r", [0, 1]),
    ("\ufeffa.png 0\n\n\n  b c.png\t1  \n\n", [0, 1]),
    ("a.png 000", [0]),
    ("caf\N{LATIN SMALL LETTER E WITH ACUTE}.png 0", [0]),
    (b"\xe9.png 0", [0]),
    ("sub/../a.png 1\nb c.png 0", [1, 0]),
]


def list_file(folder: Path, content: bytes | str) -> ListFile:
    for name in ("a.png", "b c.png", "caf\N{LATIN SMALL LETTER E WITH ACUTE}.png"):
        write(folder / name, png())
    write(folder / os.fsdecode(b"\xe9.png"), png())
    write(folder / "train.txt", content)
    return ListFile("train", root=folder)


@pytest.mark.parametrize("content, where", LIST_CASES, ids=range(len(LIST_CASES)))
def test_lists_refused(tmp_path, content, where):
    assert refused("list files", lambda: list_file(tmp_path, content), "train.txt", where)


@pytest.mark.parametrize("content, labels", LIST_READ, ids=range(len(LIST_READ)))
def test_lists_read(tmp_path, content, labels):
    assert not refused("list files", lambda: list_file(tmp_path, content))
    source = list_file(tmp_path, content)
    assert source.labels.tolist() == labels and all(source[i]["image"] == png() for i in range(len(source)))


@pytest.mark.parametrize("rounds", [300, pytest.param(3000, marks=pytest.mark.slow)])
def test_lists_at_random(tmp_path, rounds):
    """Whatever is read says of a file what a line of the text says of it."""
    rng = np.random.default_rng(0)
    pieces = [
        "a.png",
        "b c.png",
        " ",
        "\t",
        "\n",
        "\r\n",
        "0",
        "1",
        "-",
        ".",
        "/",
        "..",
        "\0",
        "\ufeff",
        '"',
        "é",
    ]
    for _ in range(rounds):
        text = "a.png 0\n" + "".join(rng.choice(pieces, int(rng.integers(1, 12))))

        def read(text=text):
            source = list_file(tmp_path, text)
            lines = [line.split() for line in text.replace("\ufeff", "").splitlines() if line.strip()]
            expected = {os.path.normpath(" ".join(words[:-1])): int(words[-1]) for words in lines}
            assert source.labels.tolist() == list(expected.values()), repr(text)

        refused("lists at random", read, "train.txt", "line")


@pytest.mark.parametrize("what", ["folder", "pipe", "loop", "absent", "long"])
def test_a_list_that_is_no_file(tmp_path, what):
    name = "x" * 300 if what == "long" else "train.txt"
    if what == "folder":
        (tmp_path / name).mkdir()
    elif what == "pipe":
        os.mkfifo(tmp_path / name)
    elif what == "loop":
        (tmp_path / name).symlink_to(name)
    assert refused("lists", lambda: ListFile("train", root=tmp_path, list_file=name), name, "missing")


# ---- label tables

HEAD = "file,sea,sun\n"
TABLE_CASES = [
    ("", "line 1"),
    ("\n\n", "line 1"),
    ("file\na.png\n", "line 1"),
    ("file,split\na.png,train\n", "line 1"),
    ("file,sea,sea\na.png,1,1\n", "line 1"),
    ("file,sea,\na.png,1,1\n", "line 2"),
    ("file,,sea\na.png,1,1\n", "line 1"),
    ("file," + "y" * 200_000 + "\na.png,1\n", "line 1"),
    (HEAD, "no line"),
    (HEAD + "a.png,1\n", "line 2"),
    (HEAD + "a.png,1,0,1\n", "line 2"),
    (HEAD + "a.png,1,\n", "line 2"),
    (HEAD + "a.png\n", "line 2"),
    (HEAD + "a.png,1,2\n", "line 2"),
    (HEAD + "a.png,1,-1\n", "line 2"),
    (HEAD + "a.png,1,nan\n", "line 2"),
    (HEAD + '"a.png,1,0\n', "line 2"),
    (HEAD + '"a\n.png",1,0\n', "line 2"),
    (HEAD + "a.png,1,0\na.png,0,1\n", "line 3"),
    (HEAD + "a.png,1,0\n./a.png,1,0\n", "line 3"),
    (HEAD + "../a.png,1,0\n", "line 2"),
    (HEAD + "/a.png,1,0\n", "line 2"),
    (HEAD + ",1,0\n", "line 2"),
    ("file,split,sea\na.png,train,1\n,val,0\n", "line 3"),
    (HEAD + "gone.png,1,0\n", "line 2"),
    (HEAD + "a.png,1,0\n\0,1,0\n", "line 3"),
    (HEAD + "a.png,1,0\n" + "x" * 200_000 + ",1,0\n", "line 3"),
    ("file,split,sea\na.png,val,1\n", "no line"),
    ("\ufeff\ufefffile,sea\na.png,2", "line 2"),
]
TABLE_READ = [
    ("file;sea\na.png;1\n", [[1]]),
    ("file\tsea\na.png\t1\n", [[1]]),
    (HEAD + "a.png,1.0, 0\n", [[1, 0]]),
    (HEAD + "a.png,True,False\n", [[1, 0]]),
    ("file,sea,\na.png,1,\n", [[1]]),
    ("file,split,sea\na.png,Train,1\n", [[1]]),
    ((HEAD + "a.png,1,0\n").encode("utf-16"), [[1, 0]]),
    (HEAD + "a.png,1,0\n", [[1, 0]]),
    ('\ufefffile,"sea",sun\r\n"a.png","1","0"\r\n\r\n', [[1, 0]]),
    (HEAD + 'a.png,1,"0\n', [[1, 0]]),  # the csv module closes it
    ('file,"sea, deep"\n"a.png",1\n', [[1]]),
]


def label_table(folder: Path, content: bytes | str) -> LabelTable:
    write(folder / "images/a.png", png())
    write(folder / "labels.csv", content)
    return LabelTable("train", root=folder)


@pytest.mark.parametrize("content, where", TABLE_CASES, ids=range(len(TABLE_CASES)))
def test_tables_refused(tmp_path, content, where):
    assert refused("label tables", lambda: label_table(tmp_path, content), "labels.csv", where)


@pytest.mark.parametrize("content, labels", TABLE_READ, ids=range(len(TABLE_READ)))
def test_tables_read(tmp_path, content, labels):
    assert not refused("label tables", lambda: label_table(tmp_path, content))
    assert label_table(tmp_path, content).labels.tolist() == labels


# ---- CUB-200-2011

CUB = {
    "images": ["1 001.Auk/a.png", "2 001.Auk/b.png", "4 002.Wren/c.png", "5 002.Wren/d.png"],
    "classes": ["1 001.Auk", "2 002.Wren"],
    "image_class_labels": ["1 1", "2 1", "4 2", "5 2"],
    "train_test_split": ["1 1", "2 0", "4 1", "5 0"],
    "bounding_boxes": ["1 1 0 3 2", "2 0 0 5 4", "4 1.5 1.2 2 2", "5 0 0 2 2"],
    "parts/parts": ["1 back", "2 left eye"],
    "parts/part_locs": [f"{image} {part} 3.5 2.0 1" for image in (1, 2, 4, 5) for part in (1, 2)],
}
WRONG_WORDS = ("x", "", "0x1", "1_0", "\N{ARABIC-INDIC DIGIT ONE}", "9" * 400, "1e300", "nan", "inf", "99")


def write_cub(root: Path, name: str = "", lines: list[str] | None = None) -> Cub200:
    for file, kept in CUB.items():
        write(root / f"{file}.txt", "\n".join(lines if file == name else kept))
    for line in CUB["images"]:
        write(root / "images" / line.split()[1], png())
    return Cub200("train", root=root)


def cub_cases():
    """Yields (file, lines, words of the message): every way in which one file disagrees with the others."""
    for name, lines in CUB.items():
        # Of the files whose ids others count by, any of these may be told of.
        told = () if name in ("images", "classes", "parts/parts") else (f"{name}.txt",)
        yield name, [], told
        for i in range(len(lines)):
            yield name, lines[:i] + lines[i + 1 :], () if name == "parts/parts" else told
            yield name, lines[: i + 1] + lines[i:], (f"{name}.txt, line {i + 2}",)
            yield name, [*lines[:i], lines[i].split()[0], *lines[i + 1 :]], (f"{name}.txt, line {i + 1}",)
        yield (
            name,
            [*lines, f"77 {lines[0].split(maxsplit=1)[1]}"],
            told if name != "classes" else ("classes.txt",),
        )
        for word in WRONG_WORDS:
            line = " ".join([word, *lines[0].split()[1:]])
            yield name, [line, *lines[1:]], ()
    for word in ("2", "-1", *WRONG_WORDS):
        yield "train_test_split", [f"1 {word}", *CUB["train_test_split"][1:]], ("train_test_split.txt",)
    for word in ("2", "3", "0", *WRONG_WORDS):
        yield "image_class_labels", [f"1 {word}", *CUB["image_class_labels"][1:]], ("image_class_labels.txt",)
    for box in (
        "0 0 0 2",
        "0 0 -3 2",
        "0 0 2 -1",
        "nan 0 1 1",
        "inf 0 1 1",
        "0 0 1e300 1",
        "0 0 1",
        "0 0 1 1 1",
    ):
        yield "bounding_boxes", [f"1 {box}", *CUB["bounding_boxes"][1:]], ("bounding_boxes.txt",)
    for path in (
        "../a.png",
        "/etc/passwd",
        "001.Auk/b.png",
        "x/../001.Auk/b.png",
        "001.Auk/gone.png",
        "002.Wren/a.png",
    ):
        yield "images", [f"1 {path}", *CUB["images"][1:]], ()
    yield "classes", ["1 same", "2 same"], ("classes.txt", "same")


CUB_CASES = list(cub_cases())


def test_cub_files_that_disagree(tmp_path):
    assert write_cub(tmp_path).labels.tolist() == [0, 1]
    for name, lines, words in CUB_CASES:
        make = functools.partial(write_cub, tmp_path, name, lines)
        assert refused("CUB files", make, *(words or ("/",))), (name, lines)


def test_a_box_outside_its_image(tmp_path):
    for box in ("9 0 1 1", "0 9 1 1", "-9 0 3 3", "5 0 1 1", "1e9 1e9 1 1", "-1e9 0 1 1"):
        write_cub(tmp_path, "bounding_boxes", [f"1 {box}", *CUB["bounding_boxes"][1:]])
        source = Cub200("train", root=tmp_path, region="box")
        assert refused("boxes", lambda source=source: source[0], "a.png", "misses the image")
    for box, size in (("-9 -9 99 99", (4, 5)), ("4.5 3.5 9 9", (1, 1)), ("0 0 1e9 1e9", (4, 5))):
        write_cub(tmp_path, "bounding_boxes", [f"1 {box}", *CUB["bounding_boxes"][1:]])
        image = Cub200("train", root=tmp_path, region="box")[0]["image"]
        assert image.shape[:2] == size
        COUNTS["boxes", "read, cut at the border"] += 1


# ---- binary batches


def head(*shape: int, kind: int = 8) -> bytes:
    return bytes([0, 0, kind, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)


IMAGES = head(3, 4, 5) + bytes(range(60))
LABELS = head(3) + bytes([7, 0, 9])


def zeros(size: int) -> bytes:
    """A gzip file of `size` zero bytes, made without holding them."""
    packer = zlib.compressobj(9, wbits=31)
    block = bytes(2**20)
    return b"".join(packer.compress(block) for _ in range(size // 2**20)) + packer.flush()


def mnist_cases():
    """Yields (images, labels)."""
    for size in range(0, len(IMAGES), 3):
        yield IMAGES[:size], LABELS
    for size in range(len(LABELS)):
        yield IMAGES, LABELS[:size]
    packed = gzip.compress(IMAGES, mtime=0)
    for size in range(2, len(packed), 5):
        yield packed[:size], LABELS
    for kind in (0, 9, 0xB, 0xD, 0xE, 255):
        yield head(3, 4, 5, kind=kind) + bytes(60), LABELS
    for shape in (
        (0, 4, 5),
        (3, 0, 0),
        (3, 4, 6),
        (2, 4, 5),
        (4, 4, 5),
        (3, 20),
        (60,),
        (3, 4, 5, 1),
        (2**32 - 1,) * 3,
    ):
        yield head(*shape) + bytes(60), LABELS
    yield IMAGES + b"\0", LABELS
    yield packed + b"\0x", LABELS
    yield gzip.compress(packed), LABELS
    yield gzip.compress(head(2**31, 2**15, 2**15)) + zeros(2**26), LABELS
    yield gzip.compress(IMAGES) + zeros(2**26), LABELS
    yield IMAGES, head(2) + bytes(2)
    yield IMAGES, head(4) + bytes(4)
    yield IMAGES, head(3) + bytes([0, 10, 0])
    yield IMAGES, head(3) + bytes([255, 0, 0])
    yield LABELS, IMAGES


def mnist(root: Path, images: bytes, labels: bytes) -> Mnist:
    write(root / "train-images-idx3-ubyte.gz", images)
    write(root / "train-labels-idx1-ubyte", labels)
    return Mnist("train", root=root)


def test_mnist_files(tmp_path):
    assert mnist(tmp_path, gzip.compress(IMAGES), gzip.compress(LABELS)).labels.tolist() == [7, 0, 9]
    for images, labels in mnist_cases():
        assert refused(
            "MNIST files", lambda images=images, labels=labels: mnist(tmp_path, images, labels), "idx"
        ), (images[:20], labels[:20])


def test_cifar_files(tmp_path):
    for name in [f"data_batch_{number}.bin" for number in range(1, 6)]:
        write(tmp_path / name, bytes(2 * 3073))
    names = "\n".join(f"class {index}" for index in range(10))
    good = bytes([3]) + bytes(3072)
    for content in (
        b"",
        good[:-1],
        good + b"\0",
        good * 2 + good[:1],
        b"\x0a" + bytes(3072),
        gzip.compress(good),
    ):
        write(tmp_path / "batches.meta.txt", names)
        write(tmp_path / "data_batch_2.bin", content)
        assert refused("CIFAR files", lambda: Cifar10("train", root=tmp_path), "data_batch_2.bin")
    write(tmp_path / "data_batch_2.bin", good)
    for text in (
        "",
        "cat",
        names + "\nmore",
        names.replace("9", "8"),
        names.replace("class 3\n", "\n"),
        "\0" + names,
    ):
        write(tmp_path / "batches.meta.txt", text)
        assert refused("CIFAR files", lambda: Cifar10("train", root=tmp_path), "batches.meta.txt")
    write(tmp_path / "batches.meta.txt", names)
    assert Cifar10("train", root=tmp_path).labels.tolist() == [0, 0, 3, 0, 0, 0, 0, 0, 0]


SECRET = "root:secret:0:0\n"


@pytest.mark.parametrize("link", [False, True], ids=["absolute", "link"])
def test_errors_quote_nothing_from_outside_the_root(tmp_path, link):
    root, secret = tmp_path / "data", tmp_path / "passwd"
    root.mkdir()
    secret.write_text(SECRET)
    (root / "link").symlink_to(secret)
    named = "link" if link else str(secret)
    attempts = [
        lambda: ListFile("train", root=root, list_file=named),
        lambda: LabelTable("train", root=root, table=named),
        lambda: CsvFile("train", root=root, table=named),
        lambda: read_table(root / "link", (int, str)),
    ]
    for attempt in attempts:
        with pytest.raises(ValueError, match="nothing of it is shown") as caught:
            attempt()
        assert "secret:" not in str(caught.value)
    (root / "own.txt").write_text(SECRET)
    with pytest.raises(ValueError, match="secret:0:0"):  # the data's own line is told
        ListFile("train", root=root, list_file="own.txt")
