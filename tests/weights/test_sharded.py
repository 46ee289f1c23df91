"""Weights in several files: each array from the file that the index names, or one line on what is wrong."""

import json

import numpy as np
import pytest
import safetensors.numpy

from imgcls_jax.weights.files import read_state_dict

ARRAYS = {"a.weight": np.ones((2, 3), np.float32), "b.weight": np.full(4, 2.0, np.float32)}
INDEX = "model.safetensors.index.json"


@pytest.fixture
def write(tmp_path):
    def write(weight_map, **files):
        for name, arrays in files.items():
            safetensors.numpy.save_file(arrays, tmp_path / f"{name}.safetensors")
        text = weight_map if isinstance(weight_map, str) else json.dumps({"weight_map": weight_map})
        (tmp_path / INDEX).write_text(text, encoding="utf-8")
        return tmp_path / INDEX

    return write


def own(name):
    return {name: ARRAYS[name]}


def test_the_arrays_of_all_files_and_of_no_other(write):
    places = {"a.weight": "x-1.safetensors", "b.weight": "x-2.safetensors"}
    beside = {"c.weight": ARRAYS["a.weight"]}
    path = write(places, **{"x-1": own("a.weight"), "x-2": own("b.weight"), "other": beside})
    found = read_state_dict(path)
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)


def test_a_prefix_of_all_files_is_taken_off_and_one_of_a_single_file_is_not(write):
    places = {"module.a": "x.safetensors", "b": "y.safetensors"}
    found = read_state_dict(write(places, x={"module.a": ARRAYS["a.weight"]}, y={"b": ARRAYS["b.weight"]}))
    assert found.keys() == {"module.a", "b"}


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        (
            {"a.weight": "../x.safetensors"},
            "'a.weight' is said to be in '../x.safetensors': expected the name",
        ),
        ({"a.weight": "/etc/x.safetensors"}, "expected the name of a .safetensors file of the same folder"),
        ({"a.weight": "x.bin"}, "said to be in 'x.bin'"),
        ({"a.weight": 3}, "said to be in '3'"),
        ({"a.weight": "gone.safetensors"}, "gone.safetensors is missing, .* it holds 1 arrays"),
        ({"c.weight": "x.safetensors"}, "x.safetensors lacks c.weight, by the index"),
        ({"a.weight": "x.safetensors", "b.weight": "x.safetensors"}, "x.safetensors lacks b.weight"),
        ({"a.weight": "y.safetensors"}, "y.safetensors also holds b.weight, by the index: the files do not"),
        ({}, "has weight_map"),
        ("[1]", "has weight_map"),
        ("{", "no index of weights"),
        ("[" * 10000, "nested too deep"),
        ('{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}', "it names 'a' twice"),
        ({f"a{i}": f"{i}.safetensors" for i in range(1001)}, "names 1001 files; at most 1000"),
    ],
)
def test_an_index_that_is_wrong(write, weight_map, message):
    with pytest.raises(ValueError, match=message):
        read_state_dict(write(weight_map, x=own("a.weight"), y=ARRAYS))
