"""Runs the notebooks of this folder, each in a clean place and without the hub, and stores their outputs.

  python notebooks/record.py [FILE.ipynb ...]

It needs the extra: pip install '.[notebooks]'. `tests/test_notebooks.py` compares what is stored with what
comes out anew.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent
SECONDS = 600  # of a cell


def execute(path: Path, place: Path) -> Any:
    """Returns a notebook with the outputs of all its cells.

    Args:
      path: of the notebook.
      place: an empty folder. It becomes a repository with links to this one's code, so that no run of an
        earlier time is found.

    Raises:
      nbclient.exceptions.CellExecutionError: a cell fails.
    """
    for room in ("imgcls_jax", "configs"):
        (place / room).symlink_to(HERE.parent / room)
    for folder in ("notebooks", "runs"):
        (place / folder).mkdir()
    surroundings = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(place / "hub"), "XDG_STATE_HOME": str(place / "state")}
    notebook = nbformat.read(path, 4)
    client = NotebookClient(
        notebook, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": place / "notebooks"}}
    )
    client.execute(env=os.environ | surroundings)
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = joined(cell.outputs)
    return notebook


def joined(outputs: list[Any]) -> list[Any]:
    """Returns outputs in which what a cell wrote to a stream is one text, with plain line ends."""
    whole: list[Any] = []
    for output in outputs:
        if output.output_type != "stream":
            whole.append(output)
        elif whole and whole[-1].get("name") == output.name:
            whole[-1].text += output.text
        else:
            whole.append(output)
    for output in whole:
        if output.output_type == "stream":
            output.text = output.text.replace("\r\n", "\n")
    return whole


def main(names: list[str]) -> None:
    for path in map(Path, names) if names else sorted(HERE.glob("*.ipynb")):
        with tempfile.TemporaryDirectory() as place:
            notebook = execute(path, Path(place))
        nbformat.write(notebook, path)
        print(f"{path.name}: {path.stat().st_size / 1000:,.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
