"""A command starts itself once more where glibc must be asked for huge pages, and nowhere else."""

import os
import subprocess
import sys

import pytest

from imgcls_jax.runtime import huge_pages

CODE = (
    "import os, sys\n"
    "from imgcls_jax.runtime.command import exit_with\n"
    "exit_with(lambda: print(os.getpid(), sys.argv[1:], os.environ.get('GLIBC_TUNABLES')))"
)


def run(**environment):
    inherited = {name: value for name, value in os.environ.items() if name != huge_pages.VARIABLE}
    command = subprocess.Popen(
        [sys.executable, "-c", CODE, "a b", "--c=1"],
        env=inherited | environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    return command.pid, command.communicate(timeout=60)[0].split(" ", 1)


def test_a_command_keeps_its_process_and_arguments():
    pid, (own, rest) = run()
    setting = huge_pages.SETTING if huge_pages._may_be_asked_for() else None
    assert int(own) == pid
    assert rest == f"['a b', '--c=1'] {setting}\n"


def test_a_users_own_setting_stays():
    assert run(GLIBC_TUNABLES="")[1][1] == "['a b', '--c=1'] \n"


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
    started = []
    monkeypatch.setattr(os, "execve", lambda *call: started.append(call))
    huge_pages.ask_for_them()
    assert bool(started) == starts
    for program, arguments, environment in started:
        assert program == arguments[0] == sys.executable
        assert environment[huge_pages.VARIABLE] == huge_pages.SETTING
