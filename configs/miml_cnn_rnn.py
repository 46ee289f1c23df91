"""Multi-label scenes by label sequences, CNN-RNN, from the features of an ImageNet MobileNetV2.

  python -m imgcls_jax.main --config configs/miml_cnn_rnn.py --workdir runs/miml_cnn_rnn \\
    --config.data.root=../shared/data/miml \\
    --config.model.pretrained=../shared/data/weights/mobilenet_v2_1.0_224_folded.npz

Data, features and length of training are those of `configs/miml_multilabel.py`, where its figures stand
beside those of labels learned each on its own. 260 s on one CPU core of a busy machine.
"""

from ml_collections import ConfigDict

PLAIN = "decode | rgb | resize(224, 224) | normalize(0.5, 0.5)"


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:test` shrinks it to seconds."""
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
    config.objective = ConfigDict(
        dict(name="cnn_rnn", embedding_dim=64, hidden=128, dropout=0.2, beams=8, max_labels=0)
    )
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
    config.evals = ConfigDict(dict(val=ConfigDict(dict(evaluator="multilabel", split="val"))))
    if arg == "test":
        small = "decode | rgb | resize(64, 64) | normalize(0.5, 0.5)"
        config.data.update(train_transforms=small, eval_transforms=small)
        config.train.total_epochs = 0.1
        config.train.eval_every_epochs = 0.0
    elif arg:
        raise ValueError(f"this configuration knows the argument 'test' alone, got {arg!r}")
    return config
