"""Fine-tuning on scikit-learn's digits, ten labels a class, of a network that was pretrained without labels.

  python -m imgcls_jax.main --config configs/digits_simclr.py
  python -m imgcls_jax.main --config configs/digits_finetune.py

`:mae` starts from runs/digits_mae in the same way. `:scratch` and `:mae,scratch` train the same networks on
the same labels from their random start: the figures to compare with.
"""

from ml_collections import ConfigDict

from imgcls_jax.config import sections


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:scratch` starts without pretraining, `:test` shrinks it to seconds."""
    config, options = sections(arg, method=("simclr", "mae"), scratch=False, test=False)
    config.data.source = "digits"
    config.data.train_transforms = "upsample(24) | affine(10.0, 0.08, (0.9, 1.1)) | normalize(0.5, 0.5)"
    config.data.eval_transforms = "upsample(24) | normalize(0.5, 0.5)"
    config.data.labels_per_class = 10
    config.model.name = "simpleconv3"
    if not options.scratch:
        config.model.pretrained = f"runs/digits_{options.method}"
    config.objective.name = "supervised"
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 0.001
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_epochs = 10.0
    config.optimizer.weight_decay = 0.05
    config.train.batch_size = 50
    config.train.total_epochs = 100.0
    config.evals.test = {"evaluator": "classification", "split": "test"}
    if options.method == "mae":
        config.data.train_transforms = "affine(10.0, 0.08, (0.9, 1.1)) | normalize(0.5, 0.5)"
        config.data.eval_transforms = "normalize(0.5, 0.5)"
        config.model.update(name="vit", variant="vit_tiny", patch=2, position="sincos", pool="mean")
        config.optimizer.decay_params = ".*/(kernel|in_proj_weight)"
    if options.test:
        del config.optimizer.warmup_epochs
        config.train.update(total_epochs=2.0, log_every_steps=1)
    return config
