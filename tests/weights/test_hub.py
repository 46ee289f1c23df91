"""Public weights by name, from a stand-in for the hub on loopback, which also lies, breaks and refuses."""

import hashlib
import http.server
import importlib
import io
import json
import os
import pickle
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy

from imgcls_jax.models import resnet, vit
from imgcls_jax.runtime import fetch
from imgcls_jax.weights import hub, pretrained, published
from imgcls_jax.weights.described import require_fields

huggingface_hub = pytest.importorskip("huggingface_hub")
constants = importlib.import_module("huggingface_hub.constants")

COMMIT, OLDER = "a" * 40, "b" * 40
TIMM = {
    "architecture": "resnet50",
    "pretrained_cfg": {
        "input_size": [3, 224, 224],
        "interpolation": "bicubic",
        "crop_pct": 0.95,
        "crop_mode": "center",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    },
}
TIMM_LINE = (
    'decode | rgb | resize_short(235, "bicubic") | center_crop(224) | '
    "normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))"
)


class Server(http.server.ThreadingHTTPServer):
    """Serves repositories as the hub does.

    Attributes:
      files: {(repository, revision or commit, file): content}.
      errors: {repository: (status, X-Error-Code)}.
      headers: instead of the hub's own.
      cut: bytes after which each content breaks off; 0 for none.
      delay: seconds before each answer.
      etag: of each file; "" for its SHA-256.
      head: the commit of "main".
      asked, fetched: paths of all requests, and of those for content.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.errors, self.headers, self.asked, self.fetched = {}, {}, {}, [], []
        self.cut, self.delay, self.etag, self.head = 0, 0.0, "", COMMIT

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, repository, **contents):
        for name, content in contents.items():
            file = name.replace("__", "/").replace("_json", ".json").replace("_safetensors", ".safetensors")
            file = file.replace("_bin", ".bin").replace("_npz", ".npz")
            content = json.dumps(content).encode() if isinstance(content, dict) else content
            for revision in ("main", COMMIT):
                self.files[repository, revision, file] = content

    def handle_error(self, request, client_address):
        """A client that goes is no error here."""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        """Says nothing."""

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        server = self.server
        server.asked.append(self.path)
        if body:
            server.fetched.append(self.path)
        time.sleep(server.delay)
        owner, name, _, revision, file = self.path.lstrip("/").split("/", 4)
        repository = f"{owner}/{name}"
        status, code = server.errors.get(repository, (200, ""))
        content = server.files.get((repository, revision, file))
        if status == 200 and content is None:
            known = {own for own, _, _ in server.files}, {own[:2] for own in server.files}
            code = "RepoNotFound" if repository not in known[0] else "RevisionNotFound"
            status, code = 404, "EntryNotFound" if (repository, revision) in known[1] else code
        content = content if status == 200 else b""
        self.send_response(status)
        commit = server.head if revision == "main" else revision
        digest = server.etag or hashlib.sha256(content).hexdigest()
        headers = {"X-Repo-Commit": commit, "ETag": f'"{digest}"', "Content-Length": str(len(content))}
        headers |= {"X-Error-Code": code} if code else {}
        for key, value in (headers | server.headers).items():
            self.send_header(key, value)
        if server.cut:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if body:
            self.wfile.write(content[: server.cut] if server.cut else content)


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE
    with Server() as own:
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", template.replace(constants.ENDPOINT, own.address)
        )
        monkeypatch.setattr(constants, "ENDPOINT", own.address)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        thread = threading.Thread(target=own.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield own
        own.shutdown()
        thread.join()


def weights(value=1.0):
    return safetensors.numpy.save({"fc.weight": np.full((2, 3), value, np.float32)})


def read(located):
    return pretrained.read_state_dict(located.path)["fc.weight"][0, 0]


def test_a_repository_of_the_hub(server):
    server.add("timm/resnet50.a1_in1k", model_safetensors=weights(), config_json=TIMM)
    for name in ("timm/resnet50.a1_in1k", "hf:timm/resnet50.a1_in1k"):
        located = hub.locate(name)
        assert read(located) == 1 and located.description.fields == {}
        assert located.description.preprocessing.line == TIMM_LINE
        assert located.pinned == {"name": name, "revision": COMMIT, "file": "model.safetensors"}
    server.fetched.clear()
    hub.locate("timm/resnet50.a1_in1k")
    assert not server.fetched  # it is in the cache
    assert hub.locate("timm/resnet50.a1_in1k@main").pinned["revision"] == COMMIT


def test_a_pinned_commit_is_taken_again(server):
    name = "hf:some/net"
    server.add("some/net", model_safetensors=weights())
    server.files["some/net", OLDER, "model.safetensors"] = weights(2.0)
    pinned = {"name": name, "revision": OLDER, "file": "model.safetensors"}
    assert read(hub.locate(name)) == 1
    assert read(hub.locate(name, pinned)) == 2 and hub.locate(name, pinned).pinned == pinned
    assert read(hub.locate(f"{name}@{OLDER}")) == 2
    for other in (
        {"name": "hf:another/net", "revision": OLDER},
        {"name": name, "revision": "../x"},
        {"x": 1},
    ):
        assert read(hub.locate(name, other)) == 1


def test_usual_files_and_others(server, tmp_path, monkeypatch):
    server.add("some/net", weights__big_safetensors=weights(3.0), open_clip_model_safetensors=weights(4.0))
    assert read(hub.locate("hf:some/net#weights/big.safetensors")) == 3
    assert hub.locate("hf:some/net").pinned["file"] == "open_clip_model.safetensors"
    server.add("some/net", model_safetensors=weights(5.0))
    assert read(hub.locate("hf:some/net")) == 5
    with pytest.raises(OSError, match=r"hf:some/net#x.npz: revision main of some/net has no x.npz; #FILE"):
        hub.locate("hf:some/net#x.npz")
    folder = tmp_path / "timm"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    (folder / "own.npz").write_bytes(b"")
    assert hub.locate("timm/own.npz").path == Path("timm/own.npz")  # a file here is that file


@pytest.mark.parametrize(
    "tag, repository, quick",
    [
        ("ViT-B-32/laion2b_s34b_b79k", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K", False),
        ("ViT-B-32/openai", "timm/vit_base_patch32_clip_224.openai", True),
    ],
)
def test_tags_of_open_clip_say_which_gelu(server, tag, repository, quick):
    config = {
        "model_cfg": {"vision_cfg": {"image_size": 224}, "quick_gelu": quick},
        "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "interpolation": "bicubic"},
    }
    server.add(repository, open_clip_model_safetensors=weights(), model_safetensors=weights(2.0))
    server.add(repository, open_clip_config_json=config, config_json=TIMM)
    located = hub.locate(f"open_clip:{tag}")
    assert read(located) == 1 and dict(located.description.fields) == {"quick_gelu": quick}
    assert 'resize_short(224, "bicubic")' in located.description.preprocessing.line
    assert dict(hub.locate(f"hf:{repository}").description.fields) == {"quick_gelu": quick}
    require_fields(located.description, vit.build("vit_b32_clip", quick_gelu=quick), "x")
    with pytest.raises(ValueError, match=f"set config.model.quick_gelu={quick}"):
        require_fields(located.description, vit.build("vit_b32_clip", quick_gelu=not quick), "x")


@pytest.mark.parametrize(
    "name, message",
    [
        ("hf:../../etc/passwd", "names a repository of the hub by OWNER/NAME"),
        ("hf:some", "OWNER/NAME"),
        ("hf:some/../net", "OWNER/NAME"),
        ("hf:some/net#../../x.npz", "OWNER/NAME"),
        ("hf:some/net#/etc/x.npz", "OWNER/NAME"),
        ("hf:some/net@../x", "OWNER/NAME"),
        ("hf:some/net#setup.py", "weights are read from .pth"),
        ("timm/", "OWNER/NAME"),
        ("open_clip:ViT-B-32/none", "no weights 'ViT-B-32/none' .* it has ViT-B-32/openai"),
        ("torchvision:VGG16_Weights.V9", "it has VGG16_Weights.IMAGENET1K_V1"),
        ("https://example.org/x.pth", "ends with #sha256= and the 64 digits"),
        ("https://example.org/x.pth#sha256=12", "ends with #sha256="),
        (f"https://example.org/x.exe#sha256={'0' * 64}", "weights are read from"),
    ],
)
def test_names_that_are_none(server, name, message):
    with pytest.raises(ValueError, match=message):
        hub.locate(name)
    assert not server.asked


def test_what_the_hub_refuses(server):
    server.add("some/net", config_json=TIMM)
    for repository, status, code, message in (
        (
            "some/gated",
            403,
            "GatedRepo",
            "some/gated is gated: accept its terms at .*/some/gated, and name a token",
        ),
        ("some/secret", 401, "RepoNotFound", "no repository some/secret, or it is private"),
        ("some/sick", 503, "", "the hub does not answer .*503.*, and the cache has no model.safetensors"),
    ):
        server.errors[repository] = (status, code)
        with pytest.raises(OSError, match=message):
            hub.locate(f"hf:{repository}")
    for name, message in (
        ("hf:some/none", "no repository some/none"),
        ("hf:some/net@v2", "some/net has no revision 'v2'"),
        ("hf:some/net", "has no model.safetensors, model.safetensors.index.json, open_clip_model"),
    ):
        with pytest.raises(OSError, match=message):
            hub.locate(name)


def test_what_is_cached_serves_when_the_hub_does_not(server, monkeypatch):
    server.add("some/net", model_safetensors=weights(), config_json=TIMM)
    located = hub.locate("hf:some/net")
    server.errors["some/net"] = (503, "")
    assert hub.locate("hf:some/net") == located
    server.errors.clear()
    server.delay, hub_seconds = 1.0, hub.SECONDS
    monkeypatch.setattr(hub, "SECONDS", 0.2)
    assert hub.locate("hf:some/net") == located and hub_seconds == 10
    server.delay, count = 0.0, len(server.asked)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.locate("hf:some/net") == located and len(server.asked) == count
    with pytest.raises(OSError, match="HF_HUB_OFFLINE is set, and the cache has no model.safetensors"):
        hub.locate("hf:some/other")


def test_a_hub_whose_headers_are_paths_writes_nothing(server, tmp_path):
    server.add("some/net", model_safetensors=weights())
    for headers in (
        {"ETag": '"../../../../evil"'},
        {"X-Linked-Etag": '"/tmp/evil"'},
        {"X-Repo-Commit": "../../../evil"},
        {"X-Repo-Commit": "main"},
    ):
        server.headers = headers
        with pytest.raises(ValueError, match="the server is no hub: it names the commit"):
            hub.locate("hf:some/net")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_content_that_is_not_what_the_hub_says(server, tmp_path):
    server.add("some/net", model_safetensors=weights())
    server.etag = hashlib.sha256(b"another").hexdigest()
    with pytest.raises(ValueError, match="is not what the hub says, by its SHA-256"):
        hub.locate("hf:some/net")
    server.etag = ""
    assert read(hub.locate("hf:some/net")) == 1


def test_a_download_that_breaks_off(server, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    server.add("some/net", model_safetensors=weights())
    server.cut = 20
    with pytest.raises(
        OSError, match="some/net@main: model.safetensors cannot be fetched: .*; the same command"
    ):
        hub.locate("hf:some/net")
    server.cut = 0
    assert read(hub.locate("hf:some/net")) == 1


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


def test_a_pickle_from_the_hub_runs_nothing(server, tmp_path):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps({"fc.weight": Bomb(tmp_path / "ran")}))
    server.add("some/bomb", pytorch_model_bin=content.getvalue())
    server.add("some/renamed", model_safetensors=pickle.dumps(Bomb(tmp_path / "ran")))
    server.add("some/short", model_safetensors=weights()[:-4])
    for name, message in (
        ("hf:some/bomb", "asks for posix.system, which no state dict needs; nothing of it was run"),
        ("hf:some/renamed", "cannot be read as .safetensors"),
        ("hf:some/short", "cannot be read as .safetensors"),
    ):
        with pytest.raises(ValueError, match=message):
            read(hub.locate(name))
    assert not (tmp_path / "ran").exists()


def test_an_address_with_its_checksum(server, tmp_path):
    content = weights()
    server.add("some/net", model_safetensors=content)
    digits = hashlib.sha256(content).hexdigest()
    address = f"{server.address}/some/net/resolve/main/model.safetensors"
    located = hub.locate(f"{address}#sha256={digits.upper()}")
    assert read(located) == 1 and located.pinned == {}
    assert located.path == tmp_path / "cache/imgcls_jax/weights" / f"{digits[:16]}-model.safetensors"
    count = len(server.asked)
    assert hub.locate(f"{address}#sha256={digits}") == located and len(server.asked) == count
    with pytest.raises(ValueError, match="is not what was published: expected sha256:0000"):
        hub.locate(f"{address}#sha256={'0' * 64}")
    with pytest.raises(OSError, match="the server says 404"):
        hub.locate(f"{address}x.npz#sha256={digits}")
    strange = hub._fetched(f"{address}?a=..%2f..%2fx.pth", f"sha256:{digits}")
    assert strange.parent == located.path.parent


def test_weights_of_torchvision(server, monkeypatch):
    content = weights()
    digits = hashlib.sha256(content).hexdigest()
    own = published.TORCHVISION["ResNet50_Weights.IMAGENET1K_V2"]
    assert own == ("resnet50-11ad3fa6.pth", "sha256:11ad3fa6", 232, 224, "bilinear")
    own = own._replace(file="model.safetensors", checksum=f"sha256:{digits[:8]}")
    server.add("some/net", model_safetensors=content)
    monkeypatch.setitem(hub.TORCHVISION, "ResNet50_Weights.IMAGENET1K_V2", own)
    monkeypatch.setattr(hub, "TORCHVISION_FOLDER", f"{server.address}/some/net/resolve/main/")
    monkeypatch.setattr(fetch, "WAIT", 0.0)
    located = hub.locate("torchvision:ResNet50_Weights.IMAGENET1K_V2")
    assert read(located) == 1
    line = "decode | rgb | resize_short(232) | center_crop(224) | normalize((0.485, 0.456, 0.406), (0.229, "
    assert located.description.preprocessing.line.startswith(line)
    wrong = own._replace(checksum="sha256:00000000")
    monkeypatch.setitem(hub.TORCHVISION, "ResNet50_Weights.IMAGENET1K_V2", wrong)
    with pytest.raises(ValueError, match="is not what was published: expected sha256:00000000"):
        hub.locate("torchvision:ResNet50_Weights.IMAGENET1K_V2")


def test_the_published_names_are_those_of_networks_here():
    assert len(published.TORCHVISION) == 53 and len(published.OPEN_CLIP) == 42
    for own in published.TORCHVISION.values():
        assert fetch.CHECKSUMS and len(own.checksum) == len("sha256:") + 8 and own.crop <= own.short_side


def test_without_the_package_one_line_names_the_extra(server, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"pip install 'imgcls-jax\[hub\]'"):
        hub.locate("hf:some/net")


def test_the_command_reads_the_hub_that_the_environment_names(server, tmp_path):
    server.add("some/vit", model_safetensors=safetensors.numpy.save(vit_arrays()))
    command = (
        "-m imgcls_jax.tools.convert hf:some/vit out.safetensors --family vit --variant vit_tiny".split()
    )
    environment = os.environ | {
        "HF_ENDPOINT": server.address,
        "HF_HOME": str(tmp_path / "home"),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    done = subprocess.run(
        [sys.executable, *command, "--image_size=8"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "backbone/conv_proj/kernel" in pretrained.read_state_dict(tmp_path / "out.safetensors")


def vit_arrays():
    """Returns arrays of zeros of vit_tiny for images of 8x8, under timm's names."""
    target = pretrained.target_shapes(vit.build("vit_tiny"), (8, 8, 3), 3)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), target)
    return pretrained.to_torch(zeros["params"], {}, vit, "vit_tiny")


INDEX = {"weight_map": {"fc.weight": "x-1-of-2.safetensors", "fc.bias": "x-2-of-2.safetensors"}}
BIAS = safetensors.numpy.save({"fc.bias": np.zeros(2, np.float32)})


def test_weights_in_several_files(server):
    files = {"model.safetensors.index.json": json.dumps(INDEX).encode(), "x-1-of-2.safetensors": weights(4.0)}
    files |= {"x-2-of-2.safetensors": BIAS, "x-3-of-2.safetensors": weights(9.0), "config.json": b"{}"}
    server.files |= {("o/x", at, file): own for file, own in files.items() for at in ("main", COMMIT)}
    found = hub.locate("hf:o/x")
    assert read(found) == 4.0 and found.pinned["file"] == "model.safetensors.index.json"
    assert not [path for path in server.fetched if "x-3-of-2" in path]
    server.files |= {("o/y", *key[1:]): own for key, own in server.files.items() if "2-of-2" not in key[2]}
    with pytest.raises(
        OSError, match="has no x-2-of-2.safetensors, which its model.safetensors.index.json na"
    ):
        hub.locate("hf:o/y")
    hostile = json.dumps({"weight_map": {"fc.weight": "../../up.safetensors"}}).encode()
    server.files |= {("o/z", at, "model.safetensors.index.json"): hostile for at in ("main", COMMIT)}
    with pytest.raises(ValueError, match="'../../up.safetensors': expected the name of a .safetensors file"):
        hub.locate("hf:o/z")
    assert not [path for path in server.asked if "up.safetensors" in path]


@pytest.mark.parametrize("file", ["model.safetensors", "model.safetensors.index.json"])
def test_a_folder_as_the_hub_has_it_by_its_name_or_its_files(tmp_path, file):
    shard = "model.safetensors" if file == "model.safetensors" else "x-1-of-1.safetensors"
    (tmp_path / shard).write_bytes(weights(4.0))
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"fc.weight": shard}}))
    (tmp_path / "config.json").write_text(json.dumps(TIMM))
    for name in (tmp_path, tmp_path / file):
        found = hub.locate(str(name))
        assert found.path == tmp_path / file and read(found) == 4.0
        assert found.description.preprocessing.line == TIMM_LINE
    other = tmp_path / "other.safetensors"
    assert hub.locate(str(other)) == hub.Located(other)


@pytest.mark.slow
def test_resnet18_under_timms_name(server):
    """The network at its size, from the name alone to its params and the line of its transforms."""
    target = pretrained.target_shapes(resnet.build("resnet18"), (224, 224, 3), 1000)
    names = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), target)
    arrays = pretrained.to_torch(names["params"], names["batch_stats"], resnet, "resnet18")
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal(own.shape, np.float32) for name, own in arrays.items()}
    counter = {"bn1.num_batches_tracked": np.zeros((), np.int64)}
    server.add(
        "timm/resnet18.a1_in1k", model_safetensors=safetensors.numpy.save(arrays | counter), config_json=TIMM
    )
    found = hub.locate("timm/resnet18.a1_in1k")
    params, batch_stats, report = pretrained.load(found.path, resnet, "resnet18", target)
    assert report.notes == () and report.loaded == len(arrays) == 102
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 11_689_512
    kernel = params["backbone"]["layer4.1"]["conv2"]["kernel"]
    np.testing.assert_array_equal(kernel, arrays["layer4.1.conv2.weight"].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(batch_stats["bn1"]["var"], arrays["bn1.running_var"])
    assert found.description.preprocessing.line == TIMM_LINE
