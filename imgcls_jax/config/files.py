"""Configurations as a command line names them: FILE.py[:argument], and overrides of its fields."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags


def define_config(values: flags.FlagValues, argv: Sequence[str] | None = None) -> flags.FlagHolder:
    """Defines the flag --config among `values`; overrides are looked for in argv, None for the program's own.

    A field that the file leaves at its default is overridden too: the run's setup knows them all.
    """
    return config_flags.DEFINE_config_file(
        "config",
        None,
        "Configuration: FILE.py or FILE.py:test; fields are overridden by --config.section.field=value.",
        flag_values=values,
        lock_config=False,
        accept_new_attributes=True,
        sys_argv=argv,
    )


def parse_flags(values: flags.FlagValues, argv: Sequence[str], config: flags.FlagHolder) -> list[str]:
    """Parses a command line, loads its configuration, and returns the arguments that are no flags.

    Args:
      values: the flags, the configuration's among them.
      argv: the command line, the program's name first.
      config: of define_config.

    Raises:
      ValueError: in one line, a wrong flag or override, or a configuration that cannot be loaded.
    """
    try:
        rest = values(argv)[1:]
        if config.value is not None:
            config.value.to_dict()  # a file that could not be loaded says so here
        return rest
    except flags.Error as error:
        # What a configuration's own code raises arrives as the text of a traceback.
        text = str(error).strip()
        raise ValueError(text.splitlines()[-1] if "Traceback" in text else text) from error
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"in the overrides of --config: {' '.join(str(error).split())}") from error
    except (OSError, ImportError, SyntaxError) as error:
        raise ValueError(f"--config cannot be loaded: {' '.join(str(error).split())}") from error


def read_config(arguments: Sequence[str]) -> dict[str, Any]:
    """Returns the configuration that `--config=FILE.py[:argument]` and `--config.section.field=value` make.

    Raises:
      ValueError: it cannot be loaded, or an override or another flag is wrong.
    """
    from imgcls_jax.train import experiment  # here, so that main's --help does not wait for jax

    values, argv = flags.FlagValues(), ["", *arguments]
    config = define_config(values, argv)
    rest = parse_flags(values, argv, config)
    if rest or config.value is None:
        raise ValueError(f"what is {rest[0]!r}?" if rest else "--config FILE.py is missing")
    return experiment.plain(config.value)
