"""The book's bilinear CNN on CUB-200-2011: VGG-16 to relu5_3, bilinear pooling with itself, all layers
trained at once. Not yet run beyond `:test`.

  python -m imgcls_jax.main --config configs/cub_bcnn.py

Unpack CUB-200-2011 into data, or name its folder by `--config.data.root`. Lin et al. 2015, arXiv:1504.07889,
by the book's recipe on its random 9:1 split of all 11,788 images (`--config.data.protocol=official` for the
official one). The book starts from PyTorch's VGG-16, which `--config.model.pretrained=vgg16.pth` reads, and
prints 77 %; its split mixes official test images into training. `:compact` pools by a tensor sketch of 8,192
numbers; `:two_streams` gives each side of the product a VGG-16 of its own
(`--config.model.variant=vgg/vgg16@features.17` shares them up to that layer); `:tfds` reads the copy that
tensorflow_datasets prepared (official split).

Differences from the book's code, none with a known cost: the 9:1 split is drawn anew; the classifier starts
from PyTorch's usual distribution, theirs from He's.
"""

from ml_collections import ConfigDict

from imgcls_jax.config import sections


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:test` shrinks it to a few steps of small images."""
    config, options = sections(arg, compact=False, two_streams=False, tfds=False, test=False)
    config.data.source = "cub200"
    config.data.root = "data/CUB_200_2011"
    config.data.protocol = "random"
    config.data.test_fraction = 1191 / 11788
    config.data.train_transforms = (
        "decode | resize(256) | random_resized_crop(224) | flip | rotate(20) | normalize(0.5, 0.5)"
    )
    config.data.eval_transforms = "decode | resize(224) | normalize(0.5, 0.5)"
    config.data.num_threads = 4
    config.model.update(name="vgg", top=False, last_pool=False)
    config.objective.update(name="supervised", head="bilinear")
    config.optimizer.update(name="sgd", momentum=0.9)
    config.optimizer.learning_rate = 0.1
    config.optimizer.schedule = "step"
    config.optimizer.decay_every_epochs = 100.0
    config.train.batch_size = 32
    config.train.total_epochs = 300.0
    config.train.eval_every_epochs = 1.0
    config.train.best_metric = "test/accuracy"
    config.evals.test = {"evaluator": "classification", "split": "test"}
    if options.compact or options.two_streams:
        config.objective.head_fields = {}
    if options.compact:
        config.objective.head_fields.projection = "tensor_sketch"
    if options.two_streams:
        config.model.update(name="two_stream", variant="vgg/vgg16")
        config.objective.head_fields.streams = 2
    if options.tfds:
        config.data.source, config.data.name = "tfds", "caltech_birds2011"
        del config.data.root, config.data.protocol, config.data.test_fraction
    if options.test:
        config.model.variant = "vgg/vgg11" if options.two_streams else "vgg11"
        config.data.train_transforms = (
            "decode | random_resized_crop(48) | flip | rotate(20) | normalize(0.5, 0.5)"
        )
        config.data.eval_transforms = "decode | resize(48) | normalize(0.5, 0.5)"
        config.train.update(batch_size=16, total_epochs=0.05, log_every_steps=1)
    return config
