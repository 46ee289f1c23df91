"""Configurations as a command line names them: FILE.py[:argument], and overrides of its fields."""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from imgcls_jax.train import experiment


def read_config(arguments: Sequence[str]) -> experiment.Config:
    """Returns the configuration that `--config=FILE.py[:argument]` and `--config.section.field=value` make.

    Raises:
      ValueError: it cannot be loaded, or an override or another flag is wrong.
    """
    values, line = flags.FlagValues(), ["", *arguments]
    holder = config_flags.DEFINE_config_file(
        "config", None, flag_values=values, sys_argv=line, lock_config=False, accept_new_attributes=True
    )
    try:
        rest = values(line)[1:]
        config = None if rest else holder.value
        if config is not None:
            config.to_dict()  # a file that could not be loaded says so here
    except flags.Error as error:
        # What a configuration's own code raises arrives as the text of a traceback.
        text = str(error).strip()
        raise ValueError(text.splitlines()[-1] if "Traceback" in text else text) from error
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"in the overrides of --config: {' '.join(str(error).split())}") from error
    except (OSError, ImportError, SyntaxError) as error:
        raise ValueError(f"--config cannot be loaded: {' '.join(str(error).split())}") from error
    if config is None:
        raise ValueError(f"what is {rest[0]!r}?" if rest else "--config FILE.py is missing")
    return experiment.plain(config)
