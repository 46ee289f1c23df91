"""The command: flags -> configuration -> train/loop.py.

python -m imgcls_jax.main --config configs/digits_simpleconv3.py --workdir runs/digits
python -m imgcls_jax.main --mode eval --workdir runs/digits --split test
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Configuration: FILE.py or FILE.py:test; fields are overridden by --config.section.field=value.",
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run: checkpoints, metrics, result; resumed where it has some."
)
_MODE = flags.DEFINE_enum("mode", "train", ["train", "eval"], "Train, or evaluate what a workdir holds.")
_SPLIT = flags.DEFINE_string(
    "split", "", "With --mode eval: the split, instead of those of the configuration."
)
_CHECKPOINT = flags.DEFINE_string("checkpoint", "latest", "With --mode eval: 'latest', 'best' or a step.")
flags.mark_flag_as_required("workdir")


def _parse_flags(argv: Sequence[str]) -> Sequence[str]:
    """Parses the flags; a mistake among the overrides becomes one line."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        raise SystemExit(f"error: {error}") from error
    except (AttributeError, KeyError, TypeError) as error:
        raise SystemExit(f"error: in the overrides of --config: {' '.join(str(error).split())}") from error
    except (OSError, ImportError, SyntaxError) as error:
        raise SystemExit(f"error: --config cannot be loaded: {error}") from error


def _is_ours(error: BaseException) -> bool:
    """Whether an error was raised by this package to tell the user of a mistake, not from deep inside a library."""
    package = Path(__file__).parent
    return package in Path(traceback.extract_tb(error.__traceback__)[-1].filename).parents


def main(argv: Sequence[str]) -> None:
    """Runs the mode that the flags name."""
    if argv[1:]:
        raise SystemExit(f"error: what is {argv[1]!r}? Flags begin with --")
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    from imgcls_jax.train import (
        loop,
        trained,
    )  # after the flags, so that --help and a typo do not wait for jax

    try:
        if _MODE.value == "eval":
            result = trained.evaluate(_WORKDIR.value, split=_SPLIT.value, checkpoint=_CHECKPOINT.value)
            print(json.dumps(result, indent=2))
        elif _CONFIG.value is None:
            raise SystemExit("error: --config is missing; for example --config configs/digits_simpleconv3.py")
        else:
            print(loop.summary(loop.run(_CONFIG.value, _WORKDIR.value), _WORKDIR.value))
    except loop.Interrupted as stop:
        print(f"{stop}; the same command goes on from there")
    except FloatingPointError as error:
        raise SystemExit(f"error: {error}") from error
    except (ValueError, OSError) as error:
        if not _is_ours(error):
            raise
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    app.run(main, flags_parser=_parse_flags)
    sys.exit(0)
