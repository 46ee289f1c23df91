"""The settings of XLA that commands choose, and that a user's own stay."""

import os
import stat
import subprocess
import sys
import zlib

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
        ({"XDG_CACHE_HOME": "TMP/caches"}, "TMP/caches/imgcls_jax/jax-CPU"),
        ({"HOME": "TMP/me"}, "TMP/me/.cache/imgcls_jax/jax-CPU"),
        ({"HOME": "nowhere"}, None),
        ({"HOME": "TMP/me", "JAX_COMPILATION_CACHE_DIR": "TMP/mine"}, "TMP/mine"),
        ({"HOME": "TMP/me", "JAX_COMPILATION_CACHE_DIR": "gs://bucket/x"}, "gs://bucket/x"),
        ({"HOME": "TMP/me", "JAX_COMPILATION_CACHE_DIR": ""}, ""),
    ],
)
def test_compiled_programs_are_kept_where_the_user_has_them(settings, folder, monkeypatch, tmp_path):
    for name, value in settings.items():
        monkeypatch.setenv(name, value.replace("TMP", str(tmp_path)))
    assert compiler.configure() == ""
    found = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    assert (found and found.replace(str(tmp_path), "TMP")) == folder
    if folder and "imgcls_jax" in folder:
        assert stat.S_IMODE(os.stat(found).st_mode) == 0o700


@pytest.mark.parametrize("how", ["group", "others", "folder", "entry"])
def test_a_folder_that_others_write_is_not_used(how, monkeypatch, tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o700)
    entry = folder / "jit_x-cache"
    entry.write_bytes(zlib.compress(b"x"))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(folder))
    assert compiler.configure() == ""
    if how in ("group", "others"):
        folder.chmod(0o770 if how == "group" else 0o707)
    elif os.getuid():
        pytest.skip("only root gives files away")
    else:
        os.chown(folder if how == "folder" else entry, 12345, 12345)
    note = compiler.configure()
    assert str(folder) in note and "are not kept" in note and os.environ["JAX_COMPILATION_CACHE_DIR"] == ""


def test_an_entry_cut_short_is_removed(monkeypatch, tmp_path):
    monkeypatch.setattr(compiler, "_decompressor", lambda: zlib.decompress)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    tmp_path.chmod(0o700)
    whole = zlib.compress(os.urandom(1000))
    entries = {"a-cache": whole, "b-cache": whole[:500], "c-cache": b"", "d-atime": b"x"}
    for name, content in entries.items():
        (tmp_path / name).write_bytes(content)
    compiler.configure()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-cache", "checked", "d-atime"]
    compiler.configure()
    (tmp_path / "e-cache").write_bytes(whole[:9])
    compiler.configure()
    assert not (tmp_path / "e-cache").exists() and (tmp_path / "a-cache").exists()


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
