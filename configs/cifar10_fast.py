"""Airbench's small network and recipe on CIFAR-10, for 94 % in minutes on a GPU; not measured here yet.

  python -m imgcls_jax.main --config configs/cifar10_fast.py

Unpack the official binary version into data/cifar10, or name its folder by `--config.data.root`. Published,
arXiv:2404.00498: 94.0 % of the test images after 9.9 epochs of all 50,000 training images.

Differences: twelve epochs, batches of 500 at half the rate, an average of the params in place of look-ahead,
the rate rises from 0, the head and the whitening layer keep a bias to the end, biases do not decay, and an
evaluation averages ten views (center and four corners of a border of one pixel, each mirrored), there six.
All images lie on the device. A step takes 4.8 s of the processor on Zen 5.
"""

from ml_collections import ConfigDict

from imgcls_jax.config import sections

MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:test` shrinks it to seconds."""
    config, options = sections(arg, test=False)
    config.data.source = "cifar10"
    config.data.root = "data/cifar10"
    config.data.on_device = True
    config.data.train_transforms = (
        f'alternating_flip | pad_and_crop(2, "reflect") | normalize({MEAN}, {DEVIATION})'
    )
    config.data.eval_transforms = f"normalize({MEAN}, {DEVIATION})"
    config.model.update(name="airbench", variant="airbench94", dtype="bfloat16")
    config.objective.update(name="supervised", label_smoothing=0.2, ema_decay=0.98)
    config.optimizer.update(name="sgd", momentum=0.85, nesterov=True, learning_rate=0.73)
    config.optimizer.update(schedule="polynomial", warmup_epochs=3.5, final_learning_rate=0.05)
    config.optimizer.weight_decay = 0.0153 / 11.5
    config.optimizer.groups = (("backbone/whiten/kernel", None), (r"backbone/.*/norm\d/bias", 64.0))
    config.train.update(batch_size=500, total_epochs=15, eval_batch_size=250)
    views = {"crop": 32, "pad": 1}
    config.evals.test = {"evaluator": "classification", "split": "test", "views": views}
    config.evals.one_view = {"evaluator": "classification", "split": "test"}
    if options.test:
        config.train.update(batch_size=8, total_steps=2, log_every_steps=1, eval_batch_size=100)
        del config.train.total_epochs
        del config.evals.one_view
    return config
