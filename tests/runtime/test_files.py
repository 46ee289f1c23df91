"""Files of a workdir: damaged JSON, what stands in the place of a file, who may read it."""

import json
import os
import stat

import pytest

from imgcls_jax.runtime.files import open_own, read_bytes, read_json, whole, write_json
from imgcls_jax.runtime.mistakes import is_passing, user_mistake

DEEP = '{"a": ' * 2000 + "1" + "}" * 2000
JSON = {
    "deep": ('{"a": ' + "[" * 900 + "]" * 900 + "}", "nested more than 50 deep"),
    "deeper": (DEEP, "nested more than 50 deep"),
    "a vast number": ('{"steps": 1' + "0" * 400 + "}", "has 401 digits"),
    "a vaster number": ('{"steps": 1' + "0" * 9000 + "}", "has 9001 digits"),
    "no object": ("[1]", "holds a list"),
    "nothing": ("", "is not JSON"),
}


@pytest.mark.parametrize("text, message", JSON.values(), ids=JSON)
def test_json_that_is_none_of_ours_is_told_in_a_line(tmp_path, text, message):
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_json(tmp_path / "result.json")
    assert user_mistake(caught.value).startswith(str(tmp_path / "result.json"))


def test_what_is_no_file_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        with pytest.raises((ValueError, OSError)):
            read_bytes(tmp_path / name, 100)
    (tmp_path / "large").write_bytes(bytes(101))
    with pytest.raises(ValueError, match="has 101 bytes; a file of its kind has at most 100"):
        read_bytes(tmp_path / "large", 100)


def test_what_stands_in_a_files_place_is_not_written(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "link").symlink_to(victim)
    (tmp_path / "hard").hardlink_to(victim)
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "hard", "pipe"):
        with pytest.raises(OSError, match="remove it|No such device"):
            open_own(tmp_path / name, "a+")
    temporary = tmp_path / f"a.json.tmp{os.getpid()}"
    temporary.symlink_to(victim)
    (tmp_path / "a.json").symlink_to(victim)
    write_json(tmp_path / "a.json", {"a": 1})
    assert victim.read_text() == "precious" and not temporary.exists()
    assert read_json(tmp_path / "a.json") == {"a": 1} and not (tmp_path / "a.json").is_symlink()


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_the_umask_decides_who_may_read(tmp_path, umask):
    old = os.umask(umask)
    try:
        write_json(tmp_path / "a.json", {})
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == 0o666 & ~umask


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    write_json(tmp_path / "a.json", {"old": 1})
    with pytest.raises(RuntimeError), whole(tmp_path / "a.json", "w") as file:
        file.write("{")
        raise RuntimeError
    assert json.loads((tmp_path / "a.json").read_text()) == {"old": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_what_is_passing():
    damaged = ValueError("DATA_LOSS: checksum")
    assert not is_passing(damaged) and not is_passing(FileNotFoundError(2, "No such file"))
    assert is_passing(PermissionError(13, "Permission denied"))
    try:
        try:
            raise OSError(24, "Too many open files")
        except OSError as error:
            raise ValueError("cannot restore") from error
    except ValueError as error:
        assert is_passing(error)
