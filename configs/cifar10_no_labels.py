"""Ways of learning without labels side by side on CIFAR-10 (results: docs/results.md).

  python -m imgcls_jax.main --config configs/cifar10_no_labels.py:simclr
  python -m imgcls_jax.main --config configs/cifar10_no_labels.py:finetune \\
    --config.model.pretrained=runs/cifar10_no_labels

`random`, and `random_vit` for `mae`, are what they start from; `finetune` learns from every tenth label, with
`pretrained` from the workdir of one of them: `finetune_vit` from that of `mae`, `finetune,gray` from those of
`deepcluster` and `iic`, which see gray images. `long` has five times the steps. Unpack the official binary
version into data/cifar10. All have the network of `cifar10_few_labels.py`, `mae` a ViT, and one `BUDGET`.
"""

from ml_collections import ConfigDict

from imgcls_jax.config import sections

MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
OBJECTIVES = {
    "rotation": {},
    "simclr": dict(temperature=0.5),
    "deepcluster": dict(num_clusters=100, hidden=(128,), dropout=0.0, pca_dim=64),
    "iic": dict(num_overclusters=70),
    "mae": dict(decoder_depth=2, decoder_heads=4, decoder_width=64),
    **dict.fromkeys(("random", "random_vit"), dict(name="rotation")),
}
FINETUNE = dict(name="supervised", label_smoothing=0.1, ema_decay=0.99, ema_statistics=8)
OBJECTIVES |= dict(finetune=FINETUNE, finetune_vit=FINETUNE)
GFLOP = dict(rotation=119, simclr=59.9, deepcluster=40.2, iic=59.7, mae=17, finetune=310)  # of a step
GFLOP |= dict(random=1190, random_vit=1190, finetune_vit=236)
BUDGET = 60_000  # GFLOP, DeepCluster's features of all images too; `random` and `finetune` take a tenth


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:test` shrinks it to seconds."""
    config, options = sections(arg, method=tuple(OBJECTIVES), gray=False, long=False, test=False)
    plain, crop = f"normalize({MEAN}, {DEVIATION})", "resized_crop((0.2, 1.0)) | flip"
    if options.gray or options.method in ("deepcluster", "iic"):
        plain = f"grayscale(1.0) | {plain}"
    moved = crop if options.method == "deepcluster" else 'flip | pad_and_crop(4, "reflect")'
    view = f"{crop} | color_jitter(0.4, 0.4, 0.4, 0.1) | grayscale(0.2) | {plain}"
    config.data.update(source="cifar10", root="data/cifar10")
    config.data.update(train_transforms=f"{moved} | {plain}", eval_transforms=plain)
    config.model.update(name="airbench", variant="airbench94", widths=(32, 64, 128), momentum=0.9)
    if options.method == "mae" or options.method.endswith("_vit"):
        config.model = dict(name="vit", variant="vit_tiny", position="sincos", pool="mean")
    config.objective.update({"name": options.method} | OBJECTIVES[options.method])
    rate = 0.0 if options.method.startswith("random") else 0.002
    config.optimizer.update(name="adamw", learning_rate=rate, weight_decay=0.02, schedule="cosine")
    steps = round(BUDGET * (5 if options.long else 1) / GFLOP[options.method])
    config.train.update(total_steps=steps, batch_size=250, eval_batch_size=250)
    if options.method in ("simclr", "iic"):
        config.data.view_transforms = (view if options.method == "simclr" else plain, view)
    if options.method.startswith("finetune"):
        config.data.labels_per_class = 450
        config.evals.test = {"evaluator": "classification", "split": "test"}
    else:
        config.evals.probe = {"evaluator": "linear_probe", "split": "test"}
        config.evals.knn = {"evaluator": "knn", "split": "test", "k": (20,)}
        config.evals.clusters = {"evaluator": "clustering", "split": "test", "key": "embedding"}
    if options.method == "iic":
        config.evals.heads = {"evaluator": "clustering", "split": "test"}
    if options.test:
        config.train.update(batch_size=8, total_steps=2, log_every_steps=1)
        config.evals = {}
    return config
