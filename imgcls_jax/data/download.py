"""Downloads a published data set into the folder that `data.root` will name, as its source's ORIGIN says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from imgcls_jax.config.modules import find_module
from imgcls_jax.data.folders import Download, Origin
from imgcls_jax.runtime.fetch import fetch
from imgcls_jax.runtime.files import naming
from imgcls_jax.runtime.unpack import is_archive, unpack

KEPT = ".downloads"  # of root: archives on their way, and notes of those that are unpacked


def origin_of(name: str) -> Origin:
    """Returns where the data set of a source comes from.

    Raises:
      ValueError: there is no such source, or it is none of a published data set.
    """
    origin = getattr(find_module("data.sources", name), "ORIGIN", None)
    if origin is None:
        raise ValueError(f"{name} reads data of your own, or brings them along: there is nothing to download")
    return origin


def chosen_files(origin: Origin, parts: Sequence[str]) -> list[Download]:
    """Returns the files of some parts of a data set.

    Raises:
      ValueError: it has none to fetch, an unknown part is named, or none where there are several.
    """
    if not origin.files:
        raise ValueError(f"no command can fetch it: {origin.remedy}")
    known = list(dict.fromkeys(file.part for file in origin.files if file.part))
    if bool(parts) == bool(known) and set(parts) <= set(known):
        return [file for file in origin.files if file.part in ("", *parts)]
    described = ", ".join(_described(part, origin.files) for part in known)
    has = f"the parts {described}: name one or more by --part" if known else "no parts: leave out --part"
    raise ValueError(f"{origin.source} has {has}")


def _described(part: str, files: Sequence[Download]) -> str:
    sizes = [file.size for file in files if file.part == part]
    return f"{part} ({amount(sum(sizes))})" if all(sizes) else part


def amount(size: int) -> str:
    """Returns a number of bytes for reading."""
    return f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"


def download(name: str, parts: Sequence[str], root: Path, *, keep: bool = False) -> Iterator[str]:
    """Fetches and unpacks the files of a data set; what an earlier start has done is not done again.

    Args:
      name: of its source.
      parts: of it; () where it has one alone.
      root: the folder that `data.root` will name.
      keep: leave the archives in root/.downloads.

    Yields:
      What is done, a line each.

    Raises:
      ValueError: as of `chosen_files`, or a file is not what was published, or an archive cannot be unpacked.
      OSError: a file cannot be fetched or written.
    """
    origin = origin_of(name)
    files = chosen_files(origin, parts)
    yield f"{origin.data_set}; its terms stand on {origin.page}"
    for file in files:
        if not is_archive(file.name):
            fetch(file.url, root / file.name, size=file.size, checksum=file.checksum)
            yield f"{root / file.name}: {_checked(file)}"
            continue
        archive, note = (root / KEPT / f"{file.name}{end}" for end in ("", ".unpacked"))
        said = f"{file.url} {file.checksum}\n"
        if note.is_file() and note.read_text(encoding="utf-8") == said:
            yield f"{file.name} was unpacked before; to do it again, remove {note}"
            continue
        fetch(file.url, archive, size=file.size, checksum=file.checksum)
        count = unpack(archive, root)
        with naming(note, ""):
            note.write_text(said, encoding="utf-8")
        if not keep:
            archive.unlink()
        yield f"{file.name}: {_checked(file)}; {count:,} files unpacked into {root}"


def _checked(file: Download) -> str:
    if file.checksum:
        return f"{file.checksum.partition(':')[0].upper()} as published"
    return "its size as published, its checksum not known" if file.size else "its size and checksum not known"
