"""Birds of which the network learns the first 50 of 100 species: the others are found without training.

  python -m imgcls_jax.main --config configs/cub_unseen_classes.py:finetune --workdir runs/cub_unseen \\
    --config.data.root=../shared/data/CUB_200_2011_crops \\
    --config.model.pretrained=../shared/data/weights/mobilenet_v2_1.0_224_folded.npz

`:linear` trains a linear head on the frozen ImageNet MobileNetV2, so that its embedding is that of ImageNet;
`:finetune` the last blocks too, on augmented images. `unseen` is the vote of the nearest training images of
the species never learned, `recall` the part of their test images whose nearest other test image is of the
same species (Recall@1), `open_set` how well they are told from the species learned.

Measured on the development split, 300 images of the species learned and 299 of the others, seed 0, one CPU
core of a busy machine (:linear 777 s, most of it reading images for features; :finetune about 25 min):

             unseen, 1 and 10 neighbours   recall   known    AUROC: probability, logit, cosine
  linear     74.9 %, 84.3 %                72.6 %   87.7 %   73.8, 77.2, 75.1 %
  finetune   80.3 %, 83.3 %                74.2 %   87.0 %   76.8, 74.2, 75.4 %
"""

from ml_collections import ConfigDict

PLAIN = "decode | resize(224) | normalize(0.5, 0.5)"
WAYS = ("linear", "finetune")


def get_config(arg: str = "linear") -> ConfigDict:
    """Returns the configuration; one of the two ways, and `test` to shrink it, joined by commas."""
    options = arg.split(",")
    way = next((option for option in options if option != "test"), "linear")
    if way not in WAYS or len(options) > 1 + ("test" in options):
        raise ValueError(f"this configuration knows one of {', '.join(WAYS)}, and 'test'; got {arg!r}")
    config = ConfigDict()
    config.data = ConfigDict(
        dict(
            source="cub200",
            root="data/CUB_200_2011",
            protocol="official",
            train_split="train",
            train_transforms=PLAIN,
            eval_transforms=PLAIN,
            known_classes=50,
            on_bad_example="raise",
            num_threads=2,
            num_workers=0,
        )
    )
    config.model = ConfigDict(
        dict(name="mobilenet_v2", variant="mobilenet_v2_folded", dtype="float32", pretrained="")
    )
    config.objective = ConfigDict(dict(name="supervised", label_smoothing=0.0, dropout=0.0, head="linear"))
    config.optimizer = ConfigDict(
        dict(
            name="sgd",
            momentum=0.9,
            nesterov=True,
            learning_rate=0.1,
            schedule="cosine",
            warmup_epochs=0.0,
            weight_decay=1e-4,
            clip_norm=0.0,
            groups=(),  # (pattern of param paths, factor on the rate, or None to freeze)
        )
    )
    frozen = dict(total_epochs=20.0, groups=(("backbone/.*", None),))
    config.phases = ConfigDict(dict(phase_1=frozen))
    if way == "finetune":
        config.phases.phase_2 = ConfigDict(
            dict(
                total_epochs=6.0,
                learning_rate=0.005,
                groups=((r"backbone/features\.(0\.0|\d|1[0-3])/.*", None), ("backbone/.*", 0.5)),
                warmup_epochs=1.0,
                clip_norm=1.0,
                train_transforms="decode | random_resized_crop(224, (0.4, 1.0)) | flip | normalize(0.5, 0.5)",
            )
        )
    config.train = ConfigDict(
        dict(
            num_microbatches=1,
            batch_size=32,
            seed=0,
            log_every_steps=100,
            eval_every_steps=0,
            checkpoint_every_steps=0,
            keep_checkpoints=1,
            best_metric="",
            feature_cache_gib=4.0,
        )
    )
    config.evals = ConfigDict(
        dict(
            open_set=ConfigDict(dict(evaluator="open_set", split="test", train_split="train")),
            unseen=ConfigDict(
                dict(evaluator="knn", split="unknown:test", train_split="unknown:train", k=(1, 10))
            ),
            recall=ConfigDict(
                dict(evaluator="knn", split="unknown:test", train_split="unknown:test", k=(1,))
            ),
        )
    )
    if "test" in options:
        small = "decode | resize(64) | normalize(0.5, 0.5)"
        config.data.update(train_transforms=small, eval_transforms=small)
        for phase in config.phases.values():
            phase.update(total_epochs=0.05, train_transforms=small)
    return config
