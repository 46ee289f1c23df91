"""Checks that the functions of an objective, an evaluator and a model keep their contract.

Each is traced once, before the first step. A breach becomes one line: file, function, what was expected and
what came.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from imgcls_jax.config.field_types import did_you_mean
from imgcls_jax.contracts.objective import Batch, EpochPlan, Objective
from imgcls_jax.runtime.mistakes import file_of, in_one_line, is_told, shown
from imgcls_jax.runtime.stop import Interrupted

BATCH_KEYS = ("image", "views", "label", "index", "labeled", "text", "teacher")
INIT_RETURNS = "(params, objective_state), two dicts, params with the key 'backbone'"
LOSS_RETURNS = "(scalar, (objective_state, metrics))"
PREDICT_RETURNS = "a dict of arrays with a row for each image, such as {'logits': ..., 'embedding': ...}"
FEATURES = "map", "embedding", "aux"  # of layers.features.Features


# ---- the objective


def check_make(make: Callable[..., Any], *needed: str) -> None:
    """Raises ValueError unless a file's `make` takes the arguments that every one of its room must take."""
    parameters = inspect.signature(make).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    missing = [name for name in needed if name not in parameters]
    if missing and not takes_any:
        raise ValueError(
            f"{_where(make)} takes the arguments {', '.join(needed)} and its own options; it lacks "
            f"{', '.join(missing)}, and takes {', '.join(parameters) or 'none'}"
        )


def check_objective(objective: Any, make: Callable[..., Any]) -> None:
    """Raises ValueError unless an objective's `make` returned one, whose batch_keys there are."""
    if not isinstance(objective, Objective):
        raise ValueError(f"{_where(make)} returns an Objective; it returned {_told(objective)}")
    keys = objective.batch_keys
    if isinstance(keys, str) or not all(isinstance(key, str) for key in keys):
        raise ValueError(f"{_where(make)}: batch_keys is a tuple of names; got {keys!r}")
    for key in keys:
        if key not in BATCH_KEYS:
            hint = did_you_mean(key, BATCH_KEYS) or "choose among those"
            raise ValueError(
                f"{_where(make)}: batch_keys names {key!r}, and a batch has {', '.join(BATCH_KEYS)}: {hint}"
            )
    if ("teacher" in keys) != (objective.teacher is not None):
        raise ValueError(
            f"{_where(make)}: an Objective has a teacher where batch_keys name 'teacher', and only there; "
            f"got {objective.teacher} and {keys}"
        )


def trace_init(objective: Objective, backbone: Any, batch: Batch) -> tuple[Any, Any]:
    """Traces the objective's init.

    Args:
      objective: of the run.
      backbone: of the run, which is named where the fault is its own.
      batch: shapes, as the objective sees them.

    Returns:
      (params, objective_state), in shapes.

    Raises:
      ValueError: it raises, or returns something else.
    """
    try:
        with naming(objective.init):
            returned = _traced(objective.init, jax.random.key(0), batch)
    except ValueError:
        _check_backbone(backbone, batch)
        raise
    if not _is_pair(returned) or not all(isinstance(part, dict) for part in returned):
        _refuse(objective.init, INIT_RETURNS, returned)
    params, objective_state = returned
    if "backbone" not in params:
        raise ValueError(
            f"{_where(objective.init)} returns params with the key 'backbone', the part that other runs can "
            f"take over; they have {', '.join(map(str, params)) or 'none'}"
        )
    for name, tree in (("params", params), ("objective_state", objective_state)):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            if not _is_array(leaf):
                raise ValueError(
                    f"{_where(objective.init)}: {name} holds arrays; {_path(path)} is {_told(leaf)}"
                )
    return params, objective_state


def check_training(
    objective: Objective,
    backbone: Any,
    params: Any,
    objective_state: Any,
    batch: Batch,
    axis_name: str | None,
) -> None:
    """Traces the objective's loss, after_update and project.

    Args:
      objective, backbone: of the run.
      params, objective_state: shapes, of trace_init.
      batch: shapes, as the objective sees them.
      axis_name: of the axis over which the loss gathers, None where the batch is whole.

    Raises:
      ValueError: one of them raises, returns something else, or changes the form of objective_state.
    """
    step = jax.ShapeDtypeStruct((), jnp.int32)
    inputs = params, objective_state, batch, jax.random.key(0), step
    try:
        with naming(objective.loss):
            returned = _traced(objective.loss, *inputs, axis_name=axis_name)
    except ValueError:
        _check_backbone(backbone, batch)
        raise
    if not _is_pair(returned) or not _is_pair(returned[1]):
        _refuse(objective.loss, LOSS_RETURNS, returned)
    value, (moved, metrics) = returned
    if not _is_array(value) or value.shape != () or not jnp.issubdtype(value.dtype, jnp.floating):
        _refuse(objective.loss, f"{LOSS_RETURNS}, whose first is a float of shape ()", value)
    if not isinstance(metrics, Mapping):
        _refuse(objective.loss, f"{LOSS_RETURNS}, metrics being a dict", metrics)
    for name, metric in metrics.items():
        if not _is_array(metric) or metric.shape != ():
            raise ValueError(
                f"{_where(objective.loss)} returns metrics that are scalars, means over the batch; "
                f"{name!r} is {_told(metric)}"
            )
    _check_form(objective.loss, objective_state, moved)
    with naming(objective.after_update):
        moved = _traced(objective.after_update, params, objective_state, step)
    _check_form(objective.after_update, objective_state, moved)
    with naming(objective.project):
        _check_form(objective.project, params, _traced(objective.project, params), name="params")


def trace_predict(objective: Objective, params: Any, objective_state: Any, batch: Batch) -> dict[str, Any]:
    """Traces the objective's predict, of a batch as the evaluation line makes it.

    Returns:
      Its outputs, in shapes.

    Raises:
      ValueError: it raises, or returns something else than a dict of rows.
    """
    with naming(objective.predict):
        outputs = _traced(objective.predict, params, objective_state, batch)
    if not isinstance(outputs, Mapping):
        _refuse(objective.predict, PREDICT_RETURNS, outputs)
    rows = batch["image"].shape[0]
    for name, output in outputs.items():
        if not _is_array(output) or output.shape[:1] != (rows,):
            raise ValueError(
                f"{_where(objective.predict)} returns {PREDICT_RETURNS}; of {rows} images, {name!r} is "
                f"{_told(output)}"
            )
    return dict(outputs)


def check_plan(objective: Objective, plan: Any, params: Any, objective_state: Any, num_examples: int) -> None:
    """Raises ValueError unless plan_epoch returned an EpochPlan of the form of the state."""
    function = objective.plan_epoch
    if not isinstance(plan, EpochPlan):
        _refuse(function, "an EpochPlan(params, objective_state, order)", plan)
    _check_form(function, params, plan.params, name="params")
    _check_form(function, objective_state, plan.objective_state)
    if plan.order is None:
        return
    order = jax.numpy.asarray(plan.order) if not hasattr(plan.order, "min") else plan.order
    if order.shape != (num_examples,) or order.min() < 0 or order.max() >= num_examples:
        raise ValueError(
            f"{_where(function)}: plan_epoch's order is not {num_examples} indices in [0, {num_examples}); "
            f"it is {_told(order)}"
        )


def _check_backbone(backbone: Any, batch: Batch) -> None:
    """Raises ValueError where the network itself cannot be made, or returns no Features."""
    image = batch["image"] if "image" in batch else batch["views"][0]
    file = getattr(sys.modules.get(type(backbone).__module__), "__file__", "") or ""
    key = jax.random.key(0)
    try:
        features, _ = _traced(
            lambda rng, images: backbone.init_with_output(rng, images, train=False), key, image
        )
    except Exception as error:  # whatever the network raises
        shape = tuple(image.shape[1:])
        raise ValueError(
            f"config.model makes no network for images of shape {shape}: {in_one_line(error, file)}"
        ) from error
    if not all(hasattr(features, name) for name in FEATURES):
        raise ValueError(
            f"{shown(file)}: a network returns Features(map, embedding, aux) of layers/features.py; "
            f"{type(backbone).__name__} returned {_told(features)}"
        )


# ---- the evaluators


def check_reads(section: str, module: Any, options: Mapping[str, Any], predict: Any, outputs: Any) -> None:
    """Checks what an evaluator declares against what the objective predicts.

    An evaluator's file may have READS, the names of what it reads of predict's output; where one of several
    will do, a tuple of these stands in place of a name. Where that depends on the evaluator's options, the
    file has a function of them, reads(options).

    Args:
      section: of the configuration, for the message.
      module: of evaluators/.
      options: its fields of the configuration.
      predict: the objective's, for the message.
      outputs: of trace_predict.

    Raises:
      ValueError: the objective does not predict what the evaluator reads.
    """
    declared = module.reads(options) if hasattr(module, "reads") else getattr(module, "READS", ())
    for names in declared:
        choices = (names,) if isinstance(names, str) else tuple(names)
        if not any(name in outputs for name in choices):
            raise ValueError(
                f"config.{section}: {shown(module.__file__)} reads {' or '.join(map(repr, choices))} of what "
                f"the objective predicts, and {_where(predict)} returns {', '.join(outputs) or 'nothing'}: "
                "choose another evaluator, or let predict return it"
            )


def measured(module: Any, options: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the names of the numbers that an evaluator declares to measure; () where it declares none.

    Its file may have MEASURES, or a function measures(options) where they depend on its options. Those that
    depend on the data or the objective are among them, whether they are measured or not.

    Args:
      module: of evaluators/.
      options: its fields of the configuration.
    """
    return tuple(module.measures(options) if hasattr(module, "measures") else getattr(module, "MEASURES", ()))


def check_metrics(evaluator: str, metrics: Any) -> None:
    """Raises ValueError unless an evaluation gave a dict of numbers, lists of them and None."""
    if not isinstance(metrics, Mapping) or not all(isinstance(name, str) for name in metrics):
        raise ValueError(f"{evaluator} returns a dict of names and numbers; it returned {_told(metrics)}")
    for name, value in metrics.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{evaluator} returns plain numbers, lists of them or None; {name!r} is {_told(value)}: "
                "float(...) or .tolist() makes it one"
            ) from error


# ---- words


@contextlib.contextmanager
def naming(function: Callable[..., Any]) -> Iterator[None]:
    """Turns what a user's function raises into one ValueError line that names its file and line."""
    try:
        yield
    except (Interrupted, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:
        if is_told(error):
            raise
        raise ValueError(in_one_line(error, file_of(function))) from error


def _traced(function: Callable[..., Any], *inputs: Any, axis_name: str | None = None) -> Any:
    """Returns what a function returns, arrays as their shapes, whatever its structure."""
    returned = []

    def call(*arguments: Any) -> tuple[()]:
        found = function(*arguments)
        returned.append(jax.tree.map(_shape, found))
        return ()

    if axis_name is None:
        jax.eval_shape(call, *inputs)
    else:  # one replica, whose rows are all
        jax.eval_shape(jax.vmap(call, in_axes=None, axis_name=axis_name, axis_size=1), *inputs)
    return returned[-1]


def _shape(leaf: Any) -> Any:
    if isinstance(leaf, (bool, int, float)) or hasattr(leaf, "dtype"):
        return jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf))
    return leaf


def _check_form(function: Any, wanted: Any, came: Any, name: str = "objective_state") -> None:
    """Raises ValueError where a tree has another structure, shape or dtype than init gave it."""
    old, new = (
        {_path(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(jax.tree.map(_shape, tree))}
        for tree in (wanted, came)
    )
    structures: list[Any] = [jax.tree.structure(tree) for tree in (wanted, came)]
    lost, added = sorted(old.keys() - new.keys()), sorted(new.keys() - old.keys())
    changed = [path for path, leaf in old.items() if path in new and _told(leaf) != _told(new[path])]
    if lost:
        fault = f"lacks {', '.join(lost[:3])}, which init made"
    elif added:
        fault = f"has {', '.join(added[:3])}, which init did not make"
    elif changed:
        fault = f"has {changed[0]} as {_told(new[changed[0]])}, where init made {_told(old[changed[0]])}"
    elif structures[0] != structures[1]:
        fault = f"is {_told(came)}, where init made {_told(wanted)}"
    else:
        return
    raise ValueError(
        f"{_where(function)} returns {name} in the structure, shapes and dtypes that init gave it; it {fault}"
    )


def _refuse(function: Any, expected: str, came: Any) -> None:
    raise ValueError(f"{_where(function)} returns {expected}; it returned {_told(came)}")


def _where(function: Any) -> str:
    """Returns "objectives/my.py: loss", a function and the file in which it stands."""
    name = getattr(function, "__name__", "") or type(function).__name__
    file = file_of(function)
    return f"{shown(file)}: {name}" if file else name


def _told(value: Any) -> str:
    """Describes what came: "float32[2, 10]", "a dict of logits, embedding"."""
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{value.dtype.name}[{', '.join(map(str, value.shape))}]"
    if isinstance(value, Mapping):
        return f"a dict of {', '.join(map(str, list(value)[:5]))}" if value else "an empty dict"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} ({', '.join(_told(part) for part in value[:4])})"
    return repr(value) if value is None or isinstance(value, (str, int, float)) else type(value).__name__


def _is_pair(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def _path(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
