"""`dataset download` against a server of the test's own: what it leaves is what the source reads."""

import functools
import hashlib
import http.server
import io
import pkgutil
import re
import tarfile
import threading

import numpy as np
import pytest

from imgcls_jax.data import sources
from imgcls_jax.data.download import origin_of
from imgcls_jax.data.folders import Download
from imgcls_jax.data.sources import cifar10, mnist, voc
from imgcls_jax.runtime.fetch import CHECKSUMS
from imgcls_jax.tools import dataset


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, and says nothing."""

    def log_message(self, *args):
        self.server.asked.append(self.path)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server of the folder `site`."""
    monkeypatch.setenv("no_proxy", "*")
    (tmp_path / "site").mkdir()
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=tmp_path / "site")
    ) as own:
        own.asked = []
        thread = threading.Thread(target=own.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield own
        own.shutdown()
        thread.join()


def served(server, folder, name, content, kind="md5", **fields):
    """Puts a file on the server; returns its Download."""
    (folder / "site" / name).write_bytes(content)
    checksum = f"{kind}:{hashlib.new(kind, content).hexdigest()}"
    return Download(f"http://127.0.0.1:{server.server_port}/{name}", len(content), checksum, **fields)


def cifar_archive():
    stream = io.BytesIO()
    record = bytes([3]) + bytes(3072)
    files = {f"data_batch_{number}.bin": record for number in range(1, 6)} | {"test_batch.bin": record}
    files["batches.meta.txt"] = b"".join(b"class %d\n" % number for number in range(10))
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def test_an_archive(server, tmp_path, monkeypatch, capsys):
    file = served(server, tmp_path, "cifar-10-binary.tar.gz", cifar_archive(), "sha256")
    monkeypatch.setattr(cifar10, "ORIGIN", cifar10.ORIGIN._replace(files=(file,)))
    root = tmp_path / "data"
    with pytest.raises(
        FileNotFoundError, match=r"fetch it by `python -m imgcls_jax.tools.dataset download cifar10 --root"
    ):
        cifar10.make("train", root=root)
    assert dataset.main(["download", "cifar10", "--root", str(root)]) == 0
    out = capsys.readouterr().out
    assert (
        "SHA256 as published; 7 files unpacked" in out
        and "https://www.cs.toronto.edu/~kriz/cifar.html" in out
    )
    assert f"--config.data.source=cifar10 --config.data.root={root}" in out
    assert cifar10.make("train", root=root).labels.tolist() == [3] * 5
    assert not (root / ".downloads/cifar-10-binary.tar.gz").exists()
    assert dataset.main(["download", "cifar10", "--root", str(root), "--keep"]) == 0
    assert "was unpacked before" in capsys.readouterr().out and len(server.asked) == 1
    other = file._replace(checksum=f"sha256:{'0' * 64}")
    monkeypatch.setattr(cifar10, "ORIGIN", cifar10.ORIGIN._replace(files=(other,)))
    assert dataset.main(["download", "cifar10", "--root", str(root)]) == 2
    assert "is not what was published" in capsys.readouterr().err


def test_files_and_parts(server, tmp_path, monkeypatch, capsys):
    header = bytes([0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 2])
    contents = {
        "t10k-images-idx3-ubyte": header + b"ab",
        "t10k-labels-idx1-ubyte": bytes([0, 0, 8, 1, 0, 0, 0, 1, 7]),
    }
    files = [served(server, tmp_path, name, content) for name, content in contents.items()]
    monkeypatch.setattr(mnist, "ORIGIN", mnist.ORIGIN._replace(files=files))
    root = tmp_path / "data"
    for _ in range(2):
        assert dataset.main(["download", "mnist", "--root", str(root)]) == 0
        assert capsys.readouterr().out.count("MD5 as published") == 2
    assert len(server.asked) == 2 and np.array_equal(mnist.make("test", root=root).images.ravel(), [97, 98])

    third = served(server, tmp_path, "list.txt", b"for all parts")
    parts = [files[0]._replace(part="2007"), files[1]._replace(part="2012"), third]
    monkeypatch.setattr(voc, "ORIGIN", voc.ORIGIN._replace(files=parts))
    assert dataset.main(["download", "voc", "--root", str(tmp_path / "voc"), "--part", "2007"]) == 0
    assert sorted(path.name for path in (tmp_path / "voc").iterdir()) == [
        "list.txt",
        "t10k-images-idx3-ubyte",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["voc"], r"voc has the parts 2012 \(2 GB\), 2007 \(911 MB\): name one or more by --part"),
        (["coco", "--part", "2015"], r"coco has the parts 2017 \(20.4 GB\), 2014 \(20.4 GB\)"),
        (["webvision"], "webvision has the parts val, google, flickr: name one or more"),
        (["inaturalist"], r"inaturalist has the parts 2017 \(199 GB\), 2018, 2021_val"),
        (["mnist", "--part", "2007"], "mnist has no parts: leave out --part"),
        (["imagenet"], "no command can fetch it: ImageNet .*an account is needed.*--config.data.root"),
        (["digits"], "nothing to download"),
        (["image_folder"], "nothing to download"),
        (["imagenot"], "has no file imagenot.py; did you mean 'imagenet'"),
    ],
)
def test_what_cannot_be_fetched(tmp_path, capsys, arguments, message):
    assert dataset.main(["download", *arguments, "--root", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error, re.IGNORECASE) and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_files_of_all_data_sets():
    """Addresses and checksums are of the right form; no file takes the place of another."""
    names = [module.name for module in pkgutil.iter_modules(sources.__path__)]
    with_origin = [name for name in names if name not in (
        "array_record", "caption_table", "csv_file", "digits", "image_folder", "label_table", "list_file",
        "parquet", "tfds", "webdataset",
    )]  # fmt: skip
    fetched = 0
    for name in with_origin:
        origin = origin_of(name)
        assert origin.source == name and origin.page.startswith("http")
        assert ("dataset download" in origin.remedy) == bool(origin.files)
        for file in origin.files:
            assert file.url.startswith(("https://", "http://")) and re.fullmatch(r"[\w.-]+", file.name)
            kind, _, digits = file.checksum.partition(":")
            assert not file.checksum or re.fullmatch(f"[0-9a-f]{{{CHECKSUMS[kind]}}}", digits)
            assert file.checksum or not file.url.startswith(
                "http://"
            )  # else anybody on the way could change it
        assert len({file.name for file in origin.files}) == len(origin.files)
        fetched += bool(origin.files)
    assert fetched == 11
