"""Simpleconv3 on 50 labels of scikit-learn's digits, five a class: the baseline of learning with few labels.

  python -m imgcls_jax.main --config configs/digits_supervised_few.py

Network, labels and augmentation are those of `configs/digits_trinet.py`. Measured:
`results/digits_02_supervised_few.json`.
"""

from ml_collections import ConfigDict

from imgcls_jax.config import sections


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:test` shrinks it to seconds."""
    config, options = sections(arg, test=False)
    config.data.source = "digits"
    config.data.train_transforms = "upsample(24) | affine(10.0, 0.08, (0.9, 1.1)) | normalize(0.5, 0.5)"
    config.data.eval_transforms = "upsample(24) | normalize(0.5, 0.5)"
    config.data.labels_per_class = 5
    config.model.name = "simpleconv3"
    config.objective.update(name="supervised", dropout=0.5)
    config.optimizer.update(name="sgd", momentum=0.9, nesterov=True)
    config.optimizer.learning_rate = 0.05
    config.optimizer.schedule = "cosine"
    config.optimizer.weight_decay = 5e-4
    config.train.batch_size = 50
    config.train.total_epochs = 1300.0
    config.train.eval_every_epochs = 650.0
    config.evals.test = {"evaluator": "classification", "split": "test"}
    if options.test:
        config.train.update(total_epochs=20.0, eval_every_epochs=10.0, log_every_steps=10)
    return config
