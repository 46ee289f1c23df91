"""Networks pushed to a stand-in for the hub on loopback, which also refuses and breaks off."""

import base64
import http.server
import importlib
import json
import threading

import pytest

from imgcls_jax.weights import hub

pytest.importorskip("huggingface_hub")
constants = importlib.import_module("huggingface_hub.constants")

TOKEN = "hf_secretsecretsecret"
OWN = "me/birds"


class Server(http.server.ThreadingHTTPServer):
    """Takes commits as the hub does, all content within them.

    Attributes:
      refusal: status of each answer; 0 to take what comes, -1 to break the connection.
      created: what was asked of new repositories.
      private: what is said of the repository.
      files: {name: content} of the commits.
      tokens: of the requests.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.refusal, self.created, self.private = 0, [], True
        self.files, self.tokens = {}, []

    def handle_error(self, request, client_address):
        """A client that goes is no error here."""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        """Says nothing."""

    def do_GET(self):
        known = self.path == f"/api/models/{OWN}"
        if known:  # huggingface_hub asks for other things, without the token
            self.server.tokens.append(self.headers.get("Authorization"))
        self.answer(200 if known else 404, {"id": OWN, "private": self.server.private})

    def do_POST(self):
        server = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        server.tokens.append(self.headers.get("Authorization"))
        if server.refusal < 0:
            self.close_connection = True
            return
        if server.refusal:
            self.answer(server.refusal, {"error": "no"})
        elif self.path == "/api/repos/create":
            server.created.append(json.loads(body))
            self.answer(200, {"url": f"{constants.ENDPOINT}/{OWN}"})
        elif self.path.startswith(f"/api/models/{OWN}/preupload/"):
            files = [
                {"path": own["path"], "uploadMode": "regular", "shouldIgnore": False}
                for own in json.loads(body)["files"]
            ]
            self.answer(200, {"files": files})
        elif self.path.startswith(f"/api/models/{OWN}/commit/"):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer(
                200, {"commitUrl": f"{constants.ENDPOINT}/{OWN}/commit/{'a' * 40}", "commitOid": "a" * 40}
            )
        else:
            self.answer(404, {"error": self.path})

    def answer(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with Server() as own:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{own.server_port}")
        thread = threading.Thread(target=own.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield own
        own.shutdown()
        thread.join()


@pytest.fixture
def folder(tmp_path):
    for name in ("model.safetensors", "config.json", "not_ours.txt"):
        (tmp_path / name).write_text(f"content of {name}")
    return tmp_path


FILES = ("model.safetensors", "config.json")


def test_what_was_written_arrives_and_nothing_else(server, folder):
    assert hub.push(folder, FILES, OWN, private=True) == f"{constants.ENDPOINT}/{OWN}"
    assert server.files == {name: f"content of {name}".encode() for name in FILES}
    (asked,) = server.created
    assert asked["name"] == "birds"
    assert asked.get("private") is True or asked.get("visibility") == "private"  # by its version
    assert set(server.tokens) == {f"Bearer {TOKEN}"}


def test_a_public_repository_gets_nothing_that_is_to_be_private(server, folder):
    server.private = False
    with pytest.raises(ValueError, match=f"{OWN} was not pushed: it is public"):
        hub.push(folder, FILES, OWN, private=True)
    assert server.created and not server.files
    hub.push(folder, FILES, OWN, private=False)
    assert server.files


@pytest.mark.parametrize(
    "refusal, told",
    [
        (401, r"no such user \(401\): name a token by HF_TOKEN or `hf auth login`"),
        (403, r"the token may not write there \(403\): take one with write access for me"),
        (404, "the hub answers 404; the same command tries again"),
        (-1, r"the hub gives no answer to go by \(\w+\); the same command tries again"),
    ],
)
def test_a_refusal_is_told_without_the_token(server, folder, refusal, told):
    server.refusal = refusal
    with pytest.raises(OSError, match=f"{OWN} was not pushed: .*{told}") as error:
        hub.push(folder, FILES, OWN, private=False)
    assert TOKEN not in str(error.value) and not server.files


def test_without_a_token(server, folder, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(OSError, match=r"was not pushed: .*\(401\): name a token by HF_TOKEN"):
        server.refusal = 401
        hub.push(folder, FILES, OWN, private=False)
    assert server.tokens and set(server.tokens) == {None}
