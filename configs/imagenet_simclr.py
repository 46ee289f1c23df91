"""SimCLR on ImageNet with ResNet-50, by the paper's settings; not yet run.

  python -m imgcls_jax.main --config configs/imagenet_simclr.py --workdir runs/imagenet_simclr \\
    --config.data.root=FOLDER

FOLDER holds train/ and val/ with a folder a class. By a linear classifier on the frozen network the authors
report 64.5 % after 100 epochs, as here, and 69.1 % after 1000 (`--config.train.total_epochs=1000`;
arXiv:2002.05709). Measured here by nearest neighbours. Differences: crops are resized bilinearly, not
bicubically; optax's LARS scales the rates of biases and BatchNorm too, by their own trust ratios.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:test` shrinks it to a few steps of small images."""
    side, batch_size = (32, 16) if arg == "test" else (224, 4096)
    view = (
        f"decode | random_resized_crop({side}) | flip | color_jitter(0.8, 0.8, 0.8, 0.2, 0.8)"
        " | greyscale(0.2) | gaussian_blur((0.1, 2.0), 0.5)"
    )
    plain = f"decode | resize_short({side * 8 // 7}) | center_crop({side})"
    config = ConfigDict()
    config.data = ConfigDict(
        dict(
            source="image_folder",
            root="data/imagenet",
            train_split="train",
            train_transforms=plain,
            view_transforms=(view, view),
            eval_transforms=plain,
            on_bad_example="skip",
            num_threads=16,
            num_workers=0,
        )
    )
    config.model = ConfigDict(
        dict(name="resnet", variant="resnet50", zero_init_gamma=True, dtype="float32", pretrained="")
    )
    config.objective = ConfigDict(
        dict(name="simclr", temperature=0.1, projection_layers=2, projection_dim=128)
    )
    config.optimizer = ConfigDict(
        dict(
            name="lars",
            momentum=0.9,
            trust_coefficient=0.001,
            learning_rate=0.3 * batch_size / 256,
            schedule="cosine",
            warmup_epochs=10.0,
            weight_decay=1e-6,
            clip_norm=0.0,
            groups=(),  # (pattern of param paths, factor on the rate, or None to freeze)
        )
    )
    config.train = ConfigDict(
        dict(
            num_microbatches=1,
            batch_size=batch_size,
            total_epochs=100.0,
            seed=0,
            log_every_steps=100,
            eval_every_epochs=25.0,
            checkpoint_every_steps=2000,
            keep_checkpoints=2,
            best_metric="",
        )
    )
    config.evals = ConfigDict(
        dict(knn=ConfigDict(dict(evaluator="knn", split="val", k=(20, 200), temperature=0.07)))
    )
    if arg == "test":
        del config.train.total_epochs
        config.train.total_steps = 2
        config.train.eval_every_epochs = 0.0
        config.optimizer.warmup_epochs = 0.0
        config.evals.knn.k = (1,)
    elif arg:
        raise ValueError(f"this configuration knows the argument 'test' alone, got {arg!r}")
    return config
