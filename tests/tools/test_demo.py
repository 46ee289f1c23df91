"""The page to try a network on: its answers, by the client of gradio and in a browser, and that nothing
leaves the machine."""

import asyncio
import contextlib
import http.client
import json
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgcls_jax.figures.trial import OfExport, OfRun
from imgcls_jax.inference import export
from imgcls_jax.runtime.listening import is_local, listen, server_of, url
from imgcls_jax.tools import demo, predict
from imgcls_jax.tools.export import main as export_run
from tests.tools.test_predict import BLOCKED
from tests.tools.test_visualise import run  # noqa: F401  a fixture
from tests.tools.test_zero_shot import folder, workdir  # noqa: F401  fixtures

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HOSTILE = "<img src=x onerror=alert(1)> ![x](http://192.0.2.1/x.png)"


def arguments(*words):
    return demo.parse_arguments([*map(str, words)])


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):  # noqa: F811
    """The run's export, one class of which bears a name that is a program for a browser."""
    out = tmp_path_factory.mktemp("demo") / "exported"
    assert export_run(["--workdir", str(run / "run"), "--platforms", "cpu", str(out)]) == 0
    fields = json.loads((out / "export.json").read_text())
    fields["class_names"] = [HOSTILE] + [f"{HOSTILE} {name}" for name in fields["class_names"][1:]]
    (out / "export.json").write_text(json.dumps(fields))
    return out


# ---- the answers, without a page


@pytest.mark.parametrize(
    "row, below, multi_label, words",
    [
        ([0.2, 0.8], 0.0, False, "dog (80.0%)"),
        ([0.2, 0.8], 0.81, False, "unknown: the largest probability, 0.80 of dog, is below 0.81"),
        ([0.9, 0.8], 0.0, True, "cat (90.0%), dog (80.0%)"),
        ([0.4, 0.3], 0.0, True, "none"),
        ([0.4, 0.3], 0.5, True, "unknown: the largest probability, 0.40 of cat, is below 0.50"),
    ],
)
def test_the_answer_in_words(row, below, multi_label, words):
    found = demo.said(np.array(row), ["cat", "dog"], unknown_below=below, multi_label=multi_label)
    assert found == words


def test_typed_classes():
    assert demo.typed(" a cat \n\n a dog\n") == ("a cat", "a dog")
    for text in ("", " \n", "x" * 201, "\n".join(map(str, range(201)))):
        with pytest.raises(ValueError, match="type 1 to 200 classes"):
            demo.typed(text)
    with pytest.raises(ValueError, match="twice"):
        demo.typed("cat\ncat")


def test_a_run_is_answered_with_evidence_and_neighbours(run, capsys):  # noqa: F811
    network, about, classes = demo.trial_of(arguments("--workdir", run / "run"))
    path = run / "images" / "3" / "3.png"
    answer = network("").answer(path.read_bytes())
    assert classes is None and "step 20" in about and answer.notes == ()
    assert predict.main(["--workdir", str(run / "run"), "--top_k=10", "--format=json", str(path)]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    ours = {name: float(p) for name, p in zip(network("").class_names, answer.probabilities, strict=True)}
    assert ours == pytest.approx({p["class"]: p["probability"] for p in told["predictions"]}, abs=1e-5)
    assert len(answer.neighbours) == 6 and answer.neighbours[0][1] == "3  1.000"
    pixels = np.asarray(answer.evidence, float)
    assert pixels.std(axis=(0, 1)).min() > 5 and pixels.shape[2] == 3  # not of one color, and colored
    again = network("").answer((run / "images" / "0" / "0.png").read_bytes())
    assert (
        again.neighbours[0][1] == "0  1.000" and np.abs(np.asarray(again.evidence, float) - pixels).max() > 20
    )


def test_what_a_workdir_lacks_is_told(run, tmp_path):  # noqa: F811
    shutil.copytree(run / "run", tmp_path / "run")
    (tmp_path / "run" / "index.npz").unlink()
    network, _, _ = demo.trial_of(arguments("--workdir", tmp_path / "run"))
    answer = network("").answer((run / "images" / "3" / "3.png").read_bytes())
    assert answer.neighbours == () and "imgcls_jax.tools.index makes" in answer.notes[0]
    (tmp_path / "run" / "index.npz").write_bytes(b"no index")
    network, _, _ = demo.trial_of(arguments("--workdir", tmp_path / "run"))
    assert isinstance(network(""), OfRun) and network("").index is None


def test_an_export_gives_its_probabilities_alone(run, exported):  # noqa: F811
    tried = OfExport(export.read(exported))
    answer = tried.answer((run / "images" / "3" / "3.png").read_bytes())
    assert answer.evidence is None and "give --workdir" in answer.notes[0]
    assert answer.probabilities.sum() == pytest.approx(1)
    with pytest.raises(ValueError, match="cannot be decoded"):
        tried.answer(b"no image")


def test_of_clip_the_classes_are_typed(folder, workdir):  # noqa: F811
    network, _, classes = demo.trial_of(arguments("--workdir", workdir, "--templates", "a {} one"))
    assert sorted(classes.split("\n")) == ["blue", "red"]
    found = network("blue\nred\nred blue")
    answer = found.answer((folder / "0.png").read_bytes())
    assert found.class_names == ("blue", "red", "red blue") and answer.probabilities.shape == (3,)
    assert answer.evidence is not None
    assert network("blue\nred\nred blue") is found  # the sentences are read once
    two = network("red\nblue").answer((folder / "0.png").read_bytes()).probabilities
    assert two[0] / two[1] == pytest.approx(answer.probabilities[1] / answer.probabilities[0], rel=1e-4)
    with pytest.raises(ValueError, match="type 1 to 200"):
        network("")


# ---- the page


@contextlib.contextmanager
def served(*words, megabytes=1):
    gradio = pytest.importorskip("gradio", reason="the extra demo is not installed")
    own = arguments(*words)
    blocks = demo.page(gradio, *demo.trial_of(own), own.unknown_below)
    app = demo.application(gradio, blocks, megabytes=megabytes, local=True)
    listening = listen("127.0.0.1", 0)
    server = server_of(app, most_connections=100, seconds_to_end=2)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])))
    thread.start()
    try:
        yield url(listening)
    finally:
        server.should_exit = True
        thread.join(30)


@pytest.fixture
def connections(monkeypatch):
    """The addresses to which this process connects; those of other machines are refused."""
    found, connect = [], socket.socket.connect

    def watched(self, address):
        found.append(address)
        if self.family in (socket.AF_INET, socket.AF_INET6) and not is_local(address[0]):
            raise OSError(f"a connection to {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", watched)
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    return found


def elsewhere(connections):
    return [one for one in connections if isinstance(one, tuple) and not is_local(one[0])]


def test_the_page_answers_refuses_and_connects_nowhere_else(run, connections, tmp_path, monkeypatch):  # noqa: F811
    client = pytest.importorskip("gradio_client", reason="the extra demo is not installed")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    with served("--workdir", run / "run", "--unknown_below", "0.99") as address:
        asked = client.Client(address, verbose=False, analytics_enabled=False)
        image = client.handle_file(run / "images" / "3" / "3.png")
        verdict, label, evidence, neighbours, notes = asked.predict(image, "", 0.0, api_name="/classify")
        assert verdict.endswith("%)") and verdict.startswith(f"{label['label']} (") and notes == ""
        assert len(label["confidences"]) == 5 and len(neighbours) == 6
        assert neighbours[0]["caption"] == "3  1.000" and Image.open(evidence).size[0] > 100
        assert asked.predict(image, "", 1.0, api_name="/classify")[0].startswith("unknown: the largest")

        (tmp_path / "cut.png").write_bytes((run / "images" / "3" / "3.png").read_bytes()[:60])
        with pytest.raises(Exception, match="cannot be decoded"):
            asked.predict(client.handle_file(tmp_path / "cut.png"), "", 0.0, api_name="/classify")
        (tmp_path / "large.png").write_bytes(bytes(2 * 10**6))
        with pytest.raises(Exception, match="(?i)size"):
            asked.predict(client.handle_file(tmp_path / "large.png"), "", 0.0, api_name="/classify")

        connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=30)
        connection.request("GET", "/", headers={"Host": "evil.example"})
        refused = connection.getresponse()
        assert refused.status == 400 and refused.read() == b"Invalid host header"
        connection.request("GET", f"/gradio_api/file={run / 'run' / 'config.json'}")
        refused = connection.getresponse()
        assert refused.status == 403 and b"total_steps" not in refused.read()
        (run / "plan.svg").write_text("<svg/>")
        for file in (run / "images" / "3" / "3.png", run / "plan.svg"):  # of the machine, not uploaded
            named = {"path": str(file), "meta": {"_type": "gradio.FileData"}}
            body = json.dumps({"data": [named, "", 0.0]})
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/gradio_api/call/classify", body, headers)
            event = json.loads(connection.getresponse().read())["event_id"]
            connection.request("GET", f"/gradio_api/call/classify/{event}")
            assert connection.getresponse().read().startswith(b"event: error")
            connection.request("GET", f"/gradio_api/file={file}")
            refused = connection.getresponse()
            assert refused.status == 403 and refused.read()
    assert elsewhere(connections) == []


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_the_page_in_a_browser_at_the_width_of_a_phone(run, exported, connections, tmp_path):  # noqa: F811
    playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    with served("--exported", exported) as address, playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 844})
        asked, wrong = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.goto(address, timeout=60000)
        page.wait_for_selector("input[type=file]", state="attached", timeout=60000)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.set_input_files("input[type=file]", str(run / "images" / "3" / "3.png"))
        shown = "[...document.querySelectorAll('textarea, input')].some(one => one.value.includes('%)'))"
        page.wait_for_function(shown, timeout=60000)
        page.get_by_text(HOSTILE).first.wait_for(timeout=20000)  # as text, in the list of probabilities
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        (tmp_path / "bad.png").write_bytes(b"<b>no image</b>")
        page.get_by_label("Remove Image").first.click()
        page.set_input_files("input[type=file]", str(tmp_path / "bad.png"))
        page.get_by_text("image cannot be decoded (15 bytes)").first.wait_for(timeout=30000)
        browser.close()
    assert wrong == [] and len(asked) > 10
    assert [one for one in asked if not one.startswith((address, "data:", "blob:"))] == []
    assert elsewhere(connections) == []


@pytest.mark.parametrize(
    "module, words, absent, told",
    [
        ("tools.demo", "--exported x", "gradio", "gradio is missing: pip install 'imgcls-jax[demo]'"),
        ("tools.serve", "--exported x", "starlette", "starlette is missing: pip install 'imgcls-jax[serve]'"),
    ],
)
def test_a_package_that_is_missing_is_one_line(module, words, absent, told):
    # prometheus_client and uvicorn may be missing, too: starlette is asked for last.
    if module == "tools.serve":
        pytest.importorskip("prometheus_client")
        pytest.importorskip("uvicorn")
    script = BLOCKED.format(module=module, absent=absent, arguments=words.split())
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr == f"error: the package {told}\n"
