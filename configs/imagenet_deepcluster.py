"""DeepCluster on ImageNet with VGG-16, by the authors' settings; not yet run.

  python -m imgcls_jax.main --config configs/imagenet_deepcluster.py --workdir runs/imagenet_deepcluster \\
    --config.data.root=FOLDER

FOLDER holds train/ and val/ with a folder a class; the labels are read by the evaluation alone. 10,000
clusters for 200 epochs, arXiv:1807.05520. Before every epoch the features of the training split, 21 GB of
float32, are held by the host, and at most twice by one device. The classifier's SGD has momentum within an
epoch, the authors' has none.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:test` shrinks it to a few steps of small images."""
    side, batch_size = (32, 16) if arg == "test" else (224, 256)
    front = "normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)) | sobel"
    config = ConfigDict()
    config.data = ConfigDict(
        dict(
            source="image_folder",
            root="data/imagenet",
            train_split="train",
            train_transforms=f"decode | random_resized_crop({side}) | flip | {front}",
            eval_transforms=f"decode | resize_short({side * 8 // 7}) | center_crop({side}) | {front}",
            on_bad_example="skip",
            num_threads=16,
            num_workers=0,
        )
    )
    config.model = ConfigDict(dict(name="vgg", variant="vgg16_bn", top=False, dtype="float32", pretrained=""))
    config.objective = ConfigDict(
        dict(
            name="deepcluster",
            num_clusters=10_000,
            hidden=(4096, 4096),
            reads="map",
            dropout=0.5,
            pca_dim=256,
            kmeans_iterations=20,
            kmeans_start="random",
        )
    )
    config.optimizer = ConfigDict(
        dict(
            name="sgd",
            momentum=0.9,
            learning_rate=0.05,
            schedule="constant",
            weight_decay=1e-5,
            clip_norm=0.0,
            groups=(),  # (pattern of param paths, factor on the rate, or None to freeze)
        )
    )
    config.train = ConfigDict(
        dict(
            num_microbatches=1,
            batch_size=batch_size,
            total_epochs=200.0,
            seed=0,
            log_every_steps=100,
            eval_every_epochs=25.0,
            checkpoint_every_steps=2000,
            keep_checkpoints=2,
            best_metric="",
        )
    )
    config.evals = ConfigDict(
        dict(
            clusters=ConfigDict(
                dict(evaluator="clustering", split="val", fit_split="train", silhouette_examples=0)
            )
        )
    )
    if arg == "test":
        config.data.num_threads = 1
        config.objective.update(num_clusters=8, hidden=(32, 32), pca_dim=16)
        config.train.total_epochs = 1.0
        config.train.checkpoint_every_steps = 0
    elif arg:
        raise ValueError(f"this configuration knows the argument 'test' alone, got {arg!r}")
    return config
