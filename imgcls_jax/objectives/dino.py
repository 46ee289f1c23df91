"""DINO: a network learns to give each crop of an image the distribution that its own average gives others.

Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", arXiv:2104.14294 (2021). Views are
the lines of data.view_transforms: the first two are global crops, which the average (the teacher) sees too;
further lines are local crops, which may be smaller where the backbone takes several sizes. The teacher's
logits are centered by a running mean and sharpened by a low temperature, which together keep all images from
getting one distribution.

Differences: the average predicts with the trained network's running statistics, the authors' has its own (a
ViT has none); every view passes by itself, the authors join those of one size (BatchNorm then sees them
together; a ViT has none). While the prototypes are held, their gradient is 0; momentum and decay, where the
optimizer has them, still act on them.

params: those of contracts/embedder.py, and `prototypes`: {"kernel": float32 [bottleneck, num_prototypes]},
whose columns count by their direction alone.

objective_state: those of contracts/embedder.py, and
  target: a copy of all params, float32.
  center: float32 [num_prototypes].
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from imgcls_jax.contracts.embedder import Embedder, make_target
from imgcls_jax.contracts.objective import (
    Batch,
    Metrics,
    Objective,
    ObjectiveState,
    Params,
    Task,
    require_between,
)
from imgcls_jax.layers.projector import Projector
from imgcls_jax.losses import entropy, l2_normalize, softmax_cross_entropy


def make(
    backbone: Any,
    task: Task,
    *,
    num_prototypes: int = 65536,
    projection_hidden: tuple[int, ...] = (2048, 2048),
    bottleneck: int = 256,
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.04,
    center_decay: float = 0.9,
    target_decay: float = 0.996,
    held_epochs: int = 1,
) -> Objective:
    """Returns the objective; predict gives the backbone's embedding, by the average.

    Args:
      backbone: module of models/.
      task: steps_per_epoch, total_steps and axis_name are read.
      num_prototypes: of the distributions.
      projection_hidden, bottleneck: widths of the projector's linear layers.
      student_temperature, teacher_temperature: divide the logits, positive.
      center_decay: of the center, in [0, 1].
      target_decay: of the average at the first step, in [0, 1); it rises to 1.
      held_epochs: at the beginning, in which the prototypes stay.

    Raises:
      ValueError: a hyper-parameter out of range; later, where a batch has fewer than two views.
    """
    require_between(1e-6, 100.0, student_temperature=student_temperature)
    require_between(1e-6, 100.0, teacher_temperature=teacher_temperature)
    require_between(0, 1, center_decay=center_decay)
    target = make_target(target_decay, task, rises=True)
    projector = Projector((*projection_hidden, bottleneck), norm=False, gelu=True)
    learner = _DINO(
        Embedder(backbone, projector),
        num_prototypes,
        student_temperature,
        teacher_temperature,
        center_decay,
        held_epochs * task.steps_per_epoch,
        task.axis_name,
    )
    return Objective(
        batch_keys=("views",),
        init=learner.init,
        loss=learner.loss,
        predict=learner.predict,
        after_update=target.after_update,
        in_parts="the center moves after each part",
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _DINO:
    """The algorithm; the attributes are arguments of `make`, or made of them."""

    embedder: Embedder
    num_prototypes: int
    student_temperature: float
    teacher_temperature: float
    center_decay: float
    held_steps: int
    axis_name: str | None

    def init(self, rng: jax.Array, batch: Batch) -> tuple[Params, ObjectiveState]:
        if len(batch["views"]) < 2:
            raise ValueError(
                "dino needs two lines of config.data.view_transforms, the global crops, or more; got "
                f"{len(batch['views'])}"
            )
        rng, rng_prototypes = jax.random.split(rng)
        params, objective_state = self.embedder.init(rng, batch["views"][0])
        shape = (self.embedder.projector.widths[-1], self.num_prototypes)
        params["prototypes"] = {"kernel": jax.random.normal(rng_prototypes, shape)}
        return params, objective_state | {
            "target": jax.tree.map(jnp.copy, params),
            "center": jnp.zeros(self.num_prototypes),
        }

    def loss(
        self, params: Params, objective_state: ObjectiveState, batch: Batch, rng: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, tuple[ObjectiveState, Metrics]]:
        views, center = batch["views"], objective_state["center"]
        kernel = params["prototypes"]["kernel"]
        held = jnp.where(step < self.held_steps, jax.lax.stop_gradient(kernel), kernel)
        taught = objective_state["target"]
        projected, _ = self.embedder.project_each(taught, objective_state, views[:2], rng)
        teacher = [_logits(one, taught["prototypes"]["kernel"]) for one in projected]
        projected, objective_state = self.embedder.project_each(params, objective_state, views, rng)
        student = [_logits(one, held) / self.student_temperature for one in projected]
        sharp = [jax.lax.stop_gradient((one - center) / self.teacher_temperature) for one in teacher]
        losses = [
            jnp.mean(softmax_cross_entropy(student[other], jax.nn.softmax(sharp[own])))
            for own in range(2)
            for other in range(len(views))
            if own != other
        ]
        mean = jnp.mean(jnp.stack(teacher), axis=(0, 1))
        if self.axis_name is not None:
            mean = jax.lax.pmean(mean, self.axis_name)
        center = self.center_decay * center + (1 - self.center_decay) * mean
        metrics = {"teacher_entropy": jnp.mean(entropy(jnp.stack(sharp)))}
        value = jnp.mean(jnp.stack(losses))
        return value, (objective_state | {"center": jax.lax.stop_gradient(center)}, metrics)

    def predict(self, params: Params, objective_state: ObjectiveState, batch: Batch) -> dict[str, jax.Array]:
        del params
        return self.embedder.predict(objective_state["target"], objective_state, batch)


def _logits(projected: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns the cosines with the prototypes, float32 [B, K]. Args: projected [B, D]; kernel [D, K]."""
    return l2_normalize(projected) @ l2_normalize(kernel.T).T
