"""IIC on CIFAR-10 by the authors' settings; not yet run.

  python -m imgcls_jax.main --config configs/cifar10_iic.py

Unpack the official binary version into data/cifar10, or name its folder by `--config.data.root`. The authors'
released runs reach 61.7 % one-to-one (arXiv:1807.06653). A crop of 20x20 is enlarged to 32x32 and becomes two
Sobel gradients; 220 images a batch, each with three transforms. Differences: the clusters see the training
split alone, not the test images too; BatchNorm keeps running statistics; the Sobel filter sees the mean of
the channels; the network is ResNet-34's blocks on a 3x3 convolution, without the pooling that follows it
there.
"""

from ml_collections import ConfigDict

from imgcls_jax.config import sections


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:test` shrinks it to a few steps of a smaller network."""
    config, options = sections(arg, test=False)
    front = "normalize(0.5, 0.5) | sobel"
    crop = "resized_crop((0.390625, 0.390625), (1.0, 1.0))"  # 20x20 of 32x32
    plain = f"{crop} | {front}"
    transformed = f"{crop} | flip | color_jitter(0.4, 0.4, 0.4, 0.125) | {front}"
    config.data.source = "cifar10"
    config.data.root = "data/cifar10"
    config.data.train_transforms = plain
    config.data.view_transforms = (plain, transformed, transformed, transformed)
    config.data.eval_transforms = f"center_crop(20) | upsample(32) | {front}"
    config.model.update(name="resnet", variant="resnet18_cifar")
    config.model.stage_sizes = (3, 4, 6, 3)  # of ResNet-34
    config.objective.update(
        name="iic", num_clusters=10, num_overclusters=70, overclusters_first=True, head_epochs=(2, 1)
    )
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 1e-4
    config.train.batch_size = 220
    config.train.total_epochs = 2000.0
    config.train.eval_every_epochs = 20.0
    config.evals.test = {"evaluator": "clustering", "split": "test"}
    if options.test:
        config.model.stage_sizes = (1, 1, 1, 1)
        config.objective.update(num_overclusters=20, num_subheads=2)
        config.train.update(batch_size=16, total_epochs=0.001, log_every_steps=1)
    return config
