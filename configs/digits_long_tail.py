"""Long-tailed digits: the first class has a hundred times as many training examples as the last, the test
split stays as it is. Six ways to learn from them.

  python -m imgcls_jax.main --config configs/digits_long_tail.py:adjusted

`:plain` is the default; `:weighted` weighs the cross-entropy by inverse frequency, `:effective` by effective
numbers; `:focal`, `:oversampled`, `:adjusted` (logit adjustment). A milder tail:
`--config.data.imbalance_factor=10.0`.

Measured on the 359 images of the development split, seeds 1 to 3 (`--config.train.seed=1
--config.data.label_seed=1` and so on), mean and standard deviation in %; `few` are the classes of fewer than
10 training images. About a minute each on one CPU core:

                all           few
  plain         85.3 +- 1.7   64.3 +-  5.5
  weighted      87.4 +- 1.4   69.3 +-  3.2
  effective     84.9 +- 2.5   63.4 +-  7.4
  focal         83.1 +- 1.5   59.7 +-  4.9
  oversampled   88.0 +- 4.7   70.4 +- 12.0
  adjusted      90.4 +- 0.9   76.9 +-  2.1

The other classes stay at 97 to 100 % in all six.
"""

from ml_collections import ConfigDict

from imgcls_jax.config import sections


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:test` shrinks it to seconds."""
    config, options = sections(
        arg, way=("plain", "weighted", "effective", "focal", "oversampled", "adjusted"), test=False
    )
    config.data.source = "digits"
    config.data.train_transforms = "upsample(24) | affine(10.0, 0.08, (0.9, 1.1)) | normalize(0.5, 0.5)"
    config.data.eval_transforms = "upsample(24) | normalize(0.5, 0.5)"
    config.data.imbalance_factor = 100.0
    config.model.name = "simpleconv3"
    config.objective.name = "supervised"
    config.optimizer.update(name="sgd", momentum=0.9, nesterov=True)
    config.optimizer.learning_rate = 0.05
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_epochs = 1.0
    config.optimizer.weight_decay = 5e-4
    config.train.batch_size = 64
    config.train.total_steps = 1500
    config.train.eval_every_steps = 500
    config.evals.test = {"evaluator": "classification_report", "split": "test", "shots": (10, 50)}
    if options.way == "weighted":
        config.objective.class_weights = "inverse_frequency"
    elif options.way == "effective":
        config.objective.class_weights = "effective_number"
    elif options.way == "focal":
        config.objective.focal_gamma = 2.0
    elif options.way == "oversampled":
        config.data.oversample = True
    elif options.way == "adjusted":
        config.objective.logit_adjustment = 1.0
    if options.test:
        del config.train.eval_every_steps
        config.train.update(total_steps=20, log_every_steps=10)
    return config
