"""Tri-net on CIFAR-10 with 4,000 labels, with the settings of the paper as far as they are known.

  python -m imgcls_jax.main --config configs/cifar10_trinet.py --workdir runs/cifar10_trinet \\
    --config.data.root=FOLDER

FOLDER holds the official binary files. Not yet run. The paper's abstract reports 8.30 % errors. Thresholds,
smearing, dropout, optimizer and the 30 rounds are from memory. Network, augmentation, the modules' width and
the length of the rounds are ours: its trunk has 13 layers, its modules are convolutional (from memory too),
and how many passes it makes through the examples was not to be found.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:test` shrinks it to seconds."""
    config = ConfigDict()
    config.data = ConfigDict(
        dict(
            source="cifar10",
            root="data/cifar10",
            train_split="train",
            train_transforms='flip | pad_and_crop(4, "reflect") | normalize(0.5, 0.5)',
            eval_transforms="normalize(0.5, 0.5)",
            labels_per_class=400,
            label_seed=0,
            labeled_batch_size=16,
            on_bad_example="raise",
            num_threads=2,
            num_workers=0,
        )
    )
    config.model = ConfigDict(dict(name="wide_resnet", variant="wrn_28_2", dtype="float32", pretrained=""))
    config.objective = ConfigDict(
        dict(
            name="trinet",
            hidden=256,
            dropout=0.5,
            smear_std=0.05,
            sigma=0.95,
            sigma_smearing=0.25,
            sigma_decay=0.05,
            pool_base=1000,
            passes=9,
            init_epochs=30,
            round_epochs=4,
            diversity_rounds=4,
        )
    )
    config.optimizer = ConfigDict(
        dict(
            name="sgd",
            momentum=0.9,
            nesterov=False,
            learning_rate=0.1,
            schedule="step",
            decay_at_epochs=(30.0,),  # the end of the initialisation
            decay_factor=0.2,
            weight_decay=1e-4,
            clip_norm=0.0,
            groups=(),  # (pattern of param paths, factor on the rate, or None to freeze)
        )
    )
    config.train = ConfigDict(
        dict(
            num_microbatches=1,
            batch_size=16,
            eval_batch_size=400,
            total_epochs=150.0,  # 30 rounds
            seed=0,
            log_every_steps=625,
            eval_every_epochs=10.0,
            checkpoint_every_steps=0,
            keep_checkpoints=2,
            best_metric="",
        )
    )
    config.evals = ConfigDict(dict(test=ConfigDict(dict(evaluator="classification", split="test"))))
    if arg == "test":
        del config.train.total_epochs, config.train.eval_every_epochs
        config.train.total_steps = 2
        config.train.log_every_steps = 1
        config.evals = ConfigDict()
    elif arg:
        raise ValueError(f"this configuration knows the argument 'test' alone, got {arg!r}")
    return config
