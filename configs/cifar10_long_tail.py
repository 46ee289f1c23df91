"""Long-tailed CIFAR-10 with ResNet-32, by the recipe of Cao et al. 2019, arXiv:1906.07413; not yet run.

  python -m imgcls_jax.main --config configs/cifar10_long_tail.py:adjusted

Unpack the official binary version into data/cifar10, or name its folder by `--config.data.root`. The first
class has a hundred times as many training examples as the last, the test split stays as it is. `:plain` is
the default; `:weighted` weighs the cross-entropy by inverse frequency, `:effective` by effective numbers;
`:focal`, `:oversampled`, `:adjusted` (logit adjustment, Menon et al., arXiv:2007.07314). A milder tail:
`--config.data.imbalance_factor=10.0`.

Differences from kaidic/LDAM-DRW @2536330, none with a known cost: the rate warms up step by step from 0,
theirs epoch by epoch from a fifth; the long tail takes other images of each class; the last layer starts from
PyTorch's usual distribution, theirs from He's; the last, smaller batch of an epoch is left out. `:weighted`
and `:adjusted` are not of that paper. Their focal loss with class weights (not offered here) takes p from the
weighted loss.
"""

from ml_collections import ConfigDict

from imgcls_jax.config import sections


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:test` shrinks it to seconds."""
    config, options = sections(
        arg, way=("plain", "weighted", "effective", "focal", "oversampled", "adjusted"), test=False
    )
    config.data.source = "cifar10"
    config.data.root = "data/cifar10"
    normalize = "normalize((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))"
    config.data.train_transforms = f"pad_and_crop(4) | flip | {normalize}"
    config.data.eval_transforms = normalize
    config.data.imbalance_factor = 100.0
    config.model.update(name="cifar_resnet", variant="resnet32")
    config.objective.name = "supervised"
    config.optimizer.update(name="sgd", momentum=0.9)
    config.optimizer.learning_rate = 0.1
    config.optimizer.schedule = "step"
    config.optimizer.warmup_epochs = 5.0
    config.optimizer.decay_at_epochs = (160.0, 180.0)
    config.optimizer.decay_factor = 0.01
    config.optimizer.weight_decay = 2e-4
    config.optimizer.decay_params = ".*"
    config.train.batch_size = 128
    config.train.total_epochs = 200.0
    config.train.eval_every_epochs = 20.0
    config.evals.test = {"evaluator": "classification_report", "split": "test", "shots": (100, 1000)}
    if options.way == "weighted":
        config.objective.class_weights = "inverse_frequency"
    elif options.way == "effective":
        config.objective.update(class_weights="effective_number", effective_beta=0.9999)
    elif options.way == "focal":
        config.objective.focal_gamma = 1.0
    elif options.way == "oversampled":
        config.data.oversample = True
    elif options.way == "adjusted":
        config.objective.logit_adjustment = 1.0
    if options.test:
        del config.train.total_epochs, config.train.eval_every_epochs
        config.train.update(total_steps=2, log_every_steps=1)
        config.evals = {}
    return config
