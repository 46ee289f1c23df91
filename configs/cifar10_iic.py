"""IIC on CIFAR-10 by the authors' settings; not yet run.

  python -m imgcls_jax.main --config configs/cifar10_iic.py --workdir runs/cifar10_iic \\
    --config.data.root=FOLDER

FOLDER holds cifar-10-batches-bin. The authors' released runs reach 61.7 % one-to-one (arXiv:1807.06653). A
crop of 20x20 is enlarged to 32x32 and becomes two Sobel gradients; 220 images a batch, each with three
transforms. Differences: the clusters see the training split alone, not the test images too; BatchNorm keeps
running statistics; the grey that the Sobel filter sees is the mean of the channels; and the network is
ResNet-34's blocks on a 3x3 convolution, without the pooling that follows it there.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:test` shrinks it to a few steps of a smaller network."""
    front = "normalize(0.5, 0.5) | sobel"
    crop = "resized_crop((0.390625, 0.390625), (1.0, 1.0))"  # 20x20 of 32x32
    plain = f"{crop} | {front}"
    transformed = f"{crop} | flip | color_jitter(0.4, 0.4, 0.4, 0.125) | {front}"
    config = ConfigDict()
    config.data = ConfigDict(
        dict(
            source="cifar10",
            root="data/cifar10",
            train_split="train",
            train_transforms=plain,
            view_transforms=(plain, transformed, transformed, transformed),
            eval_transforms=f"center_crop(20) | upsample(32) | {front}",
            on_bad_example="raise",
            num_threads=2,
            num_workers=0,
        )
    )
    config.model = ConfigDict(
        dict(
            name="resnet", variant="resnet18_cifar", stage_sizes=(3, 4, 6, 3), dtype="float32", pretrained=""
        )
    )
    config.objective = ConfigDict(
        dict(
            name="iic",
            num_clusters=10,
            num_overclusters=70,
            num_subheads=5,
            marginal_weight=1.0,
            head_epochs=(2, 1),
            overclusters_first=True,
        )
    )
    config.optimizer = ConfigDict(
        dict(
            name="adam",
            learning_rate=1e-4,
            schedule="constant",
            clip_norm=0.0,
            groups=(),  # (pattern of param paths, factor on the rate, or None to freeze)
        )
    )
    config.train = ConfigDict(
        dict(
            num_microbatches=1,
            batch_size=220,
            total_epochs=2000.0,
            seed=0,
            log_every_steps=200,
            eval_every_epochs=20.0,
            checkpoint_every_steps=0,
            keep_checkpoints=2,
            best_metric="",
        )
    )
    config.evals = ConfigDict(dict(test=ConfigDict(dict(evaluator="clustering", split="test"))))
    if arg == "test":
        config.model.stage_sizes = (1, 1, 1, 1)
        config.train.update(batch_size=16, total_epochs=0.001, log_every_steps=1)
        config.objective.update(num_overclusters=20, num_subheads=2)
    elif arg:
        raise ValueError(f"this configuration knows the argument 'test' alone, got {arg!r}")
    return config
