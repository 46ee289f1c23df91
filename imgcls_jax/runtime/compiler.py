"""What commands set up of XLA before jax starts it; a user's own settings stay.

A compiled program is code. So the folder of them is used only where nobody else can have written into it, as
ssh does with its keys. An entry that a full disk or a kill cut short is removed: jax would never replace it.
"""

import contextlib
import hashlib
import importlib
import importlib.metadata
import os
import platform
import re
import stat
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

# Of XLA for CPUs: the gradient of a convolution's weights takes 3 to 5 times as long in the YNN library as in
# Eigen, forward is about equal (benchmarks/README.md). XLA aborts on a flag that it does not know.
CPU_FLAG, CPU_VALUE = "--xla_cpu_experimental_ynn_fusion_type", "-individual_convolution"
MEASURED = ("0.10", "0.11")  # versions of jaxlib


MAX_CHECKED_BYTES = 2**26  # of entries at a start, the newest first
CHECKED = "checked"  # a file of the folder: older entries were found whole
FOLDER = "JAX_COMPILATION_CACHE_DIR"


def configure() -> str:
    """Sets XLA's flags for CPUs, and the folder of compiled programs; the latter before jax is imported.

    Returns:
      Why compiled programs are not kept, "" where they are.
    """
    # A program with convolutions by oneDNN (layers/onednn.py) cannot be serialized, so it is not kept either.
    not_kept = "Error writing persistent compilation cache entry.*MemoryError: std::bad_alloc"
    warnings.filterwarnings("ignore", not_kept, UserWarning)
    flags = os.environ.get("XLA_FLAGS", "")
    version = ".".join(importlib.metadata.version("jaxlib").split(".")[:2])
    if platform.machine() in ("x86_64", "AMD64") and version in MEASURED and CPU_FLAG not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {CPU_FLAG}={CPU_VALUE}".strip()
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if os.path.isabs(caches) and FOLDER not in os.environ:  # a user may have no home
        os.environ[FOLDER] = os.path.join(caches, "imgcls_jax", f"jax-{_cpu()}")
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
        with contextlib.suppress(OSError):
            os.makedirs(os.environ[FOLDER], mode=0o700, exist_ok=True)
    folder = os.environ.get(FOLDER, "")
    if not folder or "://" in folder or not os.path.isdir(folder):
        return ""
    if foreign := _foreign(folder):
        os.environ[FOLDER] = ""
        return f"{foreign}, so compiled programs are not kept in {folder}: remove it, or take the right away"
    with contextlib.suppress(OSError):
        _remove_damaged(folder)
    return ""


def _foreign(folder: str) -> str:
    """Returns who else may have written into a folder or what lies there; "" for nobody."""
    own = (os.getuid(), 0) if hasattr(os, "getuid") else None
    try:
        found = os.stat(folder)
        if own is None:  # Windows has no such owners
            return ""
        if found.st_uid not in own:
            return f"{folder} is another user's"
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return f"{folder} may be written by others"
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.stat(follow_symlinks=False).st_uid not in own:
                    return f"{entry.path} is another user's"
    except OSError as error:
        return f"{folder} cannot be looked at ({error.strerror})"
    return ""


def _remove_damaged(folder: str) -> None:
    """Removes the entries since the last look that cannot be decompressed."""
    marker = Path(folder, CHECKED)
    if not os.access(folder, os.W_OK):
        return
    since = marker.stat().st_mtime_ns if marker.exists() else 0
    with os.scandir(folder) as entries:
        found = [(entry.stat(follow_symlinks=False), entry.path) for entry in entries]
    new = [(f.st_mtime_ns, f.st_size, path) for f, path in found if path.endswith("-cache")]
    new = sorted((one for one in new if one[0] >= since), reverse=True)
    decompress, left = _decompressor(), MAX_CHECKED_BYTES
    for _, size, path in new:
        left -= size
        if left < 0:
            break
        try:
            decompress(Path(path).read_bytes())
        except OSError:
            raise
        except Exception:  # whatever a library says of damaged bytes
            os.unlink(path)
    if new:
        marker.touch(mode=0o600)
        os.utime(marker, ns=(new[0][0] + 1, new[0][0] + 1))


def _decompressor() -> Callable[[bytes], bytes]:
    """Returns what undoes jax's compression, which depends on the packages that are there."""
    for package in ("compression.zstd", "zstandard"):
        try:
            module = importlib.import_module(package)
        except ImportError:
            continue
        return module.decompress
    return zlib.decompress


def _cpu() -> str:
    """Names the CPU's features: a home may be shared by machines whose compiled programs do not fit."""
    try:
        lines = re.search(r"^(flags|Features)\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        features = lines[2] if lines else ""
    except OSError:
        features = ""
    return f"{platform.machine()}-{hashlib.sha256(features.encode()).hexdigest()[:8]}"
