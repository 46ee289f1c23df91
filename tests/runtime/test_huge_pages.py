"""A command starts itself once more where glibc must be asked for huge pages, and nowhere else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from imgcls_jax.runtime import huge_pages

ROOT = Path(__file__).parents[2]

COMMAND = """
import os, sys
from imgcls_jax.runtime import huge_pages
huge_pages.ask_for_them(__file__)
print(os.getpid(), sys.argv[1:], os.environ.get('GLIBC_TUNABLES'))
"""

CALLER = """
import runpy, sys
print("before", flush=True)
sys.argv = ["main", "--help"]
try:
    runpy.run_module("imgcls_jax.main", run_name="__main__", alter_sys=True)
except SystemExit:
    print("after", flush=True)
"""


def run(script, *arguments, **environment):
    inherited = {name: value for name, value in os.environ.items() if name != huge_pages.VARIABLE}
    command = subprocess.Popen(
        [sys.executable, script, *arguments],
        env=inherited | {"PYTHONPATH": str(ROOT)} | environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    return command.pid, command.communicate(timeout=60)[0]


@pytest.fixture
def command(tmp_path):
    (tmp_path / "command.py").write_text(COMMAND)
    return tmp_path / "command.py"


def test_a_command_keeps_its_process_and_arguments(command):
    pid, said = run(command, "a b", "--c=1")
    own, rest = said.split(" ", 1)
    setting = huge_pages.SETTING if huge_pages._may_be_asked_for() else None
    assert int(own) == pid
    assert rest == f"['a b', '--c=1'] {setting}\n"


def test_a_program_that_calls_a_command_goes_on(tmp_path):
    (tmp_path / "notebook.py").write_text(CALLER)
    _, said = run(tmp_path / "notebook.py")
    assert said.count("before") == 1 and said.count("usage") == 1
    assert said.endswith("after\n")


@pytest.mark.parametrize(
    "words, own",
    [
        ("-m imgcls_jax --config x", True),
        ("-m imgcls_jax.tools.predict --workdir x", True),
        ("-X importtime -W error -um imgcls_jax.main", True),
        ("-mimgcls_jax.main", True),
        (".venv/bin/imgcls --config x", True),
        ("imgcls_jax/main.py --config x", True),
        ("-m imgcls_jax_of_mine", False),
        ("-m pdb -m imgcls_jax.main", False),
        ("-m ipykernel_launcher -f x.json", False),
        ("-c from(imgcls_jax.main)import(command)", False),
        ("script.py -m imgcls_jax.main", False),
        ("-Wm imgcls_jax.main", False),
        ("- imgcls", False),
        ("", False),
    ],
)
def test_what_is_a_process_of_its_own(words, own, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert huge_pages._is_own_process(["python", *words.split()], None) == own


def test_a_users_own_setting_stays(command):
    assert run(command, GLIBC_TUNABLES="")[1].endswith(" [] \n")


@pytest.mark.parametrize(
    "policy, library, starts",
    [
        ("always [madvise] never", ("glibc", "2.35"), True),
        ("always [madvise] never", ("glibc", "2.34"), False),
        ("always [madvise] never", ("", ""), False),
        ("[always] madvise never", ("glibc", "2.41"), False),
        ("always madvise [never]", ("glibc", "2.41"), False),
        (None, ("glibc", "2.41"), False),
    ],
)
def test_only_where_there_is_something_to_ask_for(policy, library, starts, monkeypatch, tmp_path):
    if policy is not None:
        (tmp_path / "enabled").write_text(policy + "\n")
    monkeypatch.setattr(huge_pages, "POLICY", tmp_path / "enabled")
    monkeypatch.setattr(huge_pages.platform, "libc_ver", lambda: library)
    monkeypatch.delenv(huge_pages.VARIABLE, raising=False)
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "imgcls_jax", "--help"])
    started = []
    monkeypatch.setattr(os, "execve", lambda *call: started.append(call))
    huge_pages.ask_for_them()
    assert bool(started) == starts
    for program, arguments, environment in started:
        assert program == arguments[0] == sys.executable
        assert environment[huge_pages.VARIABLE] == huge_pages.SETTING
