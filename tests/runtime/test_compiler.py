"""The settings of XLA that commands choose, and that a user's own stay."""

import os
import subprocess
import sys

import pytest

from imgcls_jax.runtime import compiler

YNN = f"{compiler.CPU_FLAG}={compiler.CPU_VALUE}"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("XLA_FLAGS", "XDG_CACHE_HOME", "HOME", "JAX_COMPILATION_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(compiler.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(compiler.importlib.metadata, "version", lambda package: "0.11.2")
    monkeypatch.setattr(compiler, "_cpu", lambda: "CPU")


@pytest.mark.parametrize(
    "settings, folder",
    [
        ({"XDG_CACHE_HOME": "/caches"}, "/caches/imgcls_jax/jax-CPU"),
        ({"HOME": "/home/me"}, "/home/me/.cache/imgcls_jax/jax-CPU"),
        ({"HOME": "nowhere"}, None),
        ({"HOME": "/home/me", "JAX_COMPILATION_CACHE_DIR": "/mine"}, "/mine"),
        ({"HOME": "/home/me", "JAX_COMPILATION_CACHE_DIR": ""}, ""),
    ],
)
def test_compiled_programs_are_kept_where_the_user_has_them(settings, folder, monkeypatch):
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    compiler.configure()
    assert os.environ.get("JAX_COMPILATION_CACHE_DIR") == folder


@pytest.mark.parametrize(
    "version, machine, own, flags",
    [
        ("0.10.2", "x86_64", "", YNN),
        ("0.11.0", "AMD64", "--xla_dump_to=/d", f"--xla_dump_to=/d {YNN}"),
        ("0.10.2", "x86_64", f"{compiler.CPU_FLAG}=", f"{compiler.CPU_FLAG}="),
        ("0.12.0", "x86_64", "", ""),
        ("0.10.2", "aarch64", "", ""),
    ],
)
def test_a_flag_is_set_for_what_was_measured_and_not_over_the_users(
    version, machine, own, flags, monkeypatch
):
    monkeypatch.setattr(compiler.platform, "machine", lambda: machine)
    monkeypatch.setattr(compiler.importlib.metadata, "version", lambda package: version)
    monkeypatch.setenv("XLA_FLAGS", own)
    compiler.configure()
    compiler.configure()
    assert os.environ["XLA_FLAGS"] == flags


def test_the_folder_is_named_after_the_cpu(monkeypatch):
    monkeypatch.undo()
    name = compiler._cpu()
    assert name == compiler._cpu() and name.startswith(compiler.platform.machine())


def test_jax_takes_the_flag():
    """The versions of `MEASURED` know it: XLA aborts the process on one that it does not."""
    code = "from imgcls_jax.runtime import compiler; compiler.configure(); import jax; print(jax.devices())"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
