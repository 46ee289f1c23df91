"""Pseudo-labels on CIFAR-10 with 250 labels, the baseline of MixMatch's authors with their settings.

  python -m imgcls_jax.main --config configs/cifar10_pseudo_label.py --workdir runs/cifar10_pseudo_label \\
    --config.data.root=FOLDER

FOLDER holds the official binary files. Not yet run. Least entropy instead: `--config.objective.term=entropy`,
`--config.objective.lambda_u=0.06` and `--config.objective.ramp_fraction=0.0`.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:test` shrinks it to seconds."""
    weak = 'flip | pad_and_crop(4, "reflect") | normalize(0.5, 0.5)'
    config = ConfigDict()
    config.data = ConfigDict(
        dict(
            source="cifar10",
            root="data/cifar10",
            train_split="train",
            train_transforms=weak,
            eval_transforms="normalize(0.5, 0.5)",
            labels_per_class=25,
            label_seed=0,
            labeled_batch_size=64,
            on_bad_example="raise",
            num_threads=2,
            num_workers=0,
        )
    )
    config.model = ConfigDict(dict(name="wide_resnet", variant="wrn_28_2", dtype="float32", pretrained=""))
    config.objective = ConfigDict(
        dict(
            name="pseudo_label",
            term="pseudo_label",
            threshold=0.95,
            lambda_u=1.0,
            ramp_fraction=0.4,
            ema_decay=0.999,
        )
    )
    config.optimizer = ConfigDict(
        dict(
            name="adamw",
            learning_rate=0.002,
            schedule="constant",
            weight_decay=0.02,
            clip_norm=0.0,
            groups=(),  # (pattern of param paths, factor on the rate, or None to freeze)
        )
    )
    config.train = ConfigDict(
        dict(
            num_microbatches=1,
            batch_size=64,
            total_steps=2**20,
            seed=0,
            log_every_steps=256,
            eval_every_steps=1024,
            checkpoint_every_steps=0,
            keep_checkpoints=2,
            best_metric="",
        )
    )
    config.evals = ConfigDict(dict(test=ConfigDict(dict(evaluator="classification", split="test"))))
    if arg == "test":
        config.train.total_steps = 2
        config.train.eval_every_steps = 0
        config.train.log_every_steps = 1
        config.train.eval_batch_size = 100
        config.evals = ConfigDict()
        config.train.batch_size = config.data.labeled_batch_size = 4
    elif arg:
        raise ValueError(f"this configuration knows the argument 'test' alone, got {arg!r}")
    return config
