"""Records what timm and transformers compute of published networks, for tests/weights/test_publishing.py.

  python tests/golden/record_published.py [NAMING ...]
  python tests/golden/record_published.py --all_variants [FAMILY ...]

Needs torch, timm and transformers beside this package; the tests do not. For each case of `CASES`, or of the
namings named, the
network's config.json, from which the other package makes it; the names and shapes of its state dict; and its
logits, once it has loaded what this package wrote of drawn weights. To tests/golden/published/logits.npz.
`--all_variants` records nothing: it compares names and shapes for every variant that timm has.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import transformers
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent))
from drawing import draw_all, images, summary  # noqa: E402
from published_cases import CASES, CLASSES, SIDE, Case, logits_of, parts_of, published  # noqa: E402

from imgcls_jax.weights import timm_networks  # noqa: E402
from imgcls_jax.weights.pretrained import write_safetensors  # noqa: E402


def text(content: Any) -> np.ndarray:
    """Returns JSON as bytes in an array."""
    return np.frombuffer(json.dumps(content).encode(), np.uint8)


def made(case: Case, config: dict[str, Any]) -> torch.nn.Module:
    """Returns the other package's network of a config.json, with weights as it draws them."""
    if case.naming == "timm":
        classes = config["num_classes"]
        return timm.create_model(config["architecture"], num_classes=classes, **config["model_args"])
    cls = getattr(transformers, config["architectures"][0])
    return cls(transformers.AutoConfig.for_model(**config))


def loaded(case: Case, folder: Path) -> torch.nn.Module:
    """Returns the other package's network, loaded from a folder as its users load it."""
    if case.naming == "timm":
        return timm.create_model(f"local-dir:{folder}", pretrained=True)
    transformers.AutoImageProcessor.from_pretrained(folder)
    network, told = transformers.AutoModelForImageClassification.from_pretrained(
        folder, output_loading_info=True
    )
    missing = [name for name in told["missing_keys"] if not name.endswith("num_batches_tracked")]
    assert not missing and not told["unexpected_keys"], told
    return network


def shapes_of(case: Case, network: torch.nn.Module) -> dict[str, list[int]]:
    """Returns the shapes of the floats of a file of weights, whose names in transformers are others."""
    state = network.state_dict()
    if case.naming == "hugging_face":
        with tempfile.TemporaryDirectory() as folder:
            network.save_pretrained(folder)
            state = load_file(Path(folder) / "model.safetensors")
    return {name: list(v.shape) for name, v in state.items() if v.is_floating_point()}


@torch.no_grad()
def record(case: Case) -> dict[str, np.ndarray]:
    """Returns what the tests read of a case; prints the largest difference of the logits."""
    config = published(parts_of(case, None)).files["config.json"]
    shapes = shapes_of(case, made(case, config))
    drawn = draw_all(shapes, case.gain)
    parts = parts_of(case, drawn)
    written = published(parts)
    with tempfile.TemporaryDirectory() as folder:
        write_safetensors(Path(folder) / "model.safetensors", written.arrays)
        for name, content in written.files.items():
            (Path(folder) / name).write_text(json.dumps(content))
        network = loaded(case, Path(folder)).eval()
    batch = images(SIDE)
    found = network(torch.from_numpy(batch).movedim(-1, 1).contiguous())
    logits = getattr(found, "logits", found).numpy()
    ours = np.asarray(logits_of(parts, batch))
    scale = np.abs(logits).max()
    print(f"{case.name}: {np.abs(logits - ours).max() / scale:.1e} of the largest logit, {scale:.3g}")
    return {"files": text(written.files), "shapes": text(shapes), "logits": summary(logits, CLASSES)}


def compare_all(families: list[str]) -> None:
    """Compares names and shapes of each variant with those of timm's network."""
    for family in families or timm_networks.FIXED:
        for variant in timm_networks.FIXED[family]:
            size = 299 if family == "inception_v3" else 224 if family == "vgg" else 64
            case = Case(family, variant)
            written = published(parts_of(case, None, side=size))
            with torch.device("meta"):
                wanted = shapes_of(case, made(case, written.files["config.json"]))
            ours = {name: list(array.shape) for name, array in written.arrays.items()}
            differing = [name for name in {*ours, *wanted} if ours.get(name) != wanted.get(name)]
            print(
                f"{family} {variant}: {'differs: ' + str(differing[:4]) if differing else 'same'}", flush=True
            )


def main() -> None:
    """Records all cases."""
    if sys.argv[1:2] == ["--all_variants"]:
        compare_all(sys.argv[2:])
        return
    path = Path(__file__).parent / "published" / "logits.npz"
    recorded = dict(np.load(path)) if path.exists() else {}
    for case in CASES:
        if case.naming in (sys.argv[1:] or [case.naming]):
            recorded |= {f"{case.name}/{key}": value for key, value in record(case).items()}
    np.savez_compressed(path, **recorded)
    print(f"{path.name}: {len(CASES)} cases, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
