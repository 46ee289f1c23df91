"""Long-tailed CIFAR-10 with ResNet-32: the first class has a hundred times as many examples as the last, the
test split as it is; six ways to learn from them, the recipe of Cao et al. 2019, arXiv:1906.07413.

  python -m imgcls_jax.main --config configs/cifar10_long_tail.py:adjusted --workdir runs/cifar10_long_tail \\
    --config.data.root=FOLDER

FOLDER holds the official binary files. `:plain`, `:weighted` (cross-entropy by inverse frequency),
`:effective` (by effective numbers), `:focal`, `:oversampled`, `:adjusted` (logit adjustment). A milder tail:
`--config.data.imbalance_factor=10.0`. Not yet run.
"""

from ml_collections import ConfigDict

WAYS = {
    "plain": {},
    "weighted": dict(class_weights="inverse_frequency"),
    "effective": dict(class_weights="effective_number", effective_beta=0.999),
    "focal": dict(focal_gamma=2.0),
    "oversampled": {},
    "adjusted": dict(logit_adjustment=1.0),
}


def get_config(arg: str = "plain") -> ConfigDict:
    """Returns the configuration; one of the ways of `WAYS`, and `test` to shrink it, joined by commas."""
    options = arg.split(",")
    way = next((option for option in options if option != "test"), "plain")
    if way not in WAYS or len(options) > 1 + ("test" in options):
        raise ValueError(f"this configuration knows one of {', '.join(WAYS)}, and 'test'; got {arg!r}")
    config = ConfigDict()
    config.data = ConfigDict(
        dict(
            source="cifar10",
            root="data/cifar10",
            train_split="train",
            train_transforms="pad_and_crop(4) | flip | normalize(0.5, 0.25)",
            eval_transforms="normalize(0.5, 0.25)",
            imbalance_factor=100.0,
            label_seed=0,
            oversample=way == "oversampled",
            on_bad_example="raise",
            num_threads=1,
            num_workers=0,
        )
    )
    config.model = ConfigDict(dict(name="cifar_resnet", variant="resnet32", dtype="float32", pretrained=""))
    config.objective = ConfigDict(dict(name="supervised", **WAYS[way]))
    config.optimizer = ConfigDict(
        dict(
            name="sgd",
            momentum=0.9,
            nesterov=False,
            learning_rate=0.1,
            schedule="step",
            decay_at_epochs=(160.0, 180.0),
            decay_factor=0.01,
            warmup_epochs=5.0,
            weight_decay=2e-4,
            clip_norm=0.0,
            groups=(),  # (pattern of param paths, factor on the rate, or None to freeze)
        )
    )
    config.train = ConfigDict(
        dict(
            num_microbatches=1,
            batch_size=128,
            total_epochs=200.0,
            seed=0,
            log_every_steps=100,
            eval_every_epochs=20.0,
            checkpoint_every_steps=0,
            keep_checkpoints=2,
            best_metric="",
        )
    )
    report = dict(evaluator="classification_report", split="test", shots=(100, 1000))
    config.evals = ConfigDict(dict(test=ConfigDict(report)))
    if "test" in options:
        del config.train.total_epochs
        config.train.update(total_steps=2, eval_every_epochs=0.0, log_every_steps=1)
        config.evals = ConfigDict()
    return config
