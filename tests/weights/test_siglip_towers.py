"""SigLIP's files of weights and its tokenizer give what the libraries that they come from compute.

Recorded by tests/golden/record_siglip.py from Hugging Face's transformers and OpenCLIP. Needs no torch.
"""

import functools
import importlib.util
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.contracts.objective import Task
from imgcls_jax.data.captions import Captions
from imgcls_jax.data.clip_tokens import ClipTokenizer
from imgcls_jax.data.siglip_tokens import SiglipTokenizer
from imgcls_jax.models import vit
from imgcls_jax.objectives import siglip
from imgcls_jax.tools import zero_shot
from imgcls_jax.weights import pretrained

GOLDEN = Path(__file__).parents[1] / "golden"
_spec = importlib.util.spec_from_file_location("drawing", GOLDEN / "drawing.py")
drawing = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(drawing)

SIZE, VARIANT, TOLERANCE = 16, "vit_b16_siglip", 1e-4
TASK = Task(3, 8, steps_per_epoch=1, total_steps=1, image_shape=(SIZE, SIZE, 3))
RECORDED = dict(np.load(GOLDEN / "towers" / "siglip.npz"))
TOKENS = json.loads((GOLDEN / "towers" / "siglip_tokens.json").read_text(encoding="utf-8"))
BATCH = {"image": drawing.images(SIZE, 3), "text": RECORDED["ids"][:, None]}
TOWER = {"text_width": 16, "text_depth": 2, "text_heads": 2, "text_mlp_width": 56, "context_length": 9}
# Hugging Face computes the GELU by tanh, as the weights were trained, OpenCLIP and timm the exact one.
CASES = {"hugging_face": True, "open_clip": False}


@functools.cache
def objective_and_params(tanh_gelu):
    backbone = vit.build(VARIANT, patch=4, width=16, depth=2, heads=2, tanh_gelu=tanh_gelu)
    objective = siglip.make(backbone, TASK, vocab_size=40, **TOWER)
    return objective, jax.jit(objective.init)(jax.random.key(0), BATCH)[0]


def loaded(case):
    objective, params = objective_and_params(CASES[case])
    arrays = drawing.draw_all(json.loads(RECORDED[f"{case}/shapes"].tobytes()), 1.0)
    target = {"params": params, "batch_stats": {}}
    own, _, report = pretrained.load_torch(arrays, vit, VARIANT, target)
    assert jax.tree.map(jnp.shape, own) == jax.tree.map(jnp.shape, params)
    assert report.notes == ("log_scale, logit_bias, text: read",)
    return objective, own


def unit(embedding):
    return embedding / np.linalg.norm(embedding, axis=1, keepdims=True)


@pytest.mark.parametrize("case", CASES)
def test_both_towers_and_the_logits_are_those_recorded(case):
    objective, params = loaded(case)
    found = jax.jit(objective.predict)(params, {"batch_stats": {}}, BATCH)
    texts = found["text_embedding"][:, 0]
    for key, mine in (("image", found["embedding"]), ("text", texts)):
        assert np.abs(mine - unit(RECORDED[f"{case}/{key}"])).max() <= TOLERANCE, key
    logits = np.exp(params["log_scale"]) * found["embedding"] @ texts.T + params["logit_bias"]
    np.testing.assert_allclose(logits, RECORDED[f"{case}/logits"], atol=TOLERANCE)
    head = jax.jit(objective.class_head)(params, RECORDED["ids"][:, None])
    np.testing.assert_allclose(found["embedding"] @ head["kernel"] + head["bias"], logits, atol=TOLERANCE)


def test_the_loss_is_the_mean_over_images_of_all_pairs():
    objective, params = loaded("hugging_face")
    found, _ = jax.jit(objective.loss)(params, {"batch_stats": {}}, BATCH, jax.random.key(0), jnp.int32(0))
    signs = 2 * np.eye(3) - 1
    expected = np.log1p(np.exp(-signs * RECORDED["hugging_face/logits"])).sum() / 3
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_row_of_another_length_is_refused():
    objective, params = objective_and_params(True)
    with pytest.raises(
        ValueError, match="reads rows of 9 tokens, and these have 8: set objective.context_le"
    ):
        objective.class_head(params, RECORDED["ids"][:, None, :8])


@pytest.fixture
def vocabulary(tmp_path):
    pytest.importorskip("tokenizers")
    (tmp_path / "tokenizer.json").write_text(json.dumps(TOKENS["tokenizer"]), encoding="utf-8")
    return tmp_path


def test_the_tokens_are_those_of_transformers(vocabulary):
    tokenizer = SiglipTokenizer(vocabulary, TOKENS["context_length"])
    assert tokenizer(TOKENS["texts"], truncate=True).tolist() == TOKENS["rows"]
    assert tokenizer.vocab_size == len(TOKENS["tokenizer"]["model"]["vocab"])
    with pytest.raises(ValueError, match="at most 8 tokens; 'a a a"):
        tokenizer(["a " * 12], truncate=False)


def test_captions_take_the_tokenizer_of_their_vocabulary(vocabulary):
    assert Captions([TOKENS["texts"]], str(vocabulary), 9)[0].tolist() == TOKENS["rows"]
    with pytest.raises(ValueError, match="no vocabulary of CLIP: it needs <|startoftext|>"):
        ClipTokenizer(vocabulary)
    merges = vocabulary / "bpe_simple_vocab_16e6.txt"
    merges.write_text("#\nr e\n", encoding="utf-8")
    assert Captions([["re"]], str(merges), 9)[0].shape == (1, 9)
    with pytest.raises(FileNotFoundError, match="SentencePiece's own spiece.model is not read"):
        SiglipTokenizer(merges)
    (vocabulary / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="tokenizer.json: not a file of the package tokenizers"):
        SiglipTokenizer(vocabulary)


def test_zero_shot_gives_each_class_a_probability_of_its_own(vocabulary, tmp_path):
    """From a file of weights through the command; no data."""
    shapes = json.loads(RECORDED["hugging_face/shapes"].tobytes())
    shapes["text_model.embeddings.token_embedding.weight"][0] = 48  # the vocabulary here
    arrays = {name: np.asarray(a) for name, a in drawing.draw_all(shapes, 1.0).items()}
    pretrained.write_safetensors(tmp_path / "model.safetensors", arrays)
    (tmp_path / "classes.txt").write_text("cat\ndog\tred bus\n", encoding="utf-8")
    (tmp_path / "siglip.py").write_text(CONFIG, encoding="utf-8")
    command = [f"--config={tmp_path / 'siglip.py'}", f"--vocabulary={vocabulary}"]
    command += [f"--config.model.pretrained={tmp_path / 'model.safetensors'}", "--templates=a {}"]
    command += [f"--classes={tmp_path / 'classes.txt'}", "--platforms=cpu", str(tmp_path / "exported")]
    assert zero_shot.main(command) == 0
    from imgcls_jax.inference import export

    network = export.read(tmp_path / "exported")
    assert network.multi_label and network.class_names == ("cat", "dog")
    pixels = np.round((drawing.images(SIZE, 3) + 1) * 127.5).astype(np.uint8)
    found = network.function(pixels)

    objective = siglip.make(vit.build(VARIANT, **NETWORK), TASK, vocab_size=48, **TOWER)
    target = jax.eval_shape(objective.init, jax.random.key(0), BATCH)[0]
    params = pretrained.load_torch(arrays, vit, VARIANT, {"params": target, "batch_stats": {}})[0]
    ids = SiglipTokenizer(vocabulary, 9)(["a cat", "a red bus"], truncate=False)
    batch = {"image": (pixels / 255 - 0.5) / 0.5, "text": np.tile(ids, (3, 1, 1))}
    expected = jax.jit(objective.predict)(params, {"batch_stats": {}}, batch)
    cosines = np.einsum("bd,bkd->bk", expected["embedding"], expected["text_embedding"])
    logits = np.exp(params["log_scale"]) * cosines + params["logit_bias"]
    np.testing.assert_allclose(found["probabilities"], jax.nn.sigmoid(logits), atol=1e-4)


NETWORK = {"patch": 4, "width": 16, "depth": 2, "heads": 2}
CONFIG = """
from imgcls_jax.config import sections


def get_config(arg=""):
    config, _ = sections(arg)
    config.data.update(source="caption_table", root="nowhere", vocabulary="nothing", context_length=9)
    config.data.train_transforms = "decode | normalize(0.5, 0.5)"
    config.data.eval_transforms = "decode | center_crop(16) | normalize(0.5, 0.5)"
    config.model.update(name="vit", variant="vit_b16_siglip", patch=4, width=16, depth=2, heads=2)
    config.objective.update(name="siglip", text_width=16, text_depth=2, text_heads=2, text_mlp_width=56)
    config.objective.update(context_length=9, vocab_size=48)
    config.optimizer.update(name="sgd", learning_rate=0.1)
    config.train.update(batch_size=1, total_steps=1)
    return config
"""
