"""imgcls_jax.runtime.unpack: archives of strangers, which lead nowhere and hold no more than they say."""

import gzip
import io
import stat
import tarfile
import zipfile
import zlib

import pytest

from imgcls_jax.runtime import tar_members
from imgcls_jax.runtime.unpack import unpack

FILES = {"set/a.jpg": b"a" * 5000, "set/deep/b.jpg": b"b", "./c.txt": b""}


def tar_file(path, *members, files=FILES):
    """Writes an archive of files and of further members."""
    with tarfile.open(path, "w:gz" if path.suffix != ".tar" else "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o777
            archive.addfile(member, io.BytesIO(content))
        for member in members:
            archive.addfile(member)
    return path


def special(name, kind, target=""):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def zip_file(path, files, mode=0):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr, info.compress_type = mode << 16, zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return path


def everything(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz", "x.tgz", "x.zip"])
def test_an_archive(tmp_path, name):
    archive, folder = tmp_path / name, tmp_path / "to/there"
    if name.endswith("zip"):
        zip_file(archive, FILES | {"set/empty/": b""}, stat.S_IFREG | 0o777)
    else:
        tar_file(archive, special("set/empty", tarfile.DIRTYPE))
    (folder / "set").mkdir(parents=True)
    (folder / "set/a.jpg").write_bytes(b"old")
    for _ in range(2):  # the second replaces what the first has left
        assert unpack(archive, folder) == (4 if name.endswith("zip") else 3) - name.endswith("zip")
        assert everything(folder) == {"set", "set/a.jpg", "set/deep", "set/deep/b.jpg", "set/empty", "c.txt"}
        assert (folder / "set/a.jpg").read_bytes() == FILES["set/a.jpg"]
        assert not (folder / "set/a.jpg").stat().st_mode & 0o111  # nothing becomes a program


@pytest.mark.parametrize(
    "name", ["../evil", "/tmp/imgcls_jax_evil", "set/../../evil", "..", "C:\\evil", "a\\..\\evil"]
)
def test_names_that_lead_out(tmp_path, name):
    folder = tmp_path / "inside"
    for archive in (
        tar_file(tmp_path / "x.tar", files={name: b"evil"}),
        zip_file(tmp_path / "x.zip", {name: b"evil"}),
    ):
        with pytest.raises(ValueError, match=f"{archive.name} was not unpacked: .* leads out of the folder"):
            unpack(archive, folder)
        assert everything(tmp_path) == {"x.tar", "x.zip", "inside"}


@pytest.mark.parametrize(
    "member",
    [
        special("set/link", tarfile.SYMTYPE, "/etc/passwd"),
        special("set/link", tarfile.SYMTYPE, "a.jpg"),
        special("set/link", tarfile.LNKTYPE, "set/a.jpg"),
        special("set/link", tarfile.FIFOTYPE),
        special("set/link", tarfile.CHRTYPE),
    ],
    ids=["outside", "inside", "hard", "pipe", "device"],
)
def test_links_and_devices(tmp_path, member):
    with pytest.raises(ValueError, match="'set/link' is a link or a device, which no data set needs"):
        unpack(tar_file(tmp_path / "x.tar", member), tmp_path / "to")
    assert not (tmp_path / "to/set/link").exists()
    archive = zip_file(tmp_path / "x.zip", {"set/link": b"/etc/passwd"}, stat.S_IFLNK | 0o777)
    with pytest.raises(ValueError, match="'set/link' is a link or a device"):
        unpack(archive, tmp_path / "to")


def test_a_link_that_lies_there_already(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "to").mkdir()
    (tmp_path / "to/set").symlink_to(tmp_path / "outside")
    for archive in (tar_file(tmp_path / "x.tar"), zip_file(tmp_path / "x.zip", FILES)):
        with pytest.raises(ValueError, match="'set/a.jpg' leads out of .* by a link there"):
            unpack(archive, tmp_path / "to")
        assert not everything(tmp_path / "outside")
    (tmp_path / "to/set").unlink()
    (tmp_path / "to/c.txt").symlink_to(tmp_path / "precious")
    for archive in (tmp_path / "x.tar", tmp_path / "x.zip"):
        unpack(archive, tmp_path / "to")  # the link itself is replaced
        assert (tmp_path / "precious").read_text() == "mine" and not (tmp_path / "to/c.txt").is_symlink()


def test_bombs(tmp_path, monkeypatch):
    monkeypatch.setattr(tar_members, "ALLOWANCE", 1000)
    monkeypatch.setattr(tar_members, "MAX_HEADERS", 2**16)
    zeros = {"zeros": bytes(2**22)}
    with pytest.raises(ValueError, match="'zeros' claims 4,194,304 bytes, more than such an archive holds"):
        unpack(tar_file(tmp_path / "x.tgz", files=zeros), tmp_path / "to")
    with pytest.raises(
        ValueError, match="its members claim 4,194,304 bytes, more than such an archive holds"
    ):
        unpack(zip_file(tmp_path / "x.zip", zeros), tmp_path / "to")
    # Zeros alone, and a header that wants to be read whole.
    (tmp_path / "y.tgz").write_bytes(gzip.compress(bytes(2**22)))
    with pytest.raises(ValueError, match="y.tgz was not unpacked: it holds no file"):
        unpack(tmp_path / "y.tgz", tmp_path / "to")
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 2**30
    (tmp_path / "z.tgz").write_bytes(gzip.compress(header.tobuf() + bytes(2**20)))
    with pytest.raises(ValueError, match="z.tgz was not unpacked: a header claims 1,073,741,824 bytes"):
        unpack(tmp_path / "z.tgz", tmp_path / "to")
    assert everything(tmp_path / "to") <= {"zeros"} and not (tmp_path / "to/zeros").exists()


def test_a_zip_that_lies_about_its_sizes(tmp_path):
    archive = zip_file(tmp_path / "x.zip", {"a": b"x" * 10_000})
    content = archive.read_bytes().replace((10_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    archive.write_bytes(content)
    with pytest.raises(ValueError, match="x.zip"):
        unpack(archive, tmp_path / "to")
    assert sum(path.stat().st_size for path in (tmp_path / "to").iterdir()) <= 10


@pytest.mark.parametrize("name", ["x.tar", "x.tgz", "x.zip"])
def test_damaged_archives(tmp_path, name):
    archive = tmp_path / name
    (zip_file if name.endswith("zip") else tar_file)(
        archive, files={f"{n}.jpg": zlib.compress(bytes(n)) * 99 for n in range(9)}
    )
    whole = archive.read_bytes()
    for content in (b"", b"nothing of the kind" * 99, whole[: len(whole) // 3]):
        archive.write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} (cannot be|was not) unpacked"):
            unpack(archive, tmp_path / "to")
