"""SimCLR on scikit-learn's digits without labels, measured by a linear probe and by nearest neighbors.

  python -m imgcls_jax.main --config configs/digits_simclr.py

`:random` leaves the network as it was drawn: rate 0, one epoch that sets the BatchNorm statistics. That is
the figure to compare with. Measured: `results/digits_08_simclr.json`, and
`results/digits_07_random_conv.json` for `:random`.
"""

from ml_collections import ConfigDict

from imgcls_jax.config import sections


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:random` for an untrained network, `:test` shrinks it to seconds."""
    config, options = sections(arg, random=False, test=False)
    plain = "upsample(24) | normalize(0.5, 0.5)"
    view = "upsample(24) | resized_crop((0.4, 1.0)) | affine(15.0, 0.08, (0.9, 1.1)) | normalize(0.5, 0.5)"
    config.data.source = "digits"
    config.data.train_transforms = plain
    config.data.view_transforms = (view, view)
    config.data.eval_transforms = plain
    config.model.name = "simpleconv3"
    config.objective.update(name="simclr", temperature=0.5, projection_dim=64)
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 0.002
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_epochs = 5.0
    config.optimizer.weight_decay = 1e-4
    config.train.batch_size = 256
    config.train.total_epochs = 200.0
    config.train.eval_every_epochs = 50.0
    config.evals.knn = {"evaluator": "knn", "split": "test", "k": (1, 20)}
    config.evals.probe = {"evaluator": "linear_probe", "split": "test"}
    config.evals.probe_4 = {"evaluator": "linear_probe", "split": "test", "labels_per_class": 4}
    if options.test:
        config.train.update(total_epochs=2.0, eval_every_epochs=1.0, log_every_steps=5)
    if options.random:
        del config.train.eval_every_epochs
        config.train.total_epochs = 1.0
        config.optimizer.learning_rate = 0.0
    return config
