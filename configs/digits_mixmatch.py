"""MixMatch on scikit-learn's digits with 50 labels, five a class; nothing is downloaded.

python -m imgcls_jax.main --config configs/digits_mixmatch.py --workdir runs/digits_mixmatch

Measured: `results/digits_05_mixmatch.json`, a row of the README's table.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:test` shrinks it to seconds."""
    weak = "upsample(24) | affine(10.0, 0.08, (0.9, 1.1)) | normalize(0.5, 0.5)"
    config = ConfigDict()
    config.data = ConfigDict(
        dict(
            source="digits",
            train_split="train",
            train_transforms=weak,
            view_transforms=(weak, weak),
            eval_transforms="upsample(24) | normalize(0.5, 0.5)",
            labels_per_class=5,
            label_seed=0,
            labeled_batch_size=32,
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
            ramp_fraction=0.75,
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
            batch_size=32,
            total_epochs=30.0,
            seed=0,
            log_every_steps=100,
            eval_every_epochs=10.0,
            checkpoint_every_steps=0,
            keep_checkpoints=2,
            best_metric="",
        )
    )
    config.evals = ConfigDict(dict(test=ConfigDict(dict(evaluator="classification", split="test"))))
    if arg == "test":
        config.train.total_epochs = 2.0
        config.train.eval_every_epochs = 1.0
        config.train.log_every_steps = 10
    elif arg:
        raise ValueError(f"this configuration knows the argument 'test' alone, got {arg!r}")
    return config
