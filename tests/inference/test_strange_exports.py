"""Exports from strangers: what is no network is refused before it is compiled."""

import hashlib
import json
import os
import stat

import jax
import jax.ffi
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export as jax_export
from jax.extend import mlir
from jax.interpreters.mlir import make_ir_context
from PIL import Image

from imgcls_jax.inference import export
from imgcls_jax.inference.allowed_operations import require_allowed
from imgcls_jax.tools import predict

SHAPE, NAMES = (4, 4, 3), ["cat", "dog"]


def network(images):
    return {"probabilities": jnp.full((images.shape[0], 2), 0.5) + 0 * images.sum((1, 2, 3))[:, None]}


def planted(folder, function=network, **fields):
    """Writes an export as a stranger may: any function, any field."""
    (batch,) = jax_export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *SHAPE), jnp.uint8)
    targets = ("xla_ffi_python_cpu_callback", "xla_ffi_partitioned_python_cpu_callback", "lapack_sgeqrf_ffi")
    checks = [jax_export.DisabledSafetyCheck.custom_call(target) for target in targets]
    exported = jax_export.export(jax.jit(function), platforms=("cpu",), disabled_checks=checks)(images)
    model = bytes(exported.serialize())
    folder.mkdir(exist_ok=True)
    (folder / "model.stablehlo").write_bytes(model)
    description = {
        "class_names": NAMES,
        "eval_transforms": "decode | rgb | resize(4)",
        "image_shape": SHAPE,
        "sha256": hashlib.sha256(model).hexdigest(),
    }
    (folder / "export.json").write_text(json.dumps(description | fields))
    return folder


@pytest.fixture
def picture(tmp_path):
    Image.new("RGB", (4, 4), (9, 9, 9)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def called(function):
    def calling(images):
        shape = jax.ShapeDtypeStruct((2,), jnp.float32)
        return {"probabilities": function(shape) + network(images)["probabilities"]}

    return calling


def ffi(target, **attributes):
    return lambda shape: jax.ffi.ffi_call(target, shape)(jnp.zeros(2, jnp.float32), **attributes)


CALLBACK = ffi("xla_ffi_python_cpu_callback", index=np.uint64(2**40))  # of a list of the process
CALLS = {
    "a callback of any number": called(CALLBACK),
    "another target": called(ffi("lapack_sgeqrf_ffi")),
    "within a loop": called(
        lambda shape: jax.lax.fori_loop(0, 3, lambda i, x: x + CALLBACK(shape), jnp.zeros(2))
    ),
}


@pytest.mark.parametrize("function", CALLS.values(), ids=CALLS)
def test_no_custom_call_of_a_stranger_is_compiled(tmp_path, function):
    folder = planted(tmp_path / "x", function)
    with pytest.raises(ValueError, match="its program calls .*, which no export of a network does"):
        export.read(folder)


def test_what_sends_or_reads_is_refused():
    program = """func.func @main(%a: tensor<2xf32>) -> tensor<2xf32> {
      %t = stablehlo.create_token : !stablehlo.token
      %u = "stablehlo.outfeed"(%a, %t) {outfeed_config = ""} : (tensor<2xf32>, !stablehlo.token)
        -> !stablehlo.token
      return %a : tensor<2xf32>
    }"""
    with make_ir_context():
        serialized = mlir.serialize_portable_artifact(program, "1.0.0")
    with pytest.raises(ValueError, match="'stablehlo.outfeed', which no network has"):
        require_allowed(serialized)


WRONG = {
    "no outputs": (lambda images: {"other": network(images)["probabilities"]}, {}, "gives no probabilities"),
    "an array": (lambda images: network(images)["probabilities"], {}, "gives no probabilities"),
    "a class too many": (network, {"class_names": [*NAMES, "cow"]}, "class_names are 3, .* has 2"),
    "no names": (network, {"class_names": []}, "no list of names"),
    "another shape": (network, {"image_shape": [5, 5, 3]}, "image_shape is"),
    "a vast shape": (network, {"image_shape": [10**6, 10**6, 3]}, "more than any network reads"),
    "an unknown operation": (network, {"eval_transforms": "sharpen"}, "unknown operation 'sharpen'"),
    "chance": (network, {"eval_transforms": "decode | random_crop(4)"}, "random operations"),
    "neither one label nor several": (network, {"multi_label": 1}, "multi_label is neither"),
    "a vast number": (network, {"image_shape": [10**400, 4, 3]}, "has 401 digits"),
}


@pytest.mark.parametrize("function, fields, message", WRONG.values(), ids=WRONG)
def test_what_is_not_as_it_was_written_is_told_in_a_line(
    tmp_path, function, fields, message, capsys, picture
):
    folder = planted(tmp_path / "x", function, **fields)
    assert predict.main(["--exported", str(folder), str(picture)]) == 2
    error = capsys.readouterr().err
    assert str(folder) in error and error.count("\n") == 1
    with pytest.raises(ValueError, match=message):
        export.read(folder)


def test_probabilities_that_are_no_numbers(tmp_path, capsys, picture):
    folder = planted(
        tmp_path / "x", lambda images: {"probabilities": network(images)["probabilities"] * jnp.nan}
    )
    assert predict.main(["--exported", str(folder), str(picture)]) == 2
    assert f"{picture}: the network gives no number for it" in capsys.readouterr().err
    folder = planted(tmp_path / "x")
    assert predict.main(["--exported", str(folder), str(picture)]) == 0


def test_a_link_in_the_folder_is_not_followed_and_the_umask_decides(tmp_path, monkeypatch):
    class Trained:
        params, source_shape, class_names, step = {"w": jnp.ones(3)}, SHAPE, tuple(NAMES), 1
        objective_state = {}
        objective = type("Objective", (), {"multi_label": True})
        data = type("Data", (), {"settings": type("S", (), {"eval_transforms": "decode | resize(4)"})})

        @staticmethod
        def predict(params, objective_state, batch):
            return network(batch["image"])

    victim = tmp_path / "victim"
    victim.write_text("precious")
    folder = tmp_path / "x"
    folder.mkdir()
    for name in (export.MODEL, export.WEIGHTS, export.DESCRIPTION):
        (folder / name).symlink_to(victim)
    old = os.umask(0o022)
    try:
        export.write(Trained, folder, ("cpu",))
    finally:
        os.umask(old)
    assert victim.read_text() == "precious"
    for name in (export.MODEL, export.WEIGHTS, export.DESCRIPTION):
        assert stat.S_IMODE((folder / name).lstat().st_mode) == 0o644 and not (folder / name).is_symlink()
    assert export.read(folder).class_names == tuple(NAMES) and export.read(folder).multi_label
