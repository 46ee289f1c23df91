"""Public weights by name: from the Hugging Face hub, from torchvision's server, or from an address.

  timm/resnet50.a1_in1k                     hf:timm/resnet50.a1_in1k
  hf:OWNER/NAME[@REVISION][#FILE]           a repository of the hub; else the usual names of files are tried
  open_clip:ViT-B-32/laion2b_s34b_b79k      model and tag of OpenCLIP, a repository of the hub
  torchvision:VGG16_Weights.IMAGENET1K_V1   the name that torchvision gives them
  https://HOST/FILE.pth#sha256=DIGITS       any file of weights, with its checksum

What is fetched is kept: by huggingface_hub in its own cache (HF_HOME; HF_HUB_OFFLINE=1 asks nobody), else in
$XDG_CACHE_HOME/imgcls_jax/weights. No file is executed (files.py). Content is compared with its SHA-256 where
the hub or the name says it.
"""

from __future__ import annotations

import contextlib
import os
import re
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from imgcls_jax.runtime.buckets import as_path
from imgcls_jax.runtime.fetch import digest, fetch
from imgcls_jax.weights.described import Description, Preprocessing, describe
from imgcls_jax.weights.files import SUFFIXES
from imgcls_jax.weights.published import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    OPEN_CLIP,
    TORCHVISION,
    TORCHVISION_FOLDER,
)
from imgcls_jax.weights.sharded import is_index, shards_of

SCHEMES = ("hf:", "timm/", "open_clip:", "torchvision:", "https://", "http://")
SPELLING = "OWNER/NAME[@REVISION][#FILE]"
REPOSITORY = re.compile(
    r"(?P<repository>[\w-][\w.-]{0,95}/[\w-][\w.-]{0,95})(@(?P<revision>[\w-][\w./-]{0,99}))?(#(?P<file>[\w-][\w./-]{0,199}))?"
)
COMMIT = re.compile(r"[0-9a-f]{40}")
ETAG = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,127}")  # which the cache makes a file's name
SHA256 = re.compile(r"[0-9a-f]{64}")
OWN_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
OF_OPEN_CLIP = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
FILES = (*OWN_FILES[:2], OF_OPEN_CLIP[0], OWN_FILES[2], OF_OPEN_CLIP[1])
CLIP_FILES = (*OF_OPEN_CLIP, *OWN_FILES)
BESIDE = ("config.json", "preprocessor_config.json", "open_clip_config.json")
SECONDS = 10.0  # without an answer to a question


class Located(NamedTuple):
    """Weights on this machine.

    Attributes:
      path: of their file.
      description: what is known of them.
      pinned: {"name", "revision", "file"} of weights of the hub, the revision a commit; {} of others.
    """

    path: Path
    description: Description = Description()
    pinned: Mapping[str, str] = {}


def is_public(name: str) -> bool:
    """Whether `model.pretrained` names public weights, not a file or a folder."""
    return name.startswith(SCHEMES) and not (name.startswith("timm/") and Path(name).exists())


def locate(name: str, pinned: Mapping[str, Any] | None = None) -> Located:
    """Finds the file of weights, fetching it where it is not here yet.

    Args:
      name: as in the head of this file, or a path: of a file, or of a folder as the hub has it, whose files
        of weights may be named, too.
      pinned: of an earlier call, as `Located` has it: the same commit is taken again. Of other weights, or
        in another form, it is not looked at.

    Raises:
      ValueError: a name of another form, an unknown one, or content that is not what was published.
      OSError: no connection, refused, or no such file.
    """
    if not is_public(name):
        path = as_path(os.path.expanduser(name))
        if path.name not in OWN_FILES[:2]:
            held = [path / own for own in OWN_FILES[:2] if (path / own).is_file()]
            if not held:
                return Located(path)
            path = held[0]
        beside = {own: path.with_name(own) for own in BESIDE[:2] if path.with_name(own).is_file()}
        return Located(path, describe(beside))
    scheme = next(scheme for scheme in SCHEMES if name.startswith(scheme))
    if scheme in ("https://", "http://"):
        return _of_address(name)
    if scheme == "torchvision:":
        return _of_torchvision(name.removeprefix(scheme))
    if scheme == "open_clip:":
        tag = name.removeprefix(scheme)
        if tag not in OPEN_CLIP:
            raise ValueError(
                f"open_clip has no weights {tag!r} for models/vit.py; it has {_some(tag, OPEN_CLIP)}"
            )
        return _of_hub(name, OPEN_CLIP[tag].repository, CLIP_FILES, pinned)
    return _of_hub(name, name.removeprefix("hf:"), FILES, pinned)


def _some(name: str, known: Mapping[str, Any]) -> str:
    """Returns those names that begin as this one, or all."""
    start = re.split(r"[/.]", name)[0]
    return ", ".join([own for own in known if own.startswith(start)] or known)


# ---- the hub


def _of_hub(name: str, spelled: str, files: Sequence[str], pinned: Mapping[str, Any] | None) -> Located:
    parts = REPOSITORY.fullmatch(spelled)
    if not parts or ".." in spelled:
        raise ValueError(f"config.model.pretrained names a repository of the hub by {SPELLING}; got {name!r}")
    repository, revision = parts["repository"], parts["revision"] or "main"
    if parts["file"]:
        if Path(parts["file"]).suffix not in SUFFIXES and not is_index(parts["file"]):
            raise ValueError(f"{name}: weights are read from {', '.join(SUFFIXES)}")
        files = (parts["file"],)
    if pinned and pinned.get("name") == name and COMMIT.fullmatch(str(pinned.get("revision"))):
        revision = str(pinned["revision"])
    for file in files:
        if path := _download(repository, file, revision):
            break
    else:
        raise OSError(
            f"{name}: revision {revision} of {repository} has no {', '.join(files)}; #FILE after the name "
            "chooses another file"
        )
    commit = path.parents[len(Path(file).parts) - 1].name
    _require_published(path)
    if is_index(path):
        _fetch_shards(repository, file, commit, path)
    beside = {}
    for own in BESIDE[2:] if file.startswith("open_clip") else BESIDE[:2]:
        with contextlib.suppress(OSError):  # a cache that holds the weights alone
            if found := _download(repository, own, commit):
                beside[own] = found
    description = describe(beside)
    of_clip = {own.repository: own.quick_gelu for own in OPEN_CLIP.values() if "SigLIP" not in own.repository}
    if repository in of_clip:
        description = description._replace(fields={"quick_gelu": of_clip[repository]})
    return Located(path, description, {"name": name, "revision": commit, "file": file})


def _fetch_shards(repository: str, file: str, commit: str, index: Path) -> None:
    """Brings the files that an index names, no others, into the cache, beside it.

    Raises:
      ValueError: it is no sound index, or a file is not what the hub says.
      OSError: the repository has no such file, or nobody answers.
    """
    for shard in shards_of(index):
        path = _download(repository, (Path(file).parent / shard).as_posix(), commit)
        if path is None:
            raise OSError(f"{repository}@{commit} has no {shard}, which its {file} names")
        _require_published(path)


def _package() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ModuleNotFoundError as error:
        raise ValueError(
            "weights of the hub are fetched by huggingface_hub, which is missing: pip install "
            "'imgcls-jax[hub]'"
        ) from error
    return huggingface_hub


def _download(repository: str, file: str, revision: str) -> Path | None:
    """Returns the path of a file of the hub in the cache; None where the revision has no such file.

    Raises:
      ValueError: the server's answer cannot be a hub's.
      OSError: there is no such repository or revision, it may not be read, or nobody answers and the cache
        has no such file.
    """
    hub = _package()
    errors, where = hub.errors, f"{repository}@{revision}"
    try:
        reason = _refusal(hub, repository, file, revision)
        return Path(hub.hf_hub_download(repository, file, revision=revision, local_files_only=bool(reason)))
    except errors.GatedRepoError as error:
        raise OSError(
            f"{repository} is gated: accept its terms at {hub.constants.ENDPOINT}/{repository}, and name a "
            "token by HF_TOKEN or `hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise OSError(
            f"the hub has no repository {repository}, or it is private: then name a token by HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise OSError(f"the hub's {repository} has no revision {revision!r}") from error
    except errors.LocalEntryNotFoundError as error:
        raise OSError(f"{where}: {reason}, and the cache has no {file}") from error
    except errors.EntryNotFoundError:
        return None
    except ValueError:
        raise
    except Exception as error:  # of the HTTP package that a version of huggingface_hub takes
        told = str(error).strip().partition("\n")[0] or type(error).__name__
        raise OSError(f"{where}: {file} cannot be fetched: {told}; the same command tries again") from error


def _refusal(hub: Any, repository: str, file: str, revision: str) -> str:
    """Asks the server for a file; returns why it does not answer, "" where it does.

    huggingface_hub makes paths of two of a server's headers, so these are looked at first.

    Raises:
      ValueError: they are no names of a commit and of a version.
      huggingface_hub's errors: there is no such thing, or it may not be read.
    """
    errors = hub.errors
    url = hub.hf_hub_url(repository, file, revision=revision)
    try:
        found = hub.get_hf_file_metadata(url, timeout=SECONDS)
    except (errors.EntryNotFoundError, errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
        raise
    except errors.OfflineModeIsEnabled:
        return "HF_HUB_OFFLINE is set"
    except Exception as error:  # no connection, or a server that is not well: the cache may have it
        return f"the hub does not answer ({str(error).strip().partition(chr(10))[0] or type(error).__name__})"
    if not COMMIT.fullmatch(found.commit_hash or "") or not ETAG.fullmatch(found.etag or ""):
        raise ValueError(
            f"{url}: the server is no hub: it names the commit {found.commit_hash!r} and the version "
            f"{found.etag!r}"
        )
    return ""


def _require_published(path: Path) -> None:
    """Raises ValueError for a file that is not what the hub says: its cache names files by SHA-256."""
    kept = path.resolve()
    if SHA256.fullmatch(kept.name) and digest(kept, "sha256:") != f"sha256:{kept.name}":
        kept.unlink()
        raise ValueError(f"{path} is not what the hub says, by its SHA-256. It was removed: try again")


def push(folder: Path, files: Sequence[str], repository: str, *, private: bool) -> str:
    """Uploads files to a repository of the hub, made where it does not exist; returns its address.

    Args:
      folder: that holds them.
      files: their names.
      repository: OWNER/NAME.
      private: whether a new repository is, and one that exists must be.

    Raises:
      ValueError: huggingface_hub is missing, or the repository is public and `private` asks for another.
      OSError: no connection, refused, or no token.
    """
    hub = _package()
    try:
        api = hub.HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        exposed = private and api.repo_info(repository).private is not True
        if not exposed:
            operations = [hub.CommitOperationAdd(file, folder / file) for file in files]
            api.create_commit(repository, operations, commit_message="Publish the network")
    except Exception as error:  # of huggingface_hub and of the HTTP package that a version of it takes
        raise OSError(f"{repository} was not pushed: {_why_not_pushed(hub, error, repository)}") from error
    if exposed:
        raise ValueError(
            f"{repository} was not pushed: it is public, and --private is asked for: make it private, "
            "name another, or leave --private out"
        )
    return f"{hub.constants.ENDPOINT}/{repository}"


def _why_not_pushed(hub: Any, error: Exception, repository: str) -> str:
    """Returns why, and the way out; nothing of the request, whose headers hold the token."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401 or isinstance(error, hub.errors.LocalTokenNotFoundError):
        return "the hub knows no such user (401): name a token by HF_TOKEN or `hf auth login`"
    if status == 403:
        owner = repository.partition("/")[0]
        return f"the token may not write there (403): take one with write access for {owner}"
    if status is not None:
        return f"the hub answers {status}; the same command tries again"
    return f"the hub gives no answer to go by ({type(error).__name__}); the same command tries again"


# ---- addresses


def _of_address(address: str) -> Located:
    url, _, fragment = address.partition("#")
    kind, _, digits = fragment.partition("=")
    if kind != "sha256" or not SHA256.fullmatch(digits.lower()):
        raise ValueError(
            f"{address}: an address ends with #sha256= and the 64 digits of the file's SHA-256, so that what "
            "is fetched is what was meant"
        )
    return Located(_fetched(url, f"sha256:{digits.lower()}"))


def _of_torchvision(name: str) -> Located:
    if name not in TORCHVISION:
        raise ValueError(
            f"torchvision has no weights {name!r} for a network of models/; it has {_some(name, TORCHVISION)}"
        )
    own = TORCHVISION[name]
    path = _fetched(TORCHVISION_FOLDER + own.file, own.checksum)
    preprocessing = Preprocessing(
        own.crop, own.crop, own.short_side, own.interpolation, IMAGENET_MEAN, IMAGENET_STD
    )
    return Located(path, Description({}, preprocessing))


def _fetched(url: str, checksum: str) -> Path:
    """Returns the path of a file in this package's cache."""
    file = urllib.parse.unquote(urllib.parse.urlsplit(url).path).rpartition("/")[2]
    if Path(file).suffix.lower() not in SUFFIXES:
        raise ValueError(f"{url}: weights are read from {', '.join(SUFFIXES)}")
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(caches) / "imgcls_jax" / "weights"
    folder.mkdir(parents=True, exist_ok=True)
    digits = checksum.partition(":")[2][:16]
    path = folder / f"{digits}-{re.sub(r'[^0-9A-Za-z._-]', '_', file)[-80:]}"
    with _alone(path.with_name(f"{path.name}.lock")):
        fetch(url, path, checksum=checksum)
    return path


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Lets one process of this machine after the other fetch a file, where the system knows locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with open(lock, "w") as file:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
