"""Unpacks archives of data sets: nothing outside the folder, no links, no more bytes than announced."""

from __future__ import annotations

import gzip
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from imgcls_jax.runtime.files import naming
from imgcls_jax.runtime.progress import BYTES, bar
from imgcls_jax.runtime.tar_members import Bounded, limit_of, members, opened

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip")
CHUNK = 2**20
WAY_OUT = ". With room and permission to write, the same command goes on"


def is_archive(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def unpack(archive: Path, folder: Path) -> int:
    """Unpacks an archive into a folder; what is there under the same names is replaced.

    Args:
      archive: of SUFFIXES.
      folder: is made.

    Returns:
      How many files it held.

    Raises:
      ValueError: it is damaged, holds a link or a device, a name that leads out of the folder, or more than
        an archive of its size can.
      OSError: it cannot be read, or its files not be written.
    """
    with naming(folder, WAY_OUT):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        count = (_unpack_zip if archive.name.lower().endswith(".zip") else _unpack_tar)(archive, folder)
        if not count:
            raise ValueError("it holds no file")
        return count
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        gzip.BadGzipFile,
        EOFError,
        zlib.error,
        lzma.LZMAError,
    ) as error:
        raise ValueError(f"{archive} cannot be unpacked: {error}; remove it and download it again") from error
    except (ValueError, NotImplementedError, RuntimeError) as error:  # zipfile's, of kinds and passwords
        raise ValueError(f"{archive} was not unpacked: {error}") from error


def _unpack_tar(archive: Path, folder: Path) -> int:
    if not hasattr(tarfile, "data_filter"):
        raise ValueError("this Python has no tarfile.data_filter: update it (3.11.4 has it)")
    limit, count = limit_of(archive), 0
    with (
        open(archive, "rb") as packed,
        bar(f"unpacking {archive.name}", archive.stat().st_size, BYTES) as shown,
    ):
        is_gzip = packed.read(2) == b"\x1f\x8b"
        packed.seek(0)
        content = gzip.GzipFile(fileobj=packed) if is_gzip else packed
        stream = Bounded(content, limit)
        with opened(stream) as tar:
            for member in members(tar, stream):
                if not (member.isreg() or member.isdir()) or member.issparse():
                    raise ValueError(f"{member.name!r} is a link or a device, which no data set needs")
                if member.offset_data + member.size > limit:
                    raise ValueError(
                        f"{member.name!r} claims {member.size:,} bytes, more than such an archive holds"
                    )
                target = folder / _inside(member.name, folder)
                with naming(target, WAY_OUT):
                    _make_way(target, member.isdir())
                    stream.allow(member.size)
                    tar.extract(member, folder, set_attrs=False, filter="data")
                count += member.isreg()
                shown.update(packed.tell())
            # tarfile takes what is no header for the end. To look again would be to decompress all again.
            if stream.last != bytes(tarfile.BLOCKSIZE):
                raise ValueError("it is cut short or damaged; remove it and download it again")
    return count


def _unpack_zip(archive: Path, folder: Path) -> int:
    count = 0
    with zipfile.ZipFile(archive) as members:
        infos = members.infolist()
        total, limit = sum(info.file_size for info in infos), limit_of(archive)
        if total > limit:
            raise ValueError(f"its members claim {total:,} bytes, more than such an archive holds")
        with bar(f"unpacking {archive.name}", total, BYTES) as shown:
            for info in infos:
                target = folder / _inside(info.filename, folder)
                kind = stat.S_IFMT(info.external_attr >> 16)
                if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise ValueError(f"{info.filename!r} is a link or a device, which no data set needs")
                with naming(target, WAY_OUT):
                    _make_way(target, info.is_dir())
                if info.is_dir():
                    continue
                with members.open(info) as packed, naming(target, WAY_OUT), open(target, "xb") as file:
                    _copy(packed, file, info.file_size)
                count += 1
                shown.advance(info.file_size)
    return count


def _inside(name: str, folder: Path) -> str:
    """Returns the normalized name of a member, whose folders lie in the folder, links followed.

    Raises:
      ValueError: it leads out of it.
    """
    normal = os.path.normpath(name)
    parts = normal.split(os.sep)
    if os.path.isabs(normal) or os.pardir in parts or "\\" in name or "\0" in name or ":" in parts[0]:
        raise ValueError(f"{name!r} leads out of the folder")
    real = os.path.realpath(folder)
    if os.path.commonpath([real, os.path.realpath(folder / os.path.dirname(normal))]) != real:
        raise ValueError(f"{name!r} leads out of {folder} by a link there")
    return normal


def _make_way(target: Path, is_folder: bool) -> None:
    """Makes the folder of a member, and removes what stands in a file's place; of a link the link itself."""
    if is_folder:
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_symlink() or target.is_file():
        target.unlink()


def _copy(packed: Any, file: BinaryIO, size: int) -> None:
    copied = 0
    while block := packed.read(CHUNK):
        copied += len(block)
        if copied > size:
            raise ValueError(f"{packed.name!r} holds more than the {size:,} bytes that it claims")
        file.write(block)
