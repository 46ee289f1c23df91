"""A trained network as a LiteRT file (TensorFlow Lite's .tflite), by litert-converter, checked by LiteRT.

The network's StableHLO goes to litert-converter, which needs neither TensorFlow nor PyTorch. A file is for
batches of one size.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from imgcls_jax.inference.trained import probabilities
from imgcls_jax.runtime.files import naming, whole
from imgcls_jax.runtime.mistakes import reason

TOLERANCE = 1e-4  # of a probability
SIGNATURE = "serving_default"  # what TensorFlow Lite's own converter calls it


def require_packages() -> None:
    """Raises ValueError where a package is missing; says how to install both."""
    try:
        for name in ("litert_converter", "ai_edge_litert.interpreter"):
            importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f"{error.name} is missing: a LiteRT file needs pip install 'imgcls-jax[litert]'"
        ) from error


def write(trained: Any, file: Path, batch: int) -> float:
    """Writes the network: "images", uint8 [B, H, W, C], to "probabilities", float32 [B, K].

    Args:
      trained: of inference/trained.py.
      file: to write.
      batch: B.

    Returns:
      The largest difference of a probability between LiteRT and the network itself, over random images.

    Raises:
      ValueError: a package is missing, or the network cannot be written, or its answers differ; no file is
        written then.
      OSError: the file cannot be written; names it.
    """

    def function(images: jax.Array) -> jax.Array:
        with jax.ensure_compile_time_eval():  # what does not depend on the images becomes a constant
            outputs = trained.predict(trained.params, trained.objective_state, {"image": images})
            return probabilities(outputs).astype(jnp.float32)

    images = np.random.default_rng(0).integers(0, 256, (batch, *trained.source_shape), np.uint8)
    require_packages()
    try:
        content = _converted(function, images)
        difference = float(np.abs(_run(content, images) - jax.jit(function)(images)).max())
    except Exception as error:  # whatever the packages raise of a network that they do not know
        first = reason(error).split("\n", 1)[0]
        raise ValueError(f"this network cannot be written as a LiteRT file ({first})") from error
    if not difference <= TOLERANCE:
        raise ValueError(f"{file}: LiteRT's probabilities differ by {difference:.1e}; it was not written")
    with naming(file, way_out=""), whole(file) as opened:
        opened.write(content)
    return difference


def _converted(function: Any, images: np.ndarray) -> bytes:
    from litert_converter.mlir import ir, passmanager
    from litert_converter.mlir._mlir_libs import converter_api_ext as converter
    from litert_converter.mlir.dialects import stablehlo

    # A file of LiteRT is for any machine, so each of these becomes its default form.
    default = mock.patch.object(jax.lax, "platform_dependent", lambda *args, default, **_: default(*args))
    with default:
        of_images = jax.ShapeDtypeStruct(images.shape, images.dtype)
        program = jax.export.export(jax.jit(function), platforms=("cpu",))(of_images)
    context = ir.Context()
    converter.prepare_mlir_context(context)
    with context, ir.Location.unknown():
        module = stablehlo.deserialize_portable_artifact(context, program.mlir_module_serialized)
        converter.set_signature(module.operation, SIGNATURE, ["images"], ["probabilities"])
        converter.run_convert_to_tfl_passes(module, passmanager.PassManager(), converter.ConvertToTFLConfig())
        return converter.export_flatbuffer_to_bytes(module.operation)


def _run(content: bytes, images: np.ndarray) -> np.ndarray:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content)
    return interpreter.get_signature_runner(SIGNATURE)(images=images)["probabilities"]
