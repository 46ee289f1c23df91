"""ResNet-50 on ImageNet by torchvision's two recipes, checked line by line; published, not run here.

  python -m imgcls_jax.main --config configs/imagenet_resnet50.py
  python -m imgcls_jax.main --config configs/imagenet_resnet50.py:v2

data/imagenet, or the folder named by `--config.data.root`, holds ImageNet (ILSVRC 2012,
https://image-net.org/download, 144 GB): train/ and val/ with a folder a class. Published, top-1 of one crop
of 224 pixels: `:v1`, the default, 76.13 % (others reached 75.4 to 75.9 % by it: pytorch/vision issue 5593);
`:v2` 80.86 % (its pull request 5201). Source: pytorch/vision @017e9b9, references/classification/train.py,
of which V1 are the defaults; the flags of V2 are those of issue 3995, with four repeats.

As theirs, BatchNorm and mixing are of each device's share ("per_replica"); they had 8 devices. Differences,
none with a known cost: in V2 the rate moves at every step and starts at 0, theirs once an epoch and from a
hundredth; the changes of TrivialAugment read the nearest pixel and keep fractions of 8 bits, theirs are
bilinear and rounded; the average moves at every step, so that 32 steps are one of theirs, warms up by
another rule, and leaves out BatchNorm's statistics.
"""

from ml_collections import ConfigDict

from imgcls_jax.config import sections


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:test` shrinks it to a few steps of small images."""
    config, options = sections(arg, recipe=("v1", "v2"), test=False)
    v2 = options.recipe == "v2"
    side, resized, crop = (24, 40, 32) if options.test else (176, 232, 224) if v2 else (224, 256, 224)
    plain = "normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))"
    line = f"decode | random_resized_crop({side}) | flip"
    config.data.source = "image_folder"
    config.data.root = "data/imagenet"
    config.data.train_transforms = f"{line} | {plain}"
    config.data.eval_transforms = f"decode | resize_short({resized}) | center_crop({crop}) | {plain}"
    config.data.on_bad_example = "skip"
    config.data.num_threads = 16
    config.model.update(name="resnet", variant="resnet50")
    config.objective.name = "supervised"
    config.optimizer.update(name="sgd", momentum=0.9, learning_rate=0.5 if v2 else 0.1)
    config.train.update(batch_size=1024 if v2 else 256, total_epochs=600.0 if v2 else 90.0)
    config.train.update(eval_every_epochs=10.0, checkpoint_every_steps=5000, parallel="per_replica")
    config.evals.val = {"evaluator": "classification", "split": "val"}
    if v2:
        config.data.train_transforms = f"{line} | trivial_augment | {plain} | random_erasing(0.1)"
        config.data.augmentation_repeats = 4
        config.objective.update(label_smoothing=0.1, mixup_alpha=0.2, cutmix_alpha=1.0)
        config.objective.ema_decay = (1 - 2e-5 * 1024 * 32 / 600) ** (1 / 32)
        config.optimizer.update(schedule="cosine", warmup_epochs=5.0, weight_decay=2e-5)
        config.optimizer.decay_params = ".*/kernel|head/.*"  # all but norms
    else:
        config.optimizer.update(
            schedule="step", decay_every_epochs=30.0, weight_decay=1e-4, decay_params=".*"
        )
    if options.test:
        del config.train.eval_every_epochs, config.train.checkpoint_every_steps
        config.train.update(batch_size=8, total_epochs=1.0)
        config.optimizer.update({"warmup_epochs": 0.5} if v2 else {"decay_every_epochs": 0.5})
    return config
