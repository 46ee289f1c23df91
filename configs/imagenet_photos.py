"""No training: what a network with ImageNet's weights makes of a list of photos.

  python -m imgcls_jax.main --config configs/imagenet_photos.py \\
    --config.data.root=FOLDER --config.model.pretrained=mobilenet_v2_1.0_224_folded.npz

`:mobilenet_v2` is the default; `:squeezenet` reads squeezenet_v1.0_float16.npz, `:efficientnet_lite0`
efficientnet_lite0.pth. A run of no steps evaluates the weights and saves them, so that tools/predict works on
its workdir. labels.txt holds "path index" lines, the index in ImageNet's usual order; classes.txt names the
1,000 classes. Without model.pretrained the weights are random.

Measured on 500 photos, one of every second class, likely from ImageNet's training images, so no benchmark:
MobileNetV2 87.8 % top-1, 98.0 % top-5; SqueezeNet 1.0 65.2 % and 84.6 %; EfficientNet-Lite0 87.4 % and 97.0 %
(87.8 % where an odd margin loses its half pixel on the other side).
"""

from ml_collections import ConfigDict

from imgcls_jax.config import sections


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:test` shrinks the images."""
    config, options = sections(arg, network=("mobilenet_v2", "squeezenet", "efficientnet_lite0"), test=False)
    resized, side = (72, 64) if options.test else (256, 224)
    line = f"decode | rgb | resize_short({resized}) | center_crop({side}) | normalize(0.5, 0.5)"
    config.data.source = "list_file"
    config.data.root = "data/imagenet_samples"
    config.data.list_file = "labels.txt"
    config.data.classes = "classes.txt"
    config.data.train_split = "photos"
    config.data.train_transforms = line
    config.data.eval_transforms = line
    config.model.update(name="mobilenet_v2", variant="mobilenet_v2_folded")
    config.objective.name = "supervised"
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.0
    config.train.batch_size = 20
    config.train.total_steps = 0
    config.train.keep_checkpoints = 1
    config.evals.photos = {"evaluator": "classification", "split": "photos"}
    if options.network == "efficientnet_lite0":
        config.model.update(name="efficientnet", variant="efficientnet_lite0")
        line = line.replace("normalize(0.5, 0.5)", f"normalize({127 / 255}, {128 / 255})")
        config.data.update(train_transforms=line, eval_transforms=line)
    if options.network == "squeezenet":
        config.model.update(name="squeezenet", variant="squeezenet1_0")
        caffe_mean = tuple(mean / 255 for mean in (123, 117, 104))
        side = 64 if options.test else 227
        line = f"decode | rgb | resize({resized}) | center_crop({side}) | normalize({caffe_mean}, {1 / 255})"
        config.data.update(train_transforms=line, eval_transforms=line)
    return config
