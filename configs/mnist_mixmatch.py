"""MixMatch on MNIST with 100 labels, ten a class; the other training images come without theirs.

  python -m imgcls_jax.main --config configs/mnist_mixmatch.py --workdir runs/mnist_mixmatch \\
    --config.data.root=FOLDER

FOLDER holds the official idx files. `configs/mnist_supervised_100.py` learns from the same 100 labels
alone.

Measured: `results/mnist_04_mixmatch.json`, a row of the README's table.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:test` shrinks it to seconds."""
    weak = "affine(15.0, 0.1, (0.85, 1.15)) | normalize(0.5, 0.5)"
    config = ConfigDict()
    config.data = ConfigDict(
        dict(
            source="mnist",
            root="data/mnist",
            train_split="train",
            train_transforms=weak,
            view_transforms=(weak, weak),
            eval_transforms="normalize(0.5, 0.5)",
            labels_per_class=10,
            label_seed=0,
            labeled_batch_size=64,
            on_bad_example="raise",
            num_threads=1,
            num_workers=0,
        )
    )
    config.model = ConfigDict(dict(name="simpleconv3", dtype="float32", pretrained=""))
    config.objective = ConfigDict(
        dict(
            name="mixmatch",
            alpha=0.75,
            lambda_u=15.0,
            ramp_fraction=0.1,
            temperature=0.5,
            ema_decay=0.99,
        )
    )
    config.optimizer = ConfigDict(
        dict(
            name="adamw",
            learning_rate=0.002,
            schedule="cosine",
            warmup_epochs=0.0,
            weight_decay=0.02,
            clip_norm=0.0,
            groups=(),  # (pattern of param paths, factor on the rate, or None to freeze)
        )
    )
    config.train = ConfigDict(
        dict(
            num_microbatches=1,
            batch_size=64,
            total_epochs=12.0,
            seed=0,
            log_every_steps=100,
            eval_every_epochs=3.0,
            checkpoint_every_steps=0,
            keep_checkpoints=2,
            best_metric="",
        )
    )
    config.evals = ConfigDict(dict(test=ConfigDict(dict(evaluator="classification", split="test"))))
    if arg == "test":
        config.train.total_steps = 20
        del config.train.total_epochs
        config.train.log_every_steps = 10
        config.train.eval_every_epochs = 0.0
    elif arg:
        raise ValueError(f"this configuration knows the argument 'test' alone, got {arg!r}")
    return config
