"""imgcls_jax.data.mat_files: .mat files of strangers claim no more than they hold."""

import io
import struct
import zlib

import numpy as np
import pytest
from scipy.io import savemat

from imgcls_jax.data import mat_files
from imgcls_jax.data.annotations import read_mat
from imgcls_jax.data.mat_files import require_honest

VARIABLES = {
    "list": np.array(["a.jpg", "longer/b.jpg"], object),
    "labels": np.arange(12.0).reshape(3, 4),
    "structures": np.array([(1, "x"), (2, "y")], [("id", object), ("name", object)]),
    "empty": np.zeros((0, 0)),
    "text": "",
    "nested": np.array([np.array([1, "z"], object), 2.5], object),
}


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("form", ["4", "5"])
def test_honest_files_pass(tmp_path, compressed, form):
    path = tmp_path / "a.mat"
    variables = VARIABLES if form == "5" else {"labels": VARIABLES["labels"]}
    savemat(path, variables, format=form, do_compression=compressed and form == "5")
    require_honest(path.read_bytes())
    assert read_mat(path, "labels").tolist() == VARIABLES["labels"].tolist()
    if form == "5":
        assert read_mat(path, "structures", fields=("id",))["name"].tolist() == ["x", "y"]


def element(kind, content):
    return struct.pack("<II", kind, len(content)) + content + bytes(-len(content) % 8)


def array(array_class, dimensions, *parts):
    head = element(6, struct.pack("<II", array_class, 0)), element(5, struct.pack("<2i", *dimensions))
    return element(14, b"".join((*head, element(1, b"list"), *parts)))


def mat(*elements):
    return b"MATLAB 5.0".ljust(124) + b"\x00\x01IM" + b"".join(elements)


def compressed(content):
    packed = zlib.compress(content)
    return struct.pack("<II", 15, len(packed)) + packed


WIDTH = struct.pack("<HHi", 5, 4, 1)  # a small element: the length of a field's name
HOSTILE = {
    "a bomb": (mat(compressed(bytes(2**26))), "it unpacks to over 33,554,432 bytes"),
    "two halves": (mat(*[compressed(bytes(2**24 + 8))] * 2), "it unpacks to over"),
    "characters that are not there": (
        mat(array(4, (2**15, 2**15), element(16, b""))),
        "an array claims 1,073,741,824 elements in 56 bytes",
    ),
    "cells": (mat(compressed(array(1, (2**30, 1)))), "claims 1,073,741,824 elements"),
    "within a cell": (mat(array(1, (1, 1), array(1, (2**30, 1)))), "claims 1,073,741,824 elements"),
    "fields": (mat(array(2, (40, 1), WIDTH, element(1, b"a" * 64))), "claims 2,560 elements in 128 bytes"),
    "a name beyond the end": (mat(struct.pack("<II", 14, 2**31) + bytes(64)), "claims 2,147,483,648 bytes"),
    "an object": (mat(array(3, (1, 1))), "an object or a function .class 3."),
    "a function": (mat(array(16, (1, 1))), "an object or a function .class 16."),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_refused(name):
    content, message = HOSTILE[name]
    with pytest.raises(ValueError, match=message):
        require_honest(content)
    with pytest.raises(ValueError, match=f"cannot be read as a .mat file: .*{message}"):
        read_mat(io.BytesIO(content), "list")


def test_nesting_has_an_end():
    content = array(6, (1, 1), element(9, bytes(8)))
    for _ in range(mat_files.MAX_DEPTH - 1):
        content = array(1, (1, 1), content)
    require_honest(mat(content))
    with pytest.raises(ValueError, match="nested over 16 deep"):
        require_honest(mat(array(1, (1, 1), content)))


def test_damaged_files_are_told():
    stream = io.BytesIO()
    savemat(stream, VARIABLES)
    whole = stream.getvalue()
    for length in range(0, len(whole), 37):
        with pytest.raises(ValueError):
            read_mat(io.BytesIO(whole[:length]), "nested")
