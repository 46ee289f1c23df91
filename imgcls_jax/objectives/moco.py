"""MoCo: tell an image's other view from a long queue of earlier images.

He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", arXiv:1911.05722 (2020), with
the projector of version 2, arXiv:2003.04297. An average of the params embeds the keys; the queue holds those
of the last steps. Views are the two lines of data.view_transforms: queries, then keys.

Difference: the authors shuffle the images among devices before the keys' BatchNorm, whose statistics would
otherwise betray which keys belong to a device's queries. Here BatchNorm sees the whole batch, so nothing is
shuffled; with train.parallel = "per_replica" that leak is there.

params: those of contracts/embedder.py.

objective_state: those of contracts/embedder.py, and
  target: a copy of the params backbone and projector, float32.
  queue: float32 [queue_size, projection_dim], normalized keys.
  position: int32 [], the row of the queue that the next batch overwrites first.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from imgcls_jax.contracts.embedder import NETWORK, Embedder, make_target, two_views
from imgcls_jax.contracts.objective import Batch, Metrics, Objective, ObjectiveState, Params, Task
from imgcls_jax.layers.projector import Projector
from imgcls_jax.losses import l2_normalize, queue_info_nce


def make(
    backbone: Any,
    task: Task,
    *,
    queue_size: int = 65536,
    temperature: float = 0.2,
    target_decay: float = 0.999,
    projection_hidden: tuple[int, ...] = (0,),
    projection_dim: int = 128,
) -> Objective:
    """Returns the objective; predict gives the backbone's embedding. The defaults are version 2's.

    Args:
      backbone: module of models/.
      task: axis_name is read.
      queue_size: negatives, a multiple of the batch size.
      temperature: divides the cosines, positive; version 1's is 0.07.
      target_decay: of the average, in [0, 1), constant.
      projection_hidden: widths of the projector's hidden layers, 0 for the embedding's; () for version 1.
      projection_dim: of the projections.

    Raises:
      ValueError: a hyper-parameter out of range; later, where a batch has not exactly two views, or its size
        does not divide queue_size.
    """
    if not temperature > 0 or queue_size < 1:
        raise ValueError(
            f"objective.temperature and queue_size are positive; got {temperature} and {queue_size}"
        )
    target = make_target(target_decay, task, rises=False)
    embedder = Embedder(backbone, Projector((*projection_hidden, projection_dim), norm=False))
    learner = _MoCo(embedder, queue_size, temperature, task.axis_name)
    return Objective(
        batch_keys=("views",),
        init=learner.init,
        loss=learner.loss,
        predict=embedder.predict,
        after_update=target.after_update,
        in_parts="the queue moves on after each part, so that later parts have the earlier ones as negatives",
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _MoCo:
    """The algorithm; the attributes are arguments of `make`, or made of them."""

    embedder: Embedder
    queue_size: int
    temperature: float
    axis_name: str | None

    def init(self, rng: jax.Array, batch: Batch) -> tuple[Params, ObjectiveState]:
        rng, rng_queue = jax.random.split(rng)
        params, objective_state = self.embedder.init(rng, two_views(batch, "moco")[0])
        dim = self.embedder.projector.widths[-1]
        return params, objective_state | {
            "target": {name: jax.tree.map(jnp.copy, params[name]) for name in NETWORK},
            "queue": l2_normalize(jax.random.normal(rng_queue, (self.queue_size, dim))),
            "position": jnp.int32(0),
        }

    def loss(
        self, params: Params, objective_state: ObjectiveState, batch: Batch, rng: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, tuple[ObjectiveState, Metrics]]:
        del step
        view, other = two_views(batch, "moco")
        rng_query, rng_key = jax.random.split(rng)
        keys, _ = self.embedder.project(objective_state["target"], objective_state, other, rng_key)
        keys = jax.lax.stop_gradient(keys)
        queries, objective_state = self.embedder.project(params, objective_state, view, rng_query)
        queue = objective_state["queue"]
        value = jnp.mean(queue_info_nce(queries, keys, queue, temperature=self.temperature))
        return value, (objective_state | self.moved_queue(objective_state, keys), {})

    def moved_queue(self, objective_state: ObjectiveState, keys: jax.Array) -> ObjectiveState:
        """Returns queue and position with the keys of this batch, float [B, D], in the oldest ones' place."""
        keys = l2_normalize(keys)
        if self.axis_name is not None:
            keys = jax.lax.all_gather(keys, self.axis_name, tiled=True)
        if self.queue_size % len(keys):
            raise ValueError(
                f"objective.queue_size is a multiple of the batch size, {len(keys)}; got {self.queue_size}"
            )
        position = objective_state["position"]
        queue = jax.lax.dynamic_update_slice(objective_state["queue"], keys, (position, 0))
        return {"queue": queue, "position": (position + len(keys)) % self.queue_size}
