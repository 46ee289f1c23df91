"""Pseudo-labels on CIFAR-10 with 250 labels, the baseline of MixMatch's authors by their settings; not yet
run.

  python -m imgcls_jax.main --config configs/cifar10_pseudo_label.py

Unpack the official binary version into data/cifar10, or name its folder by `--config.data.root`. Entropy
minimization instead: `--config.objective.term=entropy --config.objective.lambda_u=0.06
--config.objective.ramp_fraction=0.0`.

Differences from google-research/mixmatch @1011a1d: there a mask of shape [n, 1] times losses of shape [n]
makes the term the mean loss times the share of sure rows, here each row has its own mask, so that their
figures are of another loss. Images come in shuffles of the whole, there from a shuffle buffer; Adam's epsilon
is added after the bias correction, there before it.
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
    config.data.labels_per_class = 25
    config.data.labeled_batch_size = 64
    config.data.unlabeled_has_labeled = False
    config.model.update(name="wide_resnet", variant="wrn_28_2")
    config.objective.update(name="pseudo_label", ema_warmup=False)
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 0.002
    config.optimizer.weight_decay = 0.02
    config.train.batch_size = 64
    config.train.total_steps = 2**20
    config.train.eval_every_steps = 1024
    config.evals.test = {"evaluator": "classification", "split": "test"}
    if options.test:
        del config.train.eval_every_steps
        config.train.update(batch_size=4, total_steps=2, log_every_steps=1, eval_batch_size=100)
        config.data.labeled_batch_size = 4
        config.evals = {}
    return config
