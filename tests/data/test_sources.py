"""imgcls_jax.data.sources: every source on tiny files made here, and on real data where it lies beside it."""

import gzip
import io
import json
import os
import pickle
import pkgutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgcls_jax.data import sources
from imgcls_jax.data.source import class_counts
from imgcls_jax.data.sources.cifar10 import Cifar10
from imgcls_jax.data.sources.cifar100 import Cifar100
from imgcls_jax.data.sources.csv_file import CsvFile
from imgcls_jax.data.sources.cub200 import MEMBERS, Cub200
from imgcls_jax.data.sources.digits import Digits
from imgcls_jax.data.sources.fashion_mnist import FashionMnist
from imgcls_jax.data.sources.image_folder import ImageFolder
from imgcls_jax.data.sources.label_table import LabelTable
from imgcls_jax.data.sources.list_file import ListFile
from imgcls_jax.data.sources.mnist import Mnist
from imgcls_jax.data.sources.tfds import Tfds

DATA = Path(__file__).parents[3] / "shared/data"


def real(name: str) -> Path:
    if not (DATA / name).exists():
        pytest.skip(f"{DATA / name} is not here")
    return DATA / name


def png(seed: int = 0, width: int = 5, height: int = 4) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def write(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def check_contract(source, num_examples: int, num_classes: int) -> None:
    assert len(source) == num_examples
    assert isinstance(source.class_names, tuple) and len(source.class_names) == num_classes
    copy = pickle.loads(pickle.dumps(source))
    for index in (0, num_examples - 1, np.int64(0)):
        element, again = source[index], copy[index]
        assert isinstance(element["label"], np.int32) and 0 <= element["label"] < num_classes
        assert source.labels is None or source.labels[index] == element["label"]
        assert isinstance(element["image"], bytes) or element["image"].dtype == np.uint8
        assert np.array_equal(element["image"], again["image"])
        assert source.describe(index) == copy.describe(index)
    if source.labels is not None:
        assert source.labels.dtype == np.int32 and source.labels.shape == (num_examples,)
    with pytest.raises(IndexError):
        source[num_examples]


def test_digits():
    train, test = Digits("train"), Digits("test")
    check_contract(train, 1438, 10)
    check_contract(test, 359, 10)
    assert train.image_shape == (8, 8, 1) and train.images.min() == 0 and train.images.max() == 255
    assert set(np.unique(train.images)) == {round(value * 255 / 16) for value in range(17)}
    assert np.bincount(test.labels).tolist() == [36, 36, 35, 37, 36, 36, 36, 36, 35, 36]
    assert not {image.tobytes() for image in train.images} & {image.tobytes() for image in test.images}
    with pytest.raises(ValueError, match="split of Digits must be one of 'train', 'test'; got 'val'"):
        Digits("val")


# ---- idx files


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + array.astype(np.uint8).tobytes()


MNIST_IMAGES = np.arange(3 * 4 * 5).reshape(3, 4, 5)


@pytest.mark.parametrize("separator", ["-", "."])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(("split", "stem"), [("train", "train"), ("test", "t10k")])
def test_mnist_spellings(tmp_path, separator, compressed, split, stem):
    for kind, array in (("images", MNIST_IMAGES), ("labels", np.array([7, 0, 9]))):
        name = f"{stem}-{kind}{separator}idx{array.ndim}-ubyte"
        write(tmp_path / (name + ".gz" * compressed), gzip.compress(idx(array)) if compressed else idx(array))
    source = Mnist(split, root=tmp_path)
    check_contract(source, 3, 10)
    assert source.images.shape == (3, 4, 5, 1) and (source.images[..., 0] == MNIST_IMAGES).all()
    assert source.labels.tolist() == [7, 0, 9]
    fashion = FashionMnist(split, root=str(tmp_path))
    assert [fashion.class_names[at] for at in fashion.labels] == ["Sneaker", "T-shirt/top", "Ankle boot"]


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (idx(MNIST_IMAGES), idx(np.array([1, 2])), "idx3-ubyte holds 3 images, but .*labels-idx1-ubyte 2"),
        (idx(MNIST_IMAGES), idx(np.array([1, 10, 2])), r"labels-idx1-ubyte: .* in 0\.\.9; example 1 has 10"),
        (
            idx(MNIST_IMAGES)[:-1],
            idx(np.arange(3)),
            r"shape \[3, 4, 5\] and 60 bytes after it; got 59",
        ),
        (idx(np.arange(3)), idx(np.arange(3)), "idx3-ubyte: .* magic number 00000803, got 00000801"),
        (idx(MNIST_IMAGES), b"", "labels-idx1-ubyte: .* got nothing"),
        (gzip.compress(idx(MNIST_IMAGES))[:-9], idx(np.arange(3)), "images-idx3-ubyte: damaged gzip file"),
    ],
    ids=["counts", "label", "size", "magic", "empty", "gzip"],
)
def test_mnist_refuses(tmp_path, images, labels, message):
    write(tmp_path / "train-images-idx3-ubyte", images)
    write(tmp_path / "train-labels-idx1-ubyte", labels)
    with pytest.raises(ValueError, match=message):
        Mnist("train", root=tmp_path)


def test_mnist_as_torchvision_leaves_it(tmp_path):
    for kind, array in (("images", MNIST_IMAGES), ("labels", np.array([7, 0, 9]))):
        write(tmp_path / f"MNIST/raw/train-{kind}-idx{array.ndim}-ubyte", idx(array))
    for root in (tmp_path, tmp_path / "MNIST", tmp_path / "MNIST/raw"):
        assert len(Mnist("train", root=root)) == 3


def test_mnist_missing(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="holds none of t10k-images-idx3-ubyte, .*MNIST, 70,000 .*download the four"
    ):
        Mnist("test", root=tmp_path)
    with pytest.raises(
        FileNotFoundError, match="^config.data.root: .*nowhere' is not a folder; .*four idx files. MNIST"
    ):
        Mnist("test", root=tmp_path / "nowhere")
    with pytest.raises(ValueError, match="split of FashionMnist .*'val'"):
        FashionMnist("val", root=tmp_path)


def test_mnist_real():
    source = Mnist("test", root=real("mnist"))
    check_contract(source, 10000, 10)
    assert source.image_shape == (28, 28, 1) and np.bincount(source.labels).min() > 800


# ---- CIFAR


def cifar_records(labels: list[list[int]]) -> bytes:
    """Image i is red 10 + i, green a ramp down the rows, blue a ramp along the columns."""
    rows, columns = np.mgrid[:32, :32].astype(np.uint8)
    records = []
    for index, label_bytes in enumerate(labels):
        red = np.full((32, 32), 10 + index, np.uint8)
        records.append(bytes(label_bytes) + red.tobytes() + rows.tobytes() + columns.tobytes())
    return b"".join(records)


def write_cifar10(folder: Path) -> None:
    for number in range(1, 6):
        write(folder / f"data_batch_{number}.bin", cifar_records([[number], [0]]))
    write(folder / "test_batch.bin", cifar_records([[9]]))
    write(folder / "batches.meta.txt", "\n".join(f"class {index}" for index in range(10)) + "\n\n")


def write_cifar100(folder: Path) -> None:
    write(folder / "train.bin", cifar_records([[19, 99], [0, 1]]))
    write(folder / "test.bin", cifar_records([[3, 4]]))
    write(folder / "fine_label_names.txt", "\n".join(f"fine {index}" for index in range(100)))
    write(folder / "coarse_label_names.txt", "\n".join(f"coarse {index}" for index in range(20)))


def test_cifar10(tmp_path):
    write_cifar10(tmp_path / "cifar-10-batches-bin")
    source = Cifar10("train", root=tmp_path)
    check_contract(source, 10, 10)
    assert source.labels.tolist() == [1, 0, 2, 0, 3, 0, 4, 0, 5, 0] and source.class_names[9] == "class 9"
    assert source.images[1, 20, 7].tolist() == [11, 20, 7]  # red, green = row, blue = column
    test = Cifar10("test", root=tmp_path / "cifar-10-batches-bin")
    assert len(Cifar10("train+test", root=tmp_path)) == len(source) + len(test)
    check_contract(test, 1, 10)
    assert test.labels.tolist() == [9]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data_batch_3.bin", cifar_records([[0]])[:-1], "data_batch_3.bin: .* of 3073 bytes, got 3072"),
        ("data_batch_3.bin", b"", "data_batch_3.bin: .* got 0 bytes"),
        ("data_batch_4.bin", cifar_records([[0], [10]]), r"data_batch_4.bin: .* 0\.\.9; example 1 has 10"),
        ("batches.meta.txt", "cat\ndog\n", "batches.meta.txt: expected 10 class names, one a line; got 2"),
    ],
    ids=["size", "empty", "label", "names"],
)
def test_cifar10_refuses(tmp_path, name, content, message):
    write_cifar10(tmp_path)
    write(tmp_path / name, content)
    with pytest.raises(ValueError, match=message):
        Cifar10("train", root=tmp_path)


def test_cifar_missing_files(tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match="holds batches.meta.txt. CIFAR-10, .*kriz/cifar.html: .*cifar-10-binary.tar.gz, 162 MB",
    ):
        Cifar10("train", root=tmp_path)
    with pytest.raises(
        FileNotFoundError, match="holds fine_label_names.txt. CIFAR-100, .*cifar-100-binary.tar.gz"
    ):
        Cifar100("train", root=tmp_path)
    write_cifar10(tmp_path)
    (tmp_path / "data_batch_2.bin").unlink()
    with pytest.raises(FileNotFoundError, match="data_batch_2.bin is missing"):
        Cifar10("train", root=tmp_path)


class Bomb:
    def __reduce__(self):
        return (os.mkdir, (self.path,))


def text_of_python_2(content: bytes) -> bytes:
    """The opcode BINSTRING, by which Python 2 pickles its strings, and arrays their bytes."""
    return b"T" + len(content).to_bytes(4, "little") + content


def pickled_by_python_2(batch: dict) -> bytes:
    """A batch as the official archives hold it: protocol 2, strings of bytes, an array by its bytes."""
    code = b"\x80\x02}q\x00("
    for name, value in batch.items():
        code += text_of_python_2(name.encode())
        if isinstance(value, np.ndarray):
            code += b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b\x87R("
            code += b"K\x01" + b"".join(b"J" + size.to_bytes(4, "little") for size in value.shape) + b"\x86"
            code += (
                b"cnumpy\ndtype\nq\x03U\x02u1K\x00K\x01\x87R(K\x03U\x01|NNN"
                + b"J\xff\xff\xff\xff" * 2
                + b"K\x00tb"
            )
            code += b"\x89" + text_of_python_2(value.tobytes()) + b"tb"
        else:
            items = (
                bytes([75, own]) if isinstance(own, int) else text_of_python_2(own.encode()) for own in value
            )
            code += b"](" + b"".join(items) + b"e"
    return code + b"u."


def write_pickled(folder: Path, names: list[str], columns: dict, dump=pickled_by_python_2) -> None:
    """Each batch has the two images of `cifar_records`."""
    records = np.frombuffer(cifar_records([[], []]), np.uint8).reshape(2, 3072)
    for name in names:
        write(folder / name, dump({"batch_label": ["x"], "data": records, **columns}))


@pytest.mark.parametrize(
    "dump",
    [
        pickled_by_python_2,
        lambda own: pickle.dumps(own, protocol=2),
        pickle.dumps,
        lambda own: pickle.dumps({name.encode(): value for name, value in own.items()}),
    ],
)
def test_cifar_pickled(tmp_path, dump):
    folder = tmp_path / "cifar-10-batches-py"
    batches = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    write_pickled(folder, batches, {"labels": [9, 0], "filenames": ["a.png", "b.png"]}, dump)
    write(folder / "batches.meta", dump({"label_names": [f"class {index}" for index in range(10)]}))
    source = Cifar10("train", root=tmp_path)
    check_contract(source, 10, 10)
    assert source.labels.tolist() == [9, 0] * 5 and source.class_names[9] == "class 9"
    assert source.images[1, 20, 7].tolist() == [11, 20, 7]
    assert len(Cifar10("train+test", root=folder)) == 12
    write_cifar10(tmp_path / "cifar-10-batches-bin")
    assert Cifar10("test", root=tmp_path).labels.tolist() == [9]  # the binary version goes first

    folder = tmp_path / "cifar-100-python"
    write_pickled(folder, ["train", "test"], {"coarse_labels": [19, 1], "fine_labels": [99, 0]}, dump)
    names = {
        f"{kind}_label_names": [f"{kind} {i}" for i in range(n)]
        for kind, n in (("fine", 100), ("coarse", 20))
    }
    write(folder / "meta", dump(names))
    fine, coarse = (Cifar100("test", root=tmp_path, label=label) for label in ("fine", "coarse"))
    assert fine.labels.tolist() == [99, 0] and coarse.labels.tolist() == [19, 1]
    assert fine.class_names[99] == "fine 99" and coarse.class_names[19] == "coarse 19"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "data_batch_1: no CIFAR batch"),
        (pickle.dumps([1]), "no CIFAR batch: it holds a list"),
        (pickled_by_python_2({"labels": [1]}), r"'data' must be an array of bytes \[N, 3072\]"),
        (
            pickled_by_python_2({"data": np.zeros((2, 3072), np.uint8), "labels": [1]}),
            "'labels' must be a list of 2 labels",
        ),
        (
            pickled_by_python_2({"data": np.zeros((1, 3072), np.uint8), "labels": [10]}),
            r"data_batch_1: labels must lie in 0\.\.9",
        ),
        (pickle.dumps({"data": np.zeros((1, 3072))}), "'data' must be an array of bytes"),
        (pickle.dumps({"data": np.zeros((3072, 1), np.uint8)}), "'data' must be an array of bytes"),
    ],
)
def test_cifar_pickled_refuses(tmp_path, content, message):
    write(tmp_path / "batches.meta", b"")
    write(tmp_path / "data_batch_1", content)
    with pytest.raises(ValueError, match=message):
        Cifar10("train", root=tmp_path)


@pytest.mark.parametrize(("make", "relative"), [(Cifar10, "data_batch_1"), (Cifar100, "train")])
def test_cifar_runs_no_pickle(tmp_path, make, relative):
    bomb = Bomb()
    bomb.path = str(tmp_path / "exploded")
    write(tmp_path / relative, pickle.dumps({"data": bomb}))
    for name in ("batches.meta", "meta"):
        write(tmp_path / name, b"")
    with pytest.raises(
        ValueError, match="asks for posix.mkdir, which no CIFAR batch needs; nothing of it was run"
    ):
        make("train", root=tmp_path)
    assert not Path(bomb.path).exists()


def test_cifar100(tmp_path):
    write_cifar100(tmp_path / "cifar-100-binary")
    fine, coarse = (Cifar100("train", root=tmp_path, label=label) for label in ("fine", "coarse"))
    check_contract(fine, 2, 100)
    check_contract(coarse, 2, 20)
    assert fine.labels.tolist() == [99, 1] and coarse.labels.tolist() == [19, 0]
    assert fine.class_names[99] == "fine 99" and coarse.class_names[19] == "coarse 19"
    assert fine.images[1, 20, 7].tolist() == [11, 20, 7]
    assert len(Cifar100("test", root=tmp_path / "cifar-100-binary")) == 1
    with pytest.raises(ValueError, match="label of Cifar100 must be one of 'fine', 'coarse'; got 'medium'"):
        Cifar100("train", root=tmp_path, label="medium")
    write(tmp_path / "cifar-100-binary/train.bin", cifar_records([[20, 0]]))
    with pytest.raises(ValueError, match=r"train.bin: labels must lie in 0\.\.19"):
        Cifar100("train", root=tmp_path)


# ---- ImageFolder


def write_folders(root: Path, names: list[str]) -> Path:
    for seed, name in enumerate(names):
        write(root / name, png(seed))
    return root


def test_image_folder_order_labels_and_bytes(tmp_path):
    images = "train/dog/b.JPG train/dog/a.png train/cat/deep/er/x.TIFF train/cat/a.jpeg val/dog/v.webp"
    write_folders(tmp_path, images.split())
    others = "train/dog/.hidden.png train/dog/notes.txt train/.git/x.png train/cat/.cache/x.png val/x.png"
    for other in others.split():
        write(tmp_path / other, b"no")
    train, val = (ImageFolder(split, root=tmp_path) for split in ("train", "val"))
    check_contract(train, 4, 2)
    assert train.class_names == val.class_names == ("cat", "dog")
    assert train.paths == ["cat/a.jpeg", "cat/deep/er/x.TIFF", "dog/a.png", "dog/b.JPG"]
    assert train.labels.tolist() == [0, 0, 1, 1] and val.labels.tolist() == [1]  # as in train
    assert train[3] == {"image": png(0), "label": 1} and val[0]["image"] == png(4)
    assert train.describe(3) == str(tmp_path / "train/dog/b.JPG")


def test_image_folder_without_a_train_folder_names_its_own_classes(tmp_path):
    write_folders(tmp_path, ["test/b/x.png", "test/a/x.png"])
    assert ImageFolder("test", root=tmp_path).class_names == ("a", "b")
    with pytest.raises(FileNotFoundError, match=r"train is missing; the split folders of .* are \['test'\]"):
        ImageFolder("train", root=tmp_path)
    with pytest.raises(FileNotFoundError, match="is missing"):
        ImageFolder("../elsewhere", root=tmp_path)


def test_image_folder_fixed_split(tmp_path):
    write_folders(tmp_path, [f"{name}/{number}.png" for name in "ab" for number in range(10)])
    train, val, test = (ImageFolder(split, root=tmp_path) for split in ("train", "val", "test"))
    assert np.bincount(train.labels).tolist() == [8, 8] and np.bincount(val.labels).tolist() == [2, 2]
    assert val.paths == test.paths and not set(train.paths) & set(val.paths)
    assert ImageFolder("val", root=tmp_path, split_seed=1).paths != val.paths
    assert len(ImageFolder("val", root=tmp_path, test_fraction=0.5)) == 10
    with pytest.raises(ValueError, match="=0.01 of 20 images in 2 classes leaves none for the split 'val'"):
        ImageFolder("val", root=tmp_path, test_fraction=0.01)


def test_image_folder_refuses(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="nowhere' is not a folder; it should hold .*--config.data.root=FOLDER"
    ):
        ImageFolder("train", root=tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no class folder; expected .*<class>"):
        ImageFolder("train", root=tmp_path)
    write_folders(tmp_path, ["train/a/x.png", "val/a/x.png", "val/zebra/x.png"])
    with pytest.raises(ValueError, match="val holds the class 'zebra', which .*train lacks"):
        ImageFolder("val", root=tmp_path)
    (tmp_path / "train/empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no image file .*jpg"):
        ImageFolder("train", root=tmp_path)


def test_unreadable_image_is_named(tmp_path):
    write_folders(tmp_path, ["train/a/x.png", "train/a/y.png"])
    source = ImageFolder("train", root=tmp_path)
    (tmp_path / "train/a/y.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"cannot read .*a/y.png under .*No such file"):
        source[1]


# ---- LabelTable


TABLE = """filename,split,sea,"sun, set"
a.png,train,1,0
sub/b c.png,val,0,0
c.png,train,1,1
"""


def label_table(folder, text=TABLE, split="train", **fields):
    for name in ("a.png", "sub/b c.png", "c.png"):
        write(folder / "images" / name, png())
    write(folder / "labels.csv", text)
    return LabelTable(split, root=folder, **fields)


def test_label_table(tmp_path):
    source = label_table(tmp_path)
    assert source.class_names == ("sea", "sun, set") and len(source) == 2
    assert source.labels.tolist() == [[1, 0], [1, 1]] and source.labels.dtype == np.int32
    assert source[1]["label"].tolist() == [1, 1] and isinstance(source[1]["image"], bytes)
    assert source.describe(1).endswith("c.png (labels.csv, line 4)")
    assert class_counts(source) == (2, 1)
    assert pickle.loads(pickle.dumps(source))[0]["label"].tolist() == [1, 0]
    assert label_table(tmp_path, split="val").paths == [os.path.join("sub", "b c.png")]
    write(tmp_path / "train.csv", "file,sea\r\na.png,1\r\n")
    assert LabelTable("train", root=tmp_path, table="{split}.csv").labels.tolist() == [[1]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("filename,split\n", "line 1: expected a file column"),
        ("filename,sea,sea\n", "line 1: expected a file column"),
        (TABLE + "d.png,train,1\n", "line 5: expected 4 columns, of which the last 2 are 0 or 1"),
        (TABLE + "d.png,train,1,2\n", "line 5: expected 4 columns"),
        (TABLE + "../d.png,train,1,0\n", "line 5: the path must be relative"),
        (TABLE + "a.png,train,0,0\n", "line 5: 'a.png' is listed in line 2 too"),
        ("filename,split,sea\na.png,val,1\n", "no line of the split 'train'; its splits are .'val'."),
    ],
)
def test_label_table_mistakes(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        label_table(tmp_path, text)


# ---- CsvFile


def csv_file(folder, text, split="train", **fields):
    for name in ("a.png", "b.png", "sub/c d.png", "d.png", "e.png"):
        write(folder / name, png())
    write(folder / "labels.csv", text)
    return CsvFile(split, root=folder, **fields)


@pytest.mark.parametrize(
    "text",
    [
        "image,label\na.png,dog\nb.png,cat\nsub/c d.png,dog\n",
        "\ufeffFile Name;Breed;Class\r\na.png;x;dog\r\nb.png;x;cat\r\n\r\nsub/c d.png;x;dog\r\n",
        ',path,category,split\n0,a.png,dog,Training\n1,b.png,cat,Training\n2,"sub/c d.png",dog,Training\n'
        "3,d.png,elk,Validation\n",
    ],
)
def test_csv_file(tmp_path, text):
    source = csv_file(tmp_path, text, **({} if "split" in text else {"test_fraction": 0.01}))
    names = [source.class_names[label] for label in source.labels]
    assert source.paths == ["a.png", "b.png", os.path.join("sub", "c d.png")] and names == [
        "dog",
        "cat",
        "dog",
    ]
    check_contract(source, 3, 3 if "elk" in text else 2)
    assert source.describe(0).startswith("a.png (labels.csv, line 2)")
    if "elk" in text:
        assert (
            csv_file(tmp_path, text, "val").paths == ["d.png"]
            and "'Validation'" in CsvFile("val", root=tmp_path).rule
        )


def test_csv_file_of_ids_numbers_and_files(tmp_path):
    text = "id,target\na,10\nb,9\nd,10\ne,9\n"
    source = csv_file(tmp_path, text, suffix=".png", test_fraction=0.5)
    held_out = CsvFile("val", root=tmp_path, suffix=".png", test_fraction=0.5)
    assert source.class_names == held_out.class_names == ("9", "10")
    assert sorted(source.paths + held_out.paths) == ["a.png", "b.png", "d.png", "e.png"]
    assert source.labels.tolist() == held_out.labels.tolist()[::-1] or len(source) == len(held_out) == 2
    write(tmp_path / "Train.csv", "image,label\na.png,cat\nb.png,dog\n")
    write(tmp_path / "test.csv", "image,label\nd.png,dog\n")
    train, test = (CsvFile(split, root=tmp_path, table="{split}.csv") for split in ("train", "test"))
    assert train.class_names == test.class_names == ("cat", "dog") and test.labels.tolist() == [1]
    write(tmp_path / "test.csv", "image,label\nd.png,elk\n")
    with pytest.raises(ValueError, match="test.csv, line 2: the class 'elk', which .*Train.csv lacks"):
        CsvFile("test", root=tmp_path, table="{split}.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: which column is the image"),
        ("photo,label\na.png,cat\n", r"which column is the image\? .* \['photo', 'label'\]"),
        ("image,kind\na.png,cat\n", "which column is the label.*config.data.label_column"),
        ("image,label\n", "holds no row"),
        ("image,label\na.png,\n", "line 2: expected 2 columns, with 'image' and 'label'"),
        ("image,label\na.png\n", "line 2: expected 2 columns"),
        ("image,label\na.png,cat\n./a.png,dog\n", "line 3: 'a.png' is listed in line 2 too"),
        ("image,label\n../a.png,cat\n", "line 2: the path must be relative"),
        ("image,label,split\na.png,cat,val\n", "no row of the split 'train'; its splits are .'val'."),
        ("image,label\n\0,cat\n", "line 2: a NUL"),
    ],
)
def test_csv_file_mistakes(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        csv_file(tmp_path, text)


# ---- ListFile


def test_list_file(tmp_path):
    write_folders(tmp_path, ["images/my cat.png", "b.png", "c.png"])
    write(tmp_path / "train.txt", b"\xef\xbb\xbfimages/my cat.png 1\r\n\r\n  ./b.png\t0  \r\n")
    write(tmp_path / "val.txt", "c.png 2")
    train, val = (ListFile(split, root=tmp_path) for split in ("train", "val"))
    check_contract(train, 2, 2)
    check_contract(val, 1, 3)  # K is that of both lists
    assert train.class_names == ("0", "1") and train.labels.tolist() == [1, 0]
    assert train[0] == {"image": png(0), "label": 1} and train[1]["image"] == png(1)
    assert train.describe(1) == "b.png (train.txt, line 3)"


def test_list_file_takes_the_larger_label_and_other_names(tmp_path):
    write_folders(tmp_path, ["a.png"])
    write_folders(tmp_path, ["b.png", "c.png"])
    write(tmp_path / "lists/only_validation.lst", "a.png 1\nb.png 0\n")
    source = ListFile("val", root=tmp_path, list_file="lists/only_{split}.lst")
    assert len(source.class_names) == 2 and source.labels.tolist() == [1, 0]
    write(tmp_path / "lists/only_Train.lst", "c.png 2\n")
    assert len(ListFile("val", root=tmp_path, list_file="lists/only_{split}.lst").class_names) == 3
    write(tmp_path / "lists/only_valid.lst", "a.png 1\n")
    with pytest.raises(ValueError, match=r"'val' may be any of \['valid', 'validation'\]"):
        ListFile("val", root=tmp_path, list_file="lists/only_{split}.lst")


def test_list_file_class_names(tmp_path):
    write_folders(tmp_path, ["a.png", "b.png"])
    write(tmp_path / "train.txt", "a.png 0\nb.png 1\n")
    write(tmp_path / "names.txt", "great auk\n dodo \n")
    assert ListFile("train", root=tmp_path, classes="names.txt").class_names == ("great auk", "dodo")
    write(tmp_path / "names.txt", "great auk\n")
    with pytest.raises(ValueError, match=r"train.txt, line 2: label 1, but .*names.txt names 0\.\.0"):
        ListFile("train", root=tmp_path, classes="names.txt")
    write(tmp_path / "names.txt", "\n")
    with pytest.raises(ValueError, match="names.txt: expected some class names"):
        ListFile("train", root=tmp_path, classes="names.txt")
    with pytest.raises(FileNotFoundError, match="other.txt is missing"):
        ListFile("train", root=tmp_path, classes="other.txt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.png 0\n\nb.png\n", r"train.txt, line 3: expected 'path label', got 'b.png'; add the label"),
        ("a.png -1", r"train.txt, line 1: the last word must be the label, an integer in 0\.\.\d+; got '-1'"),
        ("a.png 1.5", "line 1: the last word must be the label.* got '1.5'"),
        ("my cat.png", "line 1: the last word must be the label.* got 'cat.png' in 'my cat.png'"),
        ("a.png 1_0", "got '1_0'"),
        ("a.png 20240131", "got '20240131'"),
        ("a.png 0\nb.png 1\n./a.png 1", "train.txt, line 3: 'a.png' is listed in line 1 too"),
        ("/abs/a.png 0", "line 1: the path must be relative to root and stay inside it; got '/abs/a.png'"),
        ("a/../../secret.png 0", "line 1: the path must be relative .*got 'a/../../secret.png'"),
        ("\n \n", "train.txt is empty"),
    ],
)
def test_list_file_refuses(tmp_path, text, message):
    write_folders(tmp_path, ["a.png", "b.png"])
    write(tmp_path / "train.txt", text)
    with pytest.raises(ValueError, match=message):
        ListFile("train", root=tmp_path)


def test_list_file_missing(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="nowhere' is not a folder; it should hold .*--config.data.root=FOLDER"
    ):
        ListFile("train", root=tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="train.txt is missing"):
        ListFile("train", root=tmp_path)
    write(tmp_path / "train.txt", "gone.png 0")
    with pytest.raises(FileNotFoundError, match=r"gone.png \(train.txt, line 1\): no such file under"):
        ListFile("train", root=tmp_path)


def test_mouth_real():
    root = real("mouth")
    folder, listed = ImageFolder("train", root=root), ListFile("train", root=root)
    check_contract(folder, 800, 2)
    check_contract(listed, 800, 2)
    assert folder.class_names == ("0none", "1smile")
    by_folder = {f"train/{path}": label for path, label in zip(folder.paths, folder.labels, strict=True)}
    assert by_folder == dict(zip(listed.paths, listed.labels, strict=True))
    check_contract(ListFile("val", root=root), 100, 2)
    assert Image.open(io.BytesIO(listed[0]["image"])).size == (60, 60)


# ---- Cub200

CUB_FILES = {
    "images.txt": "1 001.Auk/a.png\n2 001.Auk/b.png\n4 002.Wren/c.png\n5 002.Wren/d.png\n",
    "classes.txt": "1 001.Auk\n2 002.Wren\n",
    "image_class_labels.txt": "1 1\n2 1\n4 2\n5 2\n",
    "train_test_split.txt": "1 1\n2 0\n4 1\n5 0\n",
    "bounding_boxes.txt": "1 1.0 0.0 3.0 2.0\n2 0.0 0.0 5.0 4.0\n4 1.5 1.2 2.0 2.0\n5 9.0 9.0 2.0 2.0\n",
    "parts/parts.txt": "1 back\n2 left eye\n",
    "parts/part_locs.txt": "".join(f"{key} 1 3.5 2.0 1\n{key} 2 0.0 0.0 0\n" for key in (1, 2, 4, 5)),
}


def write_cub(root: Path, **changes: str) -> Path:
    for name, text in CUB_FILES.items():
        write(root / name, text)
    for name, text in changes.items():
        write(root / f"{name}.txt", text)
    images = "001.Auk/a 001.Auk/b 002.Wren/c 002.Wren/d"
    return write_folders(root, [f"images/{name}.png" for name in images.split()])


def test_cub(tmp_path):
    write_cub(tmp_path / "CUB_200_2011")
    train = Cub200("train", root=tmp_path)
    test = Cub200("test", root=tmp_path / "CUB_200_2011")
    check_contract(train, 2, 2)
    assert train.class_names == ("001.Auk", "002.Wren") and train.labels.tolist() == [0, 1]
    assert train[1]["image"] == png(2) and test[0]["image"] == png(1)
    assert train.describe(1).endswith("CUB_200_2011/images/002.Wren/c.png")
    assert train[1]["box"].dtype == train[1]["parts"].dtype == np.float32
    np.testing.assert_array_equal(train[1]["box"], np.float32([1.5, 1.2, 2, 2]))
    np.testing.assert_array_equal(train[1]["parts"], np.float32([[3.5, 2, 1], [0, 0, 0]]))
    train[1]["box"][:] = 0
    assert train[1]["box"][0] == 1.5


def test_cub_without_boxes_and_parts(tmp_path):
    root = write_cub(tmp_path)
    (root / "bounding_boxes.txt").unlink()
    (root / "parts/part_locs.txt").unlink()
    assert set(Cub200("train", root=root)[0]) == {"image", "label"}
    with pytest.raises(FileNotFoundError, match="region='box' needs .*bounding_boxes.txt"):
        Cub200("train", root=root, region="box")


def test_cub_random_protocol_needs_no_official_split(tmp_path):
    root = write_cub(tmp_path)
    (root / "train_test_split.txt").unlink()
    parts = [
        Cub200(split, root=root, protocol="random", test_fraction=0.25, split_seed=seed).paths
        for seed in range(6) for split in ("train", "test")
    ]  # fmt: skip
    for train, test in zip(parts[::2], parts[1::2], strict=True):
        assert (len(train), len(test)) == (3, 1) and len({*train, *test}) == 4
    assert len({test[0] for test in parts[1::2]}) > 1
    with pytest.raises(ValueError, match="the random split 'test' of 4 images is empty"):
        Cub200("test", root=root, protocol="random", test_fraction=0.01)


def test_cub_crop(tmp_path):
    source = Cub200("train", root=write_cub(tmp_path), region="box")
    check_contract(source, 2, 2)
    pixels = np.asarray(Image.open(tmp_path / "images/002.Wren/c.png"))
    element = source[1]  # x 1.5..3.5, y 1.2..3.2 cover the pixels 1..3 both ways
    assert element["image"].dtype == np.uint8 and (element["image"] == pixels[1:4, 1:4]).all()
    np.testing.assert_allclose(element["box"], [0.5, 0.2, 2, 2], atol=1e-6)
    np.testing.assert_allclose(element["parts"], [[2.5, 1, 1], [0, 0, 0]])
    element["image"][:] = 0  # writable, as the transforms may need
    with pytest.raises(
        ValueError, match=r"d.png: the region \[9.0, 9.0, 11.0, 11.0\] misses .* of \(5, 4\) pixels"
    ):
        Cub200("test", root=tmp_path, region="box")[1]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("image_class_labels", "1 1\n2 1\n4 2\n", "image_class_labels.txt lacks id 5, unlike images.txt"),
        ("image_class_labels", "1 1\n2 1\n4 2\n5 3\n", "labels.txt: image id 5 has class 3, which"),
        ("image_class_labels", "1 1\n2 1\n2 1\n4 2\n5 2\n", "labels.txt, line 3: a second line for id 2"),
        ("train_test_split", "1 1\n2 0\n3 1\n4 1\n5 1\n", "split.txt alone has id 3, unlike images.txt"),
        ("train_test_split", "1 1\n2 0\n4\n5 1\n", "line 3: expected the words 'int int', got '4'"),
        ("train_test_split", "1 0\n2 0\n4 0\n5 0\n", "the official split 'train' of 4 images is empty"),
        ("bounding_boxes", "1 1 1 2\n", "boxes.txt, line 1: .* the words 'int float float float float'"),
        ("bounding_boxes", "1 1 1 2 2\n", "bounding_boxes.txt lacks id 2"),
        ("parts/part_locs", "1 1 0 0 0\n", r"part_locs.txt lacks id \(1, 2\), unlike images.txt and"),
    ],
)
def test_cub_refuses(tmp_path, name, text, message):
    root = write_cub(tmp_path, **{name: text})
    with pytest.raises(ValueError, match=message):
        Cub200("train", root=root)


def test_cub_missing(tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match="^config.data.root: neither .* images.txt. CUB-200-2011, .*caltech.*CUB_200_2011.tgz",
    ):
        Cub200("train", root=tmp_path)
    root = write_cub(tmp_path)
    (root / "classes.txt").unlink()
    with pytest.raises(FileNotFoundError, match="classes.txt is missing"):
        Cub200("train", root=root)
    with pytest.raises(ValueError, match="protocol of Cub200 must be one of 'official', 'random'"):
        Cub200("train", root=root, protocol="9:1")
    with pytest.raises(ValueError, match="split of Cub200 must be one of 'train', 'test'; got 'val'"):
        Cub200("val", root=root)


@pytest.mark.parametrize(
    ("name", "counts", "num_classes"), [("crops", (2400, 599), 100), ("photos", (300, 130), 10)]
)
def test_cub_real(name, counts, num_classes):
    root = real(f"CUB_200_2011_{name}")
    train, test = (Cub200(split, root=root) for split in ("train", "test"))
    check_contract(train, counts[0], num_classes)
    check_contract(test, counts[1], num_classes)
    assert not set(train.paths) & set(test.paths) and train[0]["parts"].shape == (15, 3)
    for index in (0, len(train) - 1):  # the folder's name must be the class's name
        assert train.paths[index].split("/")[0] == train.class_names[train.labels[index]]


HEAD_ROWS = {"beak": (1.5, 0.5, 1), "nape": (3.5, 2.5, 1), "throat": (3, 1, 1), "crown": (0, 0, 0)}


def write_birds(root: Path, **first: tuple[float, float, int]) -> Path:
    """A CUB folder whose images show the head of HEAD_ROWS; the first image has the points given instead."""
    names = sorted({*MEMBERS["head"], *MEMBERS["body"]})
    rows = {key: {"throat": (3, 1, 1)} | first if key == 1 else HEAD_ROWS for key in (1, 2, 4, 5)}
    locations = [
        f"{key} {part} {' '.join(map(str, points.get(name, (0, 0, 0))))}"
        for key, points in rows.items() for part, name in enumerate(names, start=1)
    ]  # fmt: skip
    parts = [f"{part} {name}" for part, name in enumerate(names, start=1)]
    changes = {"parts/parts": "\n".join(parts), "parts/part_locs": "\n".join(locations)}
    return write_cub(root, **changes)


def test_cub_crops_to_a_part(tmp_path):
    source = Cub200("train", root=write_birds(tmp_path), region="head")
    assert source.paths == ["002.Wren/c.png"] and source.labels.tolist() == [1]  # the other shows a throat
    assert source.left_out == {"without a visible head": 1}
    pixels = np.asarray(Image.open(tmp_path / "images/002.Wren/c.png"))
    element = source[0]  # x 1.5..3.5, y 0.5..2.5 cover the pixels 1..3 and 0..2
    assert (element["image"] == pixels[0:3, 1:4]).all()
    np.testing.assert_allclose(element["box"], [0.5, 1.2, 2, 2], atol=1e-6)
    whole = Cub200("train", root=tmp_path)
    np.testing.assert_array_equal(whole.region_boxes("head"), [[np.nan] * 4, [1.5, 0.5, 3.5, 2.5]])
    assert np.isnan(whole.region_boxes("body")).all()
    with pytest.raises(ValueError, match="no image of the official split 'train' shows the body"):
        Cub200("train", root=tmp_path, region="body")


def test_cub_refuses_regions(tmp_path):
    root = write_cub(tmp_path)
    with pytest.raises(ValueError, match="the region of Cub200 must be one of '', 'box', 'head', 'body'"):
        Cub200("train", root=root, region="wing")
    with pytest.raises(ValueError, match="parts.txt: region='head' needs the part 'beak', which it lacks"):
        Cub200("train", root=root, region="head")
    (root / "parts/part_locs.txt").unlink()
    with pytest.raises(FileNotFoundError, match="region='head' needs .*part_locs.txt, which is missing"):
        Cub200("train", root=root, region="head")


def test_cub_real_parts():
    root = real("CUB_200_2011_photos")
    train, test = (Cub200(split, root=root) for split in ("train", "test"))
    # Of the first image: nape 195.0 and beak 214.9, crown and nape 107.4 and throat 118.1; tail 124.2 and
    # throat 198.1, left wing 77.7 and right wing 147.0.
    np.testing.assert_allclose(train.region_boxes("head")[0], [195.0, 107.4, 214.9, 118.1], atol=1e-4)
    np.testing.assert_allclose(train.region_boxes("body")[0], [124.2, 77.7, 198.1, 147.0], atol=1e-4)
    hidden = [int(np.isnan(s.region_boxes(r)[:, 0]).sum()) for s in (train, test) for r in ("head", "body")]
    assert hidden == [0, 12, 0, 3]
    body = Cub200("test", root=root, region="body")
    assert len(body) == 127 and body.left_out == {"without a visible body": 3}
    check_contract(body, 127, 10)


def test_cub_real_parts_of_mirrored_photos():
    """Mirroring exchanges left and right eyes, legs and wings, and mirrors the boxes."""
    source = Cub200("test", root=real("CUB_200_2011_photos"))
    order = [
        source._part_names.index(
            name.replace("left", "right") if "left" in name else name.replace("right", "left")
        )
        for name in source._part_names
    ]
    assert order != sorted(order)
    boxes, width = {name: source.region_boxes(name) for name in ("head", "body")}, np.float32(500)
    source._parts = source._parts[:, order]
    source._parts[..., 0] = np.where(source._parts[..., 2] > 0, width - source._parts[..., 0], 0)
    for name, (x1, y1, x2, y2) in ((name, box.T) for name, box in boxes.items()):
        mirrored = np.stack([500 - x2, y1, 500 - x1, y2], axis=1)
        np.testing.assert_allclose(source.region_boxes(name), mirrored, atol=1e-3)


def test_cub_real_crop():
    source = Cub200("train", root=real("CUB_200_2011_photos"), region="box")
    element = source[0]  # box 105.9 22.9 116.6 201.1
    assert element["image"].shape == (202, 118, 3)
    visible = element["parts"][element["parts"][:, 2] == 1]
    assert len(visible) > 5 and (visible[:, 0] <= 118).all() and (visible[:, 1] <= 202).all()


# ---- Tfds


@pytest.fixture(scope="module")
def tiny_birds(tmp_path_factory):
    """A prepared data set: six PNGs in the split "train", and one without a label in "test"."""
    global TinyBirds  # a builder's class must be importable for the source to pickle
    tfds = pytest.importorskip("tensorflow_datasets", reason="tensorflow_datasets is not installed")
    pytest.importorskip("array_record.python.array_record_module", reason="array_record is not installed")

    class TinyBirds(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            image = tfds.features.Image(shape=(None, None, 3))
            label = tfds.features.ClassLabel(names=["wren", "jay"])
            features = tfds.features.FeaturesDict({"picture": image, "species": label, "id": np.int64})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(6, [0, 1]), "test": self._generate_examples(1, [-1])}

        def _generate_examples(self, count, labels):
            for key in range(count):
                yield key, {"picture": io.BytesIO(png(key)), "species": labels[key % len(labels)], "id": key}

    root = tmp_path_factory.mktemp("tfds")
    tfds.builder("tiny_birds", data_dir=root, file_format="array_record").download_and_prepare()
    return root


def test_tfds_hands_out_encoded_photos(tiny_birds):
    keys = {"image_key": "picture", "label_key": "species"}
    source = Tfds("train", name="tiny_birds", root=tiny_birds, **keys)
    check_contract(source, 6, 2)
    assert source.class_names == ("wren", "jay") and source.labels is None
    assert {source[index]["image"] for index in range(6)} == {png(key) for key in range(6)}
    assert set(source[0]) == {"image", "label"} and source.describe(4) == "tiny_birds/train[4]"
    assert len(Tfds("train[:50%]", name="tiny_birds", root=str(tiny_birds), **keys)) == 3
    with pytest.raises(ValueError, match=r"tiny_birds/test\[0\] has no label \(-1\)"):
        Tfds("test", name="tiny_birds", root=tiny_birds, **keys)[0]
    with pytest.raises(ValueError, match="tiny_birds, split 'dev': Unknown split"):
        Tfds("dev", name="tiny_birds", root=tiny_birds, **keys)
    with pytest.raises(ValueError, match=r"has no Image 'image', only .*picture \(Image\).*; set image_key"):
        Tfds("train", name="tiny_birds", root=tiny_birds)


@pytest.mark.parametrize(("name", "shape"), [("cifar10", (32, 32, 3)), ("mnist", (28, 28, 1))])
def test_tfds_decodes_images_of_one_size(name, shape):
    tfds = pytest.importorskip("tensorflow_datasets", reason="tensorflow_datasets is not installed")
    with tfds.testing.mock_data(num_examples=5):
        source = Tfds("train", name=name)
        assert len(source) == 5 and len(source.class_names) == 10
        assert source[0]["image"].shape == shape and source[0]["image"].dtype == np.uint8
        assert isinstance(source[4]["label"], np.int32)


def test_tfds_not_prepared_or_unknown(tmp_path):
    pytest.importorskip("tensorflow_datasets", reason="tensorflow_datasets is not installed")
    command = r"tfds.builder\('mnist', data_dir='.*', file_format='array_record'\).download_and_prepare\(\)"
    with pytest.raises(FileNotFoundError, match=f"mnist is not prepared .*{command}") as caught:
        Tfds("train", name="mnist", root=tmp_path)
    assert f"data_dir='{tmp_path}'" in str(caught.value)
    with pytest.raises(ValueError, match="has no 'no_such_set'; correct the name"):
        Tfds("train", name="no_such_set", root=tmp_path)


FEATURES = "tensorflow_datasets.core.features"
PLANTED = {
    "legacy": lambda name: {
        "type": f"{FEATURES}.features_dict.FeaturesDict",
        "content": {"a": {"type": name}},
    },
    "proto": lambda name: {"pythonClassName": name, "jsonFeature": {"json": "{}"}},
    "old names": lambda name: {"featuresDict": {"features": {"a": {"python_class_name": name}}}},
    "in a text": lambda name: {"jsonFeature": {"json": json.dumps({"feature": {"type": name}})}},
}


@pytest.mark.parametrize("file", ["features.json", "dataset_info.json"])
@pytest.mark.parametrize("planted", PLANTED.values(), ids=PLANTED)
def test_tfds_imports_no_class_that_a_folder_names(tmp_path, monkeypatch, planted, file):
    pytest.importorskip("tensorflow_datasets", reason="tensorflow_datasets is not installed")
    (tmp_path / "planted_module.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    for name in ("planted_module.Evil", "tensorflow_datasets.planted.Evil", f"{FEATURES}..x", "os"):
        content = planted(name)
        info = {"name": "mnist", "version": "3.0.1", "features": content}
        (folder / file).write_text(json.dumps(content if file == "features.json" else info))
        for called in ("mnist", "mnist:3.0.1", "Mnist"):
            with pytest.raises(ValueError, match=r"names the class .* nothing of it was run"):
                Tfds("train", name=called, root=tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["huggingface:mnist", "mnist/a=1", "mnist/..", "../mnist", "", "mnist,b=2"])
def test_tfds_takes_names_alone(tmp_path, name):
    pytest.importorskip("tensorflow_datasets", reason="tensorflow_datasets is not installed")
    with pytest.raises(ValueError, match="config.data.name is 'set', 'set/config' or 'set:version'; got"):
        Tfds("train", name=name, root=tmp_path)


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'imgcls-jax\[tfds\]'"):
        Tfds("train", name="mnist")
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        Digits("train")


def test_import_loads_numpy_alone():
    heavy = "{'sklearn', 'tensorflow_datasets', 'tensorflow', 'PIL', 'jax', 'grain'}"
    names = [module.name for module in pkgutil.iter_modules(sources.__path__, "imgcls_jax.data.sources.")]
    assert names
    code = f"import sys, {', '.join(names)}; print(sorted({heavy} & set(sys.modules)))"
    root = Path(sources.__file__).parents[3]
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
