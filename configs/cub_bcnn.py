"""The book's bilinear CNN on CUB-200-2011: VGG-16 to relu5_3, bilinear pooling with itself, all layers
trained at once.

  python -m imgcls_jax.main --config configs/cub_bcnn.py --workdir runs/cub_bcnn \\
    --config.data.root=CUB_200_2011

Lin et al. 2015, arXiv:1504.07889; recipe of the book: random 9:1 split of all 11,788 images
(`data.protocol="official"` for the official one), resize 256x256, random resized crop 224, flip, rotation
20 degrees, mean and deviation 0.5, SGD 0.1 with momentum 0.9, batch 32, x0.1 every 100 of 300 epochs.
`:compact` pools by a tensor sketch of 8,192 numbers; `:two_streams` gives each side of the product a VGG-16
of its own (`--config.model.variant=vgg/vgg16@features.17` shares them up to that layer), `:tfds` reads the
copy that tensorflow_datasets prepared (official split). `model.pretrained` takes PyTorch's VGG-16, whose
weights the book starts from. The book prints 77 % on its split, which mixes official test images into
training.

Hardware, wall time, metric: not yet run beyond `:test`.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:compact`, `:two_streams`, `:tfds`, and `:test` to shrink it, joined by
    commas."""
    options = set(filter(None, arg.split(",")))
    known = {"compact", "two_streams", "tfds", "test"}
    if not options <= known:
        raise ValueError(f"this configuration knows the arguments {', '.join(sorted(known))}; got {arg!r}")
    config = ConfigDict()
    config.data = ConfigDict(
        dict(
            source="cub200",
            root="data/CUB_200_2011",
            protocol="random",
            test_fraction=1191 / 11788,
            crop_to_box=False,
            train_split="train",
            train_transforms="decode | resize(256) | random_resized_crop(224)"
            " | flip | rotate(20) | normalize(0.5, 0.5)",
            eval_transforms="decode | resize(224) | normalize(0.5, 0.5)",
            on_bad_example="raise",
            num_threads=4,
            num_workers=0,
        )
    )
    if "tfds" in options:
        for field in ("root", "protocol", "test_fraction", "crop_to_box"):
            del config.data[field]
        config.data.update(source="tfds", name="caltech_birds2011")
    config.model = ConfigDict(
        dict(name="vgg", variant="vgg16", top=False, last_pool=False, dtype="float32", pretrained="")
    )
    head_fields = dict(
        projection="tensor_sketch" if "compact" in options else "full", streams=1, dim=8192, seed=0
    )
    if "two_streams" in options:
        config.model.update(name="two_stream", variant="vgg/vgg16")
        head_fields["streams"] = 2
    config.objective = ConfigDict(
        dict(name="supervised", head="bilinear", head_fields=head_fields, label_smoothing=0.0, ema_decay=0.0)
    )
    config.optimizer = ConfigDict(
        dict(
            name="sgd",
            momentum=0.9,
            nesterov=False,
            learning_rate=0.1,
            schedule="step",
            decay_factor=0.1,
            decay_every_epochs=100.0,
            warmup_epochs=0.0,
            weight_decay=0.0,
            clip_norm=0.0,
            groups=(),  # (pattern of param paths, factor on the rate, or None to freeze)
        )
    )
    config.train = ConfigDict(
        dict(
            num_microbatches=1,
            batch_size=32,
            total_epochs=300.0,
            seed=0,
            log_every_steps=50,
            eval_every_epochs=1.0,
            checkpoint_every_steps=0,
            keep_checkpoints=2,
            best_metric="test/accuracy",
        )
    )
    config.evals = ConfigDict(dict(test=ConfigDict(dict(evaluator="classification", split="test"))))
    if "test" in options:
        config.model.variant = config.model.variant.replace("vgg16", "vgg11")
        config.data.train_transforms = (
            "decode | random_resized_crop(48) | flip | rotate(20) | normalize(0.5, 0.5)"
        )
        config.data.eval_transforms = "decode | resize(48) | normalize(0.5, 0.5)"
        config.train.batch_size = 16
        config.train.total_epochs = 0.05
        config.train.log_every_steps = 1
    return config
