"""MAE on scikit-learn's digits without labels, measured by a linear probe and by nearest neighbors.

  python -m imgcls_jax.main --config configs/digits_mae.py

`:random` leaves the network as it was drawn: one step at rate 0. That is the figure to compare with.
Measured: `results/digits_10_mae.json`, and `results/digits_09_random_vit.json` for `:random`.
"""

from ml_collections import ConfigDict

from imgcls_jax.config import sections


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:random` for an untrained network, `:test` shrinks it to seconds."""
    config, options = sections(arg, random=False, test=False)
    config.data.source = "digits"
    config.data.train_transforms = "affine(10.0, 0.08, (0.9, 1.1)) | normalize(0.5, 0.5)"
    config.data.eval_transforms = "normalize(0.5, 0.5)"
    config.model.update(name="vit", variant="vit_tiny", patch=2, position="sincos", pool="mean")
    config.objective.update(name="mae", decoder_depth=2, decoder_heads=4, decoder_width=32, norm_pix=False)
    config.optimizer.update(name="adamw", b2=0.95)
    config.optimizer.learning_rate = 0.003
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_epochs = 10.0
    config.optimizer.weight_decay = 0.05
    config.optimizer.decay_params = ".*/(kernel|in_proj_weight|class_token|mask_token)"
    config.train.batch_size = 128
    config.train.total_epochs = 150.0
    config.train.eval_every_epochs = 50.0
    config.evals.knn = {"evaluator": "knn", "split": "test", "k": (1, 20)}
    config.evals.probe = {"evaluator": "linear_probe", "split": "test"}
    config.evals.probe_4 = {"evaluator": "linear_probe", "split": "test", "labels_per_class": 4}
    if options.test:
        config.train.update(total_epochs=2.0, eval_every_epochs=1.0, log_every_steps=5)
    if options.random:
        del config.train.total_epochs
        config.train.total_steps = 1
        config.optimizer.learning_rate = 0.0
    return config
