"""Fine-tuning a ViT of ImageNet-21k at 384 pixels by vision_transformer's recipe; published, not run here.

  pip install 'imgcls-jax[train,hub]'
  python -m imgcls_jax.main --config configs/imagenet_finetune.py:s16

The weights come from the Hugging Face hub. data/imagenet, or the folder named by `--config.data.root`, holds
ImageNet (ILSVRC 2012, https://image-net.org/download, 144 GB): train/ and val/ with a folder a class.
Published top-1 on all of each image, warped to 384 x 384: `:b16`, the default, 85.49 %; `:s16` 83.73 %
(google-research/vision_transformer @c6de1e5, README.md: AugReg, arXiv:2106.10270; common.py and augreg.py in
vit_jax/configs, of common.py its entry for imagenet2012).

Differences, none with a known cost: they train on 99 % of the images, resize without antialiasing, and keep
the corners of the position embedding by a bilinear filter, here by a bicubic one.
"""

from ml_collections import ConfigDict

from imgcls_jax.config import sections

WEIGHTS = {"b16": "timm/vit_base_patch16_224.augreg_in21k", "s16": "timm/vit_small_patch16_224.augreg_in21k"}


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:test` shrinks it to a few steps of a small network that was drawn."""
    config, options = sections(arg, network=("b16", "s16"), test=False)
    side = 32 if options.test else 384
    config.data.source = "image_folder"
    config.data.root = "data/imagenet"
    config.data.train_transforms = (
        f"decode | random_resized_crop({side}, (0.05, 1.0), (0.75, 1.33), 'tensorflow') | flip"
        " | normalize(0.5, 0.5)"
    )
    config.data.eval_transforms = f"decode | resize({side}) | normalize(0.5, 0.5)"
    config.data.on_bad_example = "skip"
    config.data.num_threads = 16
    config.model.update(name="vit", variant=f"vit_{options.network}", pretrained=WEIGHTS[options.network])
    config.model.update(tanh_gelu=True, resize_positions="torchvision")
    config.objective.update(name="supervised", head_fields={"zero_init": True})
    config.optimizer.update(name="sgd", momentum=0.9, accumulator_dtype="bfloat16", learning_rate=0.03)
    config.optimizer.update(schedule="cosine", warmup_steps=500, clip_norm=1.0)
    config.train.update(batch_size=512, total_steps=20_000, num_microbatches=8)
    config.train.update(eval_every_steps=2000, checkpoint_every_steps=1000)
    config.evals.val = {"evaluator": "classification", "split": "val"}
    if options.test:
        del config.train.eval_every_steps, config.train.checkpoint_every_steps, config.model.pretrained
        config.model.variant = "vit_tiny"
        config.optimizer.warmup_steps = 1
        config.train.update(batch_size=8, total_steps=2)
    return config
