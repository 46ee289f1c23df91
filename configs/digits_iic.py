"""IIC on scikit-learn's digits: ten clusters without a label.

  python -m imgcls_jax.main --config configs/digits_iic.py

Measured: `results/digits_12_iic.json`.
"""

from ml_collections import ConfigDict

from imgcls_jax.config import sections


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:test` shrinks it to seconds."""
    config, options = sections(arg, test=False)
    plain = "upsample(24) | normalize(0.5, 0.5)"
    transformed = "upsample(24) | affine(20.0, 0.1, (0.8, 1.2)) | normalize(0.5, 0.5)"
    config.data.source = "digits"
    config.data.train_transforms = plain
    config.data.view_transforms = (plain, transformed, transformed)
    config.data.eval_transforms = plain
    config.model.update(name="simpleconv3", channels=(16, 32, 64), hidden=())
    config.objective.update(
        name="iic",
        num_clusters=10,
        num_overclusters=30,
        overclusters_first=True,
        head_epochs=(2, 1),
        marginal_weight=1.5,
    )
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 0.001
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_epochs = 2.0
    config.train.batch_size = 240
    config.train.total_epochs = 150.0
    config.train.eval_every_epochs = 50.0
    config.evals.test = {"evaluator": "clustering", "split": "test", "silhouette_examples": 1000}
    if options.test:
        config.train.update(total_epochs=2.0, eval_every_epochs=1.0, log_every_steps=5)
    return config
