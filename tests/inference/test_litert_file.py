"""Networks as LiteRT files give its interpreter the same answers; left out where the extra is absent."""

import importlib.util
import sys
from types import SimpleNamespace

import jax.numpy as jnp
import pytest

from imgcls_jax.inference import litert_file
from imgcls_jax.models import resnet, simpleconv3
from tests.inference.test_onnx_file import untrained

needs_packages = pytest.mark.skipif(
    not (importlib.util.find_spec("litert_converter") and importlib.util.find_spec("ai_edge_litert")),
    reason="litert-converter and ai-edge-litert are not installed: pip install 'imgcls-jax[litert]'",
)


@needs_packages
@pytest.mark.parametrize(
    "backbone, side, batch", [(simpleconv3.build(), 48, 1), (resnet.build("resnet18"), 32, 3)]
)
def test_the_answers_are_the_networks(tmp_path, backbone, side, batch):
    from ai_edge_litert.interpreter import Interpreter

    file = tmp_path / "model.tflite"
    assert litert_file.write(untrained(backbone, side), file, batch) < 1e-5
    (images,) = Interpreter(str(file)).get_input_details()
    assert images["shape"].tolist() == [batch, side, side, 3] and images["dtype"].__name__ == "uint8"


@needs_packages
def test_a_network_that_cannot_be_written_leaves_no_file(tmp_path):
    network, file = untrained(simpleconv3.build(), 48), tmp_path / "model.tflite"

    def eigenvalues(params, objective_state, batch):
        return {"logits": jnp.linalg.eigvals(batch["image"][..., 0]).real}

    with pytest.raises(ValueError, match="cannot be written as a LiteRT file"):
        litert_file.write(SimpleNamespace(**vars(network) | {"predict": eigenvalues}), file, 1)
    assert not file.exists()


def test_other_answers_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(litert_file, "require_packages", lambda: None)
    monkeypatch.setattr(litert_file, "_converted", lambda function, images: b"")
    monkeypatch.setattr(litert_file, "_run", lambda content, images: jnp.zeros((len(images), 10)))
    with pytest.raises(ValueError, match="LiteRT's probabilities differ by .*; it was not written"):
        litert_file.write(untrained(simpleconv3.build(), 48), tmp_path / "model.tflite", 1)
    assert not (tmp_path / "model.tflite").exists()


@pytest.mark.parametrize("name", ["litert_converter", "ai_edge_litert.interpreter"])
def test_without_a_package(tmp_path, monkeypatch, name):
    for known in ("litert_converter", "ai_edge_litert", "ai_edge_litert.interpreter"):
        monkeypatch.setitem(sys.modules, known, SimpleNamespace(__path__=[]))
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(litert_file, "_converted", lambda function, images: pytest.fail("it was converted"))
    with pytest.raises(ValueError, match=rf"{name}.* is missing: .*imgcls-jax\[litert\]"):
        litert_file.write(SimpleNamespace(source_shape=(4, 4, 3)), tmp_path / "model.tflite", 1)
    assert not list(tmp_path.iterdir())
