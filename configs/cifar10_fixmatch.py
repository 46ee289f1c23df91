"""FixMatch with RandAugment on CIFAR-10 with 250 labels, by the paper's settings; not yet run.

  python -m imgcls_jax.main --config configs/cifar10_fixmatch.py

Unpack the official binary version into data/cifar10, or name its folder by `--config.data.root`. The paper
reports 94.93 +- 0.65 % over five sets of 250 labels, each the median of the last 20 evaluations.

Differences from google-research/fixmatch @d4985a1, none with a known cost: RandAugment's values are not
rounded to 8 bits between its changes; labeled images come in shuffles of all 250, there from a buffer of
8,192; batch norm sees all 960 rows at once, there those of each device; a test image goes through the
averaged weights once.
"""

from ml_collections import ConfigDict

from imgcls_jax.config import sections


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:test` shrinks it to seconds."""
    config, options = sections(arg, test=False)
    moved = 'flip | pad_and_crop(4, "reflect")'
    weak = f"{moved} | normalize(0.5, 0.5)"
    strong = f'{moved} | rand_augment(2, None, 0.5, "fixmatch") | normalize(0.5, 0.5) | cutout(16)'
    config.data.source = "cifar10"
    config.data.root = "data/cifar10"
    config.data.train_transforms = weak
    config.data.view_transforms = (weak, strong)
    config.data.eval_transforms = "normalize(0.5, 0.5)"
    config.data.labels_per_class = 25
    config.data.labeled_batch_size = 64
    config.model.update(name="wide_resnet", variant="wrn_28_2")
    config.objective.update(name="fixmatch", ema_warmup=False)
    config.optimizer.update(name="sgd", momentum=0.9, nesterov=True)
    config.optimizer.learning_rate = 0.03
    config.optimizer.schedule = "cosine_7_16"
    config.optimizer.weight_decay = 5e-4
    config.train.batch_size = 448
    config.train.total_steps = 2**20
    config.train.eval_every_steps = 1024
    config.evals.test = {"evaluator": "classification", "split": "test"}
    if options.test:
        del config.train.eval_every_steps
        config.train.update(batch_size=8, total_steps=2, log_every_steps=1, eval_batch_size=100)
        config.data.labeled_batch_size = 4
        config.evals = {}
    return config
