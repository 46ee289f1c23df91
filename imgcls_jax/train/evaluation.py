"""The evaluations of a run: splits opened on the devices, evaluators run one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

from imgcls_jax.config.modules import find_module
from imgcls_jax.config.settings import EvalSettings, Settings
from imgcls_jax.contracts.evaluator import SplitFacts
from imgcls_jax.contracts.objective import Batch, Task
from imgcls_jax.data.datasets import DataSide
from imgcls_jax.data.pipeline import EvalBatches, note_bad_examples
from imgcls_jax.data.read_ahead import iterate
from imgcls_jax.runtime.agreement import all_or_none, require_agreement
from imgcls_jax.runtime.mistakes import in_one_line
from imgcls_jax.runtime.progress import tracked
from imgcls_jax.runtime.stop import Interrupted
from imgcls_jax.train import contract, sharding
from imgcls_jax.train.build import evaluated_splits
from imgcls_jax.train.gallery import Gallery
from imgcls_jax.train.progress import named
from imgcls_jax.train.state import TrainState
from imgcls_jax.train.writer import OWN_PREFIXES, MetricWriter, flatten

Evaluator = Callable[[Any, Any], dict[str, Any]]


class EvaluationFailed(ValueError):
    """An evaluator raised, or returned something else than metrics; names it."""


class Splits:
    """Opens splits: their batches on the devices, every example once.

    Args:
      data: the data side.
      batch_size: of all devices together.
      class_names: of training; a split of other classes is refused.
      stop: asked before every batch whether the run is to stop; every process asks at the same places.
    """

    def __init__(
        self,
        data: DataSide,
        batch_size: int,
        class_names: tuple[str, ...],
        *,
        stop: Callable[[], bool] = lambda: False,
    ):
        self._data, self._batch_size, self._class_names, self._stop = data, batch_size, class_names, stop
        self._mesh = sharding.data_mesh()
        self._opened: dict[str, EvalBatches] = {}
        self.bad_examples: set[str] = set()

    def open(self, split: str) -> Iterator[Batch]:
        """Yields the batches of a split.

        Raises:
          ValueError: there is no such split, or the processes see it in different sizes.
          Interrupted: the run was asked to stop.
        """
        if split not in self._opened:
            with all_or_none():
                batches = self._data.eval_batches(split, self._batch_size, self._class_names)
            require_agreement({f"examples of the split {split!r}": len(batches.source)})
            self._opened[split] = batches
        batches = self._opened[split]
        yield from self.read(batches, batches.source, f"evaluating {split}")

    def source(self, split: str) -> Any:
        """Returns the examples of a split that was opened."""
        return self._opened[split].source

    def read(self, batches: EvalBatches, source: Any, what: str) -> Iterator[Batch]:
        """Yields batches, placed on the devices, and notes the examples of the source that are left out.

        Args:
          batches: of any split.
          source: of their examples.
          what: is done, for the bar.
        """
        with iterate(batches, 0, len(batches), **self._data.reading) as iterator:
            for batch in tracked(iterator, what, len(batches), "batches"):
                if self._stop():
                    raise Interrupted
                note_bad_examples(source, batch.pop("bad_examples"), self.bad_examples)
                yield sharding.place(batch, self._mesh)


def check_evaluators(settings: Settings, objective: Any, outputs: Mapping[str, Any]) -> None:
    """Checks the section `evals` against what the evaluators declare and the objective predicts.

    Args:
      settings: of the run.
      objective: of the run.
      outputs: of what it predicts, by name.

    Raises:
      ValueError: an evaluator that reads what is not predicted, a name that is taken, or a best_metric of no
        evaluation.
    """
    for own in settings.evals:
        name = own.name
        if name in OWN_PREFIXES:
            raise ValueError(
                f"config.evals.{name}: metrics called {name}/... are those of training itself; give the "
                f"evaluation another name, such as on_{name}"
            )
        module = find_module("evaluators", own.evaluator)
        contract.check_reads(f"evals.{name}", module, own.fields, objective.predict, outputs)
    _check_best_metric(settings)


def _check_best_metric(settings: Settings) -> None:
    """Raises ValueError for a best_metric of no evaluation, or none of those that its evaluator declares."""
    name, _, quantity = settings.train.best_metric.partition("/")
    if not name:
        return
    chosen = next((own for own in settings.evals if own.name == name), None)
    if chosen is None:
        known = [f"{own.name}/..." for own in settings.evals]
        raise ValueError(_no_such_metric(settings.train.best_metric, known))
    declared = contract.measured(find_module("evaluators", chosen.evaluator), chosen.fields)
    if declared and quantity not in declared:
        known = [f"{name}/{own}" for own in declared]
        raise ValueError(_no_such_metric(settings.train.best_metric, known))


def reading_only(evals: Sequence[EvalSettings], predict: Any, outputs: Sequence[str]) -> list[EvalSettings]:
    """Returns the evaluations without views that read nothing but these outputs.

    Args:
      evals: of a run.
      predict: its objective's.
      outputs: names of what is predicted.
    """
    chosen = []
    for own in evals:
        module = find_module("evaluators", own.evaluator)
        try:
            contract.check_reads(own.name, module, own.fields, predict, dict.fromkeys(outputs))
        except ValueError:
            continue
        if own.views is None:
            chosen.append(own)
    return chosen


def check_data(evals: Sequence[EvalSettings], facts: Mapping[str, SplitFacts], task: Task) -> None:
    """Asks each evaluator that can tell whether it can measure the splits that it reads.

    Args:
      evals: of the run.
      facts: of each split that they read, by name.
      task: of the run.

    Raises:
      ValueError: one cannot; names it.
    """
    for own in evals:
        check = getattr(find_module("evaluators", own.evaluator), "check", None)
        if check is None:
            continue
        fields = {field.rpartition(".")[2]: facts[split] for field, split in evaluated_splits([own])}
        try:
            with contract.naming(check):
                check(fields, own.fields, task)
        except ValueError as error:
            raise ValueError(f"config.evals.{own.name}: {error}") from error


def require_metric(best_metric: str, scalars: Mapping[str, float]) -> None:
    """Raises ValueError where the metric by which the best checkpoint is kept was not measured."""
    if best_metric and best_metric not in scalars:
        raise ValueError(_no_such_metric(best_metric, list(scalars)))


def _no_such_metric(best_metric: str, known: list[str]) -> str:
    return (
        f"config.train.best_metric = {best_metric!r} is none of the evaluations' metrics: "
        f"{', '.join(known) or 'there is no evaluation'}"
    )


def run(
    evaluators: Mapping[str, Evaluator], params: Any, objective_state: Any
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (name, metrics) of one evaluation after the other.

    Raises:
      EvaluationFailed: names the evaluation, the error and its place.
      Interrupted, JaxRuntimeError: as they come.
    """
    for name, evaluator in evaluators.items():
        try:
            metrics = evaluator(params, objective_state)
            contract.check_metrics(f"the evaluator of config.evals.{name}", metrics)
        except (Interrupted, jax.errors.JaxRuntimeError):
            raise
        except Exception as error:
            raise EvaluationFailed(f"the evaluation {name!r} failed: {in_one_line(error)}") from error
        yield name, metrics


def run_and_tell(
    evaluators: Mapping[str, Evaluator],
    state: TrainState,
    step: int,
    writer: MetricWriter,
    gallery: Gallery,
) -> tuple[dict[str, dict[str, Any]], dict[str, float]]:
    """Runs one evaluation after the other; prints and then writes the numbers of those that succeed. Where
    all do, shows what else there is of them.

    Returns:
      (metrics by evaluation, their numbers by name).

    Raises:
      EvaluationFailed, Interrupted, JaxRuntimeError: as run does; what succeeded before is written.
      OSError: the numbers cannot be written; they are printed.
    """
    found: dict[str, dict[str, Any]] = {}
    scalars: dict[str, float] = {}
    try:
        for name, metrics in run(evaluators, state.params, state.objective_state):
            found[name] = metrics
            scalars |= flatten(metrics, name)
    finally:
        if scalars:
            if jax.process_index() == 0:
                print(f"evaluation at step {step}: {named(scalars)}", flush=True)
            writer.write_scalars(step, scalars)
    if writer.shows:
        for name, metrics in found.items():
            writer.show(gallery.entry(step, name, metrics))
    return found, scalars
