"""Set before jax is imported: CPU, eight virtual devices, quick compilation and a compilation cache."""

import importlib.metadata
import os
import tempfile
from pathlib import Path

from imgcls_jax.runtime import compiler

ROOT = Path(__file__).parents[1]

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
QUICK = "--xla_backend_optimization_level=0"
# From 0.11 on XLA knows the second flag no more, and ends a process that sets it.
if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 11):
    QUICK += " --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK}".strip()
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
compiler.configure()  # as the commands do, whose numbers some tests compare with those of a function call
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
# What training notes of a user's data; the tests read and write none of the user's own.
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="imgcls_jax_state")
