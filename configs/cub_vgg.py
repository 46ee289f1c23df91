"""The book's plain VGG-16 beside its bilinear CNN, on CUB-200-2011. Not yet run beyond `:test`.

  python -m imgcls_jax.main --config configs/cub_vgg.py

Unpack CUB-200-2011 into data, or name its folder by `--config.data.root`. The book's recipe on its random 9:1
split of all 11,788 images (`--config.data.protocol=official` for the official one), from PyTorch's weights:
`--config.model.pretrained=vgg16.pth`. `:tfds` reads the copy that tensorflow_datasets prepared (official
split). Difference from the book's code: the 9:1 split is drawn anew.
"""

from ml_collections import ConfigDict

from imgcls_jax.config import sections


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:test` shrinks it to a few steps of small images."""
    config, options = sections(arg, tfds=False, test=False)
    config.data.source = "cub200"
    config.data.root = "data/CUB_200_2011"
    config.data.protocol = "random"
    config.data.test_fraction = 1191 / 11788
    config.data.train_transforms = (
        "decode | resize(256) | random_resized_crop(224) | flip | rotate(20) | normalize(0.5, 0.5)"
    )
    config.data.eval_transforms = "decode | resize(224) | normalize(0.5, 0.5)"
    config.data.num_threads = 4
    config.model.name = "vgg"
    config.objective.update(name="supervised", dropout=0.5)
    config.optimizer.update(name="sgd", momentum=0.9)
    config.optimizer.learning_rate = 0.02
    config.optimizer.schedule = "step"
    config.optimizer.decay_every_epochs = 20.0
    config.train.batch_size = 32
    config.train.total_epochs = 80.0
    config.train.eval_every_epochs = 1.0
    config.train.best_metric = "test/accuracy"
    config.evals.test = {"evaluator": "classification", "split": "test"}
    if options.tfds:
        config.data.source, config.data.name = "tfds", "caltech_birds2011"
        del config.data.root, config.data.protocol, config.data.test_fraction
    if options.test:
        config.model.update(variant="vgg11", hidden=(64, 64))
        config.data.train_transforms = (
            "decode | random_resized_crop(48) | flip | rotate(20) | normalize(0.5, 0.5)"
        )
        config.data.eval_transforms = "decode | resize(48) | normalize(0.5, 0.5)"
        config.train.update(batch_size=16, total_epochs=0.05, log_every_steps=1)
    return config
