"""Miniatures of the files that hold many examples each."""

import io
import json
import tarfile

import numpy as np
from PIL import Image


def picture(seed: int) -> bytes:
    """A PNG file that differs from that of any other seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def tar(members) -> bytes:
    """A tar archive of (name, content)."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            content = content if isinstance(content, bytes) else str(content).encode()
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def samples(first, labels, kind="cls"):
    """(name, content) of the examples first, first + 1, ... of a WebDataset shard."""
    for seed, label in enumerate(labels, first):
        yield f"{seed:06d}.png", picture(seed)
        yield f"{seed:06d}.{kind}", json.dumps({"label": label}) if kind == "json" else label


def parquet(path, labels, *, first=0, features=None, group=3, **columns):
    """Writes a Parquet file as Hugging Face's package does: images first, first + 1, ... and their labels."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    images = [{"bytes": picture(first + row), "path": f"{first + row}.png"} for row in range(len(labels))]
    table = pa.table({"image": images, "label": labels, **columns})
    if features is not None:
        told = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
        table = table.replace_schema_metadata(told)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=group)
    return path


FEATURES = {
    "image": {"_type": "Image"},
    "label": {"names": ["wren", "jay", "owl"], "_type": "ClassLabel"},
}
