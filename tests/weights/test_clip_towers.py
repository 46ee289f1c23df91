"""CLIP's files of weights, under each of their names, give what the networks that they come from compute.

Recorded by tests/golden/record_clip.py from OpenCLIP and Hugging Face's transformers. Needs no torch.
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
from imgcls_jax.models import vit
from imgcls_jax.objectives import clip
from imgcls_jax.weights import pretrained

GOLDEN = Path(__file__).parents[1] / "golden"
_spec = importlib.util.spec_from_file_location("drawing", GOLDEN / "drawing.py")
drawing = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(drawing)

SIZE, VARIANT, TOLERANCE = 16, "vit_b32_clip", 1e-4
TASK = Task(3, 8, steps_per_epoch=1, total_steps=1, image_shape=(SIZE, SIZE, 3))
RECORDED = dict(np.load(GOLDEN / "towers" / "clip.npz"))
CASES = ("open_clip", "open_clip_gelu", "custom_text", "hugging_face")
BATCH = {"image": drawing.images(SIZE, 3), "text": RECORDED["ids"][:, None]}


@functools.cache
def objective_and_params(quick_gelu):
    backbone = vit.build(VARIANT, patch=4, width=16, depth=2, heads=2, quick_gelu=quick_gelu)
    towers = {"dim": 6, "text_width": 16, "text_depth": 2, "text_heads": 2, "context_length": 9}
    objective = clip.make(backbone, TASK, vocab_size=40, **towers)
    return objective, jax.jit(objective.init)(jax.random.key(0), BATCH)[0]


def state_dict(case):
    return drawing.draw_all(json.loads(RECORDED[f"{case}/shapes"].tobytes()), 1.0)


def load(arrays, params):
    return pretrained.load_torch(arrays, vit, VARIANT, {"params": params, "batch_stats": {}})


@pytest.mark.parametrize("case", CASES)
def test_both_towers_compute_what_was_recorded(case):
    objective, params = objective_and_params(case != "open_clip_gelu")
    arrays = state_dict(case)
    loaded, _, report = load(arrays, params)
    assert jax.tree.map(jnp.shape, loaded) == jax.tree.map(jnp.shape, params)
    assert report.notes == ("log_scale, projection, text: read",)
    assert loaded["log_scale"] == arrays["logit_scale"]
    found = jax.jit(objective.predict)(loaded, {"batch_stats": {}}, BATCH)
    for key, mine in (("image", found["embedding"]), ("text", found["text_embedding"][:, 0])):
        expected = RECORDED[f"{case}/{key}"]
        expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
        assert np.abs(mine - expected).max() <= TOLERANCE, key


def test_the_kind_of_gelu_shows():
    """Else the test above would not tell the two apart."""
    objective, params = objective_and_params(True)
    loaded, _, _ = load(state_dict("open_clip_gelu"), params)
    found = jax.jit(objective.predict)(loaded, {"batch_stats": {}}, BATCH)["embedding"]
    expected = RECORDED["open_clip_gelu/image"]
    expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.abs(found - expected).max() > 10 * TOLERANCE


@pytest.mark.parametrize("case", ["open_clip", "custom_text"])
def test_a_prefix_of_a_training_program_is_taken_away(case):
    _, params = objective_and_params(True)
    arrays = state_dict(case)
    loaded, _, report = load({f"module.{name}": array for name, array in arrays.items()}, params)
    jax.tree.map(np.testing.assert_array_equal, loaded, load(arrays, params)[0])
    assert report.notes == ("names read under 'module.'", "log_scale, projection, text: read")


def test_what_the_release_keeps_beside_the_weights_is_left_out():
    _, params = objective_and_params(True)
    arrays = state_dict("open_clip")
    beside = {"attn_mask": np.zeros((9, 9), np.float32), "context_length": np.float32(9)}
    beside |= {"input_resolution": np.float32(SIZE), "vocab_size": np.float32(40)}
    plain, again = load(arrays, params)[0], load(arrays | beside, params)[0]
    jax.tree.map(np.testing.assert_array_equal, plain, again)


def test_an_image_tower_alone_leaves_the_texts_as_they_are():
    _, params = objective_and_params(True)
    arrays = {name: a for name, a in state_dict("open_clip").items() if name.startswith("visual.")}
    loaded, _, report = load(arrays, params)
    assert loaded.keys() == {"backbone"}
    assert report.notes[-1] == "log_scale, projection, text: not in the file, start afresh"


def test_towers_of_other_sizes_are_refused():
    _, params = objective_and_params(True)
    arrays = state_dict("open_clip")
    arrays["token_embedding.weight"] = arrays["token_embedding.weight"][:-1]
    del arrays["ln_final.bias"]
    with pytest.raises(
        ValueError, match="do not fit the objective's text tower .* missing: ln_final.bias; 1 "
    ):
        load(arrays, params)
    halves = {
        k: a for k, a in state_dict("hugging_face").items() if "layers.1.self_attn.k_proj.bias" not in k
    }
    with pytest.raises(ValueError, match="resblocks.1.self_attn has q, v of q, k and v alone"):
        load(halves, params)
