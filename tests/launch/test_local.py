"""launch/local.py: what it starts, how it watches, and a run of two processes, one of which is killed."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCAL = ROOT / "launch" / "local.py"
_spec = importlib.util.spec_from_file_location("launch_local", LOCAL)
local = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(local)

SLEEP = "import time; time.sleep(60)"
DEAF = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
POLITE = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(print("saved")))
print("ready", flush=True)
time.sleep(60)
"""


def python(*programs):
    return [[sys.executable, "-c", program] for program in programs]


def run(*programs, signals=None, **options):
    started = time.monotonic()
    status = local.run(python(*programs), [] if signals is None else signals, **options)
    return status, time.monotonic() - started


def cli(*arguments, **options):
    return subprocess.run(
        [sys.executable, LOCAL, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, **options
    )


def test_dry_run_prints_every_command():
    arguments = ["--config", "configs/digits_simpleconv3.py:test", "--workdir", "a folder"]
    done = cli("--processes=2", "--devices_per_process=3", "--dry_run", "--", *arguments)
    assert done.returncode == 0 and not done.stderr
    port = re.search(r"127\.0\.0\.1:(\d+)", done.stdout)[1]
    assert done.stdout.splitlines() == [
        f"PYTHONUNBUFFERED=1 JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=3 {sys.executable} -m imgcls_jax.main "
        f"--distributed --coordinator=127.0.0.1:{port} --num_processes=2 --process_id={i} "
        "--config configs/digits_simpleconv3.py:test --workdir 'a folder'"
        for i in range(2)
    ]
    assert not (ROOT / "a folder").exists()


@pytest.mark.parametrize(
    "arguments", [["--", "--workdir=x"], ["--processes=0", "--", "--workdir=x"], ["--processes=2"]]
)
def test_a_mistake_in_the_command_is_one_line_and_2(arguments):
    done = cli(*arguments)
    assert done.returncode == 2 and "Traceback" not in done.stderr and "error:" in done.stderr


def test_all_well_is_0_and_every_line_is_numbered(capfd):
    status, _ = run("print('one'); print('two')", "import sys; sys.stderr.write('no newline')")
    assert status == 0
    lines = capfd.readouterr().out.splitlines()
    assert sorted(line for line in lines if line.startswith("[")) == ["[0] one", "[0] two", "[1] no newline"]


def test_the_environment_reaches_the_processes(capfd):
    run("import os; print(os.environ['ANSWER'], 'PATH' in os.environ)", environment={"ANSWER": "42"})
    assert "[0] 42 True" in capfd.readouterr().out


def test_one_dies_the_others_are_ended():
    status, seconds = run(SLEEP, "raise SystemExit(3)", SLEEP)
    assert status == 3 and seconds < 20


def test_what_ignores_sigterm_is_killed_after_the_grace_period():
    status, seconds = run(DEAF, "import time; time.sleep(1); raise SystemExit(4)", grace_seconds=0.5)
    assert status == 4 and seconds < 20


def test_a_signal_is_told_as_a_shell_tells_it():
    assert run("import os; os.kill(os.getpid(), 9)")[0] == 128 + 9


def test_workers_left_behind_do_not_hold_the_launcher():
    worker = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {SLEEP!r}])"
    status, seconds = run(worker)
    assert status == 0 and seconds < 20


def test_a_program_that_is_not_there_leaves_nothing_behind(monkeypatch):
    started = []

    class Recorded(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            started.append(self)

    monkeypatch.setattr(local.subprocess, "Popen", Recorded)
    with pytest.raises(FileNotFoundError):
        local.run([*python(SLEEP), ["/no/such/program"]], [])
    assert [process.returncode for process in started] == [-signal.SIGKILL]


def test_a_signal_is_passed_on_and_not_restarted(capfd):
    signals, starts = [], []

    def start():
        starts.append(1)
        return local.run(python(POLITE, POLITE), signals)

    def stop_when_ready():
        time.sleep(1.5)
        signals.append(signal.SIGTERM)

    threading.Thread(target=stop_when_ready).start()
    assert local.run_again(start, signals, restarts=5) == 0
    out = capfd.readouterr().out
    assert "[0] saved" in out and "[1] saved" in out and len(starts) == 1


def test_restarts_are_counted_and_told(capfd):
    starts = []

    def failing():
        starts.append(1)
        return 7

    assert local.run_again(failing, [], restarts=2) == 7 and len(starts) == 3
    assert capfd.readouterr().out.splitlines() == ["launch: restart 1 of 2", "launch: restart 2 of 2"]
    statuses = iter([1, 0, 1])
    assert local.run_again(lambda: next(statuses), [], restarts=5) == 0


def test_a_reader_that_leaves_stops_the_processes():
    program = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("local", {str(LOCAL)!r})
local = importlib.util.module_from_spec(spec)
spec.loader.exec_module(local)
endless = "while True: print('x' * 1000, flush=True)"
local.run([[sys.executable, "-c", endless]], [])
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as p:
        p.stdout.readline()
        p.stdout.close()
        p.wait(timeout=30)


TRAINING = """
import signal, sys, time
def stop(*_):
    sys.exit(print("saved") or {status})
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, stop)
print("ready", sys.argv[1:], flush=True)
time.sleep(60)
"""


HANGUP = pytest.param(
    signal.SIGHUP,
    marks=pytest.mark.skipif(
        signal.getsignal(signal.SIGHUP) == signal.SIG_IGN, reason="these run under nohup"
    ),
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, HANGUP])
@pytest.mark.parametrize("status", [0, 1])
def test_a_signal_to_the_launcher_reaches_all_and_ends_it(tmp_path, number, status):
    """A folder's own imgcls_jax.main stands in for the training; one that fails is not restarted either."""
    (tmp_path / "imgcls_jax").mkdir()
    (tmp_path / "imgcls_jax" / "main.py").write_text(TRAINING.format(status=status))
    command = [sys.executable, LOCAL, "--processes=2", "--restarts=3", "--", "--workdir=run"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as launcher:
        lines = []
        try:
            while sum("ready" in line for line in lines) < 2:
                lines.append(launcher.stdout.readline())
                assert lines[-1], lines
            launcher.send_signal(number)
            asked = time.monotonic()
            lines += launcher.communicate(timeout=30)[0].splitlines()
        finally:
            launcher.kill()
    print(f"ended {time.monotonic() - asked:.1f} s after the signal")
    assert launcher.returncode == status
    assert sorted(line for line in lines if "saved" in line) == ["[0] saved", "[1] saved"]
    text = "\n".join(lines)
    assert text.count("launch: pids") == 1 and "restart" not in text
    assert sum("'--num_processes=2'" in line and "'--workdir=run'" in line for line in lines) == 2


def launch(workdir, *options):
    arguments = [f"--workdir={workdir}", "--config=configs/digits_simpleconv3.py:test"]
    often = ["--config.train.checkpoint_every_steps=10", "--config.train.log_every_steps=1"]
    command = [sys.executable, LOCAL, "--processes=2", "--devices_per_process=1", *options, "--"]
    return subprocess.Popen(
        [*command, *arguments, *often], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def lines_of(launcher, seconds=300):
    """Yields what a launcher prints until it ends, which it is asked to after so many seconds."""
    timer = threading.Timer(seconds, launcher.terminate)
    timer.start()
    yield from launcher.stdout
    timer.cancel()


def digest(workdir):
    return json.loads((workdir / "result.json").read_text())["state_digest"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The digest in which a run ends that nothing disturbs."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    launcher = launch(workdir)
    output, _ = launcher.communicate(timeout=300)
    assert launcher.returncode == 0, output
    return digest(workdir)


def crash(workdir):
    """Runs two processes, kills one in mid-run, and lets the launcher start both again."""
    crashed = launch(workdir, "--restarts=1", "--grace_seconds=5")
    lines, pids = [], []
    for line in lines_of(crashed):
        lines.append(line)
        if line.startswith("launch: pids"):
            pids.append([int(pid) for pid in line.split()[2:]])
        if line.startswith("[0] step 25/44") and len(pids) == 1:
            os.kill(pids[0][1], signal.SIGKILL)
    assert crashed.wait(timeout=300) == 0, "".join(lines)
    output = "".join(lines)
    assert "launch: process 1 ended with status 137" in output and "launch: restart 1 of 1" in output
    assert "[0] resumed from the checkpoint of step" in output


@pytest.mark.slow
def test_a_killed_process_is_made_good_to_the_bit(tmp_path, undisturbed):
    crash(tmp_path / "crashed")
    assert digest(tmp_path / "crashed") == undisturbed


@pytest.mark.slow
def test_so_it_is_in_an_object_store(store, undisturbed):
    crash(f"{store.address}/crashed")
    assert json.loads(store.objects["crashed/result.json"][1])["state_digest"] == undisturbed


@pytest.mark.slow
def test_sigterm_to_the_launcher_saves_one_step_from_which_the_same_command_goes_on(tmp_path, undisturbed):
    launcher, lines, asked = launch(tmp_path, "--restarts=3"), [], 0.0
    for line in lines_of(launcher):
        lines.append(line)
        if line.startswith("[0] step 5/44"):
            launcher.send_signal(signal.SIGTERM)
            asked = time.monotonic()
    assert launcher.wait(timeout=60) == 0, "".join(lines)
    print(f"ended {time.monotonic() - asked:.1f} s after the signal")
    told = [line.split("] ", 1) for line in lines if "stopped by" in line]
    assert sorted(process for process, _ in told) == ["[0", "[1"] and told[0][1] == told[1][1]
    step = int(told[0][1].split("after step ")[1].split()[0])
    assert 5 <= step < 44 and "which is saved" in told[0][1]
    assert max(int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.is_dir()) == step
    text = "".join(lines)
    assert text.count("launch: pids") == 1 and "restart" not in text
    again = launch(tmp_path, "--restarts=3")
    output, _ = again.communicate(timeout=300)
    assert again.returncode == 0 and f"[0] resumed from the checkpoint of step {step}\n" in output, output
    assert digest(tmp_path) == undisturbed
