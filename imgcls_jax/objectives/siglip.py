"""SigLIP: images and their captions are embedded alike, each pair by itself a question of yes or no.

Zhai et al., "Sigmoid Loss for Language Image Pre-Training", arXiv 2303.15343 (2023). As `clip`, but for the
loss: every pair of an image and a text of the batch is classified as belonging together or not, by a sigmoid
with a learned scale and bias, so that no sum over the batch is needed. The text tower attends to all tokens
of a row and is read at the last. Images have no projection: the embedding's width is that of the texts.

With `class_prompts` the objective also predicts "logits", the cosines times exp(s) plus b, and
"probabilities", the sigmoid of each: how far a sentence fits the image, whatever the others do.

params: backbone, text (layers/text_tower.py), log_scale [], logit_bias [].

objective_state:
  batch_stats: the backbone's running statistics, float32, {} where it has none.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from imgcls_jax.contracts.objective import Batch, ObjectiveState, Params, Task, require_between
from imgcls_jax.data.siglip_tokens import CONTEXT_LENGTH, SiglipTokenizer
from imgcls_jax.layers.text_tower import TextTower
from imgcls_jax.losses import sigmoid_pair_loss
from imgcls_jax.objectives.clip import ClipObjective, TwoTowers, heads_of, sentences_of

# Where scale and bias begin (section 3.2): far on the side of "no", as most pairs are.
INITIAL_LOG_SCALE, INITIAL_BIAS = math.log(10.0), -10.0


def make(
    backbone: Any,
    task: Task,
    *,
    text_width: int = 768,
    text_depth: int = 12,
    text_heads: int = 0,
    text_mlp_width: int = 0,
    context_length: int = CONTEXT_LENGTH,
    vocab_size: int = 32000,
    class_prompts: Sequence[str] = (),
    templates: str | Sequence[str] = "plain",
    vocabulary: str = "",
) -> ClipObjective:
    """Returns the objective; predict gives the embedding of images, of norm 1, and that of captions.

    Args:
      backbone: module of models/.
      task: axis_name, image_shape and num_classes are read.
      text_width, text_depth, text_heads: W, layers and heads of the text tower; 0 heads for W / 64.
      text_mlp_width: of the layer inside each of its MLPs; 0 for 4 W.
      context_length: L, tokens of a text; that of data.context_length.
      vocab_size: of the vocabulary; 32,000 is that of the released towers.
      class_prompts, templates, vocabulary: as `clip` has them; the vocabulary is SigLIP's.

    Raises:
      ValueError: a hyper-parameter out of range, prompts without a vocabulary or too long.
      FileNotFoundError: no such vocabulary or templates.
    """
    require_between(1, math.inf, text_width=text_width, text_depth=text_depth, vocab_size=vocab_size)
    require_between(0, math.inf, text_heads=text_heads, text_mlp_width=text_mlp_width)
    require_between(3, math.inf, context_length=context_length)
    image = jax.ShapeDtypeStruct((1, *task.image_shape), jnp.float32)
    seen = jax.eval_shape(lambda x: backbone.init_with_output(jax.random.key(0), x, train=False)[0], image)
    tower = TextTower(
        vocab_size,
        context_length,
        text_width,
        text_depth,
        seen.embedding.shape[-1],
        heads=heads_of(text_width, text_heads),
        dtype=getattr(backbone, "dtype", None),
        remat=getattr(backbone, "remat", False),
        whole_row=True,
        tanh_gelu=getattr(backbone, "tanh_gelu", True),
        mlp_width=text_mlp_width,
    )
    sentences = sentences_of(class_prompts, templates, SiglipTokenizer, vocabulary, tower, task.num_classes)
    learner = _SigLip(backbone, tower, sentences, task.axis_name)
    return ClipObjective(
        batch_keys=("image", "text"),
        init=learner.init,
        loss=learner.loss,
        predict=learner.predict,
        reads_pixels=False,
        tokenizer=SiglipTokenizer,
        class_head=learner.class_head,
        in_parts=(
            "this is another loss: the pairs that do not belong together are those of each part alone; a "
            "smaller train.batch_size says the same openly"
        ),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _SigLip(TwoTowers):
    """The algorithm; attributes as those of `TwoTowers`."""

    def init(self, rng: jax.Array, batch: Batch) -> tuple[Params, ObjectiveState]:
        params, objective_state = super().init(rng, batch)
        del params["projection"]
        scale, bias = jnp.float32(INITIAL_LOG_SCALE), jnp.float32(INITIAL_BIAS)
        return params | {"log_scale": scale, "logit_bias": bias}, objective_state

    def pair_loss(self, params: Params, images: jax.Array, texts: jax.Array) -> jax.Array:
        return sigmoid_pair_loss(
            images,
            texts,
            log_scale=params["log_scale"],
            bias=params["logit_bias"],
            axis_name=self.axis_name,
        )

    def class_head(self, params: Params, sentences: Any) -> dict[str, jax.Array]:
        return super().class_head(params, sentences) | {"bias": params["logit_bias"]}

    def predict(self, params: Params, objective_state: ObjectiveState, batch: Batch) -> dict[str, jax.Array]:
        outputs = super().predict(params, objective_state, batch)
        if "logits" in outputs:
            outputs["probabilities"] = jax.nn.sigmoid(outputs["logits"])
        return outputs

    def projected(self, params: Params, features: Any) -> jax.Array:
        return features.embedding
