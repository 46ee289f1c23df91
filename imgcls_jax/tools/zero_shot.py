"""Makes a classifier of classes that are only described, from a network trained on images and captions.

  python -m imgcls_jax.tools.zero_shot --workdir runs/clip --classes classes.txt FOLDER [--templates seven]
  python -m imgcls_jax.tools.zero_shot --config configs/captions_clip.py \\
    --config.model.pretrained=open_clip.safetensors --vocabulary open_clip --classes classes.txt FOLDER
  python -m imgcls_jax.tools.predict --exported FOLDER IMAGE...

classes.txt names a class a line; after a tab may stand the words for it, where its name is no good one
("crane<tab>crane, a bird"). `--templates` are the sentences about a class: "plain" (a photo of a {}.),
"seven" (OpenAI's seven), a sentence with {}, or a file of such sentences; the weight of a class is the mean
over them (Radford et al., arXiv:2103.00020, section 3.1.4). The second form reads released weights and needs
no data. FOLDER is what `tools.export` writes, without the text tower; of SigLIP (configs/captions_siglip.py)
each class has a probability of its own. Exit status: 0, or 2 for a mistake.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from imgcls_jax.config.files import split_overrides
from imgcls_jax.data.prompts import prompts, read_classes, read_templates
from imgcls_jax.inference.export import PLATFORMS, write
from imgcls_jax.objectives.clip import ClipObjective, class_logits
from imgcls_jax.runtime.command import (
    add_checkpoint,
    command,
    exit_with,
    parser_of,
    tell,
    user_path,
    workdir_path,
)
from imgcls_jax.runtime.names import printable


def classifier(
    trained: Any, names: Sequence[str], sentences: Sequence[Sequence[str]], vocabulary: str
) -> Any:
    """Returns a trained network that predicts some classes from what is said about them.

    Args:
      trained: of inference/trained.py, of the objective `clip`.
      names: K class names.
      sentences: T of each class.
      vocabulary: as data/clip_tokens.py or data/siglip_tokens.py reads it; "" for that of the run.

    Returns:
      The network of those classes, with the params that it needs alone.

    Raises:
      ValueError: another objective, no vocabulary, or a sentence that is too long.
    """
    objective = trained.objective
    if not isinstance(objective, ClipObjective):
        raise ValueError(
            f"the objective {trained.settings.objective.name!r} has no text tower: train with "
            "config.objective.name='clip' or 'siglip'"
        )
    fields = {**trained.settings.data.fields, **trained.settings.objective.fields}
    vocabulary = vocabulary or fields.get("vocabulary") or trained.settings.data.fields.get("vocabulary", "")
    if not vocabulary:
        raise ValueError("the run names no vocabulary: give --vocabulary")
    tokenizer = objective.tokenizer(vocabulary, trained.settings.objective.fields["context_length"])
    if tokenizer.vocab_size > fields["vocab_size"]:
        raise ValueError(
            f"the text tower knows {fields['vocab_size']} tokens, and the vocabulary {vocabulary} has "
            f"{tokenizer.vocab_size}"
        )
    ids = np.stack([tokenizer(own, truncate=False) for own in sentences])
    head = jax.jit(objective.class_head)(trained.params, ids)
    each_alone = "bias" in head  # SigLIP's: a sigmoid of each class

    def predict(params: Any, objective_state: Any, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
        outputs = objective.predict(params, objective_state, {"image": batch["image"]})
        logits = class_logits(outputs["embedding"], params["head"])
        found = {"embedding": outputs["embedding"], "logits": logits}
        return found | ({"probabilities": jax.nn.sigmoid(logits)} if each_alone else {})

    kept = {name: own for name, own in trained.params.items() if name in ("backbone", "projection")}
    return dataclasses.replace(
        trained,
        class_names=tuple(names),
        objective=dataclasses.replace(objective, predict=predict, multi_label=each_alone),
        params=kept | {"head": head},
    )


def of_workdir(workdir: Path, checkpoint: str) -> Any:
    """Returns a workdir's network, without the class prompts of its own.

    Raises:
      ValueError: no such workdir or checkpoint.
    """
    from imgcls_jax.inference.trained import load  # here, so that --help does not wait for it
    from imgcls_jax.train.build import make_backbone, make_objective

    trained = load(workdir, checkpoint)
    settings = trained.settings.objective
    if "class_prompts" not in settings.fields:
        return trained
    own = dataclasses.replace(settings, fields={**settings.fields, "class_prompts": ()})
    objective = make_objective(own, trained.task, make_backbone(trained.settings.model))
    return dataclasses.replace(
        trained, settings=dataclasses.replace(trained.settings, objective=own), objective=objective
    )


def of_weights(file: str, overrides: Mapping[str, str]) -> Any:
    """Returns a network of released weights; no data are opened.

    Args:
      file: FILE.py:options, a configuration.
      overrides: of its fields, model.pretrained among them.

    Raises:
      ValueError: a mistake in them, or weights that do not fit.
    """
    from imgcls_jax.config.files import find, load
    from imgcls_jax.config.modules import find_module
    from imgcls_jax.config.resolve import resolve
    from imgcls_jax.contracts.objective import Task
    from imgcls_jax.data import transforms
    from imgcls_jax.data.datasets import DataSide
    from imgcls_jax.inference.trained import Trained
    from imgcls_jax.train import of_weights
    from imgcls_jax.train.build import make_backbone, make_objective
    from imgcls_jax.train.initial import differing_transforms
    from imgcls_jax.weights import pretrained
    from imgcls_jax.weights.described import require_fields
    from imgcls_jax.weights.hub import locate

    configuration, told = of_weights.written_out(resolve(load(find(file, overrides))[0]))
    for line in told:
        tell(line)
    settings = configuration.settings(steps_per_epoch=1)
    model, objective_settings = settings.model, settings.objective
    if not model.pretrained:
        raise ValueError("--config needs --config.model.pretrained=FILE, the weights of both towers")
    data = DataSide(settings.data)
    photo = np.zeros((256, 320, 3), np.uint8)
    source_shape = transforms.apply(data.eval_host, photo, np.random.default_rng(0)).shape
    spec = {"image": jax.ShapeDtypeStruct((1, *source_shape), np.uint8)}
    image = jax.eval_shape(data.prepare, spec)["image"]
    task = Task(1, 1, 1, 1, image.shape[1:])
    fields = {**objective_settings.fields}
    fields |= {"class_prompts": ()} if "class_prompts" in fields else {}
    backbone = make_backbone(model)
    objective = make_objective(dataclasses.replace(objective_settings, fields=fields), task, backbone)
    text = jax.ShapeDtypeStruct((1, 1, fields["context_length"]), np.int32)
    batch = {"image": image, "text": text}
    params, objective_state = jax.eval_shape(objective.init, jax.random.key(0), batch)
    target = {"params": params, "batch_stats": objective_state.get("batch_stats", {})}
    positions = getattr(backbone, "resize_positions", "timm")
    weights = locate(model.pretrained)
    require_fields(weights.description, backbone, model.pretrained)
    for line in differing_transforms(weights.description.preprocessing, settings.data):
        tell(f"warning: {model.pretrained}: {line}")
    loaded, batch_stats, report = pretrained.load(
        weights.path, find_module("models", model.name), model.variant, target, positions=positions
    )
    missing = sorted(params.keys() - loaded.keys())
    if missing:
        raise ValueError(f"{model.pretrained} holds no {', '.join(missing)}: {report}")
    return Trained(
        settings, task, (), source_shape, data, objective, loaded, {"batch_stats": batch_stats}, step=0
    )


def parse_arguments(argv: Sequence[str] | None) -> tuple[argparse.Namespace, dict[str, str]]:
    """Parses the command line; returns the overrides of a configuration apart."""
    parser = parser_of("zero_shot", __doc__, allow_abbrev=False)
    parser.add_argument("folder", type=user_path, help="to write")
    parser.add_argument("--classes", type=user_path, required=True, help="text file, a class a line")
    parser.add_argument("--templates", default="plain", help="plain, seven, a sentence with {} or a file")
    parser.add_argument("--vocabulary", default="", help="of the tokenizer (default: that of the run)")
    network = parser.add_mutually_exclusive_group(required=True)
    network.add_argument("--workdir", type=workdir_path, help="of a training run")
    network.add_argument("--config", help="FILE.py[:options], with --config.model.pretrained=FILE")
    add_checkpoint(parser)
    parser.add_argument("--platforms", default=",".join(PLATFORMS), help="default: cpu,cuda,tpu")
    others, overrides = split_overrides(sys.argv[1:] if argv is None else argv)
    arguments = parser.parse_args(others)
    arguments.platforms = arguments.platforms.split(",")
    if not set(arguments.platforms) <= set(PLATFORMS):
        parser.error(f"--platforms are some of {', '.join(PLATFORMS)}; got {','.join(arguments.platforms)}")
    if overrides and not arguments.config:
        parser.error("fields of a configuration go with --config FILE.py, not with --workdir")
    return arguments, overrides


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    arguments, overrides = parse_arguments(argv)
    names, words = read_classes(arguments.classes)
    templates = read_templates(arguments.templates)
    if arguments.config:
        trained = of_weights(arguments.config, overrides)
    else:
        trained = of_workdir(arguments.workdir, arguments.checkpoint)
    made = classifier(trained, names, prompts(words, templates), arguments.vocabulary)
    write(made, arguments.folder, arguments.platforms)
    print(printable(f"{arguments.folder}: {len(names)} classes by {len(templates)} templates"))
    return 0


if __name__ == "__main__":
    exit_with(main)
