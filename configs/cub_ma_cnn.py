"""MA-CNN on CUB-200-2011: four parts found without part labels, by VGG-19 at 448 pixels. Not yet run beyond
`:test`; `:crops` was.

  python -m imgcls_jax.main --config configs/cub_ma_cnn.py --config.model.pretrained=vgg19.pth
  python -m imgcls_jax.main --config configs/cub_ma_cnn.py:crops \\
    --config.data.root=FOLDER --config.model.pretrained=mobilenet_v2_1.0_224_folded.npz

Unpack CUB-200-2011 into data, or name its folder by `--config.data.root`. Zheng et al. 2017 (ICCV) reach
86.5 % with six networks on crops of the parts, which `tools.crop_parts` writes. Size, batch, optimizer and
the tenth of the rate for the backbone are those of the released networks and of re-implementations.
Differences: rates and lengths are this project's, as nothing of the authors' training was released; the mean
subtracted is that of PyTorch's weights, where the authors' were Caffe's.

`:crops` is small: a frozen MobileNetV2 on the birds of `configs/cub_transfer.py`, 2,400 and 599 images of a
development split. It reaches 85.3 and 85.1 % (seeds 0 and 1; 717 and 953 s on two busy CPU cores). The
classifier of the whole image, a linear head on the same features in the same runs, has 84.1 and 84.0 %.
"""

from ml_collections import ConfigDict

from imgcls_jax.config import sections

NORMALIZE = "normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))"


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:test` shrinks it to a few steps of small images."""
    config, options = sections(arg, crops=False, test=False)
    size = 48 if options.test else 448
    config.data.source = "cub200"
    config.data.root = "data/CUB_200_2011"
    config.data.train_transforms = f"decode | resize_short({size}) | random_crop({size}) | flip | {NORMALIZE}"
    config.data.eval_transforms = f"decode | resize_short({size}) | center_crop({size}) | {NORMALIZE}"
    config.data.num_threads = 4
    variant = "vgg11" if options.test else "vgg19"
    config.model.update(name="vgg", variant=variant, top=False, last_pool=False)
    config.objective.name = "ma_cnn"
    config.objective.group_epochs = 10
    config.optimizer.update(name="sgd", momentum=0.9)
    config.optimizer.learning_rate = 0.01
    config.optimizer.schedule = "cosine"
    config.optimizer.weight_decay = 5e-4
    config.optimizer.groups = (("backbone/.*", 0.1), ("grouping/.*", 0.1))
    config.train.batch_size = 16
    config.train.total_epochs = 90.0
    config.evals.test = {"evaluator": "classification", "split": "test"}
    if options.crops:
        side = 64 if options.test else 224
        config.data.train_transforms = f"decode | resize({side}) | normalize(0.5, 0.5)"
        config.data.eval_transforms = config.data.train_transforms
        del config.data.num_threads
        config.model = ConfigDict({"name": "mobilenet_v2", "variant": "mobilenet_v2_folded"})
        config.objective.update(normalize=True, response_scale=3.0, hidden=64, group_epochs=1)
        config.objective.update(alternation_epochs=(1, 4), distance="target", diversity=0.2)
        config.optimizer.nesterov = True
        config.optimizer.weight_decay = 1e-4
        config.optimizer.groups = (("backbone/.*", None), ("grouping/.*", 0.1))
        config.train.batch_size = 32
        config.train.total_epochs = 42.0
        config.train.keep_checkpoints = 1
    if options.test:
        config.train.update(batch_size=16, total_epochs=0.02, log_every_steps=1)
    return config
