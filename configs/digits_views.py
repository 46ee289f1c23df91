"""Two views of an image agree, on scikit-learn's digits: BYOL, SimSiam, MoCo, VICReg and DINO in one setting.

  python -m imgcls_jax.main --config configs/digits_views.py:moco

Network, views, batch, length and optimizer are those of `configs/digits_simclr.py`, whose `:random` is the
figure to compare with: rows differ in the objective alone. Its settings are small here; the paper's are the
defaults of each objective.

Measured with train.seed=1, nothing tuned, 359 test images, linear probe on all labels and on four a class:
byol 97.2 and 89.1 %, simsiam 96.9 and 84.4 %, moco 97.8 and 89.7 %, vicreg 99.2 and 93.0 %, dino 97.2 and
70.8 %. 35 to 60 s each on one CPU core.
"""

from ml_collections import ConfigDict

from imgcls_jax.config import sections

OBJECTIVES = {
    "byol": {"name": "byol", "projection_hidden": (256,), "projection_dim": 64, "prediction_hidden": 256},
    "simsiam": {
        "name": "byol",
        "target_decay": 0.0,
        "projection_hidden": (256, 256),
        "projection_norm": True,
        "prediction_hidden": 64,
    },
    "moco": {"name": "moco", "queue_size": 1024, "target_decay": 0.99, "projection_dim": 64},
    "vicreg": {"name": "vicreg", "projection_widths": (256, 256, 256)},
    "dino": {"name": "dino", "num_prototypes": 256, "projection_hidden": (256, 256), "bottleneck": 64},
}


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:test` shrinks it to seconds."""
    config, options = sections(arg, method=tuple(OBJECTIVES), test=False)
    plain = "upsample(24) | normalize(0.5, 0.5)"
    view = "upsample(24) | resized_crop((0.4, 1.0)) | affine(15.0, 0.08, (0.9, 1.1)) | normalize(0.5, 0.5)"
    config.data.source = "digits"
    config.data.train_transforms = plain
    config.data.view_transforms = (view, view)
    config.data.eval_transforms = plain
    config.model.name = "simpleconv3"
    config.objective.update(OBJECTIVES[options.method])
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
    return config
