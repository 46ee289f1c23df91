"""Networks as ONNX files give onnxruntime the same answers; the packages for it live in an environment of
their own, so these tests are left out where they are not."""

import importlib.util
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.contracts.objective import Task
from imgcls_jax.inference import onnx_file
from imgcls_jax.models import resnet, simpleconv3, vit
from imgcls_jax.objectives import supervised

needs_packages = pytest.mark.skipif(
    not (importlib.util.find_spec("jax2onnx") and importlib.util.find_spec("onnxruntime")),
    reason="jax2onnx and onnxruntime are not installed (imgcls_jax/inference/onnx_file.py)",
)


def untrained(backbone, side, **fields):
    """What onnx_file reads of inference/trained.py's Trained, with weights as they are drawn."""
    shape = (side, side, 3)
    objective = supervised.make(backbone, Task(10, 100, 10, 100, shape), **fields)
    images = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    batch = {"image": jnp.zeros(images.shape), "label": jnp.zeros(2, int), "index": jnp.arange(2)}
    params, objective_state = jax.jit(objective.init)(jax.random.key(0), batch)

    def predict(params, objective_state, batch):
        scaled = batch["image"].astype(jnp.float32) / 127.5 - 1
        return objective.predict(params, objective_state, {"image": scaled})

    return SimpleNamespace(
        params=params, objective_state=objective_state, predict=predict, source_shape=shape
    )


@needs_packages
def test_a_batch_of_any_size(tmp_path):
    import onnxruntime

    network, file = untrained(simpleconv3.build(), 48), tmp_path / "model.onnx"
    assert onnx_file.write(network, file, None) < 1e-6
    session = onnxruntime.InferenceSession(file)
    for rows in (1, 7):
        images = np.random.default_rng(rows).integers(0, 256, (rows, 48, 48, 3), np.uint8)
        (found,) = session.run(None, {"images": images})
        logits = network.predict(network.params, network.objective_state, {"image": images})["logits"]
        np.testing.assert_allclose(found, jax.nn.softmax(logits), atol=1e-6)


@needs_packages
@pytest.mark.parametrize("backbone", [resnet.build("resnet18"), vit.build("vit_tiny", depth=1)])
def test_any_batch_where_windows_are_padded_and_tokens_repeated(tmp_path, backbone):
    """`write` tries batches of 1, 3 and 8."""
    assert onnx_file.write(untrained(backbone, 32), tmp_path / "model.onnx", None) < 1e-6


@needs_packages
@pytest.mark.parametrize(
    "fields", [{}, dict(head="bilinear", head_fields=dict(projection="tensor_sketch", dim=64))]
)
def test_pooling_residual_connections_and_drawn_constants(tmp_path, fields):
    network, file = untrained(resnet.build("resnet18"), 64, **fields), tmp_path / "model.onnx"
    assert onnx_file.write(network, file, 1) < 1e-6


def test_a_difference_in_one_of_the_batches_is_seen(tmp_path, monkeypatch):
    """onnxruntime's stand-in answers wrongly for 3 images alone."""

    class Session:
        def __init__(self, file, providers):
            pass

        def run(self, outputs, inputs):
            images = inputs["images"]
            return [images.mean((1, 2)) + (0.5 if len(images) == 3 else 0)]

    runtime = SimpleNamespace(InferenceSession=Session, set_default_logger_severity=lambda level: None)
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
    found = onnx_file._difference(lambda images: images.mean((1, 2)), (1, 3, 8), (4, 4, 3), tmp_path / "x")
    assert found == pytest.approx(0.5, abs=1e-4)
    found = onnx_file._difference(lambda images: images.mean((1, 2)), (1, 8), (4, 4, 3), tmp_path / "x")
    assert found < 1e-4


@needs_packages
def test_a_network_that_cannot_be_written_leaves_no_file(tmp_path):
    network, file = untrained(simpleconv3.build(), 48), tmp_path / "model.onnx"
    of_eigenvalues = SimpleNamespace(
        **vars(network)
        | {
            "predict": lambda params, objective_state, batch: {
                "logits": jnp.linalg.eigvals(batch["image"][..., 0]).real
            }
        }
    )
    with pytest.raises(ValueError, match="cannot be written as ONNX .*; try a batch of one, --batch 1"):
        onnx_file.write(of_eigenvalues, file, None)
    assert not file.exists()


@pytest.mark.skipif(importlib.util.find_spec("jax2onnx") is not None, reason="jax2onnx is installed")
def test_without_the_packages(tmp_path):
    with pytest.raises(ValueError, match="jax2onnx is missing: pip install"):
        onnx_file.write(untrained(simpleconv3.build(), 48), tmp_path / "model.onnx", None)


def stand_ins(monkeypatch, **modules):
    """Puts stand-ins for the packages into place; their converter writes a file and one of weights beside."""
    for name in ("jax2onnx", "onnx_ir", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, modules.get(name, SimpleNamespace()))

    def convert(function, shape, file):
        file.write_text("new")
        file.with_name(f"{file.name}.data").write_text("weights")

    monkeypatch.setattr(onnx_file, "_convert", convert)


NETWORK = SimpleNamespace(source_shape=(4, 4, 3))


def test_a_package_that_is_missing_is_told_before_anything_is_written(tmp_path, monkeypatch):
    for name in ("jax2onnx", "onnx_ir", "onnxruntime"):
        stand_ins(monkeypatch)
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ValueError, match=f"{name} is missing: pip install"):
            onnx_file.write(NETWORK, tmp_path / "model.onnx", None)
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("difference", [0.5, float("nan"), KeyboardInterrupt, RuntimeError])
def test_a_file_appears_once_it_is_checked(tmp_path, monkeypatch, difference):
    stand_ins(monkeypatch)
    (tmp_path / "model.onnx").write_text("old")

    def checked(function, batches, shape, file):
        assert file.read_text() == "new" and (tmp_path / "model.onnx").read_text() == "old"
        if isinstance(difference, float):
            return difference
        raise difference

    monkeypatch.setattr(onnx_file, "_difference", checked)
    with pytest.raises((ValueError, KeyboardInterrupt)):
        onnx_file.write(NETWORK, tmp_path / "model.onnx", None)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("model.onnx", "old")]
    monkeypatch.setattr(onnx_file, "_difference", lambda *args: 1e-7)
    assert onnx_file.write(NETWORK, tmp_path / "model.onnx", None) == 1e-7
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {
        "model.onnx": "new",
        "model.onnx.data": "weights",
    }


def test_pooling_by_slices_is_pooling():
    from flax import linen as nn
    from flax.linen import pooling

    images = jax.random.normal(jax.random.key(0), (2, 11, 8, 3))
    for window, strides, padding in (
        ((3, 3), (2, 2), "SAME"),
        ((2, 3), None, "VALID"),
        ((3, 3), (2, 2), ((1, 1), (0, 2))),
    ):
        for form in (nn.max_pool, nn.avg_pool):
            expected = form(images, window, strides, padding)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(pooling, "pool", onnx_file._pool_by_slices)
                found = form(images, window, strides, padding)
            np.testing.assert_allclose(found, expected, atol=1e-6)
