"""Pseudo-labels on MNIST with 100 labels, ten a class.

  python -m imgcls_jax.main --config configs/mnist_pseudo_label.py

Put the official files into data/mnist, or name their folder by `--config.data.root`.
`configs/mnist_supervised_100.py` learns from the same labels alone. Measured:
`results/mnist_02_pseudo_label.json`.
"""

from ml_collections import ConfigDict

from imgcls_jax.config import sections


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:test` shrinks it to seconds."""
    config, options = sections(arg, test=False)
    config.data.source = "mnist"
    config.data.root = "data/mnist"
    config.data.train_transforms = "affine(15.0, 0.1, (0.85, 1.15)) | normalize(0.5, 0.5)"
    config.data.eval_transforms = "normalize(0.5, 0.5)"
    config.data.labels_per_class = 10
    config.data.labeled_batch_size = 64
    config.model.name = "simpleconv3"
    config.objective.update(name="pseudo_label", ema_decay=0.99, ema_warmup=False)
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 0.002
    config.optimizer.schedule = "cosine"
    config.optimizer.weight_decay = 0.02
    config.train.batch_size = 64
    config.train.total_epochs = 6.0
    config.train.eval_every_epochs = 3.0
    config.evals.test = {"evaluator": "classification", "split": "test"}
    if options.test:
        del config.train.eval_every_epochs
        config.train.update(total_epochs=0.02, log_every_steps=10)
    return config
