"""FixMatch on scikit-learn's digits with 50 labels, five a class.

  python -m imgcls_jax.main --config configs/digits_fixmatch.py

Measured: `results/digits_06_fixmatch.json`.
"""

from ml_collections import ConfigDict

from imgcls_jax.config import sections


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:test` shrinks it to seconds."""
    config, options = sections(arg, test=False)
    moved = "upsample(24) | affine(10.0, 0.08, (0.9, 1.1))"
    weak = f"{moved} | normalize(0.5, 0.5)"
    strong = f"{moved} | rand_augment(2, None, 0.5) | cutout(8) | normalize(0.5, 0.5)"
    config.data.source = "digits"
    config.data.train_transforms = weak
    config.data.view_transforms = (weak, strong)
    config.data.eval_transforms = "upsample(24) | normalize(0.5, 0.5)"
    config.data.labels_per_class = 5
    config.data.labeled_batch_size = 32
    config.model.name = "simpleconv3"
    config.objective.update(name="fixmatch", ema_decay=0.99, ema_warmup=False)
    config.optimizer.update(name="sgd", momentum=0.9, nesterov=True)
    config.optimizer.learning_rate = 0.03
    config.optimizer.schedule = "cosine"
    config.optimizer.weight_decay = 5e-4
    config.train.batch_size = 128
    config.train.total_epochs = 150.0
    config.train.eval_every_epochs = 50.0
    config.evals.test = {"evaluator": "classification", "split": "test"}
    if options.test:
        config.train.update(total_epochs=2.0, eval_every_epochs=1.0, log_every_steps=10)
    return config
