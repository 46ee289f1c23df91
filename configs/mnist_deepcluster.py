"""DeepCluster on MNIST, measured by the clusters, by k-means on the features and by neighbors.

  python -m imgcls_jax.main --config configs/mnist_deepcluster.py

Put the official files into data/mnist, or name their folder by `--config.data.root`. To compare with, k-means
on the pixels (fit on "train", 10,000 images of the development split): into 10 clusters 51.1 % one-to-one and
NMI 0.490, into 100 clusters 87.3 % many-to-one. Measured: `results/mnist_10_deepcluster.json`.
"""

from ml_collections import ConfigDict

from imgcls_jax.config import sections


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:test` shrinks it to seconds."""
    config, options = sections(arg, test=False)
    config.data.source = "mnist"
    config.data.root = "data/mnist"
    config.data.train_transforms = "affine(15.0, 0.1, (0.8, 1.2)) | normalize(0.5, 0.5)"
    config.data.eval_transforms = "normalize(0.5, 0.5)"
    config.model.update(name="simpleconv3", channels=(16, 32, 64), hidden=())
    config.objective.update(name="deepcluster", num_clusters=100, hidden=(128,), dropout=0.0, pca_dim=64)
    config.optimizer.update(name="sgd", momentum=0.9)
    config.optimizer.learning_rate = 0.05
    config.optimizer.weight_decay = 1e-5
    config.train.batch_size = 250
    config.train.total_epochs = 20.0
    config.train.eval_every_epochs = 5.0
    clustering = {"evaluator": "clustering", "split": "test", "fit_split": "train", "silhouette_examples": 0}
    config.evals.clusters = clustering
    config.evals.features = clustering | {"key": "embedding"}
    config.evals.knn = {"evaluator": "knn", "split": "test", "k": (20,)}
    if options.test:
        config.train.update(total_epochs=0.1, log_every_steps=5)
    return config
