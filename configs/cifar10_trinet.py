"""Tri-net on CIFAR-10 with 4,000 labels, by the paper's settings as far as they are known; not yet run.

  python -m imgcls_jax.main --config configs/cifar10_trinet.py

Unpack the official binary version into data/cifar10, or name its folder by `--config.data.root`. The paper's
abstract reports 8.30 % errors. Thresholds, smearing, dropout, optimizer and the 30 rounds are from memory.
Network, augmentation, the modules' width and the length of the rounds are ours: the paper's trunk has 13
layers, its modules are convolutional, and how many passes it makes through the examples was not to be found.
"""

from ml_collections import ConfigDict

from imgcls_jax.config import sections


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:test` shrinks it to seconds."""
    config, options = sections(arg, test=False)
    config.data.source = "cifar10"
    config.data.root = "data/cifar10"
    config.data.train_transforms = 'flip | pad_and_crop(4, "reflect") | normalize(0.5, 0.5)'
    config.data.eval_transforms = "normalize(0.5, 0.5)"
    config.data.labels_per_class = 400
    config.data.labeled_batch_size = 16
    config.model.update(name="wide_resnet", variant="wrn_28_2")
    config.objective.update(name="trinet", hidden=256, init_epochs=30, round_epochs=4)
    config.optimizer.update(name="sgd", momentum=0.9)
    config.optimizer.learning_rate = 0.1
    config.optimizer.schedule = "step"
    config.optimizer.decay_at_epochs = (30.0,)  # the end of the initialization
    config.optimizer.decay_factor = 0.2
    config.optimizer.weight_decay = 1e-4
    config.train.batch_size = 16
    config.train.eval_batch_size = 400
    config.train.total_epochs = 150.0  # 30 rounds
    config.train.eval_every_epochs = 10.0
    config.evals.test = {"evaluator": "classification", "split": "test"}
    if options.test:
        del config.train.total_epochs, config.train.eval_every_epochs
        config.train.update(total_steps=2, log_every_steps=1)
        config.evals = {}
    return config
