"""Multi-label scenes, each label on its own: desert, mountains, sea, sunset, trees, from the features of an
ImageNet MobileNetV2.

  python -m imgcls_jax.main --config configs/miml_multilabel.py --workdir runs/miml_multilabel \\
    --config.data.root=../shared/data/miml \\
    --config.model.pretrained=../shared/data/weights/mobilenet_v2_1.0_224_folded.npz

The root holds `labels.csv` (filename, split, a column of 0 and 1 a label) and `images/`: 1,280 images to
train on, 320 of the development split. `:focal` has the focal loss, `:balanced` weights against the labels'
rarity. `configs/miml_cnn_rnn.py` learns the same images by label sequences.

Measured on the 320 images of the development split, one CPU core of a busy machine, some 160 s each, seed 0:

              mAP     OF1     CF1     all labels of an image right
  plain       94.0 %  85.8 %  86.1 %  71.9 %
  focal       93.2 %  85.1 %  85.5 %  70.6 %
  balanced    93.9 %  85.3 %  85.7 %  67.8 %
  CNN-RNN     93.6 %  86.2 %  86.4 %  75.3 %
"""

from ml_collections import ConfigDict

PLAIN = "decode | rgb | resize(224, 224) | normalize(0.5, 0.5)"
LOSSES = {
    "": dict(loss="cross_entropy"),
    "focal": dict(loss="focal", alpha=0.5, gamma=2.0),
    "balanced": dict(loss="cross_entropy", positive_weights="balanced"),
}


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:focal`, `:balanced`, and `:test` to shrink it, joined by commas."""
    options = set(filter(None, arg.split(",")))
    loss = next(iter(options - {"test"}), "")
    if loss not in LOSSES or not options <= {loss, "test"}:
        raise ValueError(f"this configuration knows 'focal' or 'balanced', and 'test'; got {arg!r}")
    config = ConfigDict()
    config.data = ConfigDict(
        dict(
            source="label_table",
            root="data/miml",
            train_split="train",
            train_transforms=PLAIN,
            eval_transforms=PLAIN,
            on_bad_example="raise",
            num_threads=2,
            num_workers=0,
        )
    )
    config.model = ConfigDict(
        dict(name="mobilenet_v2", variant="mobilenet_v2_folded", dtype="float32", pretrained="")
    )
    config.objective = ConfigDict(dict(name="multilabel", dropout=0.2, **LOSSES[loss]))
    config.optimizer = ConfigDict(
        dict(
            name="adamw",
            learning_rate=1e-3,
            schedule="cosine",
            warmup_epochs=0.0,
            weight_decay=1e-4,
            clip_norm=0.0,
            groups=(("backbone/.*", None),),  # frozen: the features are computed once
        )
    )
    config.train = ConfigDict(
        dict(
            num_microbatches=1,
            batch_size=32,
            total_epochs=40.0,
            seed=0,
            log_every_steps=100,
            eval_every_epochs=20.0,
            checkpoint_every_steps=0,
            keep_checkpoints=1,
            best_metric="",
            feature_cache_gib=4.0,
        )
    )
    config.evals = ConfigDict(
        dict(
            val=ConfigDict(dict(evaluator="multilabel", split="val", threshold=0.5)),
            fitted=ConfigDict(dict(evaluator="multilabel", split="val", fit_split="train")),
        )
    )
    if "test" in options:
        small = "decode | rgb | resize(64, 64) | normalize(0.5, 0.5)"
        config.data.update(train_transforms=small, eval_transforms=small)
        config.train.total_epochs = 0.1
        config.train.eval_every_epochs = 0.0
    return config
