"""Set before jax is imported: CPU, eight virtual devices, quick compilation and a compilation cache."""

import functools
import gc
import importlib.metadata
import importlib.util
import os
import tempfile
from pathlib import Path

import pytest

from imgcls_jax.runtime import compiler

ROOT = Path(__file__).parents[1]

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
QUICK = "--xla_backend_optimization_level=0"
# XLA ends a process that sets a flag it does not know, as the second from 0.11 on. The third, which compiles
# a program in one piece, is tried on 0.10 alone.
if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 11):
    QUICK += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK}".strip()
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
compiler.configure()  # as the commands do, whose numbers some tests compare with those of a function call
# All is kept: what one test, worker or command has compiled, the others read.
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
# Programs do not say which lines they come from: no test reads it, and it is a twentieth of the time.
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"
gc.set_threshold(50_000, 20, 100)  # JAX leaves many small objects: a tenth went to looking for cycles in them
# What training notes of a user's data; the tests read and write none of the user's own.
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="imgcls_jax_state")


def pytest_collection_modifyitems(items):
    """Puts the longest files first, so that neither worker is left with one of them at the end."""
    items.sort(key=lambda item: "tests/train" not in item.path.as_posix())


@pytest.fixture(scope="session", autouse=True)
def one_mlir_context():
    """Writes all programs in one MLIR context. JAX makes one for each, which is a third of the time."""
    from jax._src.interpreters import mlir
    from jaxlib.mlir import ir

    make = mlir.make_ir_context
    shared = functools.cache(make)

    def context():
        # What is compiled while another program is written would be written into that.
        return make() if ir.Context.current else shared()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlir, "make_ir_context", context)
        yield


@functools.cache  # s3fs keeps its connection to one
def object_store(kind):
    place = ROOT / "tests" / "object_store.py"
    spec = importlib.util.spec_from_file_location("object_store", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.KINDS[kind]()


@pytest.fixture(scope="module", params=["gs", "s3"])
def store(request):
    """An object store of each kind, empty, that this process and those it starts find."""
    for package in {"gs": ["gcsfs"], "s3": ["s3fs", "moto"]}[request.param]:
        if not importlib.util.find_spec(package):  # not imported, since it reads the environment
            pytest.skip(f"needs {package}")
    server = object_store(request.param)
    server.clear()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server
