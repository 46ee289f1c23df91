"""A trained network as an ONNX file, by jax2onnx, checked by onnxruntime.

The packages jax2onnx, onnx and onnxruntime belong into an environment of their own: jax2onnx asks for an
older Orbax than training does.
"""

from __future__ import annotations

import functools
import importlib
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax.linen import pooling

from imgcls_jax.inference.trained import probabilities
from imgcls_jax.runtime.files import naming
from imgcls_jax.runtime.mistakes import reason

TOLERANCE = 1e-4  # of a probability
TRIED = (1, 3, 8)  # sizes of a batch that is free


def require_packages() -> None:
    """Raises ValueError where a package is missing; says how to install all."""
    logging.getLogger("jax2onnx").setLevel(logging.ERROR)  # it warns of every extra that is not installed
    try:
        for name in ("jax2onnx", "onnx_ir", "onnxruntime"):
            importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f"{error.name} is missing: pip install onnx onnxruntime onnx-ir onnxscript equinox, and then "
            "pip install --no-deps jax2onnx"
        ) from error


def write(trained: Any, file: Path, batch: int | None) -> float:
    """Writes the network: "images", uint8 [B, H, W, C], to "probabilities", float32 [B, K].

    Args:
      trained: of inference/trained.py.
      file: to write; it appears once it is checked.
      batch: B, or None to leave it free, which jax2onnx cannot for every network.

    Returns:
      The largest difference of a probability between onnxruntime and the network itself, over random images;
      of a free batch at each size of `TRIED`.

    Raises:
      ValueError: a package is missing, or the network cannot be written, or its answers differ; no file is
        written then.
      OSError: the file cannot be written; names it.
    """

    def function(images: jax.Array) -> jax.Array:
        outputs = trained.predict(trained.params, trained.objective_state, {"image": images})
        return probabilities(outputs).astype(jnp.float32)

    require_packages()
    # Large weights go into a file beside, which the first names; so both keep their names.
    with naming(file, way_out=""), tempfile.TemporaryDirectory(dir=file.parent) as folder:
        unchecked = Path(folder) / file.name
        try:
            _convert(function, (batch, *trained.source_shape), unchecked)
            difference = _difference(function, (batch,) if batch else TRIED, trained.source_shape, unchecked)
        except Exception as error:  # whatever the packages raise of a network that they do not know
            first = reason(error).split("\n", 1)[0]
            way_out = "" if batch else "; try a batch of one, --batch 1"
            raise ValueError(f"this network cannot be written as ONNX ({first}){way_out}") from error
        if not difference <= TOLERANCE:
            raise ValueError(
                f"{file}: onnxruntime's probabilities differ by {difference:.1e}; it was not written"
            )
        for written in sorted(Path(folder).iterdir(), reverse=True):  # weights first
            written.replace(file.parent / written.name)
    return difference


def _convert(function: Any, shape: tuple[int | None, ...], file: Path) -> None:
    import onnx_ir
    from jax2onnx import to_onnx
    from jax2onnx.converter import conversion_api

    scope = jax.export.SymbolicScope()
    batch = shape[0] or jax.export.symbolic_shape("batch", scope=scope)[0]
    images = jax.ShapeDtypeStruct((batch, *shape[1:]), jnp.uint8)
    # ONNX knows no platforms, so each of these becomes its default form; and jax2onnx writes windows over
    # NHWC as pooling in four dimensions, which onnxruntime refuses.
    default = mock.patch.object(jax.lax, "platform_dependent", lambda *args, default, **_: default(*args))
    with default, mock.patch.object(pooling, "pool", _pool_by_slices):
        traced = _traced(function, images)
    # Evaluated from the jaxpr: to_onnx replaces many functions that it sees called, and some of its versions
    # are wrong (padding of max_pool), as is its removal of transposes (residual connections).
    again = functools.partial(jax.core.eval_jaxpr, traced.jaxpr, traced.consts)
    names = dict(input_names=["images"], output_names=["probabilities"])
    as_drawn = mock.patch.object(conversion_api, "optimize_graph", lambda model: model)
    # It makes the free batch anew, which the jaxpr has in shapes, by name in a scope; and some of its
    # operations, padding among them, hand it to onnx-ir, which asks for the name.
    same_scope = mock.patch.object(jax.export, "SymbolicScope", lambda: scope)
    to_dimension = onnx_ir._core._maybe_convert_to_symbolic_dim
    by_name = mock.patch.object(
        onnx_ir._core,
        "_maybe_convert_to_symbolic_dim",
        lambda size: to_dimension(str(size) if jax.export.is_symbolic_dim(size) else size),
    )
    with as_drawn, same_scope, by_name:
        to_onnx(again, [images], return_mode="file", output_path=file, **names)


def _traced(function: Any, images: jax.ShapeDtypeStruct) -> Any:
    """Returns the jaxpr; what does not depend on the images is a constant, but for arrays of a free batch."""

    def folded(images: jax.Array) -> jax.Array:
        with jax.ensure_compile_time_eval():
            return function(images)

    try:
        return jax.make_jaxpr(folded)(images)
    except Exception:  # of jax, whose type has no public name: a token, say, repeated for each image
        return jax.make_jaxpr(function)(images)


def _pool_by_slices(
    inputs: jax.Array, init: Any, reduce_fn: Any, window_shape: Any, strides: Any, padding: Any
) -> jax.Array:
    """Does what flax.linen.pooling.pool does to [B, H, W, C], by slices."""
    strides = tuple(strides or (1,) * len(window_shape))
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(inputs.shape[1:-1], window_shape, strides, padding)
    padded = jax.lax.pad(
        inputs, jnp.asarray(init, inputs.dtype), [(0, 0, 0), *((*p, 0) for p in padding), (0, 0, 0)]
    )
    ends = [n - w + 1 for n, w in zip(padded.shape[1:-1], window_shape, strict=True)]
    slices = [
        padded[:, top : top + ends[0] : strides[0], left : left + ends[1] : strides[1]]
        for top, left in np.ndindex(*window_shape)
    ]
    return functools.reduce(reduce_fn, slices)


def _difference(function: Any, batches: Sequence[int], shape: tuple[int, ...], file: Path) -> float:
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)  # what fails is raised
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).integers(0, 256, (max(batches), *shape), np.uint8)
    expected = np.asarray(jax.jit(function)(images))
    return max(
        float(np.abs(session.run(None, {"images": images[:rows]})[0] - expected[:rows]).max())
        for rows in batches
    )
