"""Retrieval: what stands first where the images of a gallery are ranked by their likeness to a query.

Recall@k is the part of the queries with an image of their class among the k most similar (Jegou et al. 2011,
as Oh Song et al. 2016, arXiv:1511.06452, measure it on CUB). MAP@R, from Musgrave et al. 2020,
arXiv:2003.08505, equation 4, rates the first R places, R being the images of the query's class in the
gallery: the mean over them of the precision at each place that holds one, and of 0 at the others. Similarity
is the cosine; the search is exact. The labels may be of classes that were never trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from imgcls_jax.contracts.evaluator import (
    Measured,
    OpenSplit,
    Predict,
    SplitFacts,
    check_shared_classes,
    check_splits,
    embedded,
    embedding,
    make_collector,
)
from imgcls_jax.evaluators.knn import nearest
from imgcls_jax.metrics.intervals import check_resamples, of_means

READS = ("embedding",)  # of what the objective predicts


def check(splits: Mapping[str, SplitFacts], options: Mapping[str, Any], task: Any) -> None:
    """Raises ValueError where k exceeds the gallery, or the two splits do not go together."""
    del task
    check_splits(splits)
    gallery, most = splits["gallery_split"], _sizes(options["k"])[-1]
    others = gallery.num_examples - (gallery.name == splits["split"].name)
    if most > others:
        raise ValueError(_too_many(most, gallery.name, others))
    check_shared_classes("gallery_split", splits["split"], gallery)


def measures(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the names of the numbers that `make` with these options measures."""
    return ("num_examples", *(f"recall_at_{size}" for size in _sizes(options["k"])), "map_at_r")


def _sizes(k: int | Sequence[int]) -> list[int]:
    sizes = sorted({k} if isinstance(k, int) else set(k))
    if not sizes or sizes[0] < 1:
        raise ValueError(f"retrieval needs k of at least 1; got {k}")
    return sizes


def _too_many(k: int, split: str, others: int) -> str:
    return (
        f"retrieval: k = {k} is more than the {others} images that gallery_split = {split!r} offers a query"
    )


def make(
    predict: Predict,
    open_split: OpenSplit,
    *,
    task: Any,
    split: str,
    gallery_split: str = "{split}",
    k: int | Sequence[int] = (1, 2, 4, 8),
    bootstrap: int = 0,
) -> Callable[[Any, Any], dict[str, Any]]:
    """Returns the evaluator (params, objective_state) -> metrics.

    Args:
      predict: (params, objective_state, batch) -> {"embedding": float [B, D], ...}.
      open_split: split -> its batches, each example once, with label int [B] and mask bool [B].
      task: not read.
      split: of the queries.
      gallery_split: that is searched, "{split}" for the queries themselves; a query never finds itself.
      k: places of Recall@k, or several such numbers.
      bootstrap: resamples of the queries, such as 1000, for intervals at 95 %, the gallery being that at
        hand; 0 for none.

    Returns:
      A function that returns num_examples, the queries whose class the gallery holds, over which the others
      are means in [0, 1]: recall_at_1 for k = 1, and so on, and map_at_r; with bootstrap intervals,
      {name: [low, high]}.

    Raises:
      ValueError: k or bootstrap is out of range; later, where no query has its class in the gallery, or k
        exceeds the gallery.
    """
    sizes = _sizes(k)
    check_resamples("retrieval", bootstrap)
    del task
    collect = make_collector(embedding(predict), open_split)
    gallery_split = gallery_split.replace("{split}", split)
    itself = gallery_split == split

    def evaluate(params: Any, objective_state: Any) -> dict[str, Any]:
        gallery = collect(params, objective_state, gallery_split)
        queries = gallery if itself else collect(params, objective_state, split)
        others = len(gallery["label"]) - itself
        if sizes[-1] > others:
            raise ValueError(_too_many(sizes[-1], gallery_split, others))
        members = np.sum(queries["label"][:, None] == gallery["label"], axis=1) - itself  # R, [N]
        if not members.any():
            raise ValueError(f"retrieval: no image of {split} has another of its class in {gallery_split}")
        places = max(sizes[-1], int(members.max()))
        _, index = nearest(queries["embedding"], gallery["embedding"], k=places, leave_one_out=itself)
        hits = gallery["label"][index] == queries["label"][:, None]  # [N, places]
        hits, members = hits[members > 0], members[members > 0]
        columns = {f"recall_at_{size}": hits[:, :size].any(axis=1) for size in sizes}
        columns["map_at_r"] = precision_at_r(hits, members)
        metrics: dict[str, Any] = {"num_examples": len(hits)}
        metrics |= {name: float(np.mean(column)) for name, column in columns.items()}
        metrics |= {"intervals": of_means(columns, resamples=bootstrap)} if bootstrap else {}
        return Measured(metrics, embedded(split, queries))

    return evaluate


def precision_at_r(hits: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Average precision over the first R places: 1/R sum_{i <= R} P(i) hit(i), P(i) the part of hits up to i.

    Args:
      hits: bool [N, k], whether each place holds an image of the query's class.
      members: int [N] in [1, k], R.

    Returns:
      float64 [N] in [0, 1].
    """
    place = np.arange(1, hits.shape[1] + 1)
    precision = np.cumsum(hits, axis=1) / place
    return np.sum(precision * hits * (place <= members[:, None]), axis=1) / members
