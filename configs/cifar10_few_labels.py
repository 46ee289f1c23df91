"""Ways of learning from few labels side by side on CIFAR-10: one small network and optimizer, equal FLOPs.

  python -m imgcls_jax.main --config configs/cifar10_few_labels.py:fixmatch,250

The words are the method and the number of labels: 250, 4000 or 40; `all_labels` has all of them, `long` five
times the steps. Unpack the official binary version into data/cifar10, or name its folder by
`--config.data.root`. Results: docs/results.md. MixMatch with the published weight of 75, which 18 steps of
ramp reach here, fell to one class (10.3 % with 250 labels); no other setting was tried.

Each takes as many steps as are in `BUDGET`, by the GFLOP of a step that `tools.plan` reckons, to a few
hundredths, with Tri-net's labeling of all images at the start of each of its five rounds; on two CPU cores a
quarter to half a processor-hour, evaluations besides. The network is airbench's at half its width and less.
With 40 labels `supervised` has batches of 40, and spends a sixth.
"""

from ml_collections import ConfigDict

from imgcls_jax.config import sections

MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
OBJECTIVES = {
    "supervised": dict(label_smoothing=0.1),
    "all_labels": dict(name="supervised", label_smoothing=0.1),
    "pseudo_label": {},
    "mean_teacher": {},
    "mixmatch": dict(alpha=0.75, lambda_u=15.0, ramp_fraction=0.75),
    "fixmatch": {},
    "trinet": dict(init_epochs=2, pool_base=4000, diversity_rounds=0),
}
GFLOP = dict(zip(OBJECTIVES, (31, 31, 23.8, 29.5, 51.1, 39.7, 27.2), strict=True))  # of a step
BUDGET = 60_000  # GFLOP of training


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:test` shrinks it to seconds."""
    words = dict(method=tuple(OBJECTIVES), labels=("250", "4000", "40"), long=False, test=False)
    config, options = sections(arg, **words)
    plain, moved = f"normalize({MEAN}, {DEVIATION})", 'flip | pad_and_crop(4, "reflect")'
    weak = f"{moved} | {plain}"
    config.data.update(source="cifar10", root="data/cifar10", train_transforms=weak, eval_transforms=plain)
    config.model.update(name="airbench", variant="airbench94", widths=(32, 64, 128), momentum=0.9)
    config.objective.update({"name": options.method} | OBJECTIVES[options.method])
    if options.method != "trinet":
        config.objective.update(ema_decay=0.99, ema_statistics=8)
    config.optimizer.update(name="adamw", learning_rate=0.002, weight_decay=0.02, schedule="cosine")
    steps = round(BUDGET * (5 if options.long else 1) / GFLOP[options.method])
    config.train.update(total_steps=steps, eval_every_steps=steps // 10, batch_size=128, eval_batch_size=250)
    labels = int(options.labels)
    if options.method != "all_labels":
        config.data.labels_per_class = labels // 10
    if options.method in ("supervised", "all_labels"):
        config.train.batch_size = min(250, labels) if options.method == "supervised" else 250
    else:
        config.data.labeled_batch_size = min(64, labels)
    if options.method in ("mean_teacher", "mixmatch"):
        config.data.view_transforms = (weak, weak)
    if options.method == "fixmatch":
        strong = f'{moved} | rand_augment(2, None, 0.5, "fixmatch") | {plain} | cutout(16)'
        config.data.view_transforms = (weak, strong)
    config.evals.test = {"evaluator": "classification", "split": "test"}
    if options.test:
        config.train.update(batch_size=8, total_steps=2, log_every_steps=1, eval_batch_size=100)
        config.evals = {}
    return config
