"""The live bar on a pseudo-terminal, and that nothing of it is seen anywhere else."""

import fcntl
import logging
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import textwrap
from pathlib import Path

import pytest
from PIL import Image

from imgcls_jax.runtime import progress

ROOT = Path(__file__).parents[2]
UNWANTED = ("NO_COLOR", "COLUMNS", "LINES", "JPY_PARENT_PID")  # of those who run the tests
START = (
    "import logging, sys, time\n"
    "from imgcls_jax.runtime import progress\n"
    "from imgcls_jax.runtime.progress import bar, tracked\n"
    "progress.REFRESH_SECONDS = 0\n"
)
TRAINING = """
logging.basicConfig(format="%(levelname)s: %(message)s")
with bar("training", 40, "steps", done=4) as shown:
    for step in range(5, 41):
        shown.update(step, f"epoch {step / 10:.2f}  loss {1 / step:.3f}  512 examples/s", seconds_left=3661)
        if step == 10:
            print("evaluation at step 10: accuracy 0.9")
            for _ in tracked(range(3), "evaluating test"):
                pass
        if step == 12:
            logging.warning("careful")
print("finished", shown.replaces_lines)
"""


def on_terminal(body, *, columns=100, stdout=None, **environment):
    """Runs code whose standard error is a terminal, and standard output too unless told otherwise.

    Returns:
      (exit status, what the terminal got, what another standard output got).
    """
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    surroundings = {k: v for k, v in os.environ.items() if k not in UNWANTED}
    process = subprocess.Popen(
        [sys.executable, "-c", START + textwrap.dedent(body)],
        cwd=ROOT, stdin=slave, stdout=slave if stdout is None else stdout, stderr=slave,
        env=surroundings | {"TERM": "xterm-256color"} | environment,
    )  # fmt: skip
    os.close(slave)
    seen = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # Linux's way to say that the other side is closed
            break
        if not part:
            break
        seen += part
    os.close(master)
    other = process.stdout.read().decode() if process.stdout else ""
    return process.wait(60), seen.decode(), other


def screen(seen):
    """Returns the lines that stay on a terminal: a small part of its language, all that a bar uses."""
    lines, row, column = [""], 0, 0
    for token in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", seen):
        if token == "\r":
            column = 0
        elif token == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif token.startswith("\x1b"):
            if token.endswith("A"):
                row -= int(token[2:-1] or 1)
            elif token == "\x1b[2K":
                lines[row] = ""
            else:
                assert token.endswith("m"), token
        else:
            lines[row] = (lines[row].ljust(column))[:column] + token + lines[row][column + len(token) :]
            column += len(token)
    return [line.rstrip() for line in lines if line.strip()]


def plain(seen):
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen)


def test_a_bar_lives_below_the_lines_and_leaves_no_trace():
    status, seen, _ = on_terminal(TRAINING)
    assert status == 0
    drawn = plain(seen)
    assert "training ━" in drawn and "20/40 steps  1:01:01 left  epoch 2.00  loss 0.050" in drawn
    assert "evaluating test" in drawn and "2/3 images" in drawn
    assert screen(seen) == [
        "evaluation at step 10: accuracy 0.9",
        "WARNING: careful",
        "finished False",
    ]


def test_bars_within_bars_stand_on_lines_of_their_own():
    status, seen, _ = on_terminal(
        """
    with bar("training", 9, "steps") as outer:
        outer.update(3)
        with bar("evaluating", 5, "images") as inner:
            inner.update(2)
            sys.exit(0 if outer.live and inner.live and outer.replaces_lines else 1)
    """
    )
    assert status == 0 and screen(seen) == []
    assert re.search(r"training +[━╸╺]+ 3/9 steps *\r\nevaluating [━╸╺]+ 2/5 images", plain(seen))


@pytest.mark.parametrize("columns", [20, 40, 60])
def test_a_line_is_never_wider_than_the_terminal(columns):
    _, seen, _ = on_terminal(TRAINING, columns=columns)
    for line in re.split(r"[\r\n]+", plain(seen)):
        assert len(line) <= columns, line
    assert columns < 40 or "40/40 steps" in plain(seen)


@pytest.mark.parametrize(
    "environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"TERM": ""}, {"JPY_PARENT_PID": "1"}]
)
def test_a_terminal_that_wants_no_codes_gets_the_lines_alone(environment):
    status, seen, _ = on_terminal(TRAINING, **environment)
    assert status == 0 and seen == (
        "evaluation at step 10: accuracy 0.9\r\nWARNING: careful\r\nfinished False\r\n"
    )


def test_standard_output_in_a_file_holds_results_alone(tmp_path):
    with open(tmp_path / "out", "w") as out:
        status, seen, _ = on_terminal(TRAINING, stdout=out)
    assert status == 0 and "training ━" in plain(seen) and "accuracy" not in seen
    assert (tmp_path / "out").read_text() == "evaluation at step 10: accuracy 0.9\nfinished False\n"


def test_nothing_is_seen_where_there_is_no_terminal():
    done = subprocess.run(
        [sys.executable, "-c", START + TRAINING], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0
    assert done.stdout == "evaluation at step 10: accuracy 0.9\nfinished False\n"
    assert done.stderr == "WARNING: careful\n"


def test_a_missing_standard_error():
    code = START + "print(list(tracked([1, 2], 'a')))"
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" "$@" 2>&-', sys.executable, "-c", code],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "[1, 2]\n")


def test_work_goes_on_when_the_terminal_goes(tmp_path):
    """As when a window is closed and the process outlives it: what is written gives EIO from then on."""
    master, slave = pty.openpty()
    body = f"""
    with bar("training", 9, "steps") as shown:
        shown.update(1)
        print("ready", flush=True)
        sys.stdin.readline()
        shown.update(2)
        shown.update(3)
    open({str(tmp_path / "done")!r}, "w").write(str(shown.live))
    """
    process = subprocess.Popen(
        [sys.executable, "-c", START + textwrap.dedent(body)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=slave, text=True,
        env=os.environ | {"TERM": "xterm"},
    )  # fmt: skip
    os.close(slave)
    assert process.stdout.readline() == "ready\n"
    os.close(master)
    process.stdin.write("\n")
    process.stdin.close()
    process.stdout.read()
    assert process.wait(60) == 0 and (tmp_path / "done").read_text() == "False"


def test_an_error_is_told_below_what_was_printed():
    status, seen, _ = on_terminal(
        """
    for number in tracked(range(5), "reading"):
        print("line", number)
        if number == 2:
            raise KeyError("fault")
    """
    )
    kept = screen(seen)
    assert status == 1 and kept[:3] == ["line 0", "line 1", "line 2"] and kept[-1] == "KeyError: 'fault'"
    assert not [line for line in kept if "━" in line]


def test_escape_codes_of_a_description_are_shown_as_text():
    _, seen, _ = on_terminal("for _ in tracked([1], '\\x1b]0;title\\x07'): pass")
    assert "\x1b]" not in seen and r"\x1b]0;title\x07 " in plain(seen)


def test_items_pass_where_nobody_looks():
    shown = progress.Bar()
    shown.advance(4)
    shown.update(5, "loss 0.3")
    assert not shown.live and not shown.replaces_lines
    assert list(progress.tracked(iter("abc"), "letters", 3)) == list("abc")


@pytest.mark.parametrize(
    ("total", "unit", "shown"),
    [
        (5000, "images", "1,234/5,000 images"),
        (None, "steps", "1,234 steps"),
        (3 * 10**6, "bytes", "1.2 kB/3.0 MB"),
    ],
)
def test_amounts(total, unit, shown):
    _, seen, _ = on_terminal(f"with bar('reading', {total}, {unit!r}) as shown: shown.update(1234)")
    assert shown in plain(seen)


def test_the_rate_does_not_count_the_first_part_which_compiles():
    """Ten images at once after a second of compiling, then ten a tenth of a second."""
    body = """
    with bar("training", 100, "images") as shown:
        time.sleep(1)
        for done in (10, 20, 30, 40, 50):
            shown.update(done)
            time.sleep(0.1)
    """
    _, seen, _ = on_terminal(body)
    rates = [float(rate) for rate in re.findall(r"([\d.]+) images/s", plain(seen))]
    assert rates and 50 < rates[-1] < 101


def test_logging_writes_where_it_did_afterwards():
    handlers = [handler.stream for handler in logging.getLogger().handlers if hasattr(handler, "stream")]
    with progress.bar("a", 1):
        pass
    assert handlers == [h.stream for h in logging.getLogger().handlers if hasattr(h, "stream")]


def test_a_tool_shows_it_beside_its_results(tmp_path):
    for number in range(3):
        (tmp_path / "cat").mkdir(exist_ok=True)
        Image.new("RGB", (40, 40), (number, 0, 0)).save(tmp_path / "cat" / f"{number}.png")
    body = f"from imgcls_jax.tools import dataset\nsys.exit(dataset.main(['check', {str(tmp_path)!r}]))"
    status, seen, _ = on_terminal(body)
    assert status == 0 and re.search(r"reading [━╸╺]+ 2/3 images", plain(seen))
    assert screen(seen)[:2] == ["all: 3 images in 1 classes of 3 to 3", "        3  cat"]
