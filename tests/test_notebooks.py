"""The notebooks: each command and name in them exists, and what they store is what comes out.

They are run, in some three minutes of processor time, by

  python -m pytest -m slow -n0 tests/test_notebooks.py     (pip install '.[notebooks]')
"""

import ast
import base64
import importlib
import importlib.util
import io
import json
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from tests.test_docs import unknown_flags

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LARGEST, LONGEST_CELL = 400_000, 40  # bytes of a file, lines of a cell
FAILED = re.compile(r"^(error: |Traceback |usage: )", re.M)
NEAR = 0.06  # how far an accuracy may lie from that of another machine

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells_of(path, kind="code"):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == kind]


def source_of(cell):
    return "".join(cell["source"])


def commands_of(cell):
    """Returns the words of each command of a cell, without what it is piped to."""
    lines = source_of(cell).replace("\\\n", " ").splitlines()
    return [
        shlex.split(line.split("!", 1)[1].split(" | ")[0]) for line in lines if line.lstrip().startswith("!")
    ]


def text_of(output):
    return "".join(output.get("text", ()))


def test_there_are_three():
    assert len(NOTEBOOKS) == 3


@each
def test_it_was_run_from_top_to_bottom_without_an_error(path):
    cells = cells_of(path)
    assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)]
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {"stream", "execute_result", "display_data"}
    assert [output["name"] for output in outputs if output.get("name") not in (None, "stdout")] == []
    assert not any(FAILED.search(text_of(output)) for output in outputs)
    assert sum("image/png" in output.get("data", ()) for output in outputs) >= 4
    assert path.stat().st_size < LARGEST
    assert max(source_of(cell).count("\n") + 1 for cell in cells) <= LONGEST_CELL


@each
def test_its_commands_names_and_links_exist(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    commands = [words for cell in cells_of(path) for words in commands_of(cell)]
    assert len(commands) >= 2
    for words in commands:
        assert words[:2] == ["python", "-m"] and importlib.util.find_spec(words[2]), words
        assert unknown_flags(words[1:]) == []
        files = [word for word in words if word.startswith("configs/")]
        assert [file for file in files if not (ROOT / file).exists()] == []
    imports = 0
    for text in map(source_of, cells_of(path)):
        if text.startswith("%%"):
            continue
        python = re.sub(r"^(\s*)!.*$", r"\1pass", text.replace("\\\n", " "), flags=re.M)
        for node in ast.walk(ast.parse(python)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("imgcls_jax"):
                module = importlib.import_module(node.module)
                for name in (alias.name for alias in node.names):
                    imports += 1
                    assert hasattr(module, name) or importlib.import_module(f"{node.module}.{name}")
    assert imports >= 5
    said = "\n".join(source_of(cell) for cell in cells_of(path, "markdown"))
    for link in re.findall(r"\]\(([^):]+)\)", said):
        assert (path.parent / link).exists(), link


# ---- run anew


def masked(text):
    """Returns a text without its numbers, which differ from machine to machine, and the accuracies in it."""
    accuracies = [float(number) for number in re.findall(r"(?<!\w)[\w/]*accuracy ([\d.]+)", text)]
    shares = [float(number) / 100 for number in re.findall(r"([\d.]+)%", text)]
    plain = re.sub(r"\d[\d.,:e-]*", "#", re.sub(r"state \w+", "state", text))
    return re.sub(r"[ \t]+", " ", plain), [*accuracies, *shares]


def require_same(stored, fresh):
    """Asserts that two outputs of a cell differ in nothing but times, rates and small changes of figures."""
    assert stored["output_type"] == fresh["output_type"]
    (words, figures), (new_words, new_figures) = masked(text_of(stored)), masked(text_of(fresh))
    assert words == new_words
    assert figures == pytest.approx(new_figures, abs=NEAR)
    kinds = stored.get("data", {}), fresh.get("data", {})
    assert sorted(kinds[0]) == sorted(kinds[1])
    if "image/png" in kinds[0]:
        sizes = [Image.open(io.BytesIO(base64.b64decode(own["image/png"]))).size for own in kinds]
        assert sizes[0] == pytest.approx(sizes[1], abs=60)


def test_another_output_would_be_seen():
    def stream(text):
        return {"output_type": "stream", "name": "stdout", "text": text}

    first = stream("step 10/20 test/accuracy 0.95 1,200 examples/s\n98.0% right\nstate 0af1")
    require_same(first, stream("step 10/20 test/accuracy 0.94 900 examples/s\n97.1% right\nstate bb17"))
    for other in (
        "step 10/20 test/accuracy 0.55 900 examples/s\n97.1% right\nstate bb17",
        "error: no such file",
    ):
        with pytest.raises(AssertionError):
            require_same(first, stream(other))


@pytest.mark.slow
@each
def test_what_it_stores_comes_out_anew(path, tmp_path, monkeypatch):
    pytest.importorskip("nbclient", reason="the extra notebooks is not installed")
    for own in ("JAX_NUM_CPU_DEVICES", "XLA_FLAGS"):  # of conftest.py; a reader has neither
        monkeypatch.delenv(own, raising=False)
    spec = importlib.util.spec_from_file_location("record", ROOT / "notebooks" / "record.py")
    record = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(record)
    fresh = [cell for cell in record.execute(path, tmp_path).cells if cell.cell_type == "code"]
    stored = cells_of(path)
    for old, new in zip(stored, fresh, strict=True):
        assert len(old["outputs"]) == len(new.outputs), source_of(old)
        for one, other in zip(old["outputs"], new.outputs, strict=True):
            require_same(one, other)
