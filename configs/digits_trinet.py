"""Tri-net on scikit-learn's digits with 50 labels, five a class.

  python -m imgcls_jax.main --config configs/digits_trinet.py

`configs/digits_supervised_few.py` learns from the same labels alone, with the same network and augmentation.
Measured: `results/digits_04_trinet.json`.
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
    config.data.labeled_batch_size = 32
    config.model.name = "simpleconv3"
    config.objective.update(name="trinet", init_epochs=12, round_epochs=2, pool_base=200)
    config.optimizer.update(name="sgd", momentum=0.9, nesterov=True)
    config.optimizer.learning_rate = 0.05
    config.optimizer.schedule = "step"
    config.optimizer.decay_at_epochs = (12.0,)  # the end of the initialization
    config.optimizer.decay_factor = 0.2
    config.optimizer.weight_decay = 5e-4
    config.train.batch_size = 64
    config.train.total_epochs = 58.0  # 23 rounds: the next would smear again
    config.train.eval_every_epochs = 29.0
    config.evals.test = {"evaluator": "classification", "split": "test"}
    if options.test:
        config.objective.init_epochs = 1
        config.optimizer.decay_at_epochs = (1.0,)
        config.train.update(total_epochs=3.0, eval_every_epochs=1.0, log_every_steps=10)
    return config
