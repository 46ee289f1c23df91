"""Records what public networks compute under each naming of their weights, for tests/weights/test_namings.py.

  python tests/golden/record_names.py

Needs torch, torchvision, timm, open_clip and transformers; the tests do not. Each network is small, as its
library builds it, with drawn weights (drawing.py). For each: the names and shapes of the file that its
library writes, and the embedding or the logits at two sizes of image, to tests/golden/namings/FAMILY.npz.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
import torch

# torchvision for another build of torch looks for operators that these networks do not use.
_library = torch.library.Library("torchvision", "DEF")
_library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
_library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import open_clip  # noqa: E402
import timm  # noqa: E402
import transformers  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))
from drawing import draw_all, images, summary  # noqa: E402

VALUES = 61  # of an output, beside three of the whole
SIZE = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, patch_size=8)
OURS = dict(patch=8, width=32, depth=2, heads=4)
TIMM = dict(patch_size=8, embed_dim=32, depth=2, num_heads=4)


class Case(NamedTuple):
    """A network under one naming.

    Attributes:
      name: of the case.
      variant: of this package's family.
      fields: what this package's `build` is given beside the variant.
      make: returns the network for images of a size.
      run: (network, images [B, C, H, W]) -> its output.
      sizes: of the images, or heights and widths; the last ones with the weights of the first, resized.
      shapes: of another file than the network's state dict.
      gain: of the weights drawn.
      read: (network, arrays, a folder) -> None, where the library reads that file in a way of its own.
    """

    name: str
    variant: str
    fields: dict[str, Any]
    make: Callable[[Any], torch.nn.Module]
    run: Callable[[torch.nn.Module, torch.Tensor], torch.Tensor]
    sizes: tuple[int | tuple[int, int], ...] = (32, 56)
    shapes: Callable[[torch.nn.Module], dict[str, list[int]]] | None = None
    gain: float = 1.0
    read: Callable[[Any, dict[str, np.ndarray], str], None] | None = None


def plain(network: Any, x: torch.Tensor) -> torch.Tensor:
    return network(x)


def logits(network: Any, x: torch.Tensor) -> torch.Tensor:
    return network(x).logits


def first_token(network: Any, x: torch.Tensor) -> torch.Tensor:
    return network(x).last_hidden_state[:, 0]


def pooled(network: Any, x: torch.Tensor) -> torch.Tensor:
    return network(x).pooler_output


def timm_vit(name: str, **options: Any) -> Callable[[int], torch.nn.Module]:
    options = TIMM | options
    return lambda size: timm.create_model(name, img_size=size, **options)


def hugging_face(kind: str, config: str, **options: Any) -> Callable[[int], torch.nn.Module]:
    def make(size: int) -> torch.nn.Module:
        own = dict(options, image_size=size) if options.get("patch_size") else options
        return getattr(transformers, kind)(getattr(transformers, config)(**own))

    return make


def siglip(size: int) -> torch.nn.Module:
    text = dict(SIZE, vocab_size=20, max_position_embeddings=8, bos_token_id=1, eos_token_id=2)
    del text["patch_size"]
    vision = dict(SIZE, image_size=size)
    return transformers.SiglipModel(transformers.SiglipConfig(vision_config=vision, text_config=text))


def of_tower(network: Any, x: torch.Tensor) -> torch.Tensor:
    return network.vision_model(x).pooler_output


def open_clip_tower(size: int) -> torch.nn.Module:
    vision = open_clip.CLIPVisionCfg(layers=2, width=32, head_width=8, patch_size=8, image_size=size)
    text = open_clip.CLIPTextCfg(context_length=8, vocab_size=20, width=16, heads=2, layers=1)
    return open_clip.CLIP(6, vision, text)


def open_clip_siglip(size: int) -> torch.nn.Module:
    vision = open_clip.CLIPVisionCfg(
        image_size=size,
        timm_model_name="vit_base_patch16_siglip_224",
        timm_model_pretrained=False,
        timm_pool="map",
        timm_proj="none",
    )
    text = open_clip.CLIPTextCfg(context_length=8, vocab_size=20, width=32, heads=2, layers=1)
    network = open_clip.CustomTextCLIP(32, vision, text)
    network.visual.trunk = timm_vit("vit_base_patch16_siglip_224")(size)
    return network


def encode_image(network: Any, x: torch.Tensor) -> torch.Tensor:
    return network.encode_image(x)


def augreg_shapes(network: Any) -> dict[str, list[int]]:
    """Returns the shapes of the file that vision_transformer would write of a network of timm."""
    return google_shapes(network, "", 1, 2, 3, "Transformer/posembed_input/pos_embedding") | {
        "cls": [1, 1, 32]
    }


def big_vision_shapes(network: Any) -> dict[str, list[int]]:
    """Returns those of the image tower of SigLIP in big_vision, whose blocks are one array."""
    shapes = google_shapes(network, "params/img/", 0, 1, 0, "pos_embedding")
    layer = "params/img/Transformer/encoderblock"
    first = {name: shape for name, shape in shapes.items() if name.startswith(f"{layer}_0/")}
    stacked = {name.replace("encoderblock_0", "encoderblock"): [2, *shape] for name, shape in first.items()}
    shapes = {name: shape for name, shape in shapes.items() if not name.startswith(f"{layer}_")}
    head = "params/img/MAPHead_0/"
    inside = google_block(head, 0, 0, 0)
    inside = {name: shape for name, shape in inside.items() if "LayerNorm_1" not in name}
    shapes = {name: shape for name, shape in shapes.items() if "/head/" not in name}
    return (
        shapes | stacked | inside | {f"{head}probe": [1, 1, 32], "params/t": [], "params/txt/x/kernel": [3]}
    )


def from_google(network: Any, arrays: dict[str, np.ndarray], folder: str) -> None:
    np.savez(f"{folder}/x.npz", **arrays)
    network.load_pretrained(f"{folder}/x.npz")


def release_shapes(network: Any) -> dict[str, list[int]]:
    """Returns the shapes of DINOv2's own file with registers, of a network of timm."""
    shapes = {name: list(value.shape) for name, value in network.state_dict().items()}
    rows = shapes["pos_embed"][1] + 1  # with the class token's
    shapes |= {"register_tokens": shapes.pop("reg_token"), "pos_embed": [1, rows, 32], "mask_token": [1, 32]}
    return shapes


def from_release(network: Any, arrays: dict[str, np.ndarray], folder: str) -> None:
    state = {name: torch.from_numpy(array) for name, array in arrays.items()}
    network.load_state_dict(timm.models.vision_transformer._convert_dinov2(state, network))


def dinov3_shapes(network: Any) -> dict[str, list[int]]:
    """Returns the shapes of DINOv3's own file, of a network of timm."""
    names = {"reg_token": "storage_tokens", ".gamma_1": ".ls1.gamma", ".gamma_2": ".ls2.gamma"}
    names |= {".fc1_g.": ".w1.", ".fc1_x.": ".w2."}
    shapes = {"mask_token": [1, 32], "rope_embed.periods": [2]}
    for name, value in network.state_dict().items():
        if name.endswith("q_bias"):
            qkv = name.replace("q_bias", "qkv")
            shapes |= {f"{qkv}.bias": [96], f"{qkv}.bias_mask": [96]}
        elif not name.endswith("v_bias"):
            for own, theirs in names.items():
                name = name.replace(own, theirs)
            name = name.replace(".fc2.", ".w3.") if network.blocks[0].mlp._get_name() == "SwiGLU" else name
            shapes[name] = list(value.shape)
    return shapes


def from_dinov3(network: Any, arrays: dict[str, np.ndarray], folder: str) -> None:
    state = {name: torch.from_numpy(array) for name, array in arrays.items()}
    network.load_state_dict(timm.models.eva.checkpoint_filter_fn(state, network))


def dinov3(**options: Any) -> Callable[[Any], torch.nn.Module]:
    own = dict(DINOV2, intermediate_size=128, num_register_tokens=4, layerscale_value=1e-5, **options)
    return hugging_face("DINOv3ViTModel", "DINOv3ViTConfig", **own)


def google_block(block: str, attention: int, norm: int, mlp: int) -> dict[str, list[int]]:
    shapes = {}
    for part in ("query", "key", "value"):
        name = f"{block}MultiHeadDotProductAttention_{attention}/{part}"
        shapes |= {f"{name}/kernel": [32, 4, 8], f"{name}/bias": [4, 8]}
    name = f"{block}MultiHeadDotProductAttention_{attention}/out"
    shapes |= {f"{name}/kernel": [4, 8, 32], f"{name}/bias": [32]}
    for number in (0, norm):
        shapes |= {f"{block}LayerNorm_{number}/{leaf}": [32] for leaf in ("scale", "bias")}
    for number, shape in enumerate(([32, 128], [128, 32])):
        name = f"{block}MlpBlock_{mlp}/Dense_{number}"
        shapes |= {f"{name}/kernel": shape, f"{name}/bias": shape[1:]}
    return shapes


def google_shapes(
    network: Any, prefix: str, attention: int, norm: int, mlp: int, positions: str
) -> dict[str, list[int]]:
    shapes = {
        f"{prefix}{positions}": list(network.pos_embed.shape),
        f"{prefix}embedding/kernel": [8, 8, 3, 32],
        f"{prefix}embedding/bias": [32],
        f"{prefix}head/kernel": [32, 1000],
        f"{prefix}head/bias": [1000],
    }
    for leaf in ("scale", "bias"):
        shapes[f"{prefix}Transformer/encoder_norm/{leaf}"] = [32]
    for block in range(2):
        shapes |= google_block(f"{prefix}Transformer/encoderblock_{block}/", attention, norm, mlp)
    return shapes


DINOV2 = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "patch_size": 8}
VIT = "ViTForImageClassification", "ViTConfig"
SIZES_OF_DINOV3 = (40, (56, 24))  # odd numbers of patches, and no square
CASES: dict[str, tuple[Case, ...]] = {
    "vit": (
        Case("timm", "vit_b16", OURS, timm_vit("vit_base_patch16_224", num_classes=5), plain),
        Case("timm_dinov2", "vit_b14_dinov2", OURS, timm_vit("vit_base_patch14_dinov2"), plain),
        Case(
            "timm_dinov2_reg4", "vit_b14_dinov2_reg4", OURS, timm_vit("vit_base_patch14_reg4_dinov2"), plain
        ),
        Case(
            "dinov2_release_reg4",
            "vit_b14_dinov2_reg4",
            OURS,
            timm_vit("vit_base_patch14_reg4_dinov2"),
            plain,
            shapes=release_shapes,
            read=from_release,
        ),
        Case(
            "timm_siglip",
            "vit_b16_siglip",
            OURS | {"tanh_gelu": False},
            timm_vit("vit_base_patch16_siglip_224"),
            plain,
        ),
        Case(
            "timm_clip",
            "vit_b32_clip",
            OURS,
            timm_vit("vit_base_patch32_clip_quickgelu_224", num_classes=5),
            plain,
        ),
        Case("hf_vit", "vit_b16", OURS | {"epsilon": 1e-12}, hugging_face(*VIT, **SIZE), logits),
        Case(
            "hf_dinov2",
            "vit_b14_dinov2",
            OURS,
            hugging_face("Dinov2Model", "Dinov2Config", **DINOV2),
            first_token,
        ),
        Case(
            "hf_dinov2_reg4",
            "vit_b14_dinov2_reg4",
            OURS,
            hugging_face("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", **DINOV2),
            first_token,
        ),
        Case(
            "timm_dinov3",
            "vit_s16_dinov3",
            OURS | {"pool": "mean"},
            timm_vit("vit_small_patch16_dinov3"),
            plain,
            SIZES_OF_DINOV3,
        ),
        Case(
            "timm_dinov3_token",
            "vit_s16_dinov3",
            OURS,
            timm_vit("vit_small_patch16_dinov3_qkvb", global_pool="token"),
            plain,
            (32,),
        ),
        Case(
            "timm_dinov3_plus",
            "vit_s16plus_dinov3",
            OURS | {"pool": "mean"},
            timm_vit("vit_small_plus_patch16_dinov3"),
            plain,
            (32,),
        ),
        Case(
            "dinov3_release",
            "vit_s16plus_dinov3",
            OURS,
            timm_vit("vit_small_plus_patch16_dinov3_qkvb", global_pool="token"),
            plain,
            (32,),
            shapes=dinov3_shapes,
            read=from_dinov3,
        ),
        Case("hf_dinov3", "vit_s16_dinov3", OURS, dinov3(), pooled, SIZES_OF_DINOV3[1:]),
        Case(
            "hf_dinov3_plus",
            "vit_s16plus_dinov3",
            OURS,
            dinov3(use_gated_mlp=True, hidden_act="silu"),
            pooled,
            (32,),
        ),
        Case("hf_siglip", "vit_b16_siglip", OURS, siglip, of_tower),
        Case(
            "hf_siglip_tower",
            "vit_b16_siglip",
            OURS,
            hugging_face("SiglipVisionModel", "SiglipVisionConfig", **SIZE),
            pooled,
        ),
        Case("open_clip", "vit_b32_clip", OURS | {"quick_gelu": False}, open_clip_tower, encode_image),
        Case(
            "open_clip_siglip",
            "vit_b16_siglip",
            OURS | {"tanh_gelu": False},
            open_clip_siglip,
            encode_image,
        ),
        Case(
            "augreg",
            "vit_b16",
            OURS,
            timm_vit("vit_base_patch16_224"),
            plain,
            shapes=augreg_shapes,
            read=from_google,
        ),
        Case(
            "big_vision_siglip",
            "vit_b16_siglip",
            OURS | {"tanh_gelu": False},
            timm_vit("vit_base_patch16_siglip_224"),
            plain,
            shapes=big_vision_shapes,
            read=from_google,
        ),
    ),
    "resnet": (
        Case(
            "hf_resnet",
            "resnet50",
            {"stage_sizes": [1, 1, 1, 1]},
            hugging_face("ResNetForImageClassification", "ResNetConfig", depths=[1, 1, 1, 1]),
            logits,
            (64, 97),
        ),
        Case(
            "hf_resnet_basic",
            "resnet18",
            {"stage_sizes": [1, 1, 1, 1]},
            hugging_face(
                "ResNetForImageClassification",
                "ResNetConfig",
                depths=[1, 1, 1, 1],
                hidden_sizes=[64, 128, 256, 512],
                layer_type="basic",
            ),
            logits,
            (64, 97),
        ),
    ),
    "mobilenet_v2": (
        Case(
            "timm",
            "mobilenet_v2",
            {},
            lambda size: timm.create_model("mobilenetv2_100"),
            plain,
            (64, 97),
            None,
            2.0,
        ),
        Case(
            "hf_mobilenet_v2",
            "mobilenet_v2_tf",
            {},
            hugging_face("MobileNetV2ForImageClassification", "MobileNetV2Config", num_labels=1001),
            lambda network, x: logits(network, x)[:, 1:],
            (64, 97),
            None,
            2.0,
        ),
    ),
    "efficientnet": (
        Case(
            "timm_tf",
            "tf_efficientnet_b0",
            {},
            lambda size: timm.create_model("tf_efficientnet_b0"),
            plain,
            (97,),
        ),
        Case(
            "hf_efficientnet",
            "tf_efficientnet_b0",
            {},
            hugging_face(
                "EfficientNetForImageClassification",
                "EfficientNetConfig",
                width_coefficient=1.0,
                depth_coefficient=1.0,
                hidden_dim=1280,
                image_size=224,
            ),
            logits,
            (96,),  # at odd sizes of a map it pads otherwise than TensorFlow, whose way is ours
        ),
    ),
    "vgg": (Case("timm", "vgg11", {"hidden": [24, 24]}, lambda size: small_vgg(), plain, (224,), None, 2.0),),
}


def small_vgg() -> torch.nn.Module:
    """Returns timm's VGG-11 with 24 units in fc6 and fc7."""
    network = timm.create_model("vgg11", num_classes=5)
    network.pre_logits = timm.models.vgg.ConvMlp(512, 24, 7, mlp_ratio=1.0)
    network.head = timm.layers.ClassifierHead(24, 5, pool_type="avg")
    return network


def shapes_of(network: torch.nn.Module) -> dict[str, list[int]]:
    """Returns the names and shapes of the file that the network's library writes, without batch counters."""
    arrays = {name: value.shape for name, value in network.state_dict().items()}
    if isinstance(network, transformers.PreTrainedModel):
        with tempfile.TemporaryDirectory() as folder:
            network.save_pretrained(folder)
            arrays = {
                name: value.shape
                for name, value in safetensors.numpy.load_file(f"{folder}/model.safetensors").items()
            }
    return {name: list(shape) for name, shape in arrays.items() if not name.endswith("num_batches_tracked")}


def filled(case: Case, size: int, shapes: dict[str, list[int]]) -> torch.nn.Module:
    """Returns the network, its weights read from a file as its library reads them."""
    network, drawn = case.make(size), draw_all(shapes, case.gain)
    with tempfile.TemporaryDirectory() as folder:
        if case.read is not None:
            case.read(network, drawn, folder)
        elif isinstance(network, transformers.PreTrainedModel):
            network.save_pretrained(folder)
            safetensors.numpy.save_file(drawn, f"{folder}/model.safetensors", metadata={"format": "pt"})
            network, told = type(network).from_pretrained(folder, output_loading_info=True)
            missing = [name for name in told["missing_keys"] if not name.endswith("num_batches_tracked")]
            assert not missing and not told["unexpected_keys"], told
        else:
            state = {name: torch.from_numpy(np.asarray(array)) for name, array in drawn.items()}
            network.load_state_dict(network.state_dict() | state)
    return network.eval()


@torch.no_grad()
def record(case: Case) -> dict[str, np.ndarray]:
    recorded: dict[str, Any] = {"case": text([case.variant, case.fields, case.gain])}
    for size in case.sizes:
        network = case.make(size)
        shapes = (case.shapes or shapes_of)(network)
        height, width = size if isinstance(size, tuple) else (size, size)
        pixels = torch.from_numpy(images(height)[:, :, :width].transpose(0, 3, 1, 2).copy())
        output = summary(case.run(filled(case, size, shapes), pixels).numpy(), VALUES)
        recorded |= {f"{height}x{width}/shapes": text(shapes), f"{height}x{width}/output": output}
    return recorded


def text(value: Any) -> np.ndarray:
    """Returns JSON as bytes, which compress well."""
    return np.frombuffer(json.dumps(value, separators=(",", ":")).encode(), np.uint8)


def main(families: list[str]) -> None:
    """Records the families named, all of them where none is."""
    torch.set_num_threads(2)
    for family in families or CASES:
        recorded = {f"{c.name}/{key}": value for c in CASES[family] for key, value in record(c).items()}
        path = Path(__file__).with_name("namings") / f"{family}.npz"
        path.parent.mkdir(exist_ok=True)
        np.savez_compressed(path, **recorded)
        print(f"{path.name}: {len(CASES[family])} cases, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
