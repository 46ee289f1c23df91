"""DeepCluster on MNIST, measured by k-means on the features, by the clusters themselves and by neighbours.

  python -m imgcls_jax.main --config configs/mnist_deepcluster.py --workdir runs/mnist_deepcluster \\
    --config.data.root=FOLDER

FOLDER holds the official idx files. To compare with, k-means on the pixels (fit on "train", 10,000 images of
"test"): into 10 clusters 51.1 % one-to-one and NMI 0.490; into 100 clusters 87.3 % many-to-one.

Measured: `results/mnist_10_deepcluster.json`, a row of the README's table.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:test` shrinks it to seconds."""
    config = ConfigDict()
    config.data = ConfigDict(
        dict(
            source="mnist",
            root="data/mnist",
            train_split="train",
            train_transforms="affine(15.0, 0.1, (0.8, 1.2)) | normalize(0.5, 0.5)",
            eval_transforms="normalize(0.5, 0.5)",
            on_bad_example="raise",
            num_threads=1,
            num_workers=0,
        )
    )
    config.model = ConfigDict(
        dict(name="simpleconv3", channels=(16, 32, 64), hidden=(), dtype="float32", pretrained="")
    )
    config.objective = ConfigDict(
        dict(
            name="deepcluster",
            num_clusters=100,
            hidden=(128,),
            reads="embedding",
            dropout=0.0,
            pca_dim=64,
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
            batch_size=250,
            total_epochs=20.0,
            seed=0,
            log_every_steps=200,
            eval_every_epochs=5.0,
            checkpoint_every_steps=0,
            keep_checkpoints=2,
            best_metric="",
        )
    )
    ours = dict(evaluator="clustering", split="test", fit_split="train", silhouette_examples=0)
    config.evals = ConfigDict(
        dict(
            clusters=ConfigDict(ours),
            features=ConfigDict(ours | dict(key="embedding")),
            knn=ConfigDict(dict(evaluator="knn", split="test", k=(20,))),
        )
    )
    if arg == "test":
        config.train.total_epochs = 0.1
        config.train.log_every_steps = 5
    elif arg:
        raise ValueError(f"this configuration knows the argument 'test' alone, got {arg!r}")
    return config
