"""Runs the notebooks of this folder, each in a clean place and without the hub, and stores their outputs.

  python notebooks/record.py [FILE.ipynb ...]

It needs the extra: pip install '.[notebooks]'. `tests/test_notebooks.py` compares what is stored with what
comes out anew.
"""

from __future__ import annotations

import base64
import io
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

HERE = Path(__file__).resolve().parent
SECONDS = 600  # of a cell
PNG = "image/png"


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
    surroundings = {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(place / "hub"),
        "XDG_STATE_HOME": str(place / "state"),
    }
    notebook = nbformat.read(path, 4)
    client = NotebookClient(
        notebook,
        timeout=SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": place / "notebooks"}},
    )
    client.execute(env=os.environ | surroundings)
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = tidied(cell.outputs)
    return notebook


def tidied(outputs: list[Any]) -> list[Any]:
    """Returns the same outputs, smaller: a stream is one text, a picture one PNG without loss."""
    whole: list[Any] = []
    for output in outputs:
        if output.output_type != "stream":
            whole.append(output)
            output.data.pop("image/jpeg", None)
            if PNG in output.data:
                output.data[PNG] = shrunk(output.data[PNG])
        elif whole and whole[-1].get("name") == output.name:
            whole[-1].text += output.text.replace("\r\n", "\n")
        else:
            whole.append(output)
            output.text = output.text.replace("\r\n", "\n")
    return whole


def shrunk(encoded: str) -> str:
    """Returns a PNG in base64, compressed as far as it goes."""
    stream = io.BytesIO()
    Image.open(io.BytesIO(base64.b64decode(encoded))).save(stream, "PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode()


def main(names: list[str]) -> None:
    for path in map(Path, names) if names else sorted(HERE.glob("*.ipynb")):
        with tempfile.TemporaryDirectory() as place:
            notebook = execute(path, Path(place))
        nbformat.write(notebook, path)
        print(f"{path.name}: {path.stat().st_size / 1000:,.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
