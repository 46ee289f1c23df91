"""CLIP with ViT-B/32 on images and captions of your own, by the paper's settings; not yet run.

  python -m imgcls_jax.main --config configs/captions_clip.py \\
    --config.data.root=FOLDER --config.data.vocabulary=bpe_simple_vocab_16e6.txt.gz

FOLDER holds captions.csv, with a row an image and caption (`image,caption`, and `split` of train and test),
and the images. Radford et al., arXiv:2103.00020, trained it on 400 million pairs; the released network
reaches 63.3 % on ImageNet without its labels. `--config.model.pretrained` reads that network, and OpenCLIP's.
Those of LAION-2B and DataComp have the plain GELU, which no file tells: give
`--config.model.quick_gelu=False` with them.

Differences from OpenCLIP's trainer: an epoch has one caption of each image, drawn anew; images are resized
bilinearly, there bicubically; the text tower's biases start near 0. From the paper: crops as OpenCLIP takes
them, (0.9, 1.0) of the image, where the paper takes squares of the resized image.
"""

from ml_collections import ConfigDict

from imgcls_jax.config import sections


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:test` shrinks it to a few steps of small images and small towers."""
    config, options = sections(arg, test=False)
    side = 32 if options.test else 224
    normalize = "normalize((0.4815, 0.4578, 0.4082), (0.2686, 0.2613, 0.2758))"
    config.data.source = "caption_table"
    config.data.root = "data/captions"
    config.data.vocabulary = "data/bpe_simple_vocab_16e6.txt.gz"
    config.data.train_transforms = f"decode | random_resized_crop({side}, (0.9, 1.0)) | {normalize}"
    config.data.eval_transforms = f"decode | resize_short({side}) | center_crop({side}) | {normalize}"
    config.data.on_bad_example = "skip"
    config.data.num_threads = 16
    config.model.update(name="vit", variant="vit_b32_clip", dtype="bfloat16", remat=True)
    config.objective.name = "clip"
    config.optimizer.update(name="adamw", b2=0.98, eps=1e-6)
    config.optimizer.learning_rate = 5e-4
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 2000
    config.optimizer.weight_decay = 0.2
    # All arrays but vectors, biases, norms and the scale.
    config.optimizer.decay_params = ".*/(kernel|in_proj_weight|.*embedding|text_projection)"
    config.train.batch_size = 32768
    config.train.total_epochs = 32.0
    config.train.eval_every_epochs = 1.0
    config.train.checkpoint_every_steps = 1000
    config.evals.retrieval = {"evaluator": "image_text", "split": "test"}
    if options.test:
        del config.train.total_epochs, config.train.eval_every_epochs, config.optimizer.warmup_steps
        config.model.update(patch=8, width=16, depth=1, heads=2)
        config.objective.update(dim=16, text_width=16, text_depth=1)
        config.train.update(batch_size=16, total_steps=2)
    return config
