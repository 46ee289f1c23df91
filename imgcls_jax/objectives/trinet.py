"""Tri-net: three labeling modules on one trunk teach each other with what two of them agree on.

Chen, Wang, Gao and Zhou, "Tri-net for Semi-Supervised Deep Learning", IJCAI 2018 (no arXiv id; doi
10.24963/ijcai.2018/278). No code of the authors was found. The abstract names output smearing, diversity by
fine-tuning on labeled data, and the editing of pseudo-labels; how they go on in detail, and every default of
`make`, is from memory and from a re-implementation by others (ModSSC), not checked against the paper:

- Initialization: the modules learn the labeled examples alone, each with outputs smeared by noise of its own.
- Rounds t = 1, 2, ...: of a random pool of min(pool_base 2^t, |U|) unlabeled examples, those become module
  v's whose class the two others agree on, with a mean confidence of at least sigma_t, and whose label is
  stable when the two are asked again with dropout. Module v learns them and the labeled examples; the trunk
  follows module 0 alone.
- Once the pool is all of U, every `diversity_rounds`-th round smears the labels anew and learns these alone.
  sigma falls by sigma_decay with each such round, and by sigma_smearing for the one round after a smearing.

What is our reading, or differs:
- All three modules learn in the same step, from the same batch, not one after the other.
- A round lasts round_epochs epochs and the initialization init_epochs, in both of which an epoch visits the
  examples that have a target, over and over: the union of L and the three modules' own, not each one's.
- An example asked again has changed if the mean of the two modules' probabilities has another largest class.
  Only the modules' dropout is on, not the trunk's, and one draw thins the modules alike for all examples, so
  that the answer does not depend on how examples fall into batches.
- The modules are alike, a hidden layer with leaky ReLU and dropout each, instead of small convolutional
  networks: they stand on any backbone's embedding.

objective_state:
  batch_stats: the backbone's running statistics, float32, {} where it has none.
  label: int32 [N], the true label of the examples seen in the labeled stream, -1 of the others.
  pseudo: int32 [3, N], the label that each module learns, -1 for none.
  smearing: bool, whether this round learns smeared labels.
  smear_seed: uint32, of the noise of that round: it is the same each time an example is visited.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from imgcls_jax.contracts.backbone import apply_backbone, init_backbone
from imgcls_jax.contracts.objective import (
    Batch,
    EpochPlan,
    Metrics,
    Objective,
    ObjectiveState,
    Params,
    Task,
    require_between,
)
from imgcls_jax.layers import heads
from imgcls_jax.losses import mean_over, softmax_cross_entropy, zero_one

HEADS = ("head_0", "head_1", "head_2")
# The two that label for each.
PAIRS = ((1, 2), (0, 2), (0, 1))
# An example loses its label if more than this share of the passes with dropout contradict it.
UNSTABLE_SHARE = 1 / 3


class LabelingModule(nn.Module):
    """One hidden layer, leaky ReLU of slope 0.1, dropout, and a linear classifier.

    Attributes:
      num_classes: K.
      hidden: width of the hidden layer.
      dropout: probability of dropping an entry of the hidden layer.
    """

    num_classes: int
    hidden: int
    dropout: float

    @nn.compact
    def __call__(self, embedding: jax.Array, *, train: bool) -> jax.Array:
        """Args: embedding float [B, D]; train switches dropout. Returns: logits float32 [B, K]."""
        x = nn.leaky_relu(nn.Dense(self.hidden, name="hidden")(embedding), 0.1)
        return heads.Linear(self.num_classes, dropout=self.dropout, name="output")(x, train=train)


def make(
    backbone: Any,
    task: Task,
    *,
    hidden: int = 128,
    dropout: float = 0.5,
    smear_std: float = 0.05,
    sigma: float = 0.95,
    sigma_smearing: float = 0.25,
    sigma_decay: float = 0.05,
    pool_base: int = 1000,
    passes: int = 9,
    init_epochs: int = 10,
    round_epochs: int = 1,
    diversity_rounds: int = 4,
) -> Objective:
    """Returns the objective.

    Args:
      backbone: module of models/.
      task: num_classes and num_examples are read.
      hidden, dropout: of each labeling module.
      smear_std: standard deviation of the noise on the labels, >= 0; 0 smears nothing.
      sigma: confidence in [0, 1] from which the agreement of two modules becomes the third one's label.
      sigma_smearing: how much lower it is in the round after a smearing, in [0, 1].
      sigma_decay: how much it falls with each further smearing, in [0, 1].
      pool_base: half of the first round's number of unlabeled examples; it doubles from round to round.
      passes: with dropout, to find labels that are not stable; 0 keeps all.
      init_epochs, round_epochs: how long the initialization and each round last.
      diversity_rounds: each so many rounds the labels are smeared anew; 0 for never.

    Raises:
      ValueError: a number outside its range.
    """
    require_between(0, 1, sigma=sigma, sigma_smearing=sigma_smearing, sigma_decay=sigma_decay)
    require_between(0, math.inf, smear_std=smear_std, passes=passes, diversity_rounds=diversity_rounds)
    require_between(1, math.inf, hidden=hidden, pool_base=pool_base)
    require_between(1, math.inf, init_epochs=init_epochs, round_epochs=round_epochs)
    if not 0 <= dropout < 1:
        raise ValueError(f"objective.dropout lies in [0, 1); got {dropout}")
    module = LabelingModule(task.num_classes, hidden, dropout)
    rounds = Rounds(
        init_epochs, round_epochs, diversity_rounds, pool_base, sigma, sigma_smearing, sigma_decay
    )
    learner = _TriNet(backbone, module, rounds, task.num_examples, smear_std, passes)
    return Objective(
        batch_keys=("image", "index", "labeled"),
        init=learner.init,
        loss=learner.loss,
        predict=learner.predict,
        plan_epoch=learner.plan_epoch,
        divisors=learner.divisors,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _TriNet:
    """The algorithm; the attributes are arguments of `make`, or made of them."""

    backbone: Any
    module: Any
    rounds: Rounds
    num_examples: int
    smear_std: float
    passes: int

    def init(self, rng: jax.Array, batch: Batch) -> tuple[Params, ObjectiveState]:
        rng_backbone, *rng_heads = jax.random.split(rng, 1 + len(HEADS))
        backbone_params, batch_stats, features = init_backbone(self.backbone, rng_backbone, batch["image"])
        params = {"backbone": backbone_params}
        for name, rng_head in zip(HEADS, rng_heads, strict=True):
            params[name] = self.module.init(rng_head, features.embedding, train=False)["params"]
        objective_state = {
            "batch_stats": batch_stats,
            "label": jnp.full(self.num_examples, -1, jnp.int32),
            "pseudo": jnp.full((len(HEADS), self.num_examples), -1, jnp.int32),
            "smearing": jnp.bool_(True),
            "smear_seed": jnp.uint32(0),
        }
        return params, objective_state

    def loss(
        self, params: Params, objective_state: ObjectiveState, batch: Batch, rng: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, tuple[ObjectiveState, Metrics]]:
        del step
        rng_backbone, rng_heads = jax.random.split(rng)
        labeled, smearing = batch["labeled"], objective_state["smearing"]
        images = jnp.concatenate([labeled["image"], batch["image"]])
        index, label, targets = _targets(objective_state, batch)
        divisors = batch["divisors"] if "divisors" in batch else self.divisors(objective_state, batch)
        trunk, batch_stats = params["backbone"], objective_state["batch_stats"]
        features, batch_stats = apply_backbone(
            self.backbone, trunk, batch_stats, images, train=True, rng=rng_backbone
        )
        values, logits = [], []
        for number, name in enumerate(HEADS):
            shapes_trunk = smearing if number else True
            embedding = jnp.where(shapes_trunk, features.embedding, jax.lax.stop_gradient(features.embedding))
            rngs = {"dropout": jax.random.fold_in(rng_heads, number)}
            logits.append(self.module.apply({"params": params[name]}, embedding, train=True, rngs=rngs))
            smeared = smear(
                jax.random.fold_in(jax.random.key(objective_state["smear_seed"]), number),
                jnp.maximum(targets[number], 0),
                index,
                num_classes=self.module.num_classes,
                std=jnp.where(smearing, self.smear_std, 0.0),
            )
            losses = softmax_cross_entropy(logits[-1], smeared)
            values.append(mean_over(jnp.where(targets[number] >= 0, losses, 0.0), divisors[number]))
        value = functools.reduce(operator.add, values)
        of_labeled = log_mean_probability(jnp.stack(logits))[: labeled["label"].shape[0]]
        metrics = {
            "loss": value,
            "accuracy": 1 - jnp.mean(zero_one(of_labeled, labeled["label"])),
            "with_target": jnp.mean(targets >= 0),
        }
        return value, (objective_state | {"batch_stats": batch_stats, "label": label}, metrics)

    def divisors(self, objective_state: ObjectiveState, batch: Batch) -> jax.Array:
        """Returns how many rows have a target for each module, float32 [3]."""
        return jnp.sum(_targets(objective_state, batch)[2] >= 0, axis=1, dtype=jnp.float32)

    def predict(self, params: Params, objective_state: ObjectiveState, batch: Batch) -> dict[str, jax.Array]:
        features, _ = apply_backbone(
            self.backbone, params["backbone"], objective_state["batch_stats"], batch["image"], train=False
        )
        ask = ask_modules(self.module, [params[name] for name in HEADS])
        logits = ask(features.embedding)
        return {
            "logits": log_mean_probability(logits),
            "embedding": features.embedding,
            "votes": votes(ask, features.embedding, self.passes),
        }

    def plan_epoch(
        self,
        params: Params,
        objective_state: ObjectiveState,
        epoch: int,
        embed: Callable[[str], np.ndarray],
        rng: jax.Array,
    ) -> EpochPlan:
        generator = np.random.default_rng(np.asarray(jax.random.key_data(rng)))
        label = np.asarray(objective_state["label"])
        pseudo = np.asarray(objective_state["pseudo"])
        unlabeled = np.flatnonzero(label < 0)
        t, first_epoch = self.rounds.at(epoch)
        smearing = self.rounds.smears(t, len(unlabeled))
        metrics: dict[str, float] = {"round": t}
        if first_epoch:
            pseudo = np.full_like(pseudo, -1)
            if not smearing:
                pool = generator.choice(unlabeled, self.rounds.pool(t, len(unlabeled)), replace=False)
                metrics |= {"pool": len(pool), "sigma": self.rounds.threshold(t, len(unlabeled))}
                asked = embed("votes")[pool].reshape(len(pool), len(HEADS), -1)
                pseudo[:, pool] = agreed_labels(
                    asked[..., :-1],
                    asked[..., -1],
                    threshold=metrics["sigma"],
                    tolerated=self.passes * UNSTABLE_SHARE,
                )
            objective_state = objective_state | {
                "pseudo": jnp.asarray(pseudo),
                "smearing": jnp.bool_(smearing),
                "smear_seed": jnp.uint32(generator.integers(2**32)),
            }
        metrics["pseudo_labels"] = float(np.mean(np.sum(pseudo >= 0, axis=1)))
        with_target = np.flatnonzero((label >= 0) | np.any(pseudo >= 0, axis=0))
        order = repeated(with_target, self.num_examples, generator) if len(with_target) else None
        return EpochPlan(params, objective_state, order, metrics=metrics)


def _targets(objective_state: ObjectiveState, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns index int [Bl + B] of the labeled and the other rows, label int [N] with those of the batch,
    and targets int [3, Bl + B], -1 for none."""
    labeled = batch["labeled"]
    index = jnp.concatenate([labeled["index"], batch["index"]])
    label = objective_state["label"].at[labeled["index"]].set(labeled["label"])
    return index, label, jnp.where(label[index] >= 0, label[index], objective_state["pseudo"][:, index])


def smear(
    rng: jax.Array, labels: jax.Array, index: jax.Array, *, num_classes: int, std: float | jax.Array
) -> jax.Array:
    """Output smearing: labels as probabilities with noise that belongs to the example.

    Eq.: q = (onehot + relu(noise)) / their sum, noise ~ N(0, std^2) a class.

    Args:
      rng: key; the same key and index give the same noise.
      labels: int [B] in [0, num_classes).
      index: int [B], of the examples.
      num_classes: K.
      std: >= 0.

    Returns:
      float32 [B, K], probabilities.
    """
    noise = jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(rng, i), (num_classes,)))(index)
    smeared = jax.nn.one_hot(labels, num_classes) + std * jax.nn.relu(noise)
    return smeared / jnp.sum(smeared, axis=-1, keepdims=True)


def log_mean_probability(logits: jax.Array) -> jax.Array:
    """Returns the logarithm of the modules' mean probability, [B, K]. Args: logits float [3, B, K]."""
    log_p = jax.nn.log_softmax(logits, axis=-1)
    return jax.nn.logsumexp(log_p, axis=0) - jnp.log(logits.shape[0])


def ask_modules(module: Any, params: list[Params]) -> Callable[..., jax.Array]:
    """Returns the function (embedding [B, D], key = None) -> logits [3, B, K].

    With a key, dropout is on, and drops the same entries for every example.
    """

    def one(own: Params, number: int, embedding: jax.Array, key: jax.Array | None) -> jax.Array:
        if key is None:
            return module.apply({"params": own}, embedding, train=False)
        rngs = {"dropout": jax.random.fold_in(key, number)}
        thinned = lambda row: module.apply({"params": own}, row[None], train=True, rngs=rngs)[0]  # noqa: E731
        return jax.vmap(thinned)(embedding)

    def ask(embedding: jax.Array, key: jax.Array | None = None) -> jax.Array:
        return jnp.stack([one(own, number, embedding, key) for number, own in enumerate(params)])

    return ask


def votes(ask: Callable[..., jax.Array], embedding: jax.Array, passes: int) -> jax.Array:
    """Asks the modules for their probabilities, and again with dropout how firm each pair is.

    Args:
      ask: of `ask_modules`.
      embedding: float [B, D].
      passes: with dropout; their keys are fixed.

    Returns:
      float32 [B, 3 * (K + 1)]: for each module its K probabilities, then the number of passes in which the
      two others' mean had another largest class than without dropout.
    """
    probabilities = jax.nn.softmax(ask(embedding), axis=-1)  # [3, B, K]
    usual = _classes_of_pairs(probabilities)  # [3, B]

    def changed(key: jax.Array) -> jax.Array:
        return _classes_of_pairs(jax.nn.softmax(ask(embedding, key), axis=-1)) != usual

    changes = jnp.zeros(usual.shape)
    if passes:
        changes = jnp.sum(jax.lax.map(changed, jax.random.split(jax.random.key(0), passes)), axis=0)
    table = jnp.concatenate([probabilities, changes[..., None].astype(jnp.float32)], axis=-1)
    return jnp.moveaxis(table, 0, 1).reshape(embedding.shape[0], -1)


def _classes_of_pairs(probabilities: jax.Array) -> jax.Array:
    """Returns int [3, B], the largest class of each pair's mean. Args: probabilities float [3, B, K]."""
    return jnp.stack([jnp.argmax(probabilities[j] + probabilities[h], axis=-1) for j, h in PAIRS])


def agreed_labels(
    probabilities: np.ndarray, changes: np.ndarray, *, threshold: float, tolerated: float
) -> np.ndarray:
    """Labels examples for each module by the two others.

    Module v receives class c where both others put c first, the mean of the two probabilities of c is at
    least the threshold, and the pair was contradicted in no more passes than tolerated.

    Args:
      probabilities: float [n, 3, K], of the modules.
      changes: float [n, 3], passes that contradicted the pair that labels for each module.
      threshold: sigma_t; above 1 nothing is labeled.
      tolerated: largest number of such passes.

    Returns:
      int32 [3, n], -1 for no label.
    """
    first, confidence = np.argmax(probabilities, axis=-1), np.max(probabilities, axis=-1)  # [n, 3]
    labels = np.full((len(HEADS), len(probabilities)), -1, np.int32)
    for module, (j, h) in enumerate(PAIRS):
        agreed = first[:, j] == first[:, h]
        confident = (confidence[:, j] + confidence[:, h]) / 2 >= threshold
        accepted = agreed & confident & (changes[:, module] <= tolerated)
        labels[module, accepted] = first[accepted, j]
    return labels


@dataclasses.dataclass(frozen=True)
class Rounds:
    """When what happens; the attributes are arguments of `make`. Round 0 is the initialization."""

    init_epochs: int
    round_epochs: int
    diversity_rounds: int
    pool_base: int
    sigma: float
    sigma_smearing: float
    sigma_decay: float

    def at(self, epoch: int) -> tuple[int, bool]:
        """Returns (t, whether the epoch is the round's first)."""
        if epoch < self.init_epochs:
            return 0, epoch == 0
        number, position = divmod(epoch - self.init_epochs, self.round_epochs)
        return number + 1, position == 0

    def pool(self, t: int, num_unlabeled: int) -> int:
        """Returns how many unlabeled examples round t may label."""
        return min(self.pool_base * 2**t, num_unlabeled)

    def smears(self, t: int, num_unlabeled: int) -> bool:
        """Returns whether round t learns smeared labels alone."""
        due = bool(self.diversity_rounds) and t % self.diversity_rounds == 0
        return t == 0 or (due and self.pool(t, num_unlabeled) == num_unlabeled)

    def threshold(self, t: int, num_unlabeled: int) -> float:
        """Returns sigma_t >= 0, t >= 1."""
        smearings = [self.smears(earlier, num_unlabeled) for earlier in range(t + 1)]
        fallen = self.sigma_decay * sum(smearings[1:]) + self.sigma_smearing * smearings[t - 1]
        return max(self.sigma - fallen, 0.0)


def repeated(indices: np.ndarray, length: int, generator: np.random.Generator) -> np.ndarray:
    """Returns shuffles of some indices, one after the other, cut to a length: int64 [length]."""
    shuffles = [generator.permutation(indices) for _ in range(-(-length // len(indices)))]
    return np.concatenate(shuffles)[:length].astype(np.int64)
