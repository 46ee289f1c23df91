"""Simpleconv3 on 100 labels of MNIST, ten a class: the baseline of MixMatch and FixMatch there.

  python -m imgcls_jax.main --config configs/mnist_supervised_100.py --workdir runs/mnist_supervised_100 \\
    --config.data.root=FOLDER

FOLDER holds the official idx files. The network, the labels and their augmentation are those of
`configs/mnist_mixmatch.py`.

Measured: `results/mnist_01_supervised_100.json`, a row of the README's table.
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
            eval_transforms="normalize(0.5, 0.5)",
            labels_per_class=10,
            label_seed=0,
            labeled_batch_size=0,
            on_bad_example="raise",
            num_threads=1,
            num_workers=0,
        )
    )
    config.model = ConfigDict(dict(name="simpleconv3", dtype="float32", pretrained=""))
    config.objective = ConfigDict(
        dict(
            name="supervised",
            label_smoothing=0.0,
            mixup_alpha=0.0,
            cutmix_alpha=0.0,
            ema_decay=0.99,
            dropout=0.0,
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
            batch_size=50,
            total_epochs=2000.0,
            seed=0,
            log_every_steps=100,
            eval_every_epochs=500.0,
            checkpoint_every_steps=0,
            keep_checkpoints=2,
            best_metric="",
        )
    )
    config.evals = ConfigDict(dict(test=ConfigDict(dict(evaluator="classification", split="test"))))
    if arg == "test":
        config.train.total_epochs = 10.0
        config.train.eval_every_epochs = 0.0
        config.train.log_every_steps = 10
    elif arg:
        raise ValueError(f"this configuration knows the argument 'test' alone, got {arg!r}")
    return config
