"""Renders launch/kubernetes.yaml, a JobSet: one run on several hosts with GPUs, or on a TPU slice of GKE.

  python launch/kubernetes.py --name run --image IMAGE --hosts 2 --gpus 8 --workdir /mnt/shared/run \
      -- --config configs/x.py | kubectl apply -f -
  python launch/kubernetes.py --name run --image IMAGE --hosts 2 --tpus 4 --accelerator tpu-v4-podslice \
      --topology 2x2x2 --workdir /mnt/shared/run -- --config configs/x.py | kubectl apply -f -

It prints, and does no more: that is the dry run. The image holds this checkout as its working folder, python
with the packages of requirements.txt, and bash; --workdir lies on a volume that every host mounts (a claim
with the access mode ReadWriteMany).

With GPUs coordinator, number of processes, process and devices are all given, so that JAX need not ask the
Kubernetes API, for which it wants the package `kubernetes` and a role. On a TPU slice JAX reads the variables
that GKE sets in the pods. Exit status: 2 for a mistake in the command.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import string
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

TEMPLATE = Path(__file__).with_suffix(".yaml")
PORT = 8476
LONGEST_LABEL = 63  # of DNS
# What JobSet and Job append to the name for a pod's: "-hosts-0-<index>-<five characters>".
LONGEST_SUFFIX = "-hosts-0-{last}-xxxxx"

Parser = Callable[[str], str]


class _Template(string.Template):
    delimiter = "%"  # the template holds shell, with its $


def matching(pattern: str, meaning: str) -> Parser:
    """Returns a parser of strings that match a pattern as a whole.

    Args:
      pattern: regular expression.
      meaning: of it, in words, for the message.
    """

    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise argparse.ArgumentTypeError(f"is {meaning}; got {text!r}")
        return text

    return parse


def positive(text: str) -> int:
    """Parses a whole number from 1 on."""
    return int(matching(r"0*[1-9]\d*", "a whole number from 1 on")(text))


label = matching(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", "a DNS label: small letters, digits and '-' (RFC 1035)")
subdomain = matching(
    r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*",
    "a DNS name: small letters, digits, '-' and '.' (RFC 1123)",
)
label_value = matching(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", "the value of a label")
quantity = matching(r"\d+(\.\d+)?(m|[kMGTPE]|[KMGTPE]i)?", "a quantity, e.g. 96, 500m or 512Gi")
image_name = matching(r"[a-z0-9][\w.:/@-]*", "an image, e.g. registry/project/imgcls:1")
folder = matching(r"/\S*[^\s/]", "an absolute path without spaces")
topology = matching(r"[1-9]\d*(x[1-9]\d*){1,2}", "chips a side, e.g. 2x4 or 2x2x2")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line; a mistake in it is told and ends the program with status 2."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n", 1)[0], usage="kubernetes.py [options] -- ARGUMENTS_OF_MAIN"
    )
    parser.add_argument("--name", type=label, required=True, help="of the JobSet")
    parser.add_argument("--image", type=image_name, required=True)
    parser.add_argument("--hosts", type=positive, required=True, help="pods, each one process")
    devices = parser.add_mutually_exclusive_group(required=True)
    devices.add_argument("--gpus", type=positive, help="of each host")
    devices.add_argument("--tpus", type=positive, help="chips of each host")
    parser.add_argument("--accelerator", type=label_value, help="with --tpus, e.g. tpu-v4-podslice")
    parser.add_argument("--topology", type=topology, help="with --tpus, of all hosts together, e.g. 2x2x2")
    parser.add_argument("--workdir", type=folder, required=True, help="below --mount")
    parser.add_argument("--claim", type=subdomain, default="shared", help="the volume that all hosts mount")
    parser.add_argument("--mount", type=folder, default="/mnt/shared", help="where they mount it")
    parser.add_argument("--cpus", type=quantity, help="of each host, asked for")
    parser.add_argument("--memory", type=quantity, help="of each host, asked for")
    parser.add_argument("--restarts", type=positive, default=10, help="failures and evictions survived")
    parser.add_argument("--grace_seconds", type=positive, default=120, help="to save in, when evicted")
    parser.add_argument("arguments", nargs="+", help="of imgcls_jax.main, behind --")
    args = parser.parse_args(argv)
    try:
        check(args)
    except ValueError as error:
        parser.error(str(error))
    return args


def check(args: argparse.Namespace) -> None:
    """Raises ValueError where arguments that are right by themselves do not fit together."""
    longest = LONGEST_LABEL - len(LONGEST_SUFFIX.format(last=args.hosts - 1))
    if len(args.name) > longest:
        raise ValueError(
            f"--name has at most {longest} characters, so that a pod's name fits; got {args.name!r}"
        )
    if not args.workdir.startswith(f"{args.mount}/") or ".." in args.workdir.split("/"):
        raise ValueError(f"--workdir lies below --mount {args.mount}; got {args.workdir}")
    tpu_fields = (args.accelerator, args.topology)
    if args.gpus and any(tpu_fields):
        raise ValueError("--accelerator and --topology belong to --tpus")
    if args.tpus:
        if not all(tpu_fields):
            raise ValueError("--tpus needs --accelerator and --topology")
        chips = math.prod(int(side) for side in args.topology.split("x"))
        if chips != args.hosts * args.tpus:
            raise ValueError(
                f"--topology {args.topology} has {chips} chips, but {args.hosts} hosts of {args.tpus} have "
                f"{args.hosts * args.tpus}"
            )


def literal(text: str) -> str:
    """Returns a string that Kubernetes does not expand: it reads $(NAME) as a variable and $$ as a $."""
    return text.replace("$", "$$")


def make_arguments(args: argparse.Namespace) -> list[str]:
    """Returns the command of a pod; $(PROCESS_ID) is Kubernetes's to fill in."""
    joined = []
    if args.gpus:
        joined = [
            f"--coordinator={args.name}-hosts-0-0.{args.name}:{PORT}",
            f"--num_processes={args.hosts}",
            "--process_id=$(PROCESS_ID)",
        ]
    given = [literal(argument) for argument in (f"--workdir={args.workdir}", *args.arguments)]
    return ["python", "-m", "imgcls_jax.main", "--distributed", *joined, *given]


def render(args: argparse.Namespace) -> str:
    """Returns the JobSet, YAML."""
    values: dict[str, Any] = {
        "name": args.name,
        "image": args.image,
        "hosts": args.hosts,
        "restarts": args.restarts,
        "grace_seconds": args.grace_seconds,
        "arguments": make_arguments(args),
        "workdir": literal(args.workdir),
        "local_device_ids": ",".join(str(i) for i in range(args.gpus or 0)),
        "port": PORT,
        "requests": {
            name: value for name, value in (("cpu", args.cpus), ("memory", args.memory)) if value is not None
        },
        "limits": {"nvidia.com/gpu": str(args.gpus)} if args.gpus else {"google.com/tpu": str(args.tpus)},
        "node_selector": {
            "cloud.google.com/gke-tpu-accelerator": args.accelerator,
            "cloud.google.com/gke-tpu-topology": args.topology,
        }
        if args.tpus
        else {},
        "mount": args.mount,
        "claim": args.claim,
    }
    template = _Template(TEMPLATE.read_text(encoding="utf-8").partition("\napiVersion")[2])
    return "apiVersion" + template.substitute({name: json.dumps(value) for name, value in values.items()})


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    print(render(parse_arguments(argv)), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
