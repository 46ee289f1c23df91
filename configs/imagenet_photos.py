"""No training: what a network with ImageNet's weights makes of a list of photos.

  python -m imgcls_jax.main --config configs/imagenet_photos.py:mobilenet_v2 --workdir runs/photos \\
    --config.data.root=../shared/data/imagenet_samples \\
    --config.model.pretrained=../shared/data/weights/mobilenet_v2_1.0_224_folded.npz

or `:squeezenet` with squeezenet_v1.0_float16.npz. A run of no steps evaluates the weights and saves them, so
that tools/predict works on its workdir. labels.txt holds "path index" lines, the index in ImageNet's usual
order; classes.txt names the 1,000 classes. Without model.pretrained the weights are random.

Measured on 500 photos, one of every second class, likely from ImageNet's training images, so no benchmark:
MobileNetV2 87.8 % top-1, 98.0 % top-5; SqueezeNet 1.0 65.2 % and 84.6 %.
"""

from ml_collections import ConfigDict

CAFFE_MEAN = (123, 117, 104)  # of R, G and B in 0..255
NETWORKS = {
    "mobilenet_v2": (
        dict(name="mobilenet_v2", variant="mobilenet_v2_folded"),
        "decode | rgb | resize_short(256) | center_crop(224) | normalize(0.5, 0.5)",
    ),
    "squeezenet": (
        dict(name="squeezenet", variant="squeezenet1_0"),
        "decode | rgb | resize(256) | center_crop(227) | "
        f"normalize({tuple(mean / 255 for mean in CAFFE_MEAN)}, {1 / 255})",
    ),
}


def get_config(arg: str = "mobilenet_v2") -> ConfigDict:
    """Returns the configuration; one of the two networks, and `test` to shrink the images, joined by a
    comma."""
    options = arg.split(",")
    name = next((option for option in options if option != "test"), "mobilenet_v2")
    if name not in NETWORKS or len(options) > 1 + ("test" in options):
        raise ValueError(f"this configuration knows one of {', '.join(NETWORKS)}, and 'test'; got {arg!r}")
    model, line = NETWORKS[name]
    if "test" in options:
        line = line.replace("(256)", "(72)").replace("(224)", "(64)").replace("(227)", "(64)")
    config = ConfigDict()
    config.data = ConfigDict(
        dict(
            source="list_file",
            root="data/imagenet_samples",
            list_file="labels.txt",
            classes="classes.txt",
            train_split="photos",
            train_transforms=line,
            eval_transforms=line,
            on_bad_example="raise",
            num_threads=2,
            num_workers=0,
        )
    )
    config.model = ConfigDict(dict(model, dtype="float32", pretrained=""))
    config.objective = ConfigDict(dict(name="supervised"))
    config.optimizer = ConfigDict(dict(name="sgd", learning_rate=0.0))
    config.train = ConfigDict(dict(batch_size=20, total_steps=0, seed=0, keep_checkpoints=1, best_metric=""))
    config.evals = ConfigDict(dict(photos=ConfigDict(dict(evaluator="classification", split="photos"))))
    return config
