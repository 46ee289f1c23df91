"""What is a user's mistake, and how a command ends: by its status, in a closed pipe, on a full disk."""

import argparse
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from imgcls_jax.config import field_types
from imgcls_jax.runtime import command, mistakes
from imgcls_jax.runtime.files import naming, read_json, write_json

ROOT = Path(__file__).parents[2]


def raised(act):
    try:
        act()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def test_mistakes_are_told(tmp_path):
    missing, number = tmp_path / "absent", argparse.Namespace(a=0)
    cases = {
        f"{missing}: No such file or directory": missing.read_text,
        f"{tmp_path}: Is a directory": lambda: open(tmp_path),
        "config.x.a is at least 1; got 0": lambda: field_types.require_at_least("x", number, a=1),
        f"{missing} is absent: {tmp_path} is not the workdir of a run": lambda: read_json(missing),
        f"{missing}/b cannot be written: No such file or directory": lambda: write_json(
            missing / "b", {}, ""
        ),
        "the package no_such_package is missing; training needs pip install 'imgcls-jax[train]'": lambda: (
            __import__("no_such_package")
        ),
        "Python's own module fcntl is missing here: another system or build of Python has it": lambda: (
            _ for _ in ()
        ).throw(ModuleNotFoundError("No module named 'fcntl'", name="fcntl")),
        "not enough memory: MemoryError": lambda: (_ for _ in ()).throw(MemoryError()),
    }
    for line, act in cases.items():
        assert mistakes.user_mistake(raised(act)) == line


def test_faults_of_the_program_are_not():
    ours = Path(command.__file__)
    jaxs = raised(lambda: jnp.zeros(3).reshape(2))
    assert isinstance(jaxs, (ValueError, TypeError)) and mistakes.user_mistake(jaxs) is None
    assert mistakes.user_mistake(raised(lambda: {}["a"])) is None
    assert mistakes.user_mistake(raised(lambda: int("x"))) is None  # raised by this test, not by the package
    assert mistakes.user_mistake(raised(lambda: naming(ours).__enter__().a)) is None
    assert mistakes.user_mistake(BrokenPipeError()) is None
    assert mistakes.user_mistake(KeyboardInterrupt()) is None


def test_what_the_standard_library_raises_for_the_package_counts_as_the_packages(tmp_path, monkeypatch):
    code = "import json\ndef act(): json.loads('{')\n"
    space = {}
    exec(compile(code, str(mistakes.PACKAGE / "anything.py"), "exec"), space)
    error = raised(space["act"])
    assert isinstance(error, json.JSONDecodeError) and mistakes.user_mistake(error).startswith("Expecting")
    exec(compile(code, str(Path(jax.__file__).parent / "anything.py"), "exec"), space)
    assert mistakes.user_mistake(raised(space["act"])) is None


def test_a_message_is_never_empty():
    assert mistakes.reason(ValueError()) == "ValueError"
    assert mistakes.user_mistake(OSError()) == "OSError"
    assert mistakes.user_mistake(OSError(errno.ENOSPC, "No space left on device")).startswith("No space left")


def test_a_mistake_is_one_line_and_status_2(capsys):
    @command.command
    def main(argv=None):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "a\x1b[31m\nb")

    assert main([]) == 2
    assert capsys.readouterr().err == "error: a\\x1b[31m b: No such file or directory\n"


def test_a_fault_keeps_its_traceback():
    @command.command
    def main(argv=None):
        return {}["a"]

    with pytest.raises(KeyError):
        main([])


def test_paths_and_numbers_of_the_command_line(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert command.user_path("~/runs") == Path("/home/me/runs")
    assert command.user_path("a/~b") == Path("a/~b")
    for parse, texts in (
        (command.user_path, ["", " ", "~nobody_of_this_name/a"]),
        (command.at_least_one, ["0", "-1", "x", "1.5", ""]),
    ):
        for text in texts:
            with pytest.raises(argparse.ArgumentTypeError):
                parse(text)
    assert command.at_least_one("3") == 3


def run(body, redirections="", **environment):
    """Runs a command behind a shell's redirections."""
    code = f"import os, sys\nfrom imgcls_jax.runtime.command import *\n{body}\nexit_with(main)"
    return subprocess.run(
        ["sh", "-c", f'exec "$0" "$@" {redirections}', sys.executable, "-c", code],
        cwd=ROOT, capture_output=True, text=True, timeout=120, env=os.environ | environment,
    )  # fmt: skip


PRINTS = "@command\ndef main():\n    print('a' * {size})\n    return 0"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has it")
@pytest.mark.parametrize("size", [1, 100_000])
def test_output_on_a_full_disk(size):
    done = run(PRINTS.format(size=size), "> /dev/full")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "No space left on device" in done.stderr and "standard output" in done.stderr


def test_output_that_is_closed():
    done = run(PRINTS.format(size=10), ">&-")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("redirection", ["2>&-", "2> /dev/full"])
def test_errors_that_nobody_reads(redirection):
    body = "@command\ndef main():\n    print('result')\n    tell('left out')\n    raise OSError('gone')"
    done = run(body, redirection)
    assert (done.returncode, done.stdout) == (2, "result\n")


def test_letters_that_the_terminal_lacks():
    done = run("def main(): print('caf\\u00e9')", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout, done.stderr) == (0, "caf\\xe9\n", "")


def test_ctrl_c_is_one_line():
    # A process that a shell started in the background ignores the signal otherwise.
    handled = "signal.signal(signal.SIGINT, signal.default_int_handler)"
    done = run(f"import signal\ndef main():\n    {handled}\n    os.kill(os.getpid(), signal.SIGINT)")
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_an_exit_keeps_its_text_and_its_status():
    done = run("def main():\n    print('a')\n    raise SystemExit('error: b')")
    assert (done.returncode, done.stdout, done.stderr) == (1, "a\n", "error: b\n")
