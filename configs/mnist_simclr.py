"""SimCLR on MNIST without labels, measured by a linear probe and by nearest neighbors.

  python -m imgcls_jax.main --config configs/mnist_simclr.py

Put the official files into data/mnist, or name their folder by `--config.data.root`. `:random` leaves the
network as it was drawn: rate 0, one epoch that sets the BatchNorm statistics. That is the figure to compare
with. Measured: `results/mnist_07_simclr.json`, and `results/mnist_06_random_conv.json` for `:random`.
"""

from ml_collections import ConfigDict

from imgcls_jax.config import sections


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:random` for an untrained network, `:test` shrinks it to seconds."""
    config, options = sections(arg, random=False, test=False)
    plain = "normalize(0.5, 0.5)"
    view = "resized_crop((0.4, 1.0)) | affine(15.0, 0.08, (0.9, 1.1)) | normalize(0.5, 0.5)"
    config.data.source = "mnist"
    config.data.root = "data/mnist"
    config.data.train_transforms = plain
    config.data.view_transforms = (view, view)
    config.data.eval_transforms = plain
    config.model.name = "simpleconv3"
    config.objective.update(name="simclr", temperature=0.5, projection_dim=64)
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 0.002
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_epochs = 0.5
    config.optimizer.weight_decay = 1e-4
    config.train.batch_size = 256
    config.train.total_epochs = 5.0
    config.evals.knn = {"evaluator": "knn", "split": "test", "k": (1, 20)}
    config.evals.probe = {"evaluator": "linear_probe", "split": "test"}
    if options.test:
        config.train.update(total_epochs=0.05, log_every_steps=5)
        config.evals.probe.max_iterations = 5
    if options.random:
        config.train.total_epochs = 1.0
        config.optimizer.learning_rate = 0.0
    return config
