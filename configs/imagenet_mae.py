"""MAE on ImageNet with ViT-B/16, by the paper's settings; not yet run.

  python -m imgcls_jax.main --config configs/imagenet_mae.py

data/imagenet, or the folder named by `--config.data.root`, holds ImageNet (ILSVRC 2012,
https://image-net.org/download, 144 GB): train/ and val/ with a folder a class. The paper, arXiv:2111.06377,
reports 68.0 % by a linear classifier on the frozen network and 83.6 % after fine-tuning; mmpretrain 60.8 %
and 83.1 % after 300 epochs, 67.1 % and 83.5 % after 1600. Measured here by nearest neighbors, which are not
what MAE is good at.

Difference from facebookresearch/mae @efb2a80, without a known cost: the network computes in bfloat16, theirs
in float16 with a scaled loss.
"""

from ml_collections import ConfigDict

from imgcls_jax.config import sections


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:test` shrinks it to a few steps of small images and a small network."""
    config, options = sections(arg, test=False)
    side, batch_size = (32, 16) if options.test else (224, 4096)
    normalize = "normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))"
    config.data.source = "image_folder"
    config.data.root = "data/imagenet"
    config.data.train_transforms = (
        f"decode | random_resized_crop({side}, (0.2, 1.0), interpolation='bicubic') | flip | {normalize}"
    )
    config.data.eval_transforms = (
        f"decode | resize_short({side * 8 // 7}, 'bicubic') | center_crop({side}) | {normalize}"
    )
    config.data.on_bad_example = "skip"
    config.data.num_threads = 16
    config.model.update(name="vit", variant="vit_b16", position="sincos", begins_as="mae", dtype="bfloat16")
    config.objective.name = "mae"
    config.optimizer.update(name="adamw", b2=0.95)
    config.optimizer.learning_rate = 1.5e-4 * batch_size / 256
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_epochs = 40.0
    config.optimizer.weight_decay = 0.05
    config.optimizer.decay_params = ".*/(kernel|in_proj_weight|class_token|mask_token)"  # all but vectors
    config.train.batch_size = batch_size
    config.train.total_epochs = 1600.0
    config.train.eval_every_epochs = 200.0
    config.train.checkpoint_every_steps = 2000
    config.evals.knn = {"evaluator": "knn", "split": "val", "k": (10, 20, 100, 200)}
    if options.test:
        del config.train.total_epochs, config.train.eval_every_epochs, config.optimizer.warmup_epochs
        config.model.variant = "vit_tiny"
        config.objective.update(decoder_width=32, decoder_depth=1, decoder_heads=4)
        config.train.total_steps = 2
        config.evals.knn.k = (1,)
    return config
