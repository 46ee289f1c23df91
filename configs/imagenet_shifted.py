"""No training: a network with ImageNet's weights on a test set other than ImageNet's validation images.

  python -m imgcls_jax.main --config configs/imagenet_shifted.py:imagenet-r \\
    --config.data.root=FOLDER --config.model.pretrained=resnet50.pth

FOLDER holds the set as its archive unpacks; `:objectnet` and `:imagenet-real` want ImageNet's val/ beside it.
The network is torchvision's ResNet-50; another takes --config.model.name and its own line of transforms. A
finished run of ImageNet needs no configuration: it takes the evaluations as flags (docs/methods.md).

Not run: the sets were not at hand. Layouts and class maps are tested on miniatures.
"""

from ml_collections import ConfigDict

from imgcls_jax.config import sections

SETS = (
    "imagenetv2-matched-frequency",
    "imagenetv2-threshold0.7",
    "imagenetv2-top-images",
    "imagenet-a",
    "imagenet-r",
    "imagenet-sketch",
    "imagenet-c",
    "objectnet",
    "imagenet-real",
)


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration of a set; `:test` shrinks the images."""
    config, options = sections(arg, set=SETS, test=False)
    resized, side = (72, 64) if options.test else (256, 224)
    normalized = "normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))"
    size = f"resize_short({resized}) | center_crop({side})"
    if options.set == "imagenet-c" and not options.test:  # its images are 224 pixels wide
        size = f"center_crop({side})"
    line = f"decode | rgb | {size} | {normalized}"
    config.data.source = "imagenet"
    config.data.root = "data/imagenet"
    # A run opens a split of one label an image, though it takes no step.
    config.data.train_split = "val" if options.set in ("objectnet", "imagenet-real") else options.set
    config.data.train_transforms = line
    config.data.eval_transforms = line
    config.model.update(name="resnet", variant="resnet50")
    config.objective.name = "supervised"
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.0
    config.train.batch_size = 50
    config.train.total_steps = 0
    config.train.keep_checkpoints = 1
    config.evals.test = {"evaluator": "shifted", "split": options.set, "bootstrap": 1000}
    if options.set == "imagenet-c":
        config.evals.test = {"evaluator": "corruptions", "split": options.set}
    return config
