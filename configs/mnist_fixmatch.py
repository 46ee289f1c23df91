"""FixMatch on MNIST with 100 labels, ten a class.

  python -m imgcls_jax.main --config configs/mnist_fixmatch.py

Put the official files into data/mnist, or name their folder by `--config.data.root`.
`configs/mnist_supervised_100.py` learns from the same labels alone. Measured:
`results/mnist_05_fixmatch.json`.
"""

from ml_collections import ConfigDict

from imgcls_jax.config import sections


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:test` shrinks it to seconds."""
    config, options = sections(arg, test=False)
    moved = "affine(15.0, 0.1, (0.85, 1.15))"
    weak = f"{moved} | normalize(0.5, 0.5)"
    strong = f"{moved} | rand_augment(2, None, 0.5) | cutout(10) | normalize(0.5, 0.5)"
    config.data.source = "mnist"
    config.data.root = "data/mnist"
    config.data.train_transforms = weak
    config.data.view_transforms = (weak, strong)
    config.data.eval_transforms = "normalize(0.5, 0.5)"
    config.data.labels_per_class = 10
    config.data.labeled_batch_size = 32
    config.model.name = "simpleconv3"
    config.objective.update(name="fixmatch", ema_decay=0.99, ema_warmup=False)
    config.optimizer.update(name="sgd", momentum=0.9, nesterov=True)
    config.optimizer.learning_rate = 0.03
    config.optimizer.schedule = "cosine"
    config.optimizer.weight_decay = 5e-4
    config.train.batch_size = 128
    config.train.total_epochs = 10.0
    config.train.eval_every_epochs = 2.0
    config.evals.test = {"evaluator": "classification", "split": "test"}
    if options.test:
        del config.train.total_epochs, config.train.eval_every_epochs
        config.train.update(total_steps=20, log_every_steps=10)
    return config
