"""Records what CLIP's two towers compute with drawn weights, for tests/weights/test_clip_towers.py.

  python tests/golden/record_clip.py

Needs torch, open_clip and transformers; the tests do not. Each case has few and narrow layers. Its weights
are drawn from the names and shapes of its state dict. To tests/golden/towers/clip.npz go, by the name of the
case: shapes as JSON, the token ids, and the embeddings of images and texts before they are normalized.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

# torchvision for another build of torch looks for operators that CLIP does not use.
_library = torch.library.Library("torchvision", "DEF")
_library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
_library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import open_clip  # noqa: E402
import transformers  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))
from drawing import draw_all, images  # noqa: E402

SIZE, PATCH, WIDTH, HEADS, DEPTH, DIM = 16, 4, 16, 2, 2, 6
VOCABULARY, CONTEXT = 40, 9
IDS = np.array([[38, 5, 7, 39, 0, 0, 0, 0, 0], [38, 2, 39, 0, 0, 0, 0, 0, 0], [38, *range(1, 8), 39]])


def of_open_clip(make: Any, quick_gelu: bool) -> torch.nn.Module:
    """Returns OpenCLIP's network, of its class CLIP or CustomTextCLIP."""
    vision = {"layers": DEPTH, "width": WIDTH, "head_width": WIDTH // HEADS, "patch_size": PATCH}
    text = {"context_length": CONTEXT, "vocab_size": VOCABULARY, "width": WIDTH}
    return make(
        DIM,
        vision | {"image_size": SIZE},
        text | {"heads": HEADS, "layers": DEPTH},
        quick_gelu=quick_gelu,
    )


def of_transformers() -> torch.nn.Module:
    """Returns Hugging Face's network."""
    shared = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": HEADS,
        "hidden_act": "quick_gelu",
        "projection_dim": DIM,
    }
    text = shared | {"vocab_size": VOCABULARY, "max_position_embeddings": CONTEXT}
    text |= {"bos_token_id": VOCABULARY - 2, "eos_token_id": VOCABULARY - 1}
    vision = shared | {"image_size": SIZE, "patch_size": PATCH}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=DIM)
    return transformers.CLIPModel(config)


@torch.no_grad()
def record(network: torch.nn.Module) -> dict[str, np.ndarray]:
    """Returns what the test reads of a case."""
    state = network.state_dict()
    shapes = {name: list(value.shape) for name, value in state.items() if value.is_floating_point()}
    drawn = {name: torch.from_numpy(np.asarray(a)) for name, a in draw_all(shapes, 1.0).items()}
    network.load_state_dict(state | drawn)
    network.eval()
    pixels = torch.from_numpy(images(SIZE, 3).transpose(0, 3, 1, 2).copy())
    ids = torch.from_numpy(IDS)
    if isinstance(network, transformers.CLIPModel):
        image = network.visual_projection(network.vision_model(pixel_values=pixels).pooler_output)
        text = network.text_projection(network.text_model(input_ids=ids).pooler_output)
    else:
        image, text = network.encode_image(pixels), network.encode_text(ids)
    return {
        "shapes": np.frombuffer(json.dumps(shapes, separators=(",", ":")).encode(), np.uint8),
        "image": image.numpy(),
        "text": text.numpy(),
    }


def main() -> None:
    """Records all cases."""
    cases = {
        "open_clip": of_open_clip(open_clip.CLIP, True),
        "open_clip_gelu": of_open_clip(open_clip.CLIP, False),
        "custom_text": of_open_clip(open_clip.CustomTextCLIP, True),
        "hugging_face": of_transformers(),
    }
    recorded = {"ids": IDS.astype(np.int32)}
    for name, network in cases.items():
        recorded |= {f"{name}/{key}": value for key, value in record(network).items()}
    path = Path(__file__).parent / "towers" / "clip.npz"
    np.savez_compressed(path, **recorded)
    print(f"{path.name}: {len(cases)} cases, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
