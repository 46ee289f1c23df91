"""MAE on MNIST without labels, measured by a linear probe and by nearest neighbors.

  python -m imgcls_jax.main --config configs/mnist_mae.py

Put the official files into data/mnist, or name their folder by `--config.data.root`. `:random` leaves the
network as it was drawn: one step at rate 0. That is the figure to compare with. Measured:
`results/mnist_09_mae.json`, and `results/mnist_08_random_vit.json` for `:random`.
"""

from ml_collections import ConfigDict

from imgcls_jax.config import sections


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:random` for an untrained network, `:test` shrinks it to seconds."""
    config, options = sections(arg, random=False, test=False)
    config.data.source = "mnist"
    config.data.root = "data/mnist"
    config.data.train_transforms = "affine(10.0, 0.08, (0.9, 1.1)) | normalize(0.5, 0.5)"
    config.data.eval_transforms = "normalize(0.5, 0.5)"
    config.model.update(name="vit", variant="vit_tiny", position="sincos", pool="mean")
    config.objective.update(name="mae", decoder_depth=1, decoder_heads=4, decoder_width=32, norm_pix=False)
    config.optimizer.update(name="adamw", b2=0.95)
    config.optimizer.learning_rate = 0.002
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_epochs = 0.5
    config.optimizer.weight_decay = 0.05
    config.optimizer.decay_params = ".*/(kernel|in_proj_weight|class_token|mask_token)"
    config.train.batch_size = 256
    config.train.total_epochs = 5.0
    config.evals.knn = {"evaluator": "knn", "split": "test", "k": (1, 20)}
    config.evals.probe = {"evaluator": "linear_probe", "split": "test"}
    if options.test:
        config.train.update(total_epochs=0.05, log_every_steps=5)
        config.evals.probe.max_iterations = 5
    if options.random:
        del config.train.total_epochs
        config.train.total_steps = 1
        config.optimizer.learning_rate = 0.0
    return config
