"""DeiT-S on ImageNet by the authors' recipe, checked line by line; published, not run here.

  python -m imgcls_jax.main --config configs/imagenet_deit.py

data/imagenet, or the folder named by `--config.data.root`, holds ImageNet (ILSVRC 2012,
https://image-net.org/download, 144 GB): train/ and val/ with a folder a class. Published, top-1 of one crop
of 224 pixels after 300 epochs: 79.9 % (facebookresearch/deit @7e160fe, README_deit.md and the defaults of
main.py; arXiv:2012.12877). The average that they keep plays no part in it.

Differences, none with a known cost: a batch of 1,056, not 1,024, filled by three copies of each image, and
the rate in proportion; changes of RandAugment read the nearest pixel, theirs are bicubic; bfloat16 for
float16; linear maps begin as torchvision's, theirs normally distributed; one coefficient of mixing a batch,
theirs one a device (they had 4), as `--config.train.parallel=per_replica` has it; the rate moves at every
step and starts at 0, theirs once an epoch and from 1e-6.
"""

from ml_collections import ConfigDict

from imgcls_jax.config import sections


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:test` shrinks it to a few steps of small images and a small network."""
    config, options = sections(arg, test=False)
    side, batch_size = (32, 6) if options.test else (224, 1056)
    plain = "normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))"
    config.data.source = "image_folder"
    config.data.root = "data/imagenet"
    config.data.train_transforms = (
        f"decode | random_resized_crop({side}, interpolation='bicubic') | flip"
        f" | rand_augment(2, 9, 0.5, 'timm', 0.5) | {plain}"
        " | random_erasing(0.25, (0.02, 0.3333), (0.3, 3.3333), 'noise')"
    )
    config.data.eval_transforms = (
        f"decode | resize_short({side * 8 // 7}, 'bicubic') | center_crop({side}) | {plain}"
    )
    config.data.augmentation_repeats = 3
    config.data.on_bad_example = "skip"
    config.data.num_threads = 16
    config.model.update(name="vit", variant="vit_s16", stochastic_depth=0.1, dtype="bfloat16")
    config.objective.update(name="supervised", label_smoothing=0.1, mixup_alpha=0.8, cutmix_alpha=1.0)
    config.optimizer.update(name="adamw", weight_decay=0.05, decay_params=".*/(kernel|in_proj_weight)")
    config.optimizer.update(learning_rate=5e-4 * batch_size / 512, final_learning_rate=1e-5)
    config.optimizer.update(schedule="cosine", warmup_epochs=5.0)
    config.train.update(batch_size=batch_size, total_epochs=300.0)
    config.train.update(eval_every_epochs=10.0, checkpoint_every_steps=5000)
    config.evals.val = {"evaluator": "classification", "split": "val"}
    if options.test:
        del config.train.eval_every_epochs, config.train.checkpoint_every_steps
        config.model.variant = "vit_tiny"
        config.optimizer.warmup_epochs = 0.5
        config.train.total_epochs = 1.0
    return config
