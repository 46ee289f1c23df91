"""A backbone with some or all params frozen: its BatchNorm statistics must not drift either.

Each of the two classes takes the place of a backbone: it has the backbone's attributes and the same `apply`.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax

Tree = Any


class Frozen:
    """A backbone with frozen params.

    With all params frozen it always runs as in evaluation. With some frozen, a batch norm whose params are
    all frozen normalizes by its running statistics, which stay; dropout and the rest run as usual.

    Args:
      backbone: module with the contract of models/.
      frozen: bool for every leaf of its params.
    """

    def __init__(self, backbone: Any, frozen: Tree):
        self._backbone, self._frozen = backbone, frozen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def apply(self, variables: Tree, *inputs: Any, train: bool, **options: Any) -> Any:
        if all(jax.tree.leaves(self._frozen)):
            return self._backbone.apply(variables, *inputs, train=False, **options)
        with nn.intercept_methods(self._hold_statistics):
            return self._backbone.apply(variables, *inputs, train=train, **options)

    def _hold_statistics(self, call: Any, args: Any, options: Any, context: Any) -> Any:
        module = context.module
        if isinstance(module, nn.BatchNorm) and context.method_name == "__call__":
            own = self._frozen
            for name in module.path:
                own = own.get(name, {})
            if own and all(jax.tree.leaves(own)):
                # An attribute of a module is settable in its constructor alone, which the family calls.
                object.__setattr__(module, "use_running_average", True)
        return call(*args, **options)


class Precomputed:
    """A frozen backbone whose features were computed before: it takes features and returns them.

    Args:
      backbone: module with the contract of models/.
    """

    def __init__(self, backbone: Any):
        self._backbone = backbone

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def apply(self, variables: Tree, features: Any, *, mutable: Any = False, **options: Any) -> Any:
        del options
        if not mutable:
            return features
        return features, {name: variables[name] for name in mutable if name in variables}
