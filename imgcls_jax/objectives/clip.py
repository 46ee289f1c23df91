"""CLIP: images and their captions are embedded alike, and unlike those of all other pairs.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", arXiv:2103.00020
(2021). An image has n captions; each step draws one of them. The scale s of the cosines is learned, and
brought back into [1, 100] after each step, as in OpenCLIP's trainer; the paper bounds it from above alone.
Text and image pass through a linear projection each. The text tower has QuickGELU where the backbone has.
Difference: on any backbone the projection stands on the embedding; CLIP's ResNets pool by attention instead.

With `class_prompts` the objective also predicts "logits": the cosines of an image with sentences on each
class, times s, which makes it a classifier of classes that were never labeled (section 3.1).

params: backbone, projection {"kernel": [D', D]}, text (layers/text_tower.py), log_scale [].

objective_state:
  batch_stats: the backbone's running statistics, float32, {} where it has none.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from imgcls_jax.contracts.backbone import apply_backbone, init_backbone
from imgcls_jax.contracts.objective import (
    Batch,
    Metrics,
    Objective,
    ObjectiveState,
    Params,
    Task,
    require_between,
)
from imgcls_jax.data.clip_tokens import CONTEXT_LENGTH, ClipTokenizer
from imgcls_jax.data.prompts import prompts, read_templates
from imgcls_jax.layers.text_tower import TextTower
from imgcls_jax.losses import INITIAL_LOG_SCALE, LOG_SCALE_RANGE, clip_loss, l2_normalize

PROMPTS_AT_ONCE = 256  # sentences that the text tower reads at a time


def make(
    backbone: Any,
    task: Task,
    *,
    dim: int = 512,
    text_width: int = 512,
    text_depth: int = 12,
    text_heads: int = 0,
    context_length: int = CONTEXT_LENGTH,
    vocab_size: int = 49408,
    class_prompts: Sequence[str] = (),
    templates: str | Sequence[str] = "plain",
    vocabulary: str = "",
) -> ClipObjective:
    """Returns the objective; predict gives the embedding of images, of norm 1, and that of captions.

    Args:
      backbone: module of models/.
      task: axis_name and num_classes are read.
      dim: D, where images and texts meet.
      text_width, text_depth, text_heads: W, layers and heads of the text tower; 0 heads for W / 64.
      context_length: L, the most tokens of a text; that of data.context_length.
      vocab_size: of the vocabulary; 49,408 is CLIP's.
      class_prompts: the words for each class, in the order of the labels, at least as many as the data have
        classes; () predicts no logits. Every prediction embeds them anew.
      templates: of the sentences about a class, as data/prompts.py reads them; a class's weight is the mean
        over them.
      vocabulary: where the tokenizer is, as data/clip_tokens.py reads it; read with class_prompts alone.

    Raises:
      ValueError: a hyper-parameter out of range, prompts without a vocabulary or too long.
      FileNotFoundError: no such vocabulary or templates.
    """
    require_between(1, math.inf, dim=dim, text_width=text_width, text_depth=text_depth, vocab_size=vocab_size)
    require_between(0, math.inf, text_heads=text_heads)
    require_between(3, math.inf, context_length=context_length)
    tower = TextTower(
        vocab_size,
        context_length,
        text_width,
        text_depth,
        dim,
        heads=heads_of(text_width, text_heads),
        quick_gelu=getattr(backbone, "quick_gelu", False),
        dtype=getattr(backbone, "dtype", None),
        remat=getattr(backbone, "remat", False),
    )
    sentences = sentences_of(class_prompts, templates, ClipTokenizer, vocabulary, tower, task.num_classes)
    if sentences is not None:
        sentences = sentences[:, :, : 1 + int(sentences.argmax(axis=-1).max())]  # up to the last end token
    learner = TwoTowers(backbone, tower, sentences, task.axis_name)
    return ClipObjective(
        batch_keys=("image", "text"),
        init=learner.init,
        loss=learner.loss,
        predict=learner.predict,
        project=learner.project,
        reads_pixels=False,
        tokenizer=ClipTokenizer,
        class_head=learner.class_head,
        in_parts=(
            "this is another loss: the pairs that a pair must differ from are those of its own part; a "
            "smaller train.batch_size says the same openly"
        ),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipObjective(Objective):
    """The objective, from which tools/zero_shot.py makes classifiers.

    Attributes:
      tokenizer: (vocabulary, context_length) -> the tokenizer of the texts.
      class_head: (params, int [K, T, l]) -> the classifier that sentences make, of `TwoTowers`.
    """

    tokenizer: Callable[[str, int], Any]
    class_head: Callable[[Params, Any], dict[str, jax.Array]]


@dataclasses.dataclass(frozen=True, eq=False)
class TwoTowers:
    """The algorithm.

    Attributes:
      backbone: module of models/.
      tower: of the texts.
      sentences: int32 [K, T, l], token ids of the sentences about each class; None for no classes.
      axis_name: of the task.
    """

    backbone: Any
    tower: TextTower
    sentences: np.ndarray | None
    axis_name: str | None

    def init(self, rng: jax.Array, batch: Batch) -> tuple[Params, ObjectiveState]:
        rng_backbone, rng_projection, rng_text = jax.random.split(rng, 3)
        params, batch_stats, features = init_backbone(self.backbone, rng_backbone, batch["image"])
        width = features.embedding.shape[-1]
        kernel = jax.random.normal(rng_projection, (width, self.tower.dim)) * width**-0.5
        return {
            "backbone": params,
            "projection": {"kernel": kernel},
            "text": self.tower.init(rng_text, batch["text"][:, 0])["params"],
            "log_scale": jnp.float32(INITIAL_LOG_SCALE),
        }, {"batch_stats": batch_stats}

    def loss(
        self, params: Params, objective_state: ObjectiveState, batch: Batch, rng: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, tuple[ObjectiveState, Metrics]]:
        del step
        rng_backbone, rng_caption = jax.random.split(rng)
        features, batch_stats = apply_backbone(
            self.backbone,
            params["backbone"],
            objective_state["batch_stats"],
            batch["image"],
            train=True,
            rng=rng_backbone,
        )
        texts: Any = self.tower.apply({"params": params["text"]}, draw_captions(rng_caption, batch["text"]))
        losses = self.pair_loss(params, self.projected(params, features), texts)
        metrics = {"scale": jnp.exp(params["log_scale"])}
        return jnp.mean(losses), ({"batch_stats": batch_stats}, metrics)

    def pair_loss(self, params: Params, images: jax.Array, texts: jax.Array) -> jax.Array:
        """Returns the loss of pairs of embeddings [B, D], whose mean is minimized."""
        return clip_loss(images, texts, log_scale=params["log_scale"], axis_name=self.axis_name)

    def project(self, params: Params) -> Params:
        return params | {"log_scale": jnp.clip(params["log_scale"], *LOG_SCALE_RANGE)}

    def predict(self, params: Params, objective_state: ObjectiveState, batch: Batch) -> dict[str, jax.Array]:
        """Returns {"embedding": float32 [B, D]}, "text_embedding": float32 [B, n, D] where the batch has
        captions, and "logits": float32 [B, K] where there are class prompts; embeddings have norm 1."""
        features, _ = apply_backbone(
            self.backbone, params["backbone"], objective_state["batch_stats"], batch["image"], train=False
        )
        outputs = {"embedding": l2_normalize(self.projected(params, features))}
        if "text" in batch:
            # One caption of every image at a time, so that a batch split over devices stays where it is.
            read = lambda ids: self.tower.apply({"params": params["text"]}, ids)  # noqa: E731
            texts = jax.lax.map(read, jnp.swapaxes(batch["text"], 0, 1))  # [n, B, D]
            outputs["text_embedding"] = l2_normalize(jnp.swapaxes(texts, 0, 1))
        if self.sentences is not None:
            outputs["logits"] = class_logits(outputs["embedding"], self.class_head(params, self.sentences))
        return outputs

    def class_head(self, params: Params, sentences: jax.Array | np.ndarray) -> dict[str, jax.Array]:
        """Returns the classifier that sentences make.

        Eq.: w_c = exp(s) normalize(mean_t normalize(text(sentence_ct))), a column a class.

        Args:
          params: of the objective.
          sentences: int [K, T, l].

        Returns:
          {"kernel": float32 [D, K]}, to be multiplied with embeddings of norm 1.
        """
        classes, templates, length = sentences.shape
        ids = jnp.asarray(sentences).reshape(-1, length)
        read = lambda row: self.tower.apply({"params": params["text"]}, row[None])[0]  # noqa: E731
        texts = l2_normalize(jax.lax.map(read, ids, batch_size=min(PROMPTS_AT_ONCE, len(ids))))
        means = l2_normalize(jnp.mean(texts.reshape(classes, templates, -1), axis=1))
        return {"kernel": (jnp.exp(params["log_scale"]) * means).T}

    def projected(self, params: Params, features: Any) -> jax.Array:
        """Returns the images' embedding, float [B, D], of any norm."""
        embedding, kernel = features.embedding, params["projection"]["kernel"]
        return embedding @ kernel.astype(embedding.dtype)


def class_logits(embedding: jax.Array, head: dict[str, jax.Array]) -> jax.Array:
    """Returns float32 [B, K]: embeddings [B, D] of norm 1 through what `class_head` returned."""
    return jnp.matmul(embedding, head["kernel"], precision="highest") + head.get("bias", 0.0)


def heads_of(text_width: int, text_heads: int) -> int:
    """Returns the heads of a text tower: `text_heads`, or one for each 64 channels where it is 0.

    Raises:
      ValueError: they do not divide the width.
    """
    heads = text_heads or max(text_width // 64, 1)
    if text_width % heads:
        raise ValueError(f"objective.text_width divides among text_heads; got {text_width} and {heads}")
    return heads


def draw_captions(rng: jax.Array, text: jax.Array) -> jax.Array:
    """Draws one caption of each image, each of its own with the same probability.

    Args:
      rng: key.
      text: int [B, n, L]; rows of zeros, after the image's own captions, are none.

    Returns:
      int [B, L].
    """
    count = jnp.sum(text[:, :, 0] != 0, axis=1)  # the start token is not 0
    chosen = jnp.floor(jax.random.uniform(rng, count.shape) * count).astype(jnp.int32)
    chosen = jnp.clip(chosen, 0, jnp.maximum(count - 1, 0))
    return jnp.take_along_axis(text, chosen[:, None, None], axis=1)[:, 0]


def sentences_of(
    class_prompts: Sequence[str],
    templates: str | Sequence[str],
    tokenizer_type: Callable[[str, int], Any],
    vocabulary: str,
    tower: TextTower,
    num_classes: int,
) -> np.ndarray | None:
    """Returns the token ids of the sentences about each class, int32 [K, T, L]; None for no classes."""
    if not class_prompts:
        return None
    if len(class_prompts) < num_classes:
        raise ValueError(
            f"objective.class_prompts has {len(class_prompts)} classes, and the data have {num_classes}: "
            "name each, in the order of the labels"
        )
    if not vocabulary:
        raise ValueError("objective.class_prompts needs objective.vocabulary, that of data.vocabulary")
    tokenizer = tokenizer_type(vocabulary, tower.context_length)
    if tokenizer.vocab_size > tower.vocab_size:
        raise ValueError(
            f"objective.vocab_size = {tower.vocab_size} is less than the vocabulary {vocabulary} has: "
            f"{tokenizer.vocab_size}"
        )
    by_class = prompts(class_prompts, read_templates(templates))
    try:
        return np.stack([tokenizer(own, truncate=False) for own in by_class])
    except ValueError as error:
        raise ValueError(f"objective.class_prompts: {error}") from error
