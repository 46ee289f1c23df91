"""RotNet on CIFAR-10 with the authors' network of four blocks, by their settings; published, not run here.

  python -m imgcls_jax.main --config configs/cifar10_rotation.py

Unpack the official binary version into data/cifar10, or name its folder by `--config.data.root`. Published,
arXiv:1803.07728, on features frozen after these 200 epochs: 89.06 % by three fully connected layers and
91.16 % by a block of convolutions on the map of the second block, 92.80 % by the network trained with labels.
Measured here by a linear probe and by neighbors on the mean of the last block's map, which the pretext
specializes: these figures lie below.

All four rotations of each of 128 images are in a batch, as in gidariss/FeatureLearningRotNet @edafaba.
Differences from it: crop and flip are drawn on the device; the running variance of BatchNorm is the biased
one. What this costs is not known.
"""

from ml_collections import ConfigDict

from imgcls_jax.config import sections


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:test` shrinks it to a few steps of a smaller network."""
    config, options = sections(arg, test=False)
    plain = "normalize((0.4914, 0.4824, 0.4467), (0.2471, 0.2435, 0.2616))"
    config.data.source = "cifar10"
    config.data.root = "data/cifar10"
    config.data.train_transforms = f"pad_and_crop(4) | flip | {plain}"
    config.data.eval_transforms = plain
    config.model.update(name="nin", variant="nin_rotnet")
    config.objective.name = "rotation"
    config.optimizer.update(name="sgd", momentum=0.9, nesterov=True)
    config.optimizer.learning_rate = 0.1
    config.optimizer.schedule = "step"
    config.optimizer.decay_at_epochs = (60.0, 120.0, 160.0)
    config.optimizer.decay_factor = 0.2
    config.optimizer.weight_decay = 5e-4
    config.optimizer.decay_params = ".*"
    config.train.batch_size = 128
    config.train.total_epochs = 200.0
    config.train.eval_every_epochs = 50.0
    config.evals.probe = {"evaluator": "linear_probe", "split": "test"}
    config.evals.knn = {"evaluator": "knn", "split": "test", "k": (1, 20)}
    if options.test:
        del config.train.eval_every_epochs
        config.model.stages = (((8, 8), 5, 1, 2, "max", 1, False), ((8, 8), 3, 1, 1, "", 0, False))
        config.train.update(batch_size=8, total_epochs=0.0003, log_every_steps=1)
        config.evals = {}
    return config
