"""A page to try a network on: drop an image, see its classes, what the answer rests on, and its neighbours.

  python -m imgcls_jax.tools.demo --workdir runs/mine [--unknown_below 0.5]
  python -m imgcls_jax.tools.demo --exported FOLDER

Of a workdir the page shows Grad-CAM of the likeliest class and, where `tools.index` made an index, the
nearest images of it. Of a run of CLIP the classes are typed. Below `--unknown_below`, which the page can
change, an image is unknown. The page is for this machine alone unless `--host` says otherwise; neither it nor
the command fetches or sends anything elsewhere. Uploaded images are deleted at the end. Exit status: 2 for a
mistake in the command.
"""

from __future__ import annotations

import argparse
import html
import os
import tempfile
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from imgcls_jax.runtime.command import (
    add_checkpoint,
    at_least_one,
    command,
    exit_with,
    importing,
    parser_of,
    share,
    tell,
    workdir_path,
)
from imgcls_jax.runtime.listening import add_address, is_local, listen, serve, server_of, url
from imgcls_jax.runtime.names import printable

with importing(__name__):
    import numpy as np
    from PIL import Image

    from imgcls_jax.inference.named_classes import THRESHOLD, named_classes

SHOWN = 5  # classes
MOST_CLASSES, LONGEST = 200, 200  # typed ones, and the letters of each
MOST_CONNECTIONS, SECONDS_TO_END = 200, 5
# The page's own files alone, whatever a library of the page would load.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' "
    "'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; "
    "worker-src 'self' blob:; frame-ancestors 'none'"
)
LOCAL_NAMES = ["localhost", "127.0.0.1", "[::1]", "testserver"]
CSS = """
.gradio-container {max-width: 1100px !important; width: 100% !important; margin: auto; overflow-x: clip}
.gradio-container h2 {margin: 0 !important; font-size: 1rem !important; font-weight: 600}
.grid-wrap {max-height: none !important}
.grid-wrap, .gallery-container {height: auto !important; min-height: 0 !important}
.caption-label {max-width: 100% !important}
@media (max-width: 640px) { .grid-container {grid-template-columns: repeat(2, 1fr) !important} }
"""


def said(row: np.ndarray, names: Sequence[str], *, unknown_below: float, multi_label: bool) -> str:
    """Returns the answer in words.

    Args:
      row: probabilities, float [K].
      names: K class names.
      unknown_below: an image of no larger probability is unknown.
      multi_label: whether an image has any number of labels, those from THRESHOLD on.
    """
    best = int(row.argmax())
    if row[best] < unknown_below:
        largest = f"{row[best]:.2f} of {names[best]}"
        return f"unknown: the largest probability, {largest}, is below {unknown_below:.2f}"
    if not multi_label:
        return f"{names[best]} ({row[best]:.1%})"
    found = named_classes(row, names, None, threshold=THRESHOLD)
    return ", ".join(f"{one['class']} ({one['probability']:.1%})" for one in found) or "none"


def typed(text: str) -> tuple[str, ...]:
    """Returns the classes of a text, one a line.

    Raises:
      ValueError: there are none, too many, one twice, or one that is too long.
    """
    names = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not 1 <= len(names) <= MOST_CLASSES or max(map(len, names)) > LONGEST:
        raise ValueError(f"type 1 to {MOST_CLASSES} classes, one a line, of {LONGEST} letters at most")
    if len(set(names)) < len(names):
        raise ValueError("a class stands there twice")
    return names


def trial_of(arguments: argparse.Namespace) -> tuple[Callable[[str], Any], str, str | None]:
    """Returns the network to try by the classes typed, what it is, and the first classes; None where the
    network has its own.

    Raises:
      ValueError: no such workdir, checkpoint or folder, or nothing that predicts classes.
    """
    if arguments.exported:
        from imgcls_jax.figures.trial import OfExport
        from imgcls_jax.inference import export

        exported = OfExport(export.read(arguments.exported))
        return lambda text: exported, f"{arguments.exported}, {len(exported.class_names)} classes", None
    from imgcls_jax.data.prompts import prompts, read_templates
    from imgcls_jax.figures.network_input import network_of
    from imgcls_jax.figures.network_pictures import with_named_layers
    from imgcls_jax.figures.trial import OfRun
    from imgcls_jax.inference import index
    from imgcls_jax.tools import zero_shot

    trained = with_named_layers(zero_shot.of_workdir(arguments.workdir, arguments.checkpoint))
    stored = None
    if (arguments.workdir / index.FILE).exists():
        try:
            stored = index.read(arguments.workdir, trained.step)
        except ValueError as error:
            tell(f"warning: no neighbours: {error}")
    about = f"{network_of(trained)}, of {arguments.workdir}"
    if getattr(trained.objective, "class_head", None) is None:
        run = OfRun(trained, stored)
        return lambda text: run, about, None
    templates = read_templates(arguments.templates)

    @lru_cache(4)
    def of_classes(names: tuple[str, ...]) -> OfRun:
        own = zero_shot.classifier(trained, names, prompts(names, templates), arguments.vocabulary)
        return OfRun(own, stored, class_names=names)

    names = [name for name in trained.class_names[:MOST_CLASSES] if len(name) <= LONGEST]
    of_classes(tuple(dict.fromkeys(names)) or ("photo",))  # tells of a vocabulary that is missing
    return lambda text: of_classes(typed(text)), about, "\n".join(dict.fromkeys(names))


def page(
    gradio: Any, network: Callable[[str], Any], about: str, classes: str | None, unknown_below: float
) -> Any:
    """Returns the page.

    Args:
      gradio: the package.
      network, about, classes: of `trial_of`.
      unknown_below: where the slider begins.
    """

    def answer(path: str | None, text: str, below: float) -> tuple[Any, ...]:
        if path is None:
            return "", None, None, [], ""
        try:
            tried = network(text)
            found = tried.answer(Path(path).read_bytes())
        except ValueError as error:
            raise gradio.Error(html.escape(str(error)), duration=None, print_exception=False) from None
        row, names = found.probabilities, list(map(printable, tried.class_names))
        verdict = said(row, names, unknown_below=float(below), multi_label=tried.multi_label)
        shown = {one["class"]: one["probability"] for one in named_classes(row, names, SHOWN)}
        neighbours = [(picture, printable(caption)) for picture, caption in found.neighbours]
        notes = "".join(f"<p>{html.escape(printable(note))}</p>" for note in found.notes)
        return verdict, shown, found.evidence, neighbours, notes

    with gradio.Blocks(
        title="Try a model", analytics_enabled=False, delete_cache=(600, 3600), fill_width=True
    ) as blocks:
        gradio.HTML(f"<h1>Try a model</h1><p>{html.escape(printable(about))}</p>")
        with gradio.Row():
            with gradio.Column(min_width=300):
                image = gradio.Image(
                    label="Image", type="filepath", image_mode=None, sources=["upload", "clipboard"],
                    height=320, buttons=[],
                )  # fmt: skip
                # The file as it came: data/decoding.py opens it, within its limits.
                image.preprocess = lambda payload: payload and payload.path
                text = gradio.Textbox(
                    classes or "", label="Classes, one a line", lines=4, max_lines=12,
                    visible=classes is not None,
                )  # fmt: skip
                below = gradio.Slider(0, 1, unknown_below, step=0.01, label="Unknown below this probability")
                button = gradio.Button("Classify", variant="primary")
            with gradio.Column(min_width=300):
                verdict = gradio.Textbox(label="Answer", interactive=False)
                label = gradio.Label(label="Probabilities", num_top_classes=SHOWN, show_heading=False)
                # Titles above: a label within would lie on the picture.
                gradio.HTML("<h2>What the answer rests on (Grad-CAM)</h2>")
                evidence = gradio.Image(
                    label="Grad-CAM", show_label=False, format="png", height=320, buttons=[]
                )
        gradio.HTML("<h2>Most like it, by the cosine</h2>")
        gallery = gradio.Gallery(
            label="Neighbours", show_label=False, columns=6, object_fit="contain", format="png", buttons=[],
            height="auto",
        )  # fmt: skip
        notes = gradio.HTML()
        gradio.on(
            [image.change, button.click, below.release],
            answer,
            [image, text, below],
            [verdict, label, evidence, gallery, notes],
            api_name="classify",
            concurrency_limit=1,
        )
    return blocks.queue(max_size=16)


def application(gradio: Any, blocks: Any, *, megabytes: int, local: bool) -> Any:
    """Returns the page as an application of ASGI, which loads nothing from elsewhere.

    Args:
      gradio: the package.
      blocks: of `page`.
      megabytes: of an image file, at most.
      local: whether it answers to the names of this machine alone, so that no other site's name can be
        pointed at it.
    """
    from fastapi import FastAPI
    from starlette.datastructures import MutableHeaders
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    class Policy:
        def __init__(self, app: Any):
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            async def told(message: Any) -> None:
                if message["type"] == "http.response.start":
                    MutableHeaders(scope=message)["content-security-policy"] = POLICY
                await send(message)

            await self.app(scope, receive, told if scope["type"] == "http" else send)

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Policy)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=LOCAL_NAMES if local else ["*"])
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    app = gradio.mount_gradio_app(
        app, blocks, path="/", max_file_size=megabytes * 10**6, theme=gradio.themes.Default(**fonts), css=CSS,
        ssr_mode=False, run_history=False, footer_links=[], enable_monitoring=False, mcp_server=False,
    )  # fmt: skip
    # Or gradio takes the page for one that is run in tests, and a request may name any file of this machine.
    blocks.has_launched = blocks.is_running = True
    return app


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    parser = parser_of("demo", __doc__)
    network = parser.add_mutually_exclusive_group(required=True)
    network.add_argument("--workdir", type=workdir_path, help="of a training run")
    network.add_argument("--exported", type=workdir_path, help="folder that tools.export wrote")
    add_checkpoint(parser)
    add_address(parser, 7860)
    parser.add_argument("--unknown_below", type=share, default=0.0, help="where the page's slider begins")
    parser.add_argument("--templates", default="plain", help="of CLIP: plain, seven, a sentence or a file")
    parser.add_argument("--vocabulary", default="", help="of CLIP's tokenizer (default: that of the run)")
    parser.add_argument("--megabytes", type=at_least_one, default=16, help="of an image file (default 16)")
    parser.add_argument("--megapixels", type=at_least_one, default=64, help="of an image (default 64)")
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    arguments = parse_arguments(argv)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read as gradio is imported
    import gradio

    with (
        tempfile.TemporaryDirectory(prefix="imgcls_demo_") as folder,
        listen(arguments.host, arguments.port) as listening,
    ):
        os.environ["GRADIO_TEMP_DIR"] = folder
        Image.MAX_IMAGE_PIXELS = arguments.megapixels * 10**6  # what data/decoding.py goes by
        blocks = page(gradio, *trial_of(arguments), arguments.unknown_below)
        app = application(gradio, blocks, megabytes=arguments.megabytes, local=is_local(arguments.host))
        print(printable(f"the page is at {url(listening)}"), flush=True)
        server = server_of(app, most_connections=MOST_CONNECTIONS, seconds_to_end=SECONDS_TO_END)
        serve(server, listening)
    return 0


if __name__ == "__main__":
    exit_with(main)
