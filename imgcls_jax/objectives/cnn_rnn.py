"""CNN-RNN: an LSTM emits the labels of an image one after the other, so that one may depend on another.

Wang et al. 2016, "CNN-RNN: A Unified Framework for Multi-label Image Classification", arXiv:1604.04573.

The labels of a training image are ordered by their frequency in the training split, the most frequent first,
and followed by END. At each step the LSTM reads the embedding of the label before (START at first); its
output and the image's embedding are projected into one space, and the scores are the products with the
embeddings of the labels and of END. A label emitted once is left out of the softmax from then on, in training
too, so that the probabilities of all sequences without repeats sum to 1.

Prediction is by beam search. The labels of the best sequence are "chosen"; the probability of a label is the
share that the beams which hold it have in the probability of all of them.

objective_state:
  batch_stats: the backbone's running statistics, float32, {} where it has none.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from imgcls_jax.contracts.backbone import apply_backbone, init_backbone
from imgcls_jax.contracts.objective import Batch, Metrics, Objective, ObjectiveState, Params, Task
from imgcls_jax.losses import softmax_cross_entropy

EMITTED = -1e9  # the score of a label that was emitted before


class Decoder(nn.Module):
    """One step of the label sequence.

    Attributes:
      num_labels: K; token K is END and, read by the LSTM, START.
      embedding_dim: of labels, and of the space of scores.
      hidden: units of the LSTM.
      dropout: probability, of the joint projection.
    """

    num_labels: int
    embedding_dim: int
    hidden: int
    dropout: float

    def setup(self) -> None:
        self.labels = nn.Embed(self.num_labels + 1, self.embedding_dim)
        self.start = self.param("start", nn.initializers.normal(0.1), (self.embedding_dim,))
        self.cell = nn.OptimizedLSTMCell(self.hidden)
        self.from_state = nn.Dense(self.embedding_dim)
        self.from_image = nn.Dense(self.embedding_dim, use_bias=False)
        self.drop = nn.Dropout(self.dropout)

    def __call__(
        self, state: Any, token: jax.Array, emitted: jax.Array, image: jax.Array, *, train: bool
    ) -> tuple[Any, jax.Array]:
        """Scores what comes next.

        Args:
          state: of the LSTM, (c, h), float [B, hidden] each.
          token: int [B], the label before; K at the first step.
          emitted: bool [B, K], the labels so far.
          image: float [B, D], the image's embedding.
          train: switches dropout.

        Returns:
          The new state, and scores float32 [B, K + 1], END's last.
        """
        first = (token == self.num_labels)[:, None]
        state, output = self.cell(state, jnp.where(first, self.start, self.labels(token)))
        joint = nn.relu(self.from_state(output) + self.from_image(image))
        scores = self.labels.attend(self.drop(joint, deterministic=not train)).astype(jnp.float32)
        return state, jnp.where(jnp.pad(emitted, ((0, 0), (0, 1))), EMITTED, scores)

    @nn.nowrap
    def first_state(self, size: int) -> Any:
        """Returns the LSTM's state before the first step."""
        return (jnp.zeros((size, self.hidden)),) * 2

    @nn.nowrap
    def start_of(self, size: int) -> tuple[Any, jax.Array, jax.Array]:
        """Returns state, token and emitted labels before the first step."""
        emitted = (size, self.num_labels)
        return self.first_state(size), jnp.full(size, self.num_labels), jnp.zeros(emitted, bool)


def make(
    backbone: Any,
    task: Task,
    *,
    embedding_dim: int = 64,
    hidden: int = 512,
    dropout: float = 0.5,
    beams: int = 4,
    max_labels: int = 0,
) -> Objective:
    """Returns the objective; batch["label"] is int32 [B, K] of 0 and 1.

    Args:
      backbone: module of models/.
      task: num_classes K and class_counts are read.
      embedding_dim, hidden, dropout: of `Decoder`.
      beams: width of the search.
      max_labels: of a sequence, in training and prediction; the rarest labels beyond it are cut off. 0 for K.

    Raises:
      ValueError: a number is out of range, or the frequencies of the labels are not known.
    """
    num_labels = task.num_classes
    steps = (max_labels or num_labels) + 1
    if min(embedding_dim, hidden, beams) < 1 or not 0 <= dropout < 1 or not 2 <= steps <= num_labels + 1:
        raise ValueError(
            "objective.embedding_dim, hidden and beams are at least 1, dropout in [0, 1), max_labels at most "
            f"the {num_labels} labels; got {embedding_dim}, {hidden}, {beams}, {dropout} and {max_labels}"
        )
    if len(task.class_counts) != num_labels:
        raise ValueError(
            "this objective orders labels by their frequency: it needs a source that counts them without "
            "reading every example"
        )
    order = np.argsort(-np.array(task.class_counts), kind="stable")
    decoder = Decoder(num_labels, embedding_dim, hidden, dropout)
    learner = _CNNRNN(backbone, decoder, order, beams, steps)
    return Objective(
        batch_keys=("image", "label"),
        init=learner.init,
        loss=learner.loss,
        predict=learner.predict,
        reads_pixels=False,
        multi_label=True,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _CNNRNN:
    """The algorithm.

    Attributes:
      backbone, decoder: the modules.
      order: int [K], the labels as they are emitted.
      beams: width of the search.
      steps: most tokens of a sequence, END included.
    """

    backbone: Any
    decoder: Any
    order: np.ndarray
    beams: int
    steps: int

    def init(self, rng: jax.Array, batch: Batch) -> tuple[Params, ObjectiveState]:
        rng_backbone, rng_decoder = jax.random.split(rng)
        params, batch_stats, features = init_backbone(self.backbone, rng_backbone, batch["image"])
        start = self.decoder.start_of(len(features.embedding))
        variables = self.decoder.init(rng_decoder, *start, features.embedding, train=False)
        return {"backbone": params, "decoder": variables["params"]}, {"batch_stats": batch_stats}

    def loss(
        self, params: Params, objective_state: ObjectiveState, batch: Batch, rng: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, tuple[ObjectiveState, Metrics]]:
        del step
        rng_backbone, rng_drop = jax.random.split(rng)
        features, batch_stats = apply_backbone(
            self.backbone,
            params["backbone"],
            objective_state["batch_stats"],
            batch["image"],
            train=True,
            rng=rng_backbone,
        )
        tokens, used = label_sequences(batch["label"], self.order, self.steps)

        def emit(memory: Any, now: Any) -> tuple[Any, jax.Array]:
            state, before, emitted = memory
            token, key = now
            state, scores = self.decoder.apply(
                {"params": params["decoder"]},
                state,
                before,
                emitted,
                features.embedding,
                train=True,
                rngs={"dropout": key},
            )
            emitted |= jax.nn.one_hot(token, len(self.order), dtype=bool)
            return (state, token, emitted), softmax_cross_entropy(scores, token)

        start = self.decoder.start_of(len(tokens))
        _, losses = jax.lax.scan(emit, start, (tokens.T, jax.random.split(rng_drop, self.steps)))
        value = jnp.mean(jnp.sum(jnp.where(used.T, losses, 0.0), axis=0))  # of [steps, B]
        return value, (objective_state | {"batch_stats": batch_stats}, {"loss": value})

    def predict(self, params: Params, objective_state: ObjectiveState, batch: Batch) -> dict[str, jax.Array]:
        features, _ = apply_backbone(
            self.backbone, params["backbone"], objective_state["batch_stats"], batch["image"], train=False
        )

        def score(state: Any, token: jax.Array, emitted: jax.Array, image: jax.Array) -> Any:
            variables = {"params": params["decoder"]}
            state, scores = self.decoder.apply(variables, state, token, emitted, image, train=False)
            return state, jax.nn.log_softmax(scores)

        sets, log_probability = beam_search(
            score,
            self.decoder.first_state(self.beams),
            features.embedding,
            num_labels=len(self.order),
            beams=self.beams,
            steps=self.steps,
        )
        best = jnp.argmax(log_probability, axis=1)
        chosen = jnp.take_along_axis(sets, best[:, None, None], axis=1)[:, 0]
        share = jax.nn.softmax(log_probability)[:, :, None]
        return {
            "probabilities": jnp.sum(share * sets, axis=1),
            "chosen": chosen,
            "embedding": features.embedding,
        }


def label_sequences(labels: jax.Array, order: np.ndarray, steps: int) -> tuple[jax.Array, jax.Array]:
    """Orders the labels of each image.

    Args:
      labels: int [B, K] of 0 and 1.
      order: int [K], the labels as they are emitted.
      steps: length of the sequences.

    Returns:
      tokens int32 [B, steps]: the labels that apply, in that order, then END, which is K; and bool of the
      same shape, which steps count: up to the first END, included. Labels beyond steps - 1 are cut off, and
      the last token is END.
    """
    num_labels = len(order)
    ranks = jnp.where(labels[:, order] > 0, jnp.arange(num_labels), num_labels)
    ranks = jnp.sort(ranks, axis=1)[:, : steps - 1]
    ranks = jnp.pad(ranks, ((0, 0), (0, 1)), constant_values=num_labels)
    tokens = jnp.append(order, num_labels)[ranks].astype(jnp.int32)
    ends = jnp.cumsum(tokens == num_labels, axis=1)
    return tokens, (ends == 0) | ((ends == 1) & (tokens == num_labels))


def beam_search(
    score: Any, state: Any, images: jax.Array, *, num_labels: int, beams: int, steps: int
) -> tuple[jax.Array, jax.Array]:
    """Finds the most probable sequences of labels without repeats.

    A beam that has ended keeps its place among the best; at the last step every beam ends. With as many beams
    as there are prefixes the search is exact.

    Args:
      score: (state, token int [W], emitted bool [W, K], image float [W, D]) -> (state, log-probabilities
        float [W, K + 1]), END's last.
      state: tree of arrays [W, ...] before the first step.
      images: float [B, D].
      num_labels: K.
      beams: W.
      steps: most tokens of a sequence, END included.

    Returns:
      The labels of each beam, bool [B, W, K], and its log-probability, float32 [B, W]; EMITTED or less where
      there are fewer sequences than beams.
    """
    end = num_labels

    def search(image: jax.Array) -> tuple[jax.Array, jax.Array]:
        wide = jnp.broadcast_to(image, (beams, *image.shape))

        def step(memory: Any, number: jax.Array) -> tuple[Any, None]:
            state, token, emitted, total, ended = memory
            state, gain = score(state, token, emitted, wide)
            only_end = jnp.full(num_labels + 1, EMITTED).at[end].set(0.0)
            gain = jnp.where(ended[:, None], only_end, gain)
            must_end = jnp.where(jnp.arange(num_labels + 1) == end, gain, EMITTED)
            gain = jnp.where(number == steps - 1, must_end, gain)
            total, flat = jax.lax.top_k((total[:, None] + gain).reshape(-1), beams)
            parent, token = flat // (num_labels + 1), flat % (num_labels + 1)
            emitted = emitted[parent] | jax.nn.one_hot(token, num_labels, dtype=bool)
            state = jax.tree.map(lambda leaf: leaf[parent], state)
            return (state, token, emitted, total, ended[parent] | (token == end)), None

        total = jnp.full(beams, EMITTED).at[0].set(0.0)  # all beams start alike: one of them counts
        start = (
            state,
            jnp.full(beams, num_labels),
            jnp.zeros((beams, num_labels), bool),
            total,
            jnp.zeros(beams, bool),
        )
        (_, _, emitted, total, _), _ = jax.lax.scan(step, start, jnp.arange(steps))
        return emitted, total

    return jax.vmap(search)(images)
