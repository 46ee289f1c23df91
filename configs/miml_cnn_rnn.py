"""Multi-label scenes by label sequences, CNN-RNN, from the features of an ImageNet MobileNetV2.

  python -m imgcls_jax.main --config configs/miml_cnn_rnn.py \\
    --config.model.pretrained=mobilenet_v2_1.0_224_folded.npz

Data, features and length of training are those of `configs/miml_multilabel.py`, where its figures stand
beside those of labels learned each on its own. 260 s on one CPU core of a busy machine.
"""

from ml_collections import ConfigDict

from imgcls_jax.config import sections


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:test` shrinks it to a few steps of small images."""
    config, options = sections(arg, test=False)
    plain = "decode | rgb | resize(224, 224) | normalize(0.5, 0.5)"
    config.data.source = "label_table"
    config.data.root = "data/miml"
    config.data.train_transforms = plain
    config.data.eval_transforms = plain
    config.model.update(name="mobilenet_v2", variant="mobilenet_v2_folded")
    config.objective.update(name="cnn_rnn", hidden=128, beams=8, dropout=0.2)
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 0.001
    config.optimizer.schedule = "cosine"
    config.optimizer.weight_decay = 1e-4
    config.optimizer.groups = (("backbone/.*", None),)  # frozen: the features are computed once
    config.train.batch_size = 32
    config.train.total_epochs = 40.0
    config.train.eval_every_epochs = 20.0
    config.train.keep_checkpoints = 1
    config.evals.val = {"evaluator": "multilabel", "split": "val"}
    if options.test:
        small = "decode | rgb | resize(64, 64) | normalize(0.5, 0.5)"
        config.data.update(train_transforms=small, eval_transforms=small)
        del config.train.eval_every_epochs
        config.train.total_epochs = 0.1
    return config
