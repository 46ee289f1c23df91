"""Searches hyper-parameters: runs that differ in a few fields, the best of them, and its seeds.

  python -m imgcls_jax.tools.sweep --config configs/digits_simpleconv3.py --workdir runs/sweep \\
    --space 'optimizer.learning_rate=log(1e-3, 0.3)' --space 'optimizer.weight_decay=[0.0, 5e-4]' \\
    --metric test/accuracy --folds 5 --search random --trials 20 --seeds 1,2,3
  python -m imgcls_jax.tools.sweep --config configs/digits_simpleconv3.py --workdir runs/range --range_test

The space stands on the command line, or in the configuration's file as a function `sweep()` that returns
{"optimizer.learning_rate": "log(1e-3, 0.3)", ...}. Values are [a, b, c], int(a, b), uniform(a, b) or
log(a, b). Every run is one of `imgcls_jax.main` in a workdir of its own, one after the other. The same
command goes on where the search broke off. Exit status: 0, or 2 for a mistake.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from imgcls_jax.runtime.command import at_least_one, command, exit_with, importing, parser_of, user_path
from imgcls_jax.runtime.files import naming, read_json, whole, write_json
from imgcls_jax.runtime.names import printable

with importing(__name__):
    from imgcls_jax.config import files
    from imgcls_jax.figures import line_chart
    from imgcls_jax.search import plan as plans
    from imgcls_jax.search import process, range_test, summary
    from imgcls_jax.search.proposals import SEARCHES, require_optuna
    from imgcls_jax.search.space import space_of
    from imgcls_jax.search.trials import Search
    from imgcls_jax.train.workdir import lock

OF_SEARCH = ("metric", "trials", "choose_on", "seeds", "trial_seeds", "folds")


def seeds_of(text: str) -> tuple[int, ...]:
    """Parses seeds joined by commas, for argparse."""
    numbers = tuple(int(part) if part.strip().isdecimal() else -1 for part in text.split(","))
    if -1 in numbers or len(set(numbers)) < len(numbers):
        raise argparse.ArgumentTypeError(
            f"expected different whole numbers, as 1,2,3; got {printable(text)!r}"
        )
    return numbers


def not_negative(text: str) -> int:
    """Parses a whole number from 0 on, for argparse."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0; got {printable(text)!r}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("sweep", __doc__, allow_abbrev=False)
    parser.add_argument("--config", required=True, metavar="FILE.py[:OPTIONS]", help="as of main; so are "
                        "overrides, --config.SECTION.FIELD=VALUE")  # fmt: skip
    parser.add_argument("--workdir", type=user_path, required=True, help="folder of the search")
    parser.add_argument(
        "--space",
        action="append",
        default=[],
        metavar="FIELD=VALUES",
        help="may be given several times; VALUES are [a, b], int(a, b), uniform(a, b) or log(a, b); a third "
        "number is how many points a grid takes",
    )
    parser.add_argument("--metric", help="EVALUATION/METRIC that chooses, such as test/accuracy")
    parser.add_argument(
        "--best_mode", choices=("max", "min"), default="max", help="which metric is best (max)"
    )
    parser.add_argument("--search", choices=SEARCHES, default="random", help="default: random")
    parser.add_argument("--trials", type=at_least_one, help="how many in all; a grid has its own number")
    parser.add_argument("--seed", type=not_negative, default=0, help="of the search (default 0)")
    parser.add_argument("--folds", type=at_least_one, help="cross-validate: a trial is one run for each fold")
    parser.add_argument("--fold_seed", type=not_negative, default=0, help="of the folds (default 0)")
    parser.add_argument(
        "--trial_seeds", type=seeds_of, metavar="S,S", help="a trial is one run for each seed"
    )
    parser.add_argument("--prune", action="store_true", help="give up runs that are worse than the median")
    parser.add_argument(
        "--choose_on",
        metavar="SPLIT",
        help="agree to choose on a test split; the figure then leans to the good side",
    )
    parser.add_argument(
        "--seeds", type=seeds_of, metavar="S,S,S", help="train the best choice on these seeds"
    )
    parser.add_argument(
        "--range_test",
        type=at_least_one,
        nargs="?",
        const=range_test.STEPS,
        metavar="STEPS",
        help=f"no search: raise the learning rate over so many steps ({range_test.STEPS}), and draw the loss",
    )
    return parser


def parse_arguments(argv: Sequence[str] | None) -> tuple[argparse.Namespace, files.Named]:
    """Parses the command line; returns its flags, and the configuration with its overrides.

    Raises:
      ValueError: there is no such configuration, or a flag is missing or would do nothing.
    """
    others, overrides = files.split_overrides(sys.argv[1:] if argv is None else argv)
    flags = _parser().parse_args(others)
    _refuse_idle(flags)
    return flags, files.find(flags.config, overrides)


def _refuse_idle(flags: argparse.Namespace) -> None:
    """Raises ValueError for a flag that is missing, or would do nothing."""
    if flags.range_test:
        idle = [name for name in OF_SEARCH if getattr(flags, name) is not None]
        if idle or flags.prune:
            raise ValueError(f"--{idle[0] if idle else 'prune'} is of a search, and --range_test is none")
        return
    if flags.metric is None:
        raise ValueError("--metric is missing: EVALUATION/METRIC of the configuration, such as test/accuracy")
    if flags.search != "grid" and flags.trials is None:
        raise ValueError(f"--trials is missing: how many choices does --search {flags.search} try?")
    if flags.folds == 1:
        raise ValueError("--folds is at least 2")
    if flags.fold_seed and not flags.folds:
        raise ValueError("--fold_seed is of --folds")


def plan_of(flags: argparse.Namespace, named: files.Named) -> plans.Plan:
    """Returns what a command line asks for, checked as far as it can be before the first run.

    Raises:
      ValueError: a mistake in the space, the configuration or the metric.
    """
    space = space_of(flags.space, files.search_space(named))
    if flags.search == "grid":
        for own in space:
            own.grid()
    elif flags.search == "tpe":
        require_optuna()
    written = files.load(named)[0]
    metric, split, overrides = plans.measured(
        written, flags.metric, folds=flags.folds or 0, choose_on=flags.choose_on or ""
    )
    return plans.Plan(
        config=flags.config,
        overrides=dict(named.overrides),
        config_digest=plans.check(named, space, prune=flags.prune),
        space=space,
        metric=metric,
        chosen_on=split,
        maximize=flags.best_mode == "max",
        search=flags.search,
        seed=flags.seed,
        trial_overrides=overrides,
        folds=flags.folds or 0,
        fold_seed=flags.fold_seed,
        trial_seeds=flags.trial_seeds or (),
        prune=flags.prune,
    )


def search(flags: argparse.Namespace, named: files.Named) -> None:
    """Searches, and prints what was found."""
    plan = plan_of(flags, named)
    found = Search(plan, flags.workdir, run=process.run, tell=say)
    found.advance(flags.trials or 0)
    fields = [own.field for own in plan.space]
    say(summary.in_columns(*summary.rows(found.trials, fields, maximize=plan.maximize)))
    if found.best is None:
        say("no trial came to its end")
        return
    say(summary.best(plan.as_json(), found.best, found.trials[found.best]))
    if flags.seeds:
        say("\n".join(summary.retrained(found.retrain(flags.seeds))))


def test_range(flags: argparse.Namespace, named: files.Named) -> None:
    """Runs a range test, draws it, and prints what it suggests.

    Raises:
      ValueError: the run failed before its loss said anything.
    """
    space = space_of(flags.space, {}) if flags.space else ()
    low, high = range_test.bounds(space)
    others = range_test.overrides(files.load(named)[0], low, high, flags.range_test)
    workdir, kept = flags.workdir / "run", flags.workdir / "range_test.json"
    about = {"config": flags.config, "overrides": dict(named.overrides) | others}
    if kept.exists() and any(read_json(kept).get(name) != value for name, value in about.items()):
        raise ValueError(f"{flags.workdir} holds another range test: choose another --workdir")
    write_json(kept, about, way_out="")
    words = plans.words_of(flags.config, workdir, about["overrides"])
    ended = (workdir / "result.json").exists() or range_test.has_exploded(workdir)
    status = 0
    if not ended:
        status = process.run(words, flags.workdir / "run.log", lambda: range_test.has_exploded(workdir))
    rate, loss = range_test.read(workdir)
    if status and len(loss) < range_test.LEAST_STEPS:
        raise ValueError(f"the run failed: {process.last_line(flags.workdir / 'run.log')}")
    course = range_test.suggest(rate, loss)
    advice = range_test.advice(course)
    write_json(kept, about | course.as_json(), way_out="")
    picture = line_chart.draw(
        f"Range test of {flags.config}",
        course.rate,
        {"loss of the batch": course.loss, "smoothed": course.smoothed},
        marks={"falls fastest": course.steepest, "a tenth of the least's": course.before_least},
        axes=("learning rate", "loss"),
        notes=advice,
    )
    output = flags.workdir / "range_test.png"
    with naming(output, way_out=""), whole(output) as file:
        picture.save(file, "PNG")
    say(f"{advice}\n{output}")


def say(text: str) -> None:
    """Prints lines at once."""
    print(text, flush=True)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    flags, named = parse_arguments(argv)
    flags.workdir.mkdir(parents=True, exist_ok=True)
    try:
        with lock(flags.workdir):
            (test_range if flags.range_test else search)(flags, named)
    except KeyboardInterrupt:
        say("stopped; the same command goes on from there")
    return 0


if __name__ == "__main__":
    exit_with(main)
