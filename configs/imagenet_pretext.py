"""Rotation and jigsaw on ImageNet with ResNet-50, by the settings of VISSL; published, not run here.

  python -m imgcls_jax.main --config configs/imagenet_pretext.py
  python -m imgcls_jax.main --config configs/imagenet_pretext.py:jigsaw

data/imagenet, or the folder named by `--config.data.root`, holds ImageNet (ILSVRC 2012,
https://image-net.org/download, 144 GB): train/ and val/ with a folder a class. Published by
facebookresearch/vissl @09270ed, a linear classifier on the frozen network: `:rotate`, the default, 48.2 %;
`:jigsaw` 46.73 %, with 2,000 permutations; `:jigsaw_100` 48.57 %; `:jigsaw_10000` 48.11 %. Measured here by
nearest neighbors.

Jigsaw is of arXiv:1603.09246: nine cells of 85 pixels, a patch of 64 in each. Differences from VISSL, whose
cost is not known: a batch holds all four rotations of 64 images, theirs one rotation of each of 256, so that
an epoch here has four times the steps; permutations are chosen by the same greedy rule from another draw.
"""

from ml_collections import ConfigDict

from imgcls_jax.config import sections


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:test` shrinks it to a few steps of small images."""
    tasks = ("rotate", "jigsaw", "jigsaw_100", "jigsaw_10000")
    config, options = sections(arg, task=tasks, test=False)
    jigsaw = options.task != "rotate"
    side = (33 if options.test else 255) if jigsaw else (32 if options.test else 224)
    plain = "normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))"
    line = f"decode | random_resized_crop({side}) | flip"
    if jigsaw:
        line = f"decode | resize_short({side + 1}) | random_crop({side}) | flip | grayscale(0.66)"
    config.data.source = "image_folder"
    config.data.root = "data/imagenet"
    config.data.train_transforms = f"{line} | {plain}"
    config.data.eval_transforms = f"decode | resize_short({side * 8 // 7}) | center_crop({side}) | {plain}"
    config.data.on_bad_example = "skip"
    config.data.num_threads = 16
    config.model.update(name="resnet", variant="resnet50")
    config.objective.name = "rotation"
    if jigsaw:
        config.objective.name = "jigsaw"  # of 100 permutations
        if options.task != "jigsaw_100":
            config.objective.num_permutations = 10000 if options.task == "jigsaw_10000" else 2000
    config.optimizer.update(name="sgd", momentum=0.9)
    config.optimizer.learning_rate = 0.1
    config.optimizer.schedule = "step"
    config.optimizer.decay_at_epochs = (30.0, 60.0, 90.0, 100.0)
    config.optimizer.weight_decay = 1e-4
    config.train.batch_size = 256 if jigsaw else 64
    config.train.total_epochs = 105.0
    config.train.eval_every_epochs = 35.0
    config.train.checkpoint_every_steps = 2000
    config.evals.knn = {"evaluator": "knn", "split": "val", "k": (20, 200)}
    if options.test:
        if jigsaw:
            config.objective.update(patch=8, num_permutations=24, patch_dim=16)
        config.train.update(batch_size=8, total_epochs=0.001)
    return config
