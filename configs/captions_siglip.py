"""SigLIP with ViT-B/16 on images and captions of your own, or with its released weights; not yet run.

  python -m imgcls_jax.tools.zero_shot --config configs/captions_siglip.py \\
    --config.model.pretrained=hf:google/siglip-base-patch16-224 --vocabulary FOLDER --classes classes.txt OUT
  python -m imgcls_jax.main --config configs/captions_siglip.py \\
    --config.data.root=IMAGES --config.data.vocabulary=FOLDER

FOLDER holds tokenizer.json of those weights, IMAGES what `captions_clip.py` says. Weights under OpenCLIP's
and timm's names need `--config.model.tanh_gelu=False`.

Method and networks are those of Zhai et al., arXiv 2303.15343, whose data are not public. Rate, decay and
length are a place to begin: none of them was tried here.
"""

from ml_collections import ConfigDict

from imgcls_jax.config import sections


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:test` shrinks it to a few steps of small images and small towers."""
    config, options = sections(arg, test=False)
    side = 32 if options.test else 224
    config.data.source = "caption_table"
    config.data.root = "data/captions"
    config.data.vocabulary = "data/siglip"
    config.data.context_length = 64
    config.data.train_transforms = f"decode | rgb | resize({side}) | normalize(0.5, 0.5)"
    config.data.eval_transforms = f'decode | rgb | resize({side}, {side}, "bicubic") | normalize(0.5, 0.5)'
    config.data.on_bad_example = "skip"
    config.data.num_threads = 16
    config.model.update(name="vit", variant="vit_b16_siglip", dtype="bfloat16", remat=True)
    config.objective.name = "siglip"
    config.optimizer.update(name="adamw", b2=0.95)
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 20000
    config.optimizer.weight_decay = 1e-4
    config.train.batch_size = 32768
    config.train.total_examples = 9e9
    config.train.checkpoint_every_steps = 1000
    config.evals.retrieval = {"evaluator": "image_text", "split": "test"}
    if options.test:
        del config.train.total_examples, config.optimizer.warmup_steps
        config.model.update(patch=8, width=16, depth=1, heads=2)
        config.objective.update(text_width=16, text_depth=1)
        config.train.update(batch_size=16, total_steps=2)
    return config
