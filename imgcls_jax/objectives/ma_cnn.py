"""MA-CNN: parts found without part labels, as groups of channels that peak at the same place.

Zheng, Fu, Mei, Luo 2017, "Learning Multi-Attention Convolutional Neural Network for Fine-Grained Image
Recognition", ICCV. For each of N parts two fully connected layers turn the mean of the last map into a weight
for each channel. The weighted sum of the channels is the part's attention map. The last map, pooled by it,
goes to a classifier of the part; one more classifier reads the mean of the map. The mean of their
probabilities predicts.

Whole epochs train one thing or the other:
  For `group_epochs` the grouping learns clusters of the channels, by where each channel peaks in the training
    images (k-means, before the first epoch).
  Then, in turns of `alternation_epochs`, the grouping learns by the losses of losses/parts.py, and backbone
    and classifiers learn by cross-entropy.
What an epoch does not train has gradient 0. Its part of the optimizer restarts before, so that no momentum
moves it. Weight decay still does: `optimizer.decay_params` names what may decay. In epochs of the grouping
the backbone runs as in evaluation, so that its statistics stay.

Differences: the authors released trained networks and no training code; the alternation by epochs is that of
re-implementations. Where a channel is silent in an image, its place there is the mean of its places in the
others; a channel that is silent in all images belongs to no part. The full system of the paper trains six
networks on crops; tools/crop_parts.py writes these.

params:
  backbone.
  grouping: {"fc1", "fc2"}: {"kernel", "bias"}, the N parts first.
  heads: {"parts": a linear layer for each of N parts, "whole": one}.

objective_state:
  batch_stats: the backbone's running statistics, float32, {} where it has none.
  targets: float32 [N, D], 1 where a channel belongs to a part's cluster; 0 before the first plan.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

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
from imgcls_jax.layers import heads
from imgcls_jax.losses import (
    kmeans,
    part_attention,
    part_distance,
    part_diversity,
    part_target_distance,
    peak_positions,
    sigmoid_cross_entropy,
    softmax_cross_entropy,
    zero_one,
)
from imgcls_jax.losses.parts import FORMS, RESPONSE_SCALE

DISTANCES = {"squared": part_distance, "target": part_target_distance}
# The maps of the release sum to 1, with most entries below mrg: re-implementations take 100 times them.
MAP_SCALE = {"release": 100.0, "paper": 1.0}
GROUPING_STD = 0.005  # of the initial weights of the grouping layers, as in the released networks
POSITIONS = (1, 2)  # axes of a map [B, h, w, D]
SILENT = -1.0  # the place of a channel that is nowhere positive
MOST_IMAGES = 10_000  # whose peaks are clustered; evenly spaced where there are more
KMEANS_STARTS, KMEANS_ITERATIONS = 10, 50


def make(
    backbone: Any,
    task: Task,
    *,
    parts: int = 4,
    attention: str = "release",
    response_scale: float = RESPONSE_SCALE,
    distance: str = "squared",
    margin: float = 0.02,
    diversity: float = 2.0,
    hidden: int = 512,
    group_epochs: int = 2,
    alternation_epochs: Sequence[int] = (1, 1),
    normalize: bool = False,
) -> Objective:
    """Returns the objective.

    Args:
      backbone: module of models/ with a map of two dimensions or more positions.
      task: steps_per_epoch and num_classes are read.
      parts: N, at least 1.
      attention: "release" for the form of the authors' networks, "paper" for the paper's sigmoid.
      response_scale: s of `part_response`, positive; 0.1 suits VGG, MobileNet's ReLU6 needs about 3.
      distance: "squared" for the paper's distance loss, "target" for the form of the authors' readme.
      margin: mrg of the diversity loss.
      diversity: lambda, the weight of the diversity loss, at least 0.
      hidden: width between the two layers of the grouping.
      group_epochs: of the first training of the grouping; 0 for none, and no clusters.
      alternation_epochs: how many epochs in a row belong to the grouping and how many to the classifiers;
        (0, 1) keeps the first grouping.
      normalize: whether the classifiers divide what they read by the root of its mean square.

    Raises:
      ValueError: a number is out of range, or attention or distance is none of its choices.
    """
    require_one_of(FORMS, attention=attention)
    require_one_of(tuple(DISTANCES), distance=distance)
    require_between(1, math.inf, parts=parts, hidden=hidden)
    require_between(
        0, math.inf, group_epochs=group_epochs, diversity=diversity, response_scale=response_scale
    )
    if len(alternation_epochs) != 2 or min(alternation_epochs) < 0 or alternation_epochs[1] < 1:
        raise ValueError(
            "objective.alternation_epochs holds two numbers of epochs, at least one for the classifiers; got "
            f"{tuple(alternation_epochs)}"
        )
    learner = _MACNN(
        backbone=backbone,
        head=heads.Linear(task.num_classes, normalize=normalize),
        steps_per_epoch=task.steps_per_epoch,
        num_parts=parts,
        attend=functools.partial(part_attention, form=attention, scale=response_scale),
        map_scale=MAP_SCALE[attention],
        distance=DISTANCES[distance],
        margin=margin,
        diversity=diversity,
        hidden=hidden,
        group_epochs=group_epochs,
        alternation_epochs=tuple(alternation_epochs),
    )
    return Objective(
        batch_keys=("image", "label"),
        init=learner.init,
        loss=learner.loss,
        predict=learner.predict,
        plan_epoch=learner.plan_epoch,
        reads_pixels=False,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _MACNN:
    """The algorithm; the attributes are arguments of `make`, or made of them.

    Attributes:
      attend: (feature_map, channel_weights) -> maps, `part_attention`.
      map_scale: what the losses of the grouping multiply the maps by.
      distance: of `DISTANCES`.
    """

    backbone: Any
    head: Any
    steps_per_epoch: int
    num_parts: int
    attend: Callable[[jax.Array, jax.Array], jax.Array]
    map_scale: float
    distance: Callable[[jax.Array], jax.Array]
    margin: float
    diversity: float
    hidden: int
    group_epochs: int
    alternation_epochs: tuple[int, ...]

    def init(self, rng: jax.Array, batch: Batch) -> tuple[Params, ObjectiveState]:
        rng_backbone, rng_grouping, rng_parts, rng_whole = jax.random.split(rng, 4)
        params, batch_stats, features = init_backbone(self.backbone, rng_backbone, batch["image"])
        if features.map.ndim != 4:
            raise ValueError(
                f"objective.name = 'ma_cnn' needs a backbone whose map is [B, h, w, D]; this one's is "
                f"{list(features.map.shape)}"
            )
        pooled = jnp.mean(features.map, axis=POSITIONS)
        width = pooled.shape[-1]
        rngs = jax.random.split(rng_parts, self.num_parts)
        params = {
            "backbone": params,
            "grouping": _init_grouping(rng_grouping, self.num_parts, width, self.hidden),
            "heads": {
                "parts": jax.vmap(lambda rng: self.head.init(rng, pooled, train=False)["params"])(rngs),
                "whole": self.head.init(rng_whole, pooled, train=False)["params"],
            },
        }
        return params, {"batch_stats": batch_stats, "targets": jnp.zeros((self.num_parts, width))}

    def trains_grouping(self, epoch: Any) -> Any:
        """Returns whether an epoch, an integer or an array, trains the grouping and nothing else."""
        own, others = self.alternation_epochs
        return (epoch < self.group_epochs) | ((epoch - self.group_epochs) % (own + others) < own)

    def loss(
        self, params: Params, objective_state: ObjectiveState, batch: Batch, rng: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, tuple[ObjectiveState, Metrics]]:
        epoch = step // self.steps_per_epoch
        value, batch_stats, metrics = jax.lax.cond(
            self.trains_grouping(epoch),
            functools.partial(self.grouping_loss, first=epoch < self.group_epochs),
            self.classification_loss,
            params,
            objective_state,
            batch,
            rng,
        )
        return value, (objective_state | {"batch_stats": batch_stats}, metrics)

    def grouping_loss(
        self,
        params: Params,
        objective_state: ObjectiveState,
        batch: Batch,
        rng: jax.Array,
        *,
        first: jax.Array,
    ) -> tuple[jax.Array, Params, Metrics]:
        """Returns the loss of the grouping, `first` for that towards the clusters; nothing else has a
        gradient."""
        del rng
        still, batch_stats = jax.lax.stop_gradient(params), objective_state["batch_stats"]
        features, _ = apply_backbone(
            self.backbone, still["backbone"], batch_stats, batch["image"], train=False
        )
        logits, maps = self.attended(params["grouping"], features.map)
        targets = jnp.broadcast_to(objective_state["targets"], logits.shape)
        to_clusters = jnp.sum(sigmoid_cross_entropy(logits, targets), axis=1)  # [B]
        distance, diversity = self.grouping_losses(maps)
        values = jnp.where(first, to_clusters, distance + self.diversity * diversity)
        stream_logits = self.classify(still["heads"], features.map, maps)
        return jnp.mean(values), batch_stats, self.metrics(batch, maps, stream_logits)

    def classification_loss(
        self, params: Params, objective_state: ObjectiveState, batch: Batch, rng: jax.Array
    ) -> tuple[jax.Array, Params, Metrics]:
        """Returns the loss of backbone and classifiers; the weights of channels are constants."""
        trunk, batch_stats = params["backbone"], objective_state["batch_stats"]
        features, batch_stats = apply_backbone(
            self.backbone, trunk, batch_stats, batch["image"], train=True, rng=rng
        )
        _, maps = self.attended(params["grouping"], features.map, still=True)
        stream_logits = self.classify(params["heads"], features.map, maps)
        labels = jnp.broadcast_to(batch["label"][:, None], stream_logits.shape[:2])
        values = jnp.sum(softmax_cross_entropy(stream_logits, labels), axis=1)  # [B]
        return jnp.mean(values), batch_stats, self.metrics(batch, maps, stream_logits)

    def attended(
        self, grouping: Params, feature_map: jax.Array, *, still: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the logits of the channels' weights [B, N, D], without a gradient where `still`, and the
        parts' maps [B, N, h, w]."""
        logits = group_channels(grouping, jax.lax.stop_gradient(jnp.mean(feature_map, axis=POSITIONS)))
        logits = jax.lax.stop_gradient(logits) if still else logits
        return logits, self.attend(feature_map, jax.nn.sigmoid(logits))

    def classify(self, own: Params, feature_map: jax.Array, maps: jax.Array) -> jax.Array:
        """Returns the logits of each part's classifier and of the whole's, float32 [B, N + 1, K]."""
        pooled = jnp.einsum("bhwd,bnhw->nbd", feature_map, maps) / maps[0, 0].size
        of_parts = jax.vmap(lambda one, read: self.head.apply({"params": one}, read, train=False))(
            own["parts"], pooled
        )
        whole = self.head.apply({"params": own["whole"]}, jnp.mean(feature_map, axis=POSITIONS), train=False)
        return jnp.stack([*of_parts, whole], axis=1)

    def grouping_losses(self, maps: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns distance and diversity, summed over the parts, float32 [B] each."""
        maps = self.map_scale * maps
        distance, diversity = self.distance(maps), part_diversity(maps, margin=self.margin)
        return jnp.sum(distance, axis=1), jnp.sum(diversity, axis=1)

    def metrics(self, batch: Batch, maps: jax.Array, stream_logits: jax.Array) -> Metrics:
        """Returns what the log tells in every epoch."""
        distance, diversity = self.grouping_losses(maps)
        accuracy = 1 - jnp.mean(zero_one(log_mean_probability(stream_logits), batch["label"]))
        return {"accuracy": accuracy, "distance": jnp.mean(distance), "diversity": jnp.mean(diversity)}

    def predict(self, params: Params, objective_state: ObjectiveState, batch: Batch) -> dict[str, jax.Array]:
        """Returns also "stream_logits" [B, N + 1, K], the whole last; "part_attention" [B, N, h, w];
        "activity" [B, h, w], the sum of the channels; and "peaks" [B, 2 D], of `channel_peaks`."""
        features, _ = apply_backbone(
            self.backbone, params["backbone"], objective_state["batch_stats"], batch["image"], train=False
        )
        _, maps = self.attended(params["grouping"], features.map)
        stream_logits = self.classify(params["heads"], features.map, maps)
        return {
            "logits": log_mean_probability(stream_logits),
            "embedding": features.embedding,
            "stream_logits": stream_logits,
            "part_attention": maps,
            "activity": jnp.sum(features.map, axis=-1, dtype=jnp.float32),
            "peaks": channel_peaks(features.map),
        }

    def plan_epoch(
        self,
        params: Params,
        objective_state: ObjectiveState,
        epoch: int,
        embed: Callable[[str], np.ndarray],
        rng: jax.Array,
    ) -> EpochPlan:
        if epoch == 0 and self.group_epochs:
            # A copy on this host: the work below is its own, and every host does the same.
            key = jnp.asarray(np.asarray(jax.random.key_data(rng)))
            own = jax.random.wrap_key_data(key, impl=jax.random.key_impl(rng))
            targets = clustered_channels(embed("peaks"), own, num_parts=self.num_parts)
            metrics = {f"channels_of_part_{i}": float(count) for i, count in enumerate(targets.sum(axis=1))}
            return EpochPlan(params, objective_state | {"targets": targets}, None, metrics=metrics)
        still = ("backbone", "heads") if self.trains_grouping(epoch) else ("grouping",)
        changes = epoch > 0 and self.trains_grouping(epoch) != self.trains_grouping(epoch - 1)
        return EpochPlan(params, objective_state, None, reset=still if changes else ())


def group_channels(grouping: Params, pooled: jax.Array) -> jax.Array:
    """Returns the logits of the channels' weights in each part: W2 tanh(W1 g + b1) + b2.

    Args:
      grouping: of `params`.
      pooled: float [B, D], g.

    Returns:
      float32 [B, N, D].
    """
    first, second = grouping["fc1"], grouping["fc2"]
    x = jnp.tanh(jnp.einsum("bd,ndh->bnh", pooled, first["kernel"]) + first["bias"])
    return jnp.einsum("bnh,nhd->bnd", x, second["kernel"]) + second["bias"]


def _init_grouping(rng: jax.Array, num_parts: int, width: int, hidden: int) -> Params:
    """Returns the grouping layers: kernels from a normal distribution, biases 0."""
    sizes = {"fc1": (num_parts, width, hidden), "fc2": (num_parts, hidden, width)}
    layers = {}
    for key, (name, size) in zip(jax.random.split(rng), sizes.items(), strict=True):
        kernel = GROUPING_STD * jax.random.normal(key, size)
        layers[name] = {"kernel": kernel, "bias": jnp.zeros((num_parts, size[-1]))}
    return layers


def log_mean_probability(stream_logits: jax.Array) -> jax.Array:
    """Returns the logarithm of the streams' mean probability, [B, K]. Args: float [B, N + 1, K]."""
    log_p = jax.nn.log_softmax(stream_logits, axis=-1)
    return jax.nn.logsumexp(log_p, axis=1) - jnp.log(stream_logits.shape[1])


def channel_peaks(feature_map: jax.Array) -> jax.Array:
    """Returns where each channel is largest.

    Args:
      feature_map: float [B, h, w, D].

    Returns:
      float32 [B, 2 D]: row and column of each channel, scaled to [0, 1]; -1 where it is nowhere positive.
    """
    maps = jnp.moveaxis(feature_map, -1, 1)  # [B, D, h, w]
    last = jnp.maximum(jnp.array(maps.shape[2:]) - 1, 1)
    places = peak_positions(maps) / last
    places = jnp.where(jnp.max(maps, axis=(2, 3))[..., None] > 0, places, SILENT)
    return places.reshape(len(maps), -1).astype(jnp.float32)


def clustered_channels(peaks: np.ndarray, rng: jax.Array, *, num_parts: int) -> np.ndarray:
    """Clusters channels by where they peak in the training images (section 3.2 of the paper).

    Args:
      peaks: float32 [n, 2 D], of `channel_peaks`.
      rng: key of the k-means, the best of ten.
      num_parts: N.

    Returns:
      float32 [N, D], 1 where a channel belongs to a cluster; a channel that is silent in all images has none.

    Raises:
      ValueError: fewer than N channels are ever active.
    """
    peaks = peaks[:: math.ceil(len(peaks) / MOST_IMAGES)]
    places = peaks.reshape(len(peaks), -1, 2).transpose(1, 0, 2)  # [D, n, 2]
    seen = places[..., :1] != SILENT
    active = np.flatnonzero(seen.any(axis=(1, 2)))
    if len(active) < num_parts:
        raise ValueError(
            f"objective.parts is {num_parts}, and {len(active)} channels of the backbone's map are active in "
            "any image: choose fewer parts, or begin with pretrained weights (model.pretrained)"
        )
    usual = places.sum(axis=1, where=seen, keepdims=True) / np.maximum(seen.sum(axis=1, keepdims=True), 1)
    points = jnp.asarray(np.where(seen, places, usual)[active].reshape(len(active), -1))
    sizes = {"num_clusters": num_parts, "num_iterations": KMEANS_ITERATIONS}
    tries = [kmeans(key, points, **sizes) for key in jax.random.split(rng, KMEANS_STARTS)]
    found = min(tries, key=lambda one: float(one.objectives[-1]))
    targets = np.zeros((num_parts, places.shape[0]), np.float32)
    targets[np.asarray(found.assignments), active] = 1
    return targets
