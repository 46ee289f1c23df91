"""IIC on scikit-learn's digits: ten clusters without a label.

python -m imgcls_jax.main --config configs/digits_iic.py --workdir runs/digits_iic

Measured: `results/digits_12_iic.json`, a row of the README's table.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:test` shrinks it to seconds."""
    plain = "upsample(24) | normalize(0.5, 0.5)"
    transformed = "upsample(24) | affine(20.0, 0.1, (0.8, 1.2)) | normalize(0.5, 0.5)"
    config = ConfigDict()
    config.data = ConfigDict(
        dict(
            source="digits",
            train_split="train",
            train_transforms=plain,
            view_transforms=(plain, transformed, transformed),
            eval_transforms=plain,
            on_bad_example="raise",
            num_threads=1,
            num_workers=0,
        )
    )
    config.model = ConfigDict(
        dict(name="simpleconv3", channels=(16, 32, 64), hidden=(), dtype="float32", pretrained="")
    )
    config.objective = ConfigDict(
        dict(
            name="iic",
            num_clusters=10,
            num_overclusters=30,
            num_subheads=5,
            marginal_weight=1.5,
            head_epochs=(2, 1),
            overclusters_first=True,
        )
    )
    config.optimizer = ConfigDict(
        dict(
            name="adam",
            learning_rate=1e-3,
            schedule="cosine",
            warmup_epochs=2.0,
            clip_norm=0.0,
            groups=(),  # (pattern of param paths, factor on the rate, or None to freeze)
        )
    )
    config.train = ConfigDict(
        dict(
            num_microbatches=1,
            batch_size=240,
            total_epochs=150.0,
            seed=0,
            log_every_steps=100,
            eval_every_epochs=50.0,
            checkpoint_every_steps=0,
            keep_checkpoints=2,
            best_metric="",
        )
    )
    config.evals = ConfigDict(
        dict(test=ConfigDict(dict(evaluator="clustering", split="test", silhouette_examples=1000)))
    )
    if arg == "test":
        config.train.total_epochs = 2.0
        config.train.eval_every_epochs = 1.0
        config.train.log_every_steps = 5
    elif arg:
        raise ValueError(f"this configuration knows the argument 'test' alone, got {arg!r}")
    return config
