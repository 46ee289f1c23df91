"""The host side of the input pipeline: batches as a pure function of the step.

`TrainBatches[step]` and `EvalBatches[i]` are random access. The examples of a batch, and the random numbers
of its host transforms, depend on (seed, epoch, position) alone. So a run resumes at any step without saved
iterator state, and any number of processes, threads or workers gives the same global batches. What reads them
ahead is data/read_ahead.py.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from imgcls_jax.data import subsets, transforms
from imgcls_jax.data.source import Source

logger = logging.getLogger(__name__)

MAX_BAD_IN_A_ROW = 100
LABELED_STREAM = 1  # sets its randomness apart from that of the first stream
ON_BAD_EXAMPLE = ("raise", "skip")


@functools.lru_cache(maxsize=8)
def shuffled(seed: tuple[int, ...], num_examples: int) -> np.ndarray:
    """Returns the order of one pass through the examples, int64 [num_examples]."""
    return np.random.default_rng(seed).permutation(num_examples)


class _Place(NamedTuple):
    """A position in a shuffle, and the seed of that shuffle. Both together seed the example's transforms."""

    order: np.ndarray
    position: int
    seed: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Labeled:
    """The second stream.

    Attributes:
      indices: int64 [n], the examples with known labels.
      batch_size: global.
      apart: whether the first stream leaves those examples out.
    """

    indices: np.ndarray
    batch_size: int
    apart: bool = False


class _Batches:
    """The base of both kinds of batches: loads examples, and names those that cannot be read.

    Attributes:
      gather: indices -> a whole batch of an array in memory; None where examples are loaded one by one.
    """

    view_ops: tuple[Sequence[Any], ...] = ()

    def __init__(
        self,
        source: Source,
        host_ops: Sequence[Any],
        batch_size: int,
        on_bad_example: str,
        shard: tuple[int, int],
    ):
        if on_bad_example not in ON_BAD_EXAMPLE:
            raise ValueError(f"data.on_bad_example is one of {ON_BAD_EXAMPLE}; got {on_bad_example!r}")
        self.source, self.host_ops = source, tuple(host_ops)
        self.batch_size, self.on_bad_example = batch_size, on_bad_example
        self.local = _rows(batch_size, shard, "the batch size")
        self.gather = None if host_ops else getattr(source, "gather", None)

    def load(
        self, index: int, rng: np.random.Generator, view_ops: Sequence[Sequence[Any]] = ()
    ) -> dict[str, Any] | None:
        """Returns one transformed example, with view_images where there are view_ops.

        One that cannot be read gives None with on_bad_example="skip", else a ValueError that names it.
        """
        try:
            example = dict(self.source[index])
            original = example["image"]
            example["image"] = transforms.apply(self.host_ops, original, rng)
            if view_ops:
                example["view_images"] = tuple(transforms.apply(ops, original, rng) for ops in view_ops)
            return example
        except (OSError, ValueError, SyntaxError, EOFError) as error:
            if self.on_bad_example == "skip":
                return None
            raise ValueError(
                f"{self.source.describe(index)}: {error} (data.on_bad_example='skip' leaves such images out "
                "and counts them)"
            ) from error


class TrainBatches(_Batches):
    """The training batches of a run.

    A batch is a dictionary of
        image: uint8 [b, H, W, C], b being this process's part of the global batch;
        label, index: int32 [b];
        epoch: int32 [b], how many whole passes came before;
        any other field of the source;
        bad_examples: int64 [n], indices that could not be read; the next readable example replaces each;
        view_images: with view_ops, a tuple of uint8 [b, H, W, C];
        labeled: with labeled, a batch {image, label, index, ...} of examples whose label is known. They are
            reshuffled each time they are used up. In the main batch a label that is not known is -1.
    The last examples of an epoch, fewer than a batch, are dropped. Each epoch's shuffle drops others.

    Args:
      source: the data set.
      host_ops: of transforms.parse.
      batch_size: of all processes together.
      seed: of the shuffles and the transforms.
      on_bad_example: "raise" or "skip".
      view_ops: host operations of further images made of each example.
      labeled: the examples whose labels are known, and how many of them a batch has; None where all are.
      groups: (labels int [N], how many images of a class follow each other), as `subsets.grouped` orders
        them; None for a plain shuffle.
      repeats: how many times each image comes in a batch; an epoch visits that much fewer of them.
      order: int64 [N] instead of the epoch's shuffle; it holds for every epoch read from this object.
      shard: (process index, number of processes).
    """

    def __init__(
        self,
        source: Source,
        host_ops: Sequence[Any],
        *,
        batch_size: int,
        seed: int,
        on_bad_example: str = "raise",
        view_ops: Sequence[Sequence[Any]] = (),
        labeled: Labeled | None = None,
        groups: tuple[np.ndarray, int] | None = None,
        repeats: int = 1,
        order: np.ndarray | None = None,
        shard: tuple[int, int] = (0, 1),
    ):
        super().__init__(source, host_ops, batch_size, on_bad_example, shard)
        self.view_ops = tuple(view_ops)
        self.labeled = labeled
        if labeled is not None:
            self._labeled_rows = _rows(labeled.batch_size, shard, "data.labeled_batch_size")
        self._pool = None
        if labeled is not None and labeled.apart:
            self._pool = np.setdiff1d(np.arange(len(source)), labeled.indices)
        visited = len(source) if self._pool is None else len(self._pool)
        if visited < batch_size:
            kind = "examples" if self._pool is None else "examples without a label"
            raise ValueError(
                f"the training split has {visited} {kind}, less than one batch of {batch_size}; make "
                "train.batch_size smaller"
            )
        if groups is not None and batch_size % groups[1]:
            raise ValueError(
                f"a batch holds whole groups: train.batch_size, {batch_size}, has to be a multiple of "
                f"data.images_per_class, {groups[1]}"
            )
        if batch_size % repeats:
            raise ValueError(
                f"a batch holds an image as often as the others: train.batch_size, {batch_size}, has to be a "
                f"multiple of data.augmentation_repeats, {repeats}"
            )
        self.seed, self.order, self.groups, self.repeats = seed, order, groups, repeats
        self.steps_per_epoch = visited // batch_size

    def __len__(self) -> int:
        return sys.maxsize

    def order_of(self, epoch: int) -> np.ndarray:
        """Returns the order in which an epoch visits the examples, int64 [N] or, where the labeled ones stay
        apart, fewer."""
        if self.order is not None:
            return self.order
        if self._pool is not None:
            order = self._pool[shuffled((self.seed, epoch), len(self._pool))]
        else:
            order = shuffled((self.seed, epoch), len(self.source))
        if self.repeats > 1:
            return np.repeat(order[: len(order) // self.repeats], self.repeats)
        return order if self.groups is None else subsets.grouped(order, *self.groups)

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        epoch, batch = divmod(int(step), self.steps_per_epoch)
        order = self.order_of(epoch)
        positions = np.arange(batch * self.batch_size, (batch + 1) * self.batch_size)[self.local]
        bad: list[int] = []
        if self.gather is not None and not self.view_ops:
            columns = _numbered(self.gather(order[positions]), order[positions], [epoch] * len(positions))
        else:
            places = [_Place(order, int(position), (self.seed, epoch)) for position in positions]
            columns = self._columns(places, self.view_ops, bad)
        if self.labeled is not None:
            hidden = ~np.isin(columns["index"], self.labeled.indices)
            columns["label"] = np.where(hidden, np.int32(-1), columns["label"])
            columns["labeled"] = self._columns(self._labeled_places(self.labeled, int(step)), (), bad)
        return columns | {"bad_examples": np.array(bad, np.int64)}

    def _labeled_places(self, labeled: Labeled, step: int) -> list[_Place]:
        """The places of a step's labeled examples: one shuffle after the other, no batch cut short."""
        indices, size = labeled.indices, labeled.batch_size
        places = []
        for position in range(step * size, (step + 1) * size)[self._labeled_rows]:
            shuffle, offset = divmod(position, len(indices))
            seed = (self.seed, shuffle, LABELED_STREAM)
            places.append(_Place(indices[shuffled(seed, len(indices))], offset, seed))
        return places

    def _columns(
        self, places: Sequence[_Place], view_ops: Sequence[Sequence[Any]], bad: list[int]
    ) -> dict[str, Any]:
        """Returns the examples at some places as columns, and their index."""
        if self.gather is not None and not view_ops:
            indices = np.array([place.order[place.position] for place in places])
            columns = self.gather(indices)
        else:
            loaded = [self._load_at(place, view_ops, bad) for place in places]
            indices = np.array([index for index, _ in loaded])
            columns = _stack([example for _, example in loaded])
        return _numbered(columns, indices, [place.seed[1] for place in places])

    def _load_at(
        self, place: _Place, view_ops: Sequence[Sequence[Any]], bad: list[int]
    ) -> tuple[int, dict[str, Any]]:
        """Returns (index, example) of the first readable example from a place on."""
        order = place.order
        for offset in range(MAX_BAD_IN_A_ROW):
            index = int(order[(place.position + offset) % len(order)])
            rng = np.random.default_rng((*place.seed, place.position))
            example = self.load(index, rng, view_ops)
            if example is not None:
                return index, example
            bad.append(index)
        raise ValueError(
            f"{MAX_BAD_IN_A_ROW} examples in a row cannot be read, the last {self.source.describe(index)}; "
            "set data.on_bad_example='raise' to see why"
        )


class EvalBatches(_Batches):
    """The batches of a split in index order, every example exactly once.

    A batch has the fields of a training batch, and mask bool [b], which is False for the padding of the last
    batch. With on_bad_example="skip" it is also False for an example that cannot be read.

    Args:
      source, host_ops, batch_size, on_bad_example, shard: as for TrainBatches.
    """

    def __init__(
        self,
        source: Source,
        host_ops: Sequence[Any],
        *,
        batch_size: int,
        on_bad_example: str = "raise",
        shard: tuple[int, int] = (0, 1),
    ):
        super().__init__(source, host_ops, batch_size, on_bad_example, shard)
        if not len(source):
            raise ValueError("the evaluation split has no examples")

    def __len__(self) -> int:
        return -(-len(self.source) // self.batch_size)

    def __getitem__(self, batch: int) -> dict[str, np.ndarray]:
        indices = np.arange(batch * self.batch_size, (batch + 1) * self.batch_size)[self.local]
        mask = indices < len(self.source)
        indices = np.where(mask, indices, 0)
        bad: list[int] = []
        if self.gather is not None:
            columns = self.gather(indices)
        else:
            columns = self._load_rows(indices, mask, bad)
        return columns | {
            "index": indices.astype(np.int32),
            "mask": mask,
            "bad_examples": np.array(bad, np.int64),
        }

    def _load_rows(self, indices: np.ndarray, mask: np.ndarray, bad: list[int]) -> dict[str, np.ndarray]:
        """Stacks the rows of a batch; padding and unreadable rows repeat a readable one, with mask False."""
        rng = np.random.default_rng(0)  # evaluation lines hold no random operation
        rows = [
            self.load(int(index), rng) if real else None for index, real in zip(indices, mask, strict=True)
        ]
        for row, example in enumerate(rows):
            if mask[row] and example is None:
                bad.append(int(indices[row]))
                mask[row] = False
        filler = next((example for example in rows if example is not None), None) or self._any_example(rng)
        return _stack([filler if example is None else example for example in rows])

    def _any_example(self, rng: np.random.Generator) -> dict[str, Any]:
        for index in range(min(len(self.source), MAX_BAD_IN_A_ROW)):
            example = self.load(index, rng)
            if example is not None:
                return example
        raise ValueError(
            f"the first {MAX_BAD_IN_A_ROW} examples of the evaluation split cannot be read; the first is "
            f"{self.source.describe(0)}; set data.on_bad_example='raise' to see why"
        )


def _rows(batch_size: int, shard: tuple[int, int], field: str) -> slice:
    """Returns this process's rows of a global batch."""
    shard_index, num_shards = shard
    if batch_size < 1 or batch_size % num_shards:
        raise ValueError(
            f"a batch of {batch_size} does not divide over {num_shards} processes; "
            f"make {field} a positive multiple of {num_shards}"
        )
    local = batch_size // num_shards
    return slice(shard_index * local, (shard_index + 1) * local)


def _stack(examples: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Stacks examples key by key.

    Raises:
      ValueError: the images differ in size.
    """
    shapes = {np.shape(example["image"]) for example in examples}
    if len(shapes) > 1:
        raise ValueError(
            f"the images of a batch differ in size: {sorted(shapes)[:3]}; end the host transforms with one "
            "that sets it, such as resize(224), random_resized_crop(224) or center_crop(224)"
        )
    columns: dict[str, Any] = {
        key: np.stack([example[key] for example in examples]) for key in examples[0] if key != "view_images"
    }
    if "view_images" in examples[0]:
        views = zip(*(example["view_images"] for example in examples), strict=True)
        columns["view_images"] = tuple(np.stack(view) for view in views)
    return columns


def _numbered(columns: dict[str, Any], indices: np.ndarray, epochs: Sequence[int]) -> dict[str, Any]:
    """Returns columns with the examples' index and epoch."""
    return columns | {"index": indices.astype(np.int32), "epoch": np.array(epochs, np.int32)}


def note_bad_examples(source: Source, indices: np.ndarray, known: set[str]) -> None:
    """Warns of each skipped example once; `known` holds those warned of so far."""
    for index in indices.tolist():  # none of cached features, which have no names
        where = source.describe(index)
        if where not in known:
            known.add(where)
            logger.warning("skipped, cannot be read: %s", where)
