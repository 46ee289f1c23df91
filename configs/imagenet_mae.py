"""MAE on ImageNet with ViT-B/16, by the paper's settings; not yet run.

  python -m imgcls_jax.main --config configs/imagenet_mae.py --workdir runs/imagenet_mae \\
    --config.data.root=FOLDER

FOLDER holds train/ and val/ with a folder a class. The paper, arXiv:2111.06377, reports 68.0 % by a linear
classifier on the frozen network and 83.6 % after fine-tuning; mmpretrain 60.8 % and 83.1 % after 300 epochs,
67.1 % and 83.5 % after 1600. Measured here by nearest neighbours, which are not what MAE is good at.
Difference: crops are resized bilinearly, not bicubically.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:test` shrinks it to a few steps of small images and a small network."""
    side, batch_size = (32, 16) if arg == "test" else (224, 4096)
    normalize = "normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))"
    config = ConfigDict()
    config.data = ConfigDict(
        dict(
            source="image_folder",
            root="data/imagenet",
            train_split="train",
            train_transforms=f"decode | random_resized_crop({side}, (0.2, 1.0)) | flip | {normalize}",
            eval_transforms=f"decode | resize_short({side * 8 // 7}) | center_crop({side}) | {normalize}",
            on_bad_example="skip",
            num_threads=16,
            num_workers=0,
        )
    )
    config.model = ConfigDict(
        dict(
            name="vit",
            variant="vit_tiny" if arg == "test" else "vit_b16",
            position="sincos",
            pool="token",
            remat=False,
            dtype="bfloat16",
            pretrained="",
        )
    )
    config.objective = ConfigDict(
        dict(
            name="mae",
            mask_ratio=0.75,
            norm_pix=True,
            decoder_width=512,
            decoder_depth=8,
            decoder_heads=16,
        )
    )
    config.optimizer = ConfigDict(
        dict(
            name="adamw",
            b1=0.9,
            b2=0.95,
            learning_rate=1.5e-4 * batch_size / 256,
            schedule="cosine",
            warmup_epochs=40.0,
            weight_decay=0.05,
            decay_params=r".*/(kernel|in_proj_weight|class_token|mask_token)",  # all but vectors
            clip_norm=0.0,
            groups=(),  # (pattern of param paths, factor on the rate, or None to freeze)
        )
    )
    config.train = ConfigDict(
        dict(
            num_microbatches=1,
            batch_size=batch_size,
            total_epochs=1600.0,
            seed=0,
            log_every_steps=100,
            eval_every_epochs=200.0,
            checkpoint_every_steps=2000,
            keep_checkpoints=2,
            best_metric="",
        )
    )
    config.evals = ConfigDict(
        dict(knn=ConfigDict(dict(evaluator="knn", split="val", k=(10, 20, 100, 200), temperature=0.07)))
    )
    if arg == "test":
        del config.train.total_epochs
        config.train.total_steps = 2
        config.train.eval_every_epochs = 0.0
        config.optimizer.warmup_epochs = 0.0
        config.objective.update(dict(decoder_width=32, decoder_depth=1, decoder_heads=4))
        config.evals.knn.k = (1,)
    elif arg:
        raise ValueError(f"this configuration knows the argument 'test' alone, got {arg!r}")
    return config
