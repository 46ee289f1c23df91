"""ConvNeXt-T on ImageNet by the authors' recipe, checked line by line; published, not run here.

  python -m imgcls_jax.main --config configs/imagenet_convnext.py

data/imagenet, or the folder named by `--config.data.root`, holds ImageNet (ILSVRC 2012,
https://image-net.org/download, 144 GB): train/ and val/ with a folder a class. Published, top-1 of one crop
of 224 pixels after 300 epochs, by the averaged params: 82.1 % (facebookresearch/ConvNeXt @048efce,
README.md; the command of TRAINING.md with the defaults of main.py; arXiv:2201.03545).

Differences, none with a known cost: the changes of RandAugment read the nearest pixel, theirs are bicubic;
one coefficient of mixing a batch, theirs one a device (they had 32), as
`--config.train.parallel=per_replica` has it; weights begin normally distributed, theirs cut off at 2, and
the classifier as PyTorch's, theirs like the others.
"""

from ml_collections import ConfigDict

from imgcls_jax.config import sections


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:test` shrinks it to a few steps of small images."""
    config, options = sections(arg, test=False)
    side, batch_size = (32, 8) if options.test else (224, 4096)
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
    config.data.on_bad_example = "skip"
    config.data.num_threads = 16
    config.model.update(name="convnext", variant="convnext_tiny")
    config.objective.update(name="supervised", label_smoothing=0.1, mixup_alpha=0.8, cutmix_alpha=1.0)
    config.objective.update(ema_decay=0.9999, ema_warmup=False)
    config.optimizer.update(name="adamw", weight_decay=0.05)
    config.optimizer.update(learning_rate=4e-3 * batch_size / 4096, final_learning_rate=1e-6)
    config.optimizer.update(schedule="cosine", warmup_epochs=20.0)
    config.train.update(batch_size=batch_size, total_epochs=300.0)
    config.train.update(eval_every_epochs=10.0, checkpoint_every_steps=5000)
    config.evals.val = {"evaluator": "classification", "split": "val"}
    if options.test:
        del config.train.eval_every_epochs, config.train.checkpoint_every_steps
        config.optimizer.warmup_epochs = 0.5
        config.train.total_epochs = 1.0
    return config
