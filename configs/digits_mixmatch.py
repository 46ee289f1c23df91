"""MixMatch on scikit-learn's digits with 50 labels, five a class.

  python -m imgcls_jax.main --config configs/digits_mixmatch.py

Measured: `results/digits_05_mixmatch.json`.
"""

from ml_collections import ConfigDict

from imgcls_jax.config import sections


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:test` shrinks it to seconds."""
    config, options = sections(arg, test=False)
    weak = "upsample(24) | affine(10.0, 0.08, (0.9, 1.1)) | normalize(0.5, 0.5)"
    config.data.source = "digits"
    config.data.train_transforms = weak
    config.data.view_transforms = (weak, weak)
    config.data.eval_transforms = "upsample(24) | normalize(0.5, 0.5)"
    config.data.labels_per_class = 5
    config.data.labeled_batch_size = 32
    config.model.name = "simpleconv3"
    config.objective.update(
        name="mixmatch", alpha=0.75, lambda_u=15.0, ema_decay=0.99, ema_warmup=False, ramp_fraction=0.75
    )
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 0.002
    config.optimizer.schedule = "cosine"
    config.optimizer.weight_decay = 0.02
    config.train.batch_size = 32
    config.train.total_epochs = 30.0
    config.train.eval_every_epochs = 10.0
    config.evals.test = {"evaluator": "classification", "split": "test"}
    if options.test:
        config.train.update(total_epochs=2.0, eval_every_epochs=1.0, log_every_steps=10)
    return config
