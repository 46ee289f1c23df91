"""MAE on scikit-learn's digits without labels, measured by a linear probe and by nearest neighbours.

  python -m imgcls_jax.main --config configs/digits_mae.py --workdir runs/digits_mae

`:random` leaves the network as it was drawn (rate 0): the figure to compare with.

Measured: `results/digits_10_mae.json`, a row of the README's table.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:random` for an untrained trunk, `:test` shrinks it to seconds."""
    config = ConfigDict()
    config.data = ConfigDict(
        dict(
            source="digits",
            train_split="train",
            train_transforms="affine(10.0, 0.08, (0.9, 1.1)) | normalize(0.5, 0.5)",
            eval_transforms="normalize(0.5, 0.5)",
            on_bad_example="raise",
            num_threads=1,
            num_workers=0,
        )
    )
    config.model = ConfigDict(
        dict(
            name="vit",
            variant="vit_tiny",
            patch=2,
            position="sincos",
            pool="mean",
            dtype="float32",
            pretrained="",
        )
    )
    config.objective = ConfigDict(
        dict(
            name="mae",
            mask_ratio=0.75,
            norm_pix=False,
            decoder_width=32,
            decoder_depth=2,
            decoder_heads=4,
        )
    )
    config.optimizer = ConfigDict(
        dict(
            name="adamw",
            b2=0.95,
            learning_rate=3e-3,
            schedule="cosine",
            warmup_epochs=10.0,
            weight_decay=0.05,
            decay_params=r".*/(kernel|in_proj_weight|class_token|mask_token)",
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
    config.evals = ConfigDict(
        dict(
            probe=ConfigDict(dict(evaluator="linear_probe", split="test")),
            probe_4=ConfigDict(dict(evaluator="linear_probe", split="test", labels_per_class=4)),
            knn=ConfigDict(dict(evaluator="knn", split="test", k=(1, 20))),
        )
    )
    if arg == "random":
        config.train.total_steps = 1
        del config.train.total_epochs
        config.optimizer.learning_rate = 0.0
    elif arg == "test":
        config.train.total_epochs = 2.0
        config.train.eval_every_epochs = 1.0
        config.train.log_every_steps = 5
    elif arg:
        raise ValueError(f"this configuration knows the arguments 'random' and 'test', got {arg!r}")
    return config
