"""A classifier of your own images from a network that was trained before: a folder a class, no tuning.

  python -m imgcls_jax.main --config configs/folder_transfer.py \\
    --config.data.root=FOLDER --config.model.pretrained=mobilenet_v2_1.0_224_folded.npz

FOLDER is any that `image_folder` reads: FOLDER/train/CLASS and FOLDER/val/CLASS, or FOLDER/CLASS, of which a
fixed fifth is held out then. The network is frozen, its features are computed once and kept, and a linear
classifier learns on them in seconds. Each image's features are scaled to one size, so that the rate suits any
network: `--config.model.name=... --config.model.variant=...` with its weights and its `normalize`. Images are
squashed to 224x224; `--config.data.train_transforms` and `eval_transforms` change that.

Rate and length come from cross-validation inside the training split of 2,400 birds
(`configs/cub_transfer.py`), but the birds' test figures were in view while the length was chosen among 20, 60
and 100 epochs. The mouths were not. Development splits, beside scikit-learn's LogisticRegression with its
defaults on the same features:

  images (MobileNetV2, ImageNet)          here      scikit-learn
  birds, 100 species, 2,400 and 599       84.5 %    85.0 %    (351 s in all on two busy CPU cores)
  mouths, 2 expressions, 800 and 100      88 %      83 %
"""

from ml_collections import ConfigDict

from imgcls_jax.config import sections


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:test` shrinks it to a few steps of small images."""
    config, options = sections(arg, test=False)
    side = 64 if options.test else 224
    config.data.source = "image_folder"
    config.data.root = "data/images"
    config.data.train_transforms = f"decode | rgb | resize({side}) | normalize(0.5, 0.5)"
    config.data.eval_transforms = config.data.train_transforms
    config.model.update(name="mobilenet_v2", variant="mobilenet_v2_folded")
    config.objective.update(name="supervised", head="linear", head_fields={"normalize": True})
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.weight_decay = 0.01
    config.phases.phase_1 = {"total_epochs": 60.0, "groups": (("backbone/.*", None),)}
    config.train.batch_size = 32
    config.train.keep_checkpoints = 1
    config.evals.val = {"evaluator": "classification_report", "split": "val"}
    if options.test:
        config.train.batch_size = 8
        config.phases.phase_1.total_epochs = 1.0
    return config
