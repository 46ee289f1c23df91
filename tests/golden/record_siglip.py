"""Records what SigLIP's towers and tokenizer compute, for tests/weights/test_siglip_towers.py.

  python tests/golden/record_siglip.py

Needs torch, open_clip, transformers, sentencepiece and protobuf; the tests do not. The towers are small, with
weights drawn from the names and shapes of their state dict. To tests/golden/towers/siglip.npz go, by the name
of the case: shapes as JSON, the token ids, both embeddings before they are normalized, and the logits of each
image with each text. SentencePiece learns a small vocabulary from sentences here; transformers writes it as
tokenizer.json, and its SiglipTokenizer gives the ids of some texts (siglip_tokens.json).
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

# torchvision for another build of torch looks for operators that these networks do not use.
_library = torch.library.Library("torchvision", "DEF")
_library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
_library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import open_clip  # noqa: E402
import sentencepiece  # noqa: E402
import timm  # noqa: E402
import transformers  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))
from drawing import draw_all, images  # noqa: E402

FOLDER = Path(__file__).parent / "towers"
SIZE, PATCH, WIDTH, HEADS, DEPTH = 16, 4, 16, 2, 2
VOCABULARY, CONTEXT, INNER = 40, 9, 56
IDS = np.array([[5, 7, 1, 1, 1, 1, 1, 1, 1], [38, 2, 39, 4, 5, 6, 7, 8, 1], [*range(30, 39)]])
THINGS = ("cat", "dog", "red bus", "blue bird", "bowl of soup", "street at night", "mountain lake")
SENTENCES = ("a photo of a {}.", "the {} on a table", "two pictures of the same {}!", "it's a {}, isn't it?")
TEXTS = (
    "a photo of a cat.", "A  Photo, of the DOG!  ", "it's not (yet) a zebra?", "", "mountain_lake & co.",
    "caf\u00e9 na\u00efve \u00df \uff21\uff22", "\u732b", "tab\tand\nnewline", "a " * 12, "x" * 20,
)  # fmt: skip


def of_transformers() -> torch.nn.Module:
    """Returns Hugging Face's network, whose MLP of texts has a width of its own."""
    shared = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS}
    text = shared | {"vocab_size": VOCABULARY, "max_position_embeddings": CONTEXT, "intermediate_size": INNER}
    text |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, "projection_size": WIDTH}
    vision = shared | {"image_size": SIZE, "patch_size": PATCH, "intermediate_size": 4 * WIDTH}
    return transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision))


def of_open_clip() -> torch.nn.Module:
    """Returns OpenCLIP's network, the fields of the texts as ViT-B-16-SigLIP has them."""
    vision = {
        "image_size": SIZE,
        "timm_model_name": "vit_base_patch16_siglip_224",
        "timm_model_pretrained": False,
        "timm_pool": "map",
        "timm_proj": "none",
    }
    text = {"context_length": CONTEXT, "vocab_size": VOCABULARY, "width": WIDTH, "heads": HEADS}
    text |= {"layers": DEPTH, "no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
    text |= {"norm_kwargs": {"eps": 1e-6}, "mlp_ratio": INNER / WIDTH}
    network = open_clip.CustomTextCLIP(WIDTH, vision, text, init_logit_bias=-10)
    network.visual.trunk = timm.create_model(
        "vit_base_patch16_siglip_224",
        img_size=SIZE,
        patch_size=PATCH,
        embed_dim=WIDTH,
        depth=DEPTH,
        num_heads=HEADS,
    )
    return network


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
    if isinstance(network, transformers.SiglipModel):
        image, text = (network.vision_model(pixels).pooler_output, network.text_model(ids).pooler_output)
        logits = network(input_ids=ids, pixel_values=pixels).logits_per_image
    else:
        image, text = network.encode_image(pixels), network.encode_text(ids)
        logits = network.get_logits(pixels, ids)[0]
    return {
        "shapes": np.frombuffer(json.dumps(shapes, separators=(",", ":")).encode(), np.uint8),
        "image": image.numpy(),
        "text": text.numpy(),
        "logits": logits.numpy(),
    }


def record_tokens() -> dict[str, Any]:
    """Returns a small tokenizer.json and the ids of TEXTS, by transformers' SiglipTokenizer."""
    with tempfile.TemporaryDirectory() as folder:
        sentences = [sentence.format(thing) for sentence in SENTENCES for thing in THINGS]
        Path(folder, "sentences.txt").write_text("\n".join(sentences), encoding="utf-8")
        Path(folder, "rules.tsv").write_text("FF41\t61\nFF42\t62\n", encoding="utf-8")
        sentencepiece.SentencePieceTrainer.train(
            input=f"{folder}/sentences.txt",
            model_prefix=f"{folder}/spiece",
            vocab_size=80,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            hard_vocab_limit=False,
            normalization_rule_tsv=f"{folder}/rules.tsv",  # "nmt_nfkc", the released one's, takes 300 kB
        )
        slow = transformers.SiglipTokenizer(f"{folder}/spiece.model", model_max_length=CONTEXT)
        rows = slow(list(TEXTS), padding="max_length", truncation=True, max_length=CONTEXT)["input_ids"]
        model = f"{folder}/spiece.model"
        fast = transformers.T5Tokenizer.from_pretrained(folder, vocab_file=model, extra_ids=0)
        fast.save_pretrained(folder)
        tokenizer = json.loads(Path(folder, "tokenizer.json").read_text(encoding="utf-8"))
    return {"tokenizer": tokenizer, "context_length": CONTEXT, "texts": TEXTS, "rows": rows}


def main() -> None:
    """Records all cases."""
    cases = {"hugging_face": of_transformers(), "open_clip": of_open_clip()}
    recorded = {"ids": IDS.astype(np.int32)}
    for name, network in cases.items():
        recorded |= {f"{name}/{key}": value for key, value in record(network).items()}
    np.savez_compressed(FOLDER / "siglip.npz", **recorded)
    content = json.dumps(record_tokens(), ensure_ascii=True, separators=(",", ":"))
    (FOLDER / "siglip_tokens.json").write_text(f"{content}\n", encoding="utf-8")
    for name in ("siglip.npz", "siglip_tokens.json"):
        print(f"{name}: {(FOLDER / name).stat().st_size} bytes")


if __name__ == "__main__":
    main()
