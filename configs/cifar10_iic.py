"""IIC on CIFAR-10 by the authors' settings; not yet run.

  python -m imgcls_jax.main --config configs/cifar10_iic.py

Unpack the official binary version into data/cifar10, or name its folder by `--config.data.root`. The authors'
released run 640 reaches 61.7 % one-to-one (arXiv:1807.06653), on the 60,000 images that it was trained on, as
here. A crop of 20x20 is enlarged to 32x32, becomes gray in [0, 1] and then two Sobel gradients with a border
of zeros; 220 images a batch, each with three transforms. In each of 1,999 epochs the auxiliary head has one
pass through all images and the clusters' head two: 5,997 passes, 1,631,184 steps.

The images are taken in the order of the files, the same 220 together in every pass, as the authors do.

Differences from xu-ji/IIC @b7602b7: the last 160 images, less than a batch, are not trained on; there they
are a smaller batch (1,637,181 steps). BatchNorm keeps running statistics for prediction, where run 640 takes
those of the evaluated batch. Their transforms are on 8-bit images. What this costs is not known.
"""

from ml_collections import ConfigDict

from imgcls_jax.config import sections


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:test` shrinks it to a few steps of a smaller network."""
    config, options = sections(arg, test=False)
    front = "grayscale(1.0) | sobel"
    crop = "resized_crop((0.390625, 0.390625), (1.0, 1.0))"  # 20x20 of 32x32
    plain = f"{crop} | {front}"
    transformed = f"{crop} | flip | color_jitter(0.4, 0.4, 0.4, 0.125) | {front}"
    config.data.source = "cifar10"
    config.data.root = "data/cifar10"
    config.data.train_split = "train+test"
    config.data.train_transforms = plain
    config.data.view_transforms = (plain, transformed, transformed, transformed)
    config.data.eval_transforms = f"center_crop(20) | upsample(32) | {front}"
    config.model.update(name="resnet", variant="resnet34_iic")
    config.objective.update(
        name="iic",
        num_clusters=10,
        num_overclusters=70,
        overclusters_first=True,
        head_epochs=(2, 1),
        head_std=0.01,
        shuffled=False,
    )
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 1e-4
    config.train.batch_size = 220
    config.train.total_epochs = 3 * 1999.0
    config.train.eval_every_epochs = 60.0
    config.evals.all = {"evaluator": "clustering", "split": "train+test"}
    if options.test:
        config.model.stage_sizes = (1, 1, 1, 1)
        config.objective.update(num_overclusters=20, num_subheads=2)
        config.train.update(batch_size=16, total_epochs=0.001, log_every_steps=1)
    return config
