"""launch/tpu_pod.sh: its dry run, its mistakes, and its rounds against a stand-in for gcloud."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "launch" / "tpu_pod.sh"
WHERE = ["--name=run", "--zone=z", "--type=v4-128", "--nfs=10.0.0.2:/share", "--workdir=/mnt/shared/run"]
PLACE = [part for option in WHERE for part in option.split("=", 1)]
BUCKET = [*PLACE[:6], "--workdir", "gs://bucket/my run"]

# Keeps the state of the request and of the run in files, and what it was asked in a log. The first time that
# the log of a run is followed the TPU is preempted, or the run fails, as FATE says; then the run finishes.
GCLOUD = r"""#!/usr/bin/env bash
cd "$(dirname "$0")"
printf '%s|' "$@" >> calls && echo >> calls
case "$*" in
  *" list "*) cat state ;;
  *" create "*) echo ACTIVE > state && echo inactive > run ;;
  *" delete "*) : > state ;;
  *result.json*) [ "$FATE" != silent ] && cat run ;;
  *systemd-run*) echo active > run ;;
  *--follow*)
    if [ -e followed ]; then
      echo finished > run
    else
      touch followed
      case $FATE in
        preempted) echo SUSPENDED > state && exit 255 ;;
        failed) echo failed > run ;;
      esac
    fi
    ;;
esac
"""


def tpu_pod(*arguments, **environment):
    return subprocess.run(
        ["bash", SCRIPT, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def words(line):
    """Returns the words of a command as bash reads them."""
    read = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, text=True, check=True
    )
    return read.stdout.split("\0")[:-1]


@pytest.fixture
def against_gcloud(tmp_path):
    """Returns a function that runs the script against the stand-in: (what it did, the calls in short)."""
    (tmp_path / "gcloud").write_text(GCLOUD)
    (tmp_path / "gcloud").chmod(0o755)
    (tmp_path / "state").touch()

    def run(fate, *options):
        path = f"{tmp_path}:{os.environ['PATH']}"
        arguments = [*PLACE, "--poll_seconds", "0", *options, "--", "--config=configs/x.py"]
        done = tpu_pod(*arguments, PATH=path, FATE=fate, TMPDIR=str(tmp_path))
        kinds = {
            "list|": "list",
            "create|": "create",
            "delete|": "delete",
            "result.json": "probe",
            "systemd-run": "start",
            "scp|": "copy",
            "requirements": "install",
            "--follow": "follow",
        }
        # A command of several lines is a call of several lines.
        calls = "".join((tmp_path / "calls").read_text().splitlines()).split("compute|tpus|")[1:]
        return done, [next(kind for mark, kind in kinds.items() if mark in call) for call in calls]

    return run


def test_dry_run_prints_every_command_and_executes_nothing(tmp_path):
    (tmp_path / "gcloud").write_text("#!/bin/bash\ntouch executed\n")
    (tmp_path / "gcloud").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
    done = tpu_pod(*PLACE, "--spot", "--project", "p", "--dry_run", "--", "--config=a b.py", **environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert os.listdir(tmp_path) == ["gcloud"]
    commands = [words(line) for line in done.stdout.splitlines() if not line.startswith("#")]
    place = ["--zone=z", "--quiet", "--project=p"]
    queue, vm = ["gcloud", "compute", "tpus", "queued-resources"], ["gcloud", "compute", "tpus", "tpu-vm"]
    assert commands[0] == [*queue, "list", *place, "--filter=name~/run$", "--format=value(state.state)"]
    assert commands[1] == [
        *[*queue, "create", "run", *place, "--node-id=run", "--accelerator-type=v4-128"],
        *["--runtime-version=tpu-ubuntu2204-base", "--metadata=enable-oslogin=TRUE", "--spot"],
    ]
    assert commands[3] == [
        "git",
        "archive",
        "--format=tar.gz",
        f"--output={tmp_path}/run.XXXXXX/run.tar.gz",
        "HEAD",
    ]
    archive = [f"{tmp_path}/run.XXXXXX/run.tar.gz", "run:imgcls_jax.tar.gz"]
    assert commands[4] == [*vm, "scp", *archive, *place, "--worker=all"]
    assert commands[-1] == [*queue, "delete", "run", *place, "--force"]
    for command, worker in ((commands[2], "0"), (commands[-2], "0")):
        assert command[:-1] == [*vm, "ssh", "run", *place, f"--worker={worker}"]


def test_a_bucket_needs_no_share():
    done = tpu_pod(*BUCKET, "--dry_run", "--", "--config=x")
    assert (done.returncode, done.stderr) == (0, "")
    assert "mount" not in done.stdout and "install --directory" not in done.stdout
    probe, start = (
        next(line for line in done.stdout.splitlines() if mark in line)
        for mark in ("describe", "systemd-run")
    )
    assert "gcloud storage objects describe gs://bucket/my\\ run/result.json" in words(probe)[-1]
    run = words(start)[-1].splitlines()[-1].partition("-m imgcls_jax.main ")[2]
    assert words(run) == ["--distributed", "--workdir=gs://bucket/my run", "--config=x"]


def test_the_archive_lies_where_nobody_else_writes(tmp_path, against_gcloud):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "run.tar.gz").symlink_to(victim)
    _, calls = against_gcloud("")
    assert "copy" in calls and victim.read_text() == "precious"
    assert [path.name for path in tmp_path.glob("run.*")] == ["run.tar.gz"]  # the folder is gone


def test_the_remote_command_carries_the_arguments_as_they_are():
    arguments = ["--config=configs/x.py:test", "--config.data.train_transforms=decode | flip", "--split=it's"]
    done = tpu_pod(*PLACE, "--dry_run", "--", *arguments)
    start = next(line for line in done.stdout.splitlines() if "systemd-run" in line)
    remote = words(start)[-1].removeprefix("--command=").splitlines()[-1]
    run = words(remote.partition("-m imgcls_jax.main ")[2])
    assert run == ["--distributed", "--workdir=/mnt/shared/run", *arguments]


@pytest.mark.parametrize("place", [PLACE, BUCKET], ids=["share", "bucket"])
@pytest.mark.parametrize("script", ["install", "start", "probe", "follow"])
def test_the_remote_commands_are_bash(script, place):
    source = SCRIPT.read_text().partition("\nif $dry_run; then\n  echo")[0]
    source = source.replace('cd "$(dirname "$0")/.."', "")
    printed = subprocess.run(
        [
            "bash",
            "-c",
            f'{source}\non() {{ printf "%s" "$2"; }}\nact() {{ :; }}\n{script}',
            "x",
            *place,
            "--",
            "--a=b c",
        ],
        capture_output=True,
        text=True,
    )
    assert printed.returncode == 0 and printed.stdout, printed.stderr
    checked = subprocess.run(["bash", "-n"], input=printed.stdout, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize(
    "changed",
    [
        ["--workdir", "gs://bucket"],
        ["--workdir", "s3://bucket/run"],
        ["--workdir", "/home/me"],
        ["--name", "My_Run"],
        ["--nfs", "share"],
        ["--type", "h100-8"],
        ["--restarts", "many"],
        ["--zone", ""],
        ["--typo", "1"],
    ],
)
def test_a_mistake_in_the_command_is_one_line_and_2(changed):
    done = tpu_pod(*PLACE, *changed, "--dry_run", "--", "--config=x")
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("error: ") and changed[0] in done.stderr and done.stderr.count("\n") == 1


def test_arguments_of_the_run_must_be_there():
    done = tpu_pod(*PLACE, "--dry_run")
    assert done.returncode == 2 and "arguments of imgcls_jax.main" in done.stderr


BEGIN = ["list", "create", "list", "probe", "copy", "install", "start", "list", "probe", "follow"]
END = ["list", "probe"]


def test_after_a_preemption_it_is_made_again_and_goes_on(against_gcloud):
    done, calls = against_gcloud("preempted", "--spot")
    assert done.returncode == 0, done.stderr
    assert calls == [*BEGIN, "list", "delete", *BEGIN, *END]
    assert "still stands and costs" in done.stdout


def test_a_run_that_fails_by_itself_ends_the_command(against_gcloud):
    done, calls = against_gcloud("failed")
    assert done.returncode == 1 and calls == [*BEGIN, *END]


def test_it_starts_again_as_often_as_it_may(against_gcloud):
    done, calls = against_gcloud("failed", "--restarts", "1")
    again = ["copy", "install", "start", "list", "probe", "follow"]
    assert done.returncode == 0 and calls == [*BEGIN, *END, *again, *END]


def test_a_tpu_that_never_answers_ends_the_command(against_gcloud):
    done, calls = against_gcloud("silent")
    assert done.returncode == 1 and "no answer" in done.stderr and calls.count("probe") == 20
