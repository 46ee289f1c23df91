"""Who may import whom, and what each room costs to import."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "imgcls_jax"
HEAVY = ("flax", "optax", "grain", "absl", "tensorflow", "torch", "orbax", "numpy.testing")

# room -> (what of this package, what of others); the standard library is free.
MAY_IMPORT = {
    "config": ({"config"}, set()),
    "config/written.py": (set(), {"ml_collections"}),
    "runtime": ({"runtime"}, {"jax", "numpy"}),
    "runtime/buckets.py": (set(), {"etils", "fsspec", "aiohttp"}),
    "runtime/progress.py": ({"runtime.names"}, {"jax", "rich"}),
    "runtime/listening.py": ({"runtime.mistakes"}, {"uvicorn"}),
    "losses": ({"losses"}, {"jax"}),
    "metrics": ({"metrics"}, {"numpy", "scipy", "sklearn"}),
    "classic": (
        {"classic", "metrics.calibration"},
        {"numpy", "scipy", "sklearn"},
    ),  # skimage and cv2 by importlib
    "layers": ({"layers", "losses"}, {"jax", "flax"}),
    "models": ({"models", "layers"}, {"jax", "flax"}),
    "models/airbench.py": ({"layers"}, {"jax", "flax", "numpy"}),  # fit is computed on the host, in float64
    "weights": ({"weights"}, {"jax", "numpy"}),
    "weights/files.py": (
        {
            "runtime.buckets",
            "runtime.files",
            "runtime.restricted_pickle",
            "weights.caffe",
            "weights.sharded",
        },
        {"jax", "numpy", "safetensors"},
    ),
    "weights/hugging_face.py": ({"layers.renaming"}, {"numpy"}),
    "weights/described.py": ({"weights", "runtime.files"}, set()),
    "weights/sharded.py": ({"runtime.files"}, set()),
    "weights/hub.py": ({"weights", "runtime.buckets", "runtime.fetch"}, {"huggingface_hub"}),
    "contracts": ({"contracts"}, {"jax", "numpy"}),
    "contracts/tracker.py": (set(), {"PIL"}),
    "contracts/classifier.py": ({"contracts", "layers.heads"}, {"jax", "optax"}),
    "contracts/embedder.py": ({"contracts", "layers.projector"}, {"jax", "optax"}),
    "data": (
        {"data", "config", "runtime.buckets"},
        {"numpy", "grain", "PIL", "pillow_heif", "cykooz_resizer", "absl"},
    ),
    "data/clip_tokens.py": (set(), {"numpy", "tokenizers"}),
    "data/siglip_tokens.py": ({"data.clip_tokens"}, {"numpy"}),
    "data/annotations.py": ({"data"}, {"numpy", "scipy"}),
    "data/cifar.py": ({"data", "runtime.restricted_pickle"}, {"numpy"}),
    "data/download.py": ({"data", "config", "runtime"}, set()),
    "data/tar_files.py": ({"data", "runtime.tar_members"}, {"numpy"}),
    "data/datasets.py": ({"data", "config"}, {"jax", "numpy"}),
    "data/proposals.py": (set(), {"numpy", "PIL", "cv2"}),
    "data/sources": (
        {f"data.{name}" for name in "source subsets folders listing lists known_layouts annotations".split()}
        | {f"data.{name}" for name in "idx cifar tar_files decoding captions clip_tokens regions".split()}
        | {f"data.{name}" for name in "shards parquet_files hub_features packed contents".split()}
        | {"data.shifted_imagenet"},
        {"numpy", "sklearn", "tensorflow_datasets", "pyarrow", "safetensors"},
    ),
    "data/parquet_files.py": (set(), {"numpy", "pyarrow"}),
    "data/hub_features.py": ({"data.source"}, {"yaml"}),
    "data/packed.py": ({"data", "runtime.buckets"}, {"numpy", "array_record", "safetensors"}),
    "data/device_operation.py": (set(), {"jax"}),
    "data/geometric.py": ({"data.device_operation"}, {"jax"}),
    "data/photometric.py": ({"data.device_operation"}, {"jax"}),
    "data/erasing.py": ({"data.device_operation"}, {"jax"}),
    "data/rand_augment.py": ({"data.device_operation", "data.geometric", "data.photometric"}, {"jax"}),
    "data/auto_augment.py": ({"data.device_operation", "data.rand_augment"}, {"jax", "numpy"}),
    "data/blurring.py": ({"data.device_operation", "data.geometric"}, {"jax"}),
    "data/augment.py": ({"data"}, {"jax"}),
    "objectives": (
        {"objectives", "contracts", "losses", "layers.heads", "layers.projector"},
        {"jax", "flax", "optax", "numpy"},
    ),
    "objectives/clip.py": (
        {"contracts", "losses", "layers.text_tower", "data.clip_tokens", "data.prompts"},
        {"jax", "numpy"},
    ),
    "objectives/siglip.py": (
        {"objectives.clip", "contracts", "losses", "layers.text_tower", "data.siglip_tokens"},
        {"jax"},
    ),
    "evaluators": (
        {"evaluators", "contracts", "losses", "metrics", "data"},
        {"jax", "numpy", "scipy", "sklearn", "threadpoolctl"},  # the last comes with scikit-learn
    ),
    "train": (
        {"train", "config", "runtime", "contracts", "data", "layers.frozen", "planning.flops", "weights"},
        {"jax", "optax", "orbax", "clu", "numpy"},
    ),
    "search": (
        {"search", "config", "runtime", "data.folders", "train.finished"},
        {"numpy", "optuna"},
    ),
    "rerun": (
        {"rerun", "config", "runtime", "train.finished"}
        | {f"search.{name}" for name in "process plan trials".split()},
        {"scipy"},
    ),
    "train/gallery.py": ({"contracts", "figures.evaluation_pictures", "runtime"}, {"numpy"}),
    "trackers": (
        {"contracts.tracker", "runtime.buckets", "runtime.files"},
        {"numpy", "tensorboardX", "wandb", "mlflow"},
    ),
    "inference": (
        {"inference", "train", "config.settings", "runtime", "contracts", "data", "evaluators.knn"},
        {"jax", "numpy", "safetensors", "flax"},
    ),
    "inference/part_rcnn": (
        {
            *"inference.part_rcnn inference.trained inference.array_file".split(),
            *"config contracts.backbone data runtime train.build weights".split(),
        },
        {"jax", "flax", "numpy", "scipy", "sklearn", "threadpoolctl", "PIL"},
    ),
    "inference/litert_file.py": (
        {"inference.trained", "runtime"},
        {"jax", "numpy", "litert_converter", "ai_edge_litert"},
    ),
    "inference/onnx_file.py": (
        {"inference.trained", "runtime"},
        {"jax", "numpy", "flax", "jax2onnx", "onnx_ir", "onnxruntime"},
    ),
    "inference/model_folder.py": (
        {"config.modules", "data.transforms", "runtime", "train.build", "weights"},
        {"jax", "numpy", "safetensors"},
    ),
    "inference/model_card.py": (
        {"inference.model_folder", "metrics.intervals", "runtime", "train", "weights"}
        | {"config.compare", "data.prompts"},
        set(),
    ),
    "inference/batching.py": (set(), {"numpy"}),
    "inference/named_classes.py": (set(), {"numpy"}),
    "planning": ({"planning", "data", "config.settings"}, {"jax", "numpy"}),
    "figures": (
        {"figures", "inference", "train", "data", "config", "layers.features", "runtime.names"},
        {"jax", "flax", "numpy", "PIL", "sklearn", "threadpoolctl"},
    ),
}
ANYTHING = ("main.py", "__main__.py", "tools", "__init__.py")


def imports_of(path: Path) -> set[str]:
    """Every module named by an import statement, at whatever depth of the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def offending(name: str, own: set[str], foreign: set[str]) -> bool:
    top, _, rest = name.partition(".")
    if top == "imgcls_jax":
        return not any(rest == room or rest.startswith(f"{room}.") for room in own)
    return top not in foreign and top not in sys.stdlib_module_names


def rule_of(relative: str) -> tuple[set[str], set[str]] | None:
    parts = relative.split("/")
    if parts[0] in ANYTHING:
        return None
    rooms = ["/".join(parts[:depth]) for depth in range(len(parts), 0, -1)]
    return next(MAY_IMPORT[room] for room in rooms if room in MAY_IMPORT)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_keep_the_table(path):
    rule = rule_of(path.relative_to(PACKAGE).as_posix())
    if rule is not None:
        assert [name for name in sorted(imports_of(path)) if offending(name, *rule)] == []


def test_the_table_refuses():
    assert offending("flax.linen", *MAY_IMPORT["losses"])
    assert offending("imgcls_jax.train.loop.run", *MAY_IMPORT["objectives"])
    assert offending("tensorboardX", *MAY_IMPORT["train"])
    assert not offending("imgcls_jax.layers.heads.Linear", *MAY_IMPORT["objectives"])


def test_nothing_imports_main_or_tools():
    for path in PACKAGE.rglob("*.py"):
        inside = path.relative_to(PACKAGE).as_posix()
        for name in imports_of(path):
            assert inside == "__main__.py" or not name.startswith("imgcls_jax.main"), path
            ours = inside.startswith("tools/") or inside in ("main.py", "__main__.py")
            assert ours or not name.startswith("imgcls_jax.tools"), path


def test_configurations_import_the_room_config_alone():
    for path in (PACKAGE.parent / "configs").glob("*.py"):
        assert all(name.startswith(("ml_collections", "imgcls_jax.config")) for name in imports_of(path)), (
            path
        )


def test_no_objective_is_named_in_train():
    names = {path.stem for path in (PACKAGE / "objectives").glob("*.py")} - {"__init__", "base"}
    assert names
    for path in (PACKAGE / "train").glob("*.py"):
        # A word before "(" is a function: jnp.clip.
        words = set(re.findall(r"\b\w+\b(?!\()", path.read_text(encoding="utf-8").lower()))
        assert names & words == set(), path


def run_fresh(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_losses_cost_only_jax():
    code = f"import sys, imgcls_jax.losses; print([m for m in {HEAVY!r} if m in sys.modules])"
    assert run_fresh(code) == "[]"


def test_the_core_loads_where_the_rest_is_not_installed():
    code = """
import importlib, pkgutil, sys
for name in ("grain", "tensorflow_datasets", "clu", "ml_collections", "tensorboardX", "sklearn", "tensorflow",
"torch"):
    sys.modules[name] = None
for room in ("losses", "layers", "models", "weights", "contracts", "objectives", "data.sources"):
    package = importlib.import_module(f"imgcls_jax.{room}")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"imgcls_jax.{room}.{module.name}")
for name in ("train.step", "train.state", "train.optimizer", "train.checkpoint", "train.run",
"data.pipeline"):
    importlib.import_module(f"imgcls_jax.{name}")
print("loaded")
"""
    assert run_fresh(code) == "loaded"
