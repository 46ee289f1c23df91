"""An objective's plan of an epoch, carried out: params, objective state, order and optimizer as it begins."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from imgcls_jax.contracts.objective import Batch
from imgcls_jax.data.pipeline import EvalBatches
from imgcls_jax.train import contract
from imgcls_jax.train.optimizer import reset_optimizer
from imgcls_jax.train.setup import Setup
from imgcls_jax.train.state import TrainState


class Embedder:
    """Predicts what is trained on.

    Args:
      setup: of the run.
      read: (batches, source) -> the batches on the devices, as Splits.read.
    """

    def __init__(self, setup: Setup, read: Callable[[EvalBatches, Any, str], Iterator[Batch]]):
        self._setup, self._read = setup, read
        self._compiled: dict[str, Callable[..., jax.Array]] = {}

    def embed(self, state: TrainState, key: str) -> np.ndarray:
        """Returns predict's output of a key over what is trained on in index order, float32 [N, D]."""
        setup = self._setup
        if key not in self._compiled:
            self._compiled[key] = jax.jit(
                lambda *inputs: setup.predict(*inputs)[key], out_shardings=setup.sharding
            )
        predict = self._compiled[key]
        batches = setup.data.training_in_order(setup.evaluated_at_once)
        rows = [
            np.asarray(predict(state.params, state.objective_state, batch), np.float32)
            for batch in self._read(batches, setup.data.training, "embedding")
        ]
        return np.concatenate(rows)[: setup.task.num_examples]


def plan(
    setup: Setup, tx: Any, state: TrainState, epoch: int, embed: Callable[[str], np.ndarray]
) -> tuple[TrainState, np.ndarray, dict[str, float]]:
    """Lets the objective rearrange itself before an epoch.

    Args:
      setup: of the run.
      tx: the running phase's optimizer.
      state: as the epoch before left it; it is kept.
      epoch: that begins.
      embed: key -> predict's output over what is trained on.

    Returns:
      (state, order int64 [N], numbers for the log); without an order of the objective's own, the usual one.

    Raises:
      ValueError: the plan is not of the form of the state, or its order not of the examples.
    """
    objective = setup.objective
    if objective.plan_epoch is None:
        return state, setup.batches.order_of(epoch), {}
    rng = jax.random.fold_in(jax.random.fold_in(state.rng, epoch), setup.settings.train.total_steps)
    with contract.naming(objective.plan_epoch):
        made = objective.plan_epoch(state.params, state.objective_state, epoch, embed, rng)
    contract.check_plan(objective, made, state.params, state.objective_state, setup.task.num_examples)
    if made.order is not None and setup.data.settings.augmentation_repeats > 1:
        raise ValueError(
            f"config.objective.name = {setup.settings.objective.name!r} orders an epoch itself: leave "
            "out data.augmentation_repeats"
        )
    order = setup.batches.order_of(epoch) if made.order is None else np.asarray(made.order, np.int64)
    opt_state = reset_optimizer(tx, state.opt_state, made.params, made.reset)
    renewed = state._replace(params=made.params, objective_state=made.objective_state, opt_state=opt_state)
    # The step donates its input, and the plan may have kept buffers of the old state.
    return setup.copy(renewed), order, dict(made.metrics)
