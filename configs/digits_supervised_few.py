"""Simpleconv3 on 50 labels of scikit-learn's digits, five a class: the baseline of learning with few labels.

python -m imgcls_jax.main --config configs/digits_supervised_few.py --workdir runs/digits_supervised_few

The network, the labels and their augmentation are those of
`configs/digits_trinet.py`.

Measured: `results/digits_02_supervised_few.json`, a row of the README's table.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:test` shrinks it to seconds."""
    config = ConfigDict()
    config.data = ConfigDict(
        dict(
            source="digits",
            train_split="train",
            train_transforms="upsample(24) | affine(10.0, 0.08, (0.9, 1.1)) | normalize(0.5, 0.5)",
            eval_transforms="upsample(24) | normalize(0.5, 0.5)",
            labels_per_class=5,
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
            ema_decay=0.0,
            dropout=0.5,
        )
    )
    config.optimizer = ConfigDict(
        dict(
            name="sgd",
            momentum=0.9,
            nesterov=True,
            learning_rate=0.05,
            schedule="cosine",
            warmup_epochs=0.0,
            weight_decay=5e-4,
            clip_norm=0.0,
            groups=(),  # (pattern of param paths, factor on the rate, or None to freeze)
        )
    )
    config.train = ConfigDict(
        dict(
            num_microbatches=1,
            batch_size=50,
            total_epochs=1300.0,
            seed=0,
            log_every_steps=100,
            eval_every_epochs=650.0,
            checkpoint_every_steps=0,
            keep_checkpoints=2,
            best_metric="",
        )
    )
    config.evals = ConfigDict(dict(test=ConfigDict(dict(evaluator="classification", split="test"))))
    if arg == "test":
        config.train.total_epochs = 20.0
        config.train.eval_every_epochs = 10.0
        config.train.log_every_steps = 10
    elif arg:
        raise ValueError(f"this configuration knows the argument 'test' alone, got {arg!r}")
    return config
