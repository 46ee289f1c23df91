"""What the Hugging Face hub says of a data set's columns: in a Parquet file's schema, or in README.md.

A file that the package `datasets` wrote has the features as JSON under "huggingface" in its schema. A hub's
README.md has them as `dataset_info` in its head, YAML between two lines of "---". YAML is read by PyYAML's
safe loader, which makes plain values alone. Aliases, by which a few lines would grow for ever, are refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from imgcls_jax.data.source import read_regular

MAX_README_BYTES = 2**22
MAX_LISTS = 3  # a feature within so many lists


class Feature(NamedTuple):
    """A column.

    Attributes:
      kind: "image", "label" (a class, by number), or "" for anything else.
      names: of the classes; () where they are not given.
    """

    kind: str
    names: tuple[str, ...] = ()


def features_of_schema(metadata: Mapping[bytes, bytes] | None) -> dict[str, Feature]:
    """Returns {column: feature} of a schema's metadata; {} where it says nothing that is understood."""
    try:
        found = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return {name: _of_schema(feature) for name, feature in found.items()}
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
        return {}


def _of_schema(feature: Any) -> Feature:
    for _ in range(MAX_LISTS):
        if isinstance(feature, list) and feature:
            feature = feature[0]
        elif isinstance(feature, dict) and isinstance(feature.get("feature"), dict):
            feature = feature["feature"]
    kind = feature.get("_type") if isinstance(feature, dict) else None
    if kind == "ClassLabel":
        return Feature("label", _names(feature.get("names")))
    return Feature("image" if kind == "Image" else "")


def features_of_readme(root: Path, folder: str) -> dict[str, Feature]:
    """Returns {column: feature} of README.md, in root or in the folder above; {} where there is none.

    Args:
      root: of the data.
      folder: in which the files lie, relative to root; a hub's folder is often called as the configuration
        of the data set, of which README.md may describe several.

    Raises:
      ImportError: there is one, and PyYAML is missing.
      ValueError: its head is no plain YAML.
    """
    above = root.resolve().parent / "README.md"
    try:
        told = _dataset_info(root / "README.md") or _dataset_info(above)
    except ValueError as error:
        if str(above) in str(error):  # of something else
            return {}
        raise
    described = [own for own in (told if isinstance(told, list) else [told]) if isinstance(own, dict)]
    named = {str(own.get("config_name", "default")): own for own in described}
    wanted = (*folder.split("/"), root.resolve().name, "default")
    chosen = next(
        (named[name] for name in wanted if name in named), described[0] if len(described) == 1 else {}
    )
    features = chosen.get("features")
    return {
        str(own.get("name")): _of_readme(own)
        for own in (features if isinstance(features, list) else [])
        if isinstance(own, dict)
    }


def _dataset_info(path: Path) -> Any:
    """Returns what the head of a README.md says of its data set; None for nothing."""
    text = read_regular(path, MAX_README_BYTES).decode("utf-8", "replace") if path.is_file() else ""
    if not text.startswith("---"):
        return None
    content = _plain_yaml(path, text[3:].partition("\n---")[0])
    return content.get("dataset_info") if isinstance(content, dict) else None


def _of_readme(feature: Mapping[str, Any]) -> Feature:
    kind = feature.get("dtype", feature.get("sequence", feature.get("list")))
    label = kind.get("class_label") if isinstance(kind, dict) else None
    if isinstance(label, dict):
        return Feature("label", _names(label.get("names")))
    return Feature("image" if kind == "image" else "")


def _names(found: Any) -> tuple[str, ...]:
    """Returns class names, of a list or of {"0": name, "1": name, ...}; () where there are none."""
    if isinstance(found, dict):
        found = [found.get(str(number), found.get(number)) for number in range(len(found))]
    if not isinstance(found, list) or any(name is None for name in found):
        return ()
    names = tuple(map(str, found))
    return names if len(set(names)) == len(names) else ()


def _plain_yaml(path: Path, text: str) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise ImportError(f"{path} is read by PyYAML: pip install 'imgcls-jax[parquet]'") from error
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise ValueError("it has aliases")
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        text = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: its head between '---' is no plain YAML: {text}") from error
