"""Configurations as a command line names them: FILE.py[:options], and overrides of their fields."""

from __future__ import annotations

import ast
import contextlib
import inspect
import runpy
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from imgcls_jax.config.field_types import did_you_mean
from imgcls_jax.config.modules import find_function
from imgcls_jax.config.resolve import optax_function
from imgcls_jax.config.written import OPTIONAL_SECTIONS, SECTIONS, Config, plain

PREFIX = "--config."
# In an installation the configurations stand inside the package, in a checkout beside it.
PACKAGED = (Path(__file__).parents[1] / "configs", Path(__file__).parents[2] / "configs")
WORDS = {"true": True, "false": False, "none": None}


class Named(NamedTuple):
    """What a command line says of a configuration.

    Attributes:
      path: of its file.
      options: what follows the colon, "" for nothing.
      overrides: {"optimizer.learning_rate": "0.1", ...}.
    """

    path: Path
    options: str
    overrides: Mapping[str, str]

    @property
    def default_workdir(self) -> Path:
        """Where a run goes that is given no workdir: runs/FILE[_OPTIONS]."""
        return Path("runs", "_".join([self.path.stem, *filter(None, self.options.split(","))]))


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Splits a command line into its other arguments and the overrides of the configuration's fields.

    Args:
      arguments: such as ["--mode", "train", "--config.train.seed=1", "--config.model.variant", "vgg11"].

    Raises:
      ValueError: an override without a value.
    """
    others, overrides, words = [], {}, iter(arguments)
    for word in words:
        if not word.startswith(PREFIX):
            others.append(word)
            continue
        field, equals, text = word.removeprefix(PREFIX).partition("=")
        if not equals:
            following = next(words, None)
            if following is None or following.startswith("--"):
                raise ValueError(f"{word} has no value; write {word}=VALUE")
            text = following
        overrides[field] = text
    return others, overrides


def find(config: str, overrides: Mapping[str, str]) -> Named:
    """Finds the file that `--config` names.

    Args:
      config: FILE.py or FILE.py:options; or NAME[:options] of a configuration of this project.
      overrides: of split_overrides.

    Raises:
      ValueError: there is no such file.
    """
    name, _, options = config.partition(":")
    path = Path(name).expanduser()
    if path.suffix == ".py" and path.is_file():
        return Named(path, options, overrides)
    # A name, or the path that it has in a checkout, is found from any folder.
    is_name = len(path.parts) == 1 or path.parts[:-1] == ("configs",)
    folder = next((folder for folder in PACKAGED if folder.is_dir()), None) if is_name else None
    known = {} if folder is None else {file.stem: file for file in folder.glob("*.py")}
    if path.stem in known:
        return Named(known[path.stem], options, overrides)
    hint = did_you_mean(path.stem, known)
    raise ValueError(f"--config {name}: there is no such file{f'; {hint}' if hint else ''}")


def load(named: Named) -> tuple[Config, list[str]]:
    """Loads a configuration and overrides its fields.

    Returns:
      (written configuration, what there is to say: fields that were dropped).

    Raises:
      ValueError: the file cannot be run, has no `get_config`, or does not know the options; or an override
        of no section.
    """
    config = _run(named)
    notes = [note for field, text in named.overrides.items() for note in _override(config, field, text)]
    return plain(config), notes


def read_config(arguments: Sequence[str]) -> Config:
    """Returns the configuration that `--config=FILE.py[:options]` and `--config.section.field=value` make.

    Raises:
      ValueError: it cannot be loaded, or another argument is among them.
    """
    others, overrides = split_overrides(arguments)
    files: list[str] = []
    rest: list[str] = []
    words = iter(others)
    for word in words:
        name, equals, text = word.partition("=")
        if name == "--config":
            files.append(text if equals else next(words, ""))
        else:
            rest.append(word)
    if rest or len(files) != 1:
        raise ValueError(f"what is {rest[0]!r}?" if rest else "--config FILE.py is missing")
    return load(find(files[0], overrides))[0]


def search_space(named: Named) -> dict[str, Any]:
    """Returns what the file's function `sweep` returns: {field: its values}; {} where it has none.

    Raises:
      ValueError: the file cannot be run, or `sweep` returns something else.
    """
    sweep = _module(named.path).get("sweep")
    if sweep is None:
        return {}
    try:
        space = sweep()
    except Exception as error:  # whatever a user's file raises
        raise ValueError(_located(named.path, error)) from error
    if not isinstance(space, dict) or not all(isinstance(field, str) for field in space):
        raise ValueError(f"{named.path}: sweep() returns {{'section.field': values}}; got {space!r}")
    return space


def _module(path: Path) -> dict[str, Any]:
    """Returns the names that a configuration's file defines."""
    try:
        return runpy.run_path(str(path))
    except Exception as error:  # whatever a user's file raises
        if isinstance(error, ModuleNotFoundError) and error.name == "ml_collections":  # no fault of the file
            raise
        raise ValueError(_located(path, error)) from error


def _run(named: Named) -> Any:
    """Returns what the file's get_config returns."""
    module = _module(named.path)
    get_config = module.get("get_config")
    if not callable(get_config):
        raise ValueError(f"{named.path} has no function get_config(arg)")
    takes_options = bool(inspect.signature(get_config).parameters)
    if named.options and not takes_options:
        raise ValueError(f"{named.path} takes no options; got {named.options!r}")
    try:
        return get_config(named.options) if takes_options else get_config()
    except ValueError as error:
        raise ValueError(f"{named.path}: {error}") from error
    except Exception as error:  # whatever a user's file raises
        raise ValueError(_located(named.path, error)) from error


def _located(path: Path, error: Exception) -> str:
    """Returns one line on an error in a configuration's own code, with the line of the file."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    number = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    where = f"{path}, line {number}" if number else str(path)
    return f"{where}: {type(error).__name__}: {' '.join(str(error).split())}"


def _override(config: Any, field: str, text: str) -> list[str]:
    """Sets one field of a configuration; returns what there is to say about it."""
    *outer, name = field.split(".")
    known = (*SECTIONS, *OPTIONAL_SECTIONS)
    if not outer or outer[0] not in known:
        hint = did_you_mean(field.split(".")[0], known) or f"sections are {', '.join(known)}"
        raise ValueError(f"{PREFIX}{field}: no such section; {hint}")
    with _without_types(config):
        section = config
        for key in outer:
            if key not in section or not hasattr(section[key], "keys"):
                section[key] = {}
            section = section[key]
        value = _value(text, section.get(name))
        if value is None and outer in (["evals"], ["phases"]):
            if name not in section:
                hint = (
                    did_you_mean(name, section.keys()) or f"there are {', '.join(section.keys()) or 'none'}"
                )
                raise ValueError(f"{PREFIX}{field}: no such section to leave out; {hint}")
            del section[name]
            return []
        notes = DROPPING[field](section, value) if field in DROPPING else []
        _drop_other_units(section, name)
        section[name] = value
    return notes


def _value(text: str, present: Any) -> Any:
    """Returns the value that a word of the command line stands for: as it is where the field holds a string,
    else a Python literal, or a string where it is none."""
    if text.lower() in WORDS and not (isinstance(present, str) and text.lower() != "none"):
        return WORDS[text.lower()]
    if isinstance(present, str):
        return text.strip("'\"") if text[:1] == text[-1:] and text[:1] in ("'", '"') else text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _drop_other_units(section: Any, name: str) -> None:
    """Removes a duration in another unit, whose place the overridden one takes."""
    stem, _, unit = name.rpartition("_")
    units = ("steps", "epochs", "examples")
    if unit in units:
        for other in units:
            if other != unit and f"{stem}_{other}" in section:
                del section[f"{stem}_{other}"]


def _drop_hyperparameters(section: Any, name: Any) -> list[str]:
    """Removes the hyper-parameters that a newly named optimizer does not take; says which."""
    lost = _not_taken(section, optax_function(section["name"]), optax_function(name)) - {"weight_decay"}
    return _drop(section, lost, f"optimizer.name = {name!r}")


def _drop_source_fields(section: Any, name: Any) -> list[str]:
    """Removes the fields that a newly named source of data does not read; says which."""
    old, new = (find_function("data.sources", own, "make") for own in (section.get("source", name), name))
    return _drop(section, _not_taken(section, old, new), f"data.source = {name!r}")


def _not_taken(section: Any, old: Callable[..., Any], new: Callable[..., Any]) -> set[str]:
    """Returns the fields of a section that are arguments of the old function, and none of the new one."""
    taken = [set(inspect.signature(function).parameters) for function in (old, new)]
    return (taken[0] - taken[1]) & set(section)


def _drop(section: Any, lost: set[str], choice: str) -> list[str]:
    """Removes some fields; returns what there is to say of it."""
    for field in lost:
        del section[field]
    names = ", ".join(f"{choice.partition('.')[0]}.{field}" for field in sorted(lost))
    return [f"{choice} takes no {names}: left out"] if lost else []


DROPPING = {"optimizer.name": _drop_hyperparameters, "data.source": _drop_source_fields}


@contextlib.contextmanager
def _without_types(config: Any) -> Iterator[None]:
    """Lets any field of a ConfigDict take any value."""
    if not hasattr(config, "ignore_type"):
        yield
        return
    with config.ignore_type(), config.unlocked():
        yield
