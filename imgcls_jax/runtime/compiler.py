"""What commands set up of XLA before jax starts it; a user's own settings stay."""

import hashlib
import importlib.metadata
import os
import platform
import re
from pathlib import Path

# Of XLA for CPUs: the gradient of a convolution's weights takes 3 to 5 times as long in the YNN library as in
# Eigen, forward is about equal (benchmarks/README.md). XLA aborts on a flag that it does not know.
CPU_FLAG, CPU_VALUE = "--xla_cpu_experimental_ynn_fusion_type", "-individual_convolution"
MEASURED = ("0.10", "0.11")  # versions of jaxlib


def configure() -> None:
    """Sets XLA's flags for CPUs, and the folder of compiled programs; the latter before jax is imported."""
    flags = os.environ.get("XLA_FLAGS", "")
    version = ".".join(importlib.metadata.version("jaxlib").split(".")[:2])
    if platform.machine() in ("x86_64", "AMD64") and version in MEASURED and CPU_FLAG not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {CPU_FLAG}={CPU_VALUE}".strip()
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if os.path.isabs(caches):  # a user may have no home
        folder = os.path.join(caches, "imgcls_jax", f"jax-{_cpu()}")
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", folder)
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")


def _cpu() -> str:
    """Names the CPU's features: a home may be shared by machines whose compiled programs do not fit."""
    try:
        lines = re.search(r"^(flags|Features)\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        features = lines[2] if lines else ""
    except OSError:
        features = ""
    return f"{platform.machine()}-{hashlib.sha256(features.encode()).hexdigest()[:8]}"
