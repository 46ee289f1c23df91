"""DeepCluster: the network learns to predict the clusters that its own features fall into (Caron, Bojanowski,
Joulin, Douze 2018, "Deep Clustering for Unsupervised Learning of Visual Features", arXiv:1807.05520).

Before every epoch the features of the whole training split are PCA-whitened, scaled to norm 1 and clustered
by k-means. The cluster of an image is its label for the epoch, which visits every cluster equally often. The
classifier starts anew.

The authors' networks end in two wide layers with ReLU and dropout on the last map: `hidden` and
`reads="map"`. The features are taken before the last ReLU, as there. Without `hidden` the features are the
backbone's embedding. The Sobel filter before the first convolution is an operation of the data's transforms.

Differences: the classifier keeps one output for each of the k clusters, whether it has members or not. The
epoch's order holds every cluster equally often to within one visit; the authors draw one more of each and cut
the shuffled list. The classifier's part of the optimizer restarts as the authors' does, but has momentum
where the backbone's has.

objective_state:
  batch_stats: the backbone's running statistics, float32, {} where it has none.
  assignments: int32 [N], the cluster of every training example; 0 before the first plan.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
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
    require_one_of,
)
from imgcls_jax.losses import KMeans, kmeans, l2_normalize, pca_whiten, softmax_cross_entropy, zero_one

KMEANS_STARTS = ("random", "kmeans++")
READS = ("embedding", "map")

_normal = nn.initializers.normal(0.01)  # of the authors' fully connected layers


class Projector(nn.Module):
    """The wide layers after the trunk, up to the last one's ReLU, which is not applied.

    Attributes:
      widths: of the layers.
      dropout: probability, before each layer.
      dropout_first: whether the first layer has it too.
    """

    widths: tuple[int, ...]
    dropout: float
    dropout_first: bool

    @nn.compact
    def __call__(self, embedding: jax.Array, *, train: bool) -> jax.Array:
        """Args: embedding float [B, D]; train switches dropout. Returns: float32 [B, widths[-1]]."""
        x = embedding
        for number, width in enumerate(self.widths):
            rate = self.dropout if number or self.dropout_first else 0.0
            x = nn.Dropout(rate, deterministic=not train)(nn.relu(x) if number else x)
            x = nn.Dense(width, kernel_init=_normal, name=f"fc{number + 1}")(x)
        return x.astype(jnp.float32)


def make(
    backbone: Any,
    task: Task,
    *,
    num_clusters: int,
    hidden: Sequence[int] = (),
    reads: str = "embedding",
    dropout: float = 0.5,
    dropout_first: bool = True,
    pca_dim: int = 256,
    kmeans_iterations: int = 20,
    kmeans_start: str = "random",
) -> Objective:
    """Returns the objective.

    Args:
      backbone: module of models/.
      task: num_examples is read.
      num_clusters: k, in [2, N]; ten times the number of classes or more.
      hidden: widths of layers between backbone and classifier, such as (4096, 4096); () for none.
      reads: what the first of those layers, or the classifier, reads: "embedding", or "map" for all entries
        of the last map.
      dropout: probability, before each of those layers.
      dropout_first: whether it acts before the first of them too, as in the authors' AlexNet; their VGG-16
        has none there.
      pca_dim: of the whitened features; all of them where there are fewer.
      kmeans_iterations: of every epoch's k-means.
      kmeans_start: "random" or "kmeans++".

    Raises:
      ValueError: a number is out of range, or reads or kmeans_start is none of its choices.
    """
    if not 2 <= num_clusters <= task.num_examples:
        raise ValueError(
            f"objective.num_clusters lies between 2 and the {task.num_examples} training examples; "
            f"got {num_clusters}"
        )
    if pca_dim < 1 or any(width < 1 for width in hidden):
        raise ValueError(
            f"objective.pca_dim and objective.hidden must be positive; got {pca_dim} and {tuple(hidden)}"
        )
    require_between(0, 1, dropout=dropout)
    require_between(0, math.inf, kmeans_iterations=kmeans_iterations)
    require_one_of(KMEANS_STARTS, kmeans_start=kmeans_start)
    require_one_of(READS, reads=reads)
    learner = _DeepCluster(
        backbone=backbone,
        num_examples=task.num_examples,
        reads=reads,
        projector=Projector(tuple(hidden), dropout, dropout_first) if hidden else None,
        classifier=nn.Dense(num_clusters, kernel_init=_normal),
        pca_dim=pca_dim,
        kmeans=dict(num_clusters=num_clusters, num_iterations=kmeans_iterations, start=kmeans_start),
    )
    return Objective(
        batch_keys=("image", "index"),
        init=learner.init,
        loss=learner.loss,
        predict=learner.predict,
        plan_epoch=learner.plan_epoch,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _DeepCluster:
    """The algorithm; the attributes are arguments of `make`, or made of them.

    Attributes:
      projector: the wide layers, or None.
      classifier: the linear layer to the clusters.
      kmeans: keyword arguments of `kmeans`.
    """

    backbone: Any
    num_examples: int
    reads: str
    projector: Any
    classifier: Any
    pca_dim: int
    kmeans: dict[str, Any]

    def init(self, rng: jax.Array, batch: Batch) -> tuple[Params, ObjectiveState]:
        rng_backbone, rng_projector, rng_head = jax.random.split(rng, 3)
        params, batch_stats, features = init_backbone(self.backbone, rng_backbone, batch["image"])
        params = {"backbone": params}
        embedding = self.read_off(features)
        if self.projector is not None:
            embedding, variables = self.projector.init_with_output(rng_projector, embedding, train=False)
            params["projector"] = variables["params"]
        params["head"] = self.classifier.init(rng_head, embedding)["params"]
        return params, {
            "batch_stats": batch_stats,
            "assignments": jnp.zeros(self.num_examples, jnp.int32),
        }

    def read_off(self, features: Any) -> jax.Array:
        """Returns the input of the wide layers or the classifier, float [B, D]."""
        read = getattr(features, self.reads)
        return read.reshape(read.shape[0], -1)

    def embed_and_classify(
        self,
        params: Params,
        objective_state: ObjectiveState,
        images: jax.Array,
        rng: jax.Array | None,
        *,
        train: bool,
    ) -> tuple[jax.Array, jax.Array, Params]:
        """Returns embedding float [B, D], logits float32 [B, k] and batch_stats."""
        rng_backbone, rng_dropout = (None, None) if rng is None else jax.random.split(rng)
        features, batch_stats = apply_backbone(
            self.backbone,
            params["backbone"],
            objective_state["batch_stats"],
            images,
            train=train,
            rng=rng_backbone,
        )
        embedding = read = self.read_off(features)
        if self.projector is not None:
            variables, rngs = {"params": params["projector"]}, {"dropout": rng_dropout} if train else {}
            embedding = self.projector.apply(variables, embedding, train=train, rngs=rngs)
            read = nn.relu(embedding)
        logits = self.classifier.apply({"params": params["head"]}, read.astype(jnp.float32))
        return embedding, logits, batch_stats

    def loss(
        self, params: Params, objective_state: ObjectiveState, batch: Batch, rng: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, tuple[ObjectiveState, Metrics]]:
        del step
        _, logits, batch_stats = self.embed_and_classify(
            params, objective_state, batch["image"], rng, train=True
        )
        clusters = objective_state["assignments"][batch["index"]]
        value = jnp.mean(softmax_cross_entropy(logits, clusters))
        metrics = {"loss": value, "pseudo_accuracy": 1 - jnp.mean(zero_one(logits, clusters))}
        return value, (objective_state | {"batch_stats": batch_stats}, metrics)

    def predict(self, params: Params, objective_state: ObjectiveState, batch: Batch) -> dict[str, jax.Array]:
        embedding, logits, _ = self.embed_and_classify(
            params, objective_state, batch["image"], None, train=False
        )
        return {"logits": logits, "embedding": embedding}

    def plan_epoch(
        self,
        params: Params,
        objective_state: ObjectiveState,
        epoch: int,
        embed: Callable[[str], np.ndarray],
        rng: jax.Array,
    ) -> EpochPlan:
        del epoch
        # A copy on this host: the work below is its own, and every host does the same.
        seed = np.asarray(jax.random.key_data(rng))
        own = jax.random.wrap_key_data(jnp.asarray(seed), impl=jax.random.key_impl(rng))
        rng_kmeans, rng_head = jax.random.split(own)
        embedding = embed("embedding")
        dim = min(self.pca_dim, embedding.shape[1])
        found = _cluster(embedding, rng_kmeans, dim=dim, **self.kmeans)
        assignments, previous = np.asarray(found.assignments), np.asarray(objective_state["assignments"])
        fresh = self.classifier.init(rng_head, jnp.zeros((1, len(params["head"]["kernel"]))))["params"]
        return EpochPlan(
            params=params | {"head": jax.tree.map(np.asarray, fresh)},
            objective_state=objective_state | {"assignments": assignments},
            order=uniform_order(assignments, np.random.default_rng(seed)),
            reset=("head",),
            metrics={
                "nmi_with_previous": normalized_mutual_information(assignments, previous),
                "clusters_with_members": float(len(np.unique(assignments))),
                "kmeans_objective": float(found.objectives[-1]),
            },
        )


@functools.partial(jax.jit, static_argnames=("dim", "num_clusters", "num_iterations", "start"))
def _cluster(embedding: jax.Array, rng: jax.Array, *, dim: int, **options: Any) -> KMeans:
    """Clusters the whitened rows of float [N, D], scaled to norm 1; options are those of `kmeans`."""
    return kmeans(rng, l2_normalize(pca_whiten(embedding, dim=dim)), **options)


def uniform_order(assignments: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws an epoch's order in which every cluster with members comes equally often, to within one visit.

    A cluster's members are drawn without replacement where it has enough of them, else repeated.

    Args:
      assignments: integer [N].
      rng: generator.

    Returns:
      int64 [N], indices of examples.
    """
    by_cluster = np.argsort(assignments, kind="stable")
    counts = np.unique(assignments, return_counts=True)[1]
    members = np.split(by_cluster, np.cumsum(counts)[:-1])
    visits, more = divmod(len(assignments), len(members))
    extra = np.zeros(len(members), np.int64)
    extra[rng.permutation(len(members))[:more]] = 1
    drawn = [
        rng.choice(own, visits + one, replace=len(own) < visits + one)
        for own, one in zip(members, extra.tolist(), strict=True)
    ]
    return rng.permutation(np.concatenate(drawn)).astype(np.int64)


def normalized_mutual_information(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the mutual information of two partitions over the arithmetic mean of their entropies.

    Eq.: 2 I / (H + H').

    Args:
      first, second: integer [N], the cluster of each example.

    Returns:
      In [0, 1]; 1 for equal partitions, whatever the clusters are called.
    """

    def entropy(labels: np.ndarray) -> float:
        shares = np.unique(labels, return_counts=True)[1] / len(labels)
        return float(-np.sum(shares * np.log(shares)))

    pairs = np.asarray(first, np.int64) * (int(np.max(second)) + 1) + np.asarray(second, np.int64)
    entropies = entropy(first) + entropy(second)
    if entropies == 0:
        return 1.0  # both have a single cluster
    return max(0.0, 2 * (entropies - entropy(pairs)) / entropies)
