"""SimCLR on scikit-learn's digits without labels, measured by a linear probe and by nearest neighbours.

  python -m imgcls_jax.main --config configs/digits_simclr.py --workdir runs/digits_simclr

`:random` leaves the network as it was drawn (rate 0, one epoch that sets the BatchNorm statistics): the
figure to compare with.

Measured: `results/digits_08_simclr.json`, a row of the README's table.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:random` for an untrained trunk, `:test` shrinks it to seconds."""
    view = "upsample(24) | resized_crop((0.4, 1.0)) | affine(15.0, 0.08, (0.9, 1.1)) | normalize(0.5, 0.5)"
    config = ConfigDict()
    config.data = ConfigDict(
        dict(
            source="digits",
            train_split="train",
            train_transforms="upsample(24) | normalize(0.5, 0.5)",
            view_transforms=(view, view),
            eval_transforms="upsample(24) | normalize(0.5, 0.5)",
            on_bad_example="raise",
            num_threads=1,
            num_workers=0,
        )
    )
    config.model = ConfigDict(dict(name="simpleconv3", dtype="float32", pretrained=""))
    config.objective = ConfigDict(
        dict(name="simclr", temperature=0.5, projection_layers=2, projection_dim=64)
    )
    config.optimizer = ConfigDict(
        dict(
            name="adamw",
            learning_rate=2e-3,
            schedule="cosine",
            warmup_epochs=5.0,
            weight_decay=1e-4,
            clip_norm=0.0,
            groups=(),  # (pattern of param paths, factor on the rate, or None to freeze)
        )
    )
    config.train = ConfigDict(
        dict(
            num_microbatches=1,
            batch_size=256,
            total_epochs=200.0,
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
        config.train.total_epochs = 1.0
        config.train.eval_every_epochs = 0.0
        config.optimizer.learning_rate = 0.0
    elif arg == "test":
        config.train.total_epochs = 2.0
        config.train.eval_every_epochs = 1.0
        config.train.log_every_steps = 5
    elif arg:
        raise ValueError(f"this configuration knows the arguments 'random' and 'test', got {arg!r}")
    return config
