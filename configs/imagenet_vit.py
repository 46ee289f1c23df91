"""ViT-S/16 on ImageNet alone by big_vision's recipe, checked line by line; published, not run here.

  python -m imgcls_jax.main --config configs/imagenet_vit.py

data/imagenet, or the folder named by `--config.data.root`, holds ImageNet (ILSVRC 2012,
https://image-net.org/download, 144 GB): train/ and val/ with a folder a class. Published, top-1 of one crop
of 224 pixels after 90 epochs: 76.5 % (google-research/big_vision @0127fb6, its vit_s16_i1k.py;
arXiv:2205.01580). Their decay of 1e-4, apart from the rate, is 0.1 times the rate here.

Differences, none with a known cost: no hidden layer before the classifier; their RandAugment has cutout and
solarize_add besides, enhances without a sign, and gray comes in from outside; they train on 99 % of the
images, resize without antialiasing, begin the embedding of the patches by another distribution, and let the
frequencies of positions end a little lower.
"""

from ml_collections import ConfigDict

from imgcls_jax.config import sections


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:test` shrinks it to a few steps of small images and a small network."""
    config, options = sections(arg, test=False)
    side = 32 if options.test else 224
    config.data.source = "image_folder"
    config.data.root = "data/imagenet"
    config.data.train_transforms = (
        f"decode | random_resized_crop({side}, (0.05, 1.0), (0.75, 1.33), 'tensorflow') | flip"
        " | rand_augment(2, 30, 0.5) | normalize(0.5, 0.5)"
    )
    config.data.eval_transforms = (
        f"decode | resize_short({side * 8 // 7}) | center_crop({side}) | normalize(0.5, 0.5)"
    )
    config.data.on_bad_example = "skip"
    config.data.num_threads = 16
    config.model.update(name="vit", variant="vit_s16", class_token=False, pool="mean", position="sincos")
    config.model.update(tanh_gelu=True, begins_as="mae")
    config.objective.update(name="supervised", mixup_alpha=0.2, head_fields={"zero_init": True})
    config.optimizer.update(name="adamw", mu_dtype="bfloat16", learning_rate=1e-3, weight_decay=0.1)
    config.optimizer.update(decay_params=".*/(kernel|in_proj_weight)", clip_norm=1.0)
    config.optimizer.update(schedule="cosine", warmup_steps=10_000)
    config.train.update(batch_size=1024, total_epochs=90.0)
    config.train.update(eval_every_epochs=10.0, checkpoint_every_steps=5000)
    config.evals.val = {"evaluator": "classification", "split": "val"}
    if options.test:
        del config.train.eval_every_epochs, config.train.checkpoint_every_steps
        config.model.variant = "vit_tiny"
        config.optimizer.warmup_steps = 1
        config.train.update(batch_size=8, total_epochs=1.0)
    return config
