"""FixMatch on scikit-learn's digits with 50 labels, five a class; nothing is downloaded.

python -m imgcls_jax.main --config configs/digits_fixmatch.py --workdir runs/digits_fixmatch

Measured: `results/digits_06_fixmatch.json`, a row of the README's table.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:test` shrinks it to seconds."""
    moved = "upsample(24) | affine(10.0, 0.08, (0.9, 1.1))"
    weak = f"{moved} | normalize(0.5, 0.5)"
    strong = f"{moved} | rand_augment(2, None, 0.5) | cutout(8) | normalize(0.5, 0.5)"
    config = ConfigDict()
    config.data = ConfigDict(
        dict(
            source="digits",
            train_split="train",
            train_transforms=weak,
            view_transforms=(weak, strong),
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
            name="fixmatch",
            threshold=0.95,
            lambda_u=1.0,
            ema_decay=0.99,
        )
    )
    config.optimizer = ConfigDict(
        dict(
            name="sgd",
            momentum=0.9,
            nesterov=True,
            learning_rate=0.03,
            schedule="cosine",
            warmup_epochs=0.0,
            weight_decay=0.0005,
            clip_norm=0.0,
            groups=(),  # (pattern of param paths, factor on the rate, or None to freeze)
        )
    )
    config.train = ConfigDict(
        dict(
            num_microbatches=1,
            batch_size=128,
            total_epochs=150.0,
            seed=0,
            log_every_steps=100,
            eval_every_epochs=50.0,
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
