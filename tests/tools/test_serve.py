"""`serve` over loopback: answers, limits, hostile uploads, a burst, metrics, and how the process ends."""

import asyncio
import concurrent.futures
import contextlib
import http.client
import io
import json
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from imgcls_jax.runtime.listening import listen, server_of, url
from tests.inference.test_strange_exports import planted

pytest.importorskip("starlette", reason="the extra serve is not installed")
pytest.importorskip("uvicorn", reason="the extra serve is not installed")
pytest.importorskip("prometheus_client", reason="the extra serve is not installed")

from imgcls_jax.inference import export  # noqa: E402
from imgcls_jax.tools import serve  # noqa: E402

NAMES = ["dark", "gray", "light"]


def network(images):
    """A class a level of brightness: the probability of "light" is that of white."""
    level = images.mean((1, 2, 3))[:, None] / 255
    return {"probabilities": jnp.concatenate([(1 - level) / 2, (1 - level) / 2, level], 1)}


def png(value, side=4):
    file = io.BytesIO()
    Image.new("RGB", (side, side), (value,) * 3).save(file, "PNG")
    return file.getvalue()


def bomb(width, height):
    """A PNG of few bytes that claims many pixels, all black."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))]
    chunks += [(b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    parts = [struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return planted(tmp_path_factory.mktemp("exports") / "levels", network, class_names=NAMES)


@contextlib.contextmanager
def running(folder, *, hold=None, batch_size=8, num_bytes=10**5, queue=64, seconds=20.0, **options):
    """A service at a free port; `hold`, an event, keeps its network from answering until set."""
    limits = serve.Limits(num_bytes, queue, seconds)
    service = serve.Service(export.read(folder), limits, batch_size=batch_size, **options)
    service.batcher.start()
    if hold is not None:
        answer = service.batcher._function
        service.batcher._function = lambda images: hold.wait(30) and answer(images)
    listening = listen("127.0.0.1", 0)
    server = server_of(service.app(), most_connections=200, seconds_to_end=5)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])))
    thread.start()
    try:
        yield listening.getsockname(), service
    finally:
        if hold is not None:
            hold.set()
        server.should_exit = True
        thread.join(30)
        service.batcher.close()


def ask(address, body, path="/predict", method="POST"):
    connection = http.client.HTTPConnection(*address, timeout=30)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        content = answer.read()
        return answer.status, json.loads(content) if content[:1] == b"{" else content.decode()
    finally:
        connection.close()


def in_threads(address, bodies):
    with concurrent.futures.ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(lambda body: ask(address, body), bodies))


def until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture(scope="module")
def service(folder):
    with running(folder) as found:
        yield found


def test_an_image_is_answered_as_predict_does(service):
    status, answer = ask(service[0], png(204), "/predict?top_k=2")
    assert status == 200 and [p["class"] for p in answer["predictions"]] == ["light", "dark"]
    assert [p["probability"] for p in answer["predictions"]] == pytest.approx([0.8, 0.1], abs=1e-5)
    assert [p["class"] for p in ask(service[0], png(20))[1]["predictions"]] == ["dark"]


def test_unknown(folder):
    with running(folder, unknown_below=0.9) as (address, _):
        assert ask(address, png(128)) == (200, {"predictions": []})
        assert len(ask(address, png(250))[1]["predictions"]) == 1


@pytest.mark.parametrize(
    "query, status", [("0", 400), ("-1", 400), ("x", 400), ("9" * 40, 400), ("", 400), ("7", 200)]
)
def test_the_query(service, query, status):
    found, answer = ask(service[0], png(9), f"/predict?top_k={query}")
    assert found == status and (status == 200 or "whole number" in answer["error"])


def test_other_paths_and_methods(service):
    assert ask(service[0], None, "/", "GET")[0] == 404
    assert ask(service[0], None, "/predict", "GET")[0] == 405
    assert ask(service[0], None, "/health", "GET") == (200, {"status": "ok"})


@pytest.mark.parametrize(
    "body, why",
    [
        (b"", "empty"),
        (b"GIF89a", "cannot be decoded"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not one of JPEG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not one of JPEG"),
        (png(9)[:-30], "cannot be decoded"),
        (bomb(60000, 60000), "could be decompression bomb"),
        (bomb(4000, 4000), "more than a file of that size can hold"),
        (bytes(range(256)) * 300, "not one of JPEG"),
    ],
    ids=["empty", "header", "eps", "svg", "cut", "bomb", "small_bomb", "noise"],
)
def test_hostile_uploads_are_refused_and_the_next_is_answered(service, body, why):
    status, answer = ask(service[0], body)
    assert status == 422 and why in answer["error"] and "\n" not in answer["error"]
    assert ask(service[0], png(255))[0] == 200


def test_the_limit_of_pixels(service, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    status, answer = ask(service[0], png(9, side=40))
    assert status == 422 and "1600" not in answer["error"] and "40 x 40 pixels" in answer["error"]
    assert ask(service[0], png(9, side=30))[0] == 200


def chunks(count):
    for _ in range(count):
        yield bytes(10**4)


@pytest.mark.parametrize("body", [bytes(10**5 + 1), bytes(10**7)], ids=["by_one", "by_far"])
def test_too_many_bytes(service, body):
    assert ask(service[0], body) == (413, {"error": "an image file has at most 100000 bytes here"})


def test_too_many_bytes_that_no_header_announces(service):
    address, own = service
    status, answer = ask(address, chunks(30))
    assert status == 413 and "100000 bytes" in answer["error"]
    assert ask(address, chunks(10))[0] == 422  # no image, but small
    assert own.at_hand == 0


def test_a_body_that_never_ends_is_given_up(folder):
    with running(folder, seconds=0.3) as (address, own):
        with socket.create_connection(address) as client:
            client.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\nabc")
            client.settimeout(20)
            answer = ""
            while "}" not in answer:
                answer += client.recv(4096).decode()
            assert answer.startswith("HTTP/1.1 408") and "within 0.3 seconds" in answer
            assert own.at_hand == 0 and ask(address, png(9))[0] == 200


def test_an_answer_that_is_late_is_refused_and_its_image_not_computed(folder):
    hold = threading.Event()
    with running(folder, hold=hold, seconds=0.5) as (address, own):
        found = in_threads(address, [png(1), png(2), png(3)])
        assert [status for status, _ in found] == [503] * 3 and "0.5 seconds" in found[0][1]["error"]
        hold.set()
        until(lambda: own.batcher.num_waiting == 0)
        assert ask(address, png(255))[0] == 200
        text = ask(address, None, "/metrics", "GET")[1]
        assert 'imgcls_requests_total{status="503"} 3.0' in text


def test_a_burst_over_the_queue_is_told_at_once_and_the_rest_is_answered(folder):
    hold = threading.Event()
    with running(folder, hold=hold, queue=10) as (address, own):
        with concurrent.futures.ThreadPoolExecutor(60) as pool:
            asked = [pool.submit(ask, address, png(value)) for value in range(60)]
            until(lambda: sum(future.done() for future in asked) == 50)
            assert own.at_hand == 10 and own.batcher.alive
            hold.set()
            found = [future.result(30) for future in asked]
        statuses = [status for status, _ in found]
        assert statuses.count(200) == 10 and statuses.count(503) == 50  # each has an answer, none is lost
        assert all("10 images are at hand" in answer["error"] for status, answer in found if status == 503)


def test_of_a_burst_within_the_queue_none_is_lost_and_each_gets_its_own(folder):
    with running(folder, queue=200) as (address, own):
        values = [(7 * n) % 256 for n in range(150)]
        found = in_threads(address, [png(value) for value in values])
        assert [status for status, _ in found] == [200] * 150
        for value, (_, answer) in zip(values, found, strict=True):
            probabilities = np.array([1 - value / 255, 1 - value / 255, 2 * value / 255]) / 2
            best = answer["predictions"][0]
            assert best["class"] == NAMES[int(probabilities.argmax())]
            assert best["probability"] == pytest.approx(float(probabilities.max()), abs=1e-5)
        text = ask(address, None, "/metrics", "GET")[1]
        metrics = {line.split()[0]: float(line.split()[1]) for line in text.splitlines() if line[0] != "#"}
        assert metrics['imgcls_requests_total{status="200"}'] == 150
        assert metrics["imgcls_request_seconds_count"] == 150 and metrics["imgcls_at_hand"] == 0
        assert metrics["imgcls_batch_images_sum"] == 150 and metrics["imgcls_batch_images_count"] < 150


def test_what_the_network_raises_is_a_500_and_the_next_is_answered(folder):
    with running(folder) as (address, own):
        answer = own.batcher._function
        own.batcher._function = lambda images: 1 / 0
        assert ask(address, png(9)) == (500, {"error": "the network failed: ZeroDivisionError"})
        own.batcher._function = answer
        assert ask(address, png(9))[0] == 200
        own.batcher.close()
        assert ask(address, None, "/health", "GET")[0] == 503 and ask(address, png(9))[0] == 503


def test_the_command_serves_without_training_packages_and_ends_by_a_signal(folder):
    script = f"""
import runpy, sys
class No:
    def find_spec(self, name, *rest):
        if name.split(".")[0] in ("flax", "optax", "orbax", "grain", "absl", "clu", "tensorboardX", "rich"):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, No())
sys.argv[1:] = ["--exported", {str(folder)!r}, "--port", "0", "--batch_size", "2"]
runpy.run_module("imgcls_jax.tools.serve", run_name="__main__", alter_sys=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=Path(__file__).parents[2], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        line = process.stdout.readline()
        assert line.startswith(f"serving {folder} at http://127.0.0.1:"), process.stderr.read()
        address = "127.0.0.1", int(line.rsplit(":", 1)[1])
        assert ask(address, png(255))[0] == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0 and process.stderr.read() == ""
    finally:
        process.kill()
        process.communicate()


def test_mistakes_are_one_line(folder, capsys):
    assert serve.main(["--exported", str(folder.parent)]) == 2
    assert "is not a folder of tools.export" in capsys.readouterr().err
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert url(taken) == f"http://127.0.0.1:{port}"
        assert serve.main(["--exported", str(folder), "--port", str(port)]) == 2
    error = capsys.readouterr().err
    assert error == (
        f"error: port {port} of 127.0.0.1 cannot be listened at: Address already in use; "
        "choose another --port\n"
    )
    with pytest.raises(SystemExit):
        serve.main(["--exported", str(folder), "--port", "70000"])
    assert "expected a port from 0 to 65535" in capsys.readouterr().err
