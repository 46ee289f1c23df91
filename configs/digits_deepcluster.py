"""DeepCluster on scikit-learn's digits, measured by the clusters, by k-means on the features and by
neighbors.

  python -m imgcls_jax.main --config configs/digits_deepcluster.py

Measured: `results/digits_11_deepcluster.json`.
"""

from ml_collections import ConfigDict

from imgcls_jax.config import sections


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:test` shrinks it to seconds."""
    config, options = sections(arg, test=False)
    config.data.source = "digits"
    config.data.train_transforms = "upsample(24) | affine(10.0, 0.08, (0.9, 1.1)) | normalize(0.5, 0.5)"
    config.data.eval_transforms = "upsample(24) | normalize(0.5, 0.5)"
    config.model.update(name="simpleconv3", channels=(16, 32, 64), hidden=())
    config.objective.update(name="deepcluster", num_clusters=50, hidden=(128,), dropout=0.0, pca_dim=64)
    config.optimizer.update(name="sgd", momentum=0.9)
    config.optimizer.learning_rate = 0.05
    config.optimizer.weight_decay = 1e-5
    config.train.batch_size = 64
    config.train.total_epochs = 60.0
    config.train.eval_every_epochs = 20.0
    clustering = {"evaluator": "clustering", "split": "test", "fit_split": "train", "silhouette_examples": 0}
    config.evals.clusters = clustering
    config.evals.features = clustering | {"key": "embedding"}
    config.evals.knn = {"evaluator": "knn", "split": "test", "k": (20,)}
    if options.test:
        config.train.update(total_epochs=2.0, log_every_steps=5)
    return config
