"""Fine-tuning of a network pretrained without labels on scikit-learn's digits, with ten labels a class.

  python -m imgcls_jax.main --config configs/digits_simclr.py --workdir runs/digits_simclr
  python -m imgcls_jax.main --config configs/digits_finetune.py:simclr --workdir runs/digits_finetune

`:mae` starts from runs/digits_mae in the same way. `:simclr,scratch` and `:mae,scratch` train the same
network on the same labels from its random start: the figures to compare with.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "simclr") -> ConfigDict:
    """Returns the configuration; `scratch` starts without pretraining, `test` shrinks it to seconds."""
    options = set(filter(None, arg.split(",")))
    if not options <= {"simclr", "mae", "scratch", "test"} or {"simclr", "mae"} <= options:
        raise ValueError(
            f"this configuration knows 'simclr' or 'mae', and ',scratch' and ',test' after it; got {arg!r}"
        )
    method = "mae" if "mae" in options else "simclr"
    size = {"simclr": "upsample(24) | ", "mae": ""}[method]
    config = ConfigDict()
    config.data = ConfigDict(
        dict(
            source="digits",
            train_split="train",
            train_transforms=f"{size}affine(10.0, 0.08, (0.9, 1.1)) | normalize(0.5, 0.5)",
            eval_transforms=f"{size}normalize(0.5, 0.5)",
            labels_per_class=10,
            label_seed=0,
            on_bad_example="raise",
            num_threads=1,
            num_workers=0,
        )
    )
    network = dict(name="simpleconv3")
    if method == "mae":
        network = dict(name="vit", variant="vit_tiny", patch=2, position="sincos", pool="mean")
    pretrained = "" if "scratch" in options else f"runs/digits_{method}"
    config.model = ConfigDict(dict(**network, dtype="float32", pretrained=pretrained))
    config.objective = ConfigDict(
        dict(
            name="supervised",
            label_smoothing=0.0,
            mixup_alpha=0.0,
            cutmix_alpha=0.0,
            ema_decay=0.0,
            dropout=0.0,
        )
    )
    config.optimizer = ConfigDict(
        dict(
            name="adamw",
            learning_rate=1e-3,
            schedule="cosine",
            warmup_epochs=10.0,
            weight_decay=0.05,
            decay_params=r".*/(kernel|in_proj_weight)" if method == "mae" else r".*/kernel",
            clip_norm=0.0,
            groups=(),  # (pattern of param paths, factor on the rate, or None to freeze)
        )
    )
    config.train = ConfigDict(
        dict(
            num_microbatches=1,
            batch_size=50,
            total_epochs=100.0,
            seed=0,
            log_every_steps=50,
            eval_every_epochs=0.0,
            checkpoint_every_steps=0,
            keep_checkpoints=2,
            best_metric="",
        )
    )
    config.evals = ConfigDict(dict(test=ConfigDict(dict(evaluator="classification", split="test"))))
    if "test" in options:
        config.train.total_epochs = 2.0
        config.train.log_every_steps = 1
        config.optimizer.warmup_epochs = 0.0
    return config
