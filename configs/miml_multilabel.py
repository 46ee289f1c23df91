"""Multi-label scenes, each label on its own: desert, mountains, sea, sunset, trees, from the features of an
ImageNet MobileNetV2.

  python -m imgcls_jax.main --config configs/miml_multilabel.py \\
    --config.model.pretrained=mobilenet_v2_1.0_224_folded.npz

data/miml, or the folder named by `--config.data.root`, holds images/ and labels.csv (filename, split, a
column of 0 and 1 a label): 1,280 of the 2,000 scenes of Zhou and Zhang
(http://www.lamda.nju.edu.cn/data_MIMLimage.ashx) to train on, 320 of the development split. `:focal` has the
focal loss, `:balanced` weights against the labels' rarity. `configs/miml_cnn_rnn.py` learns the same images
by label sequences.

Measured on the 320 images of the development split, one CPU core of a busy machine, some 160 s each, seed 0:

              mAP     OF1     CF1     all labels of an image right
  plain       94.0 %  85.8 %  86.1 %  71.9 %
  focal       93.2 %  85.1 %  85.5 %  70.6 %
  balanced    93.9 %  85.3 %  85.7 %  67.8 %
  CNN-RNN     93.6 %  86.2 %  86.4 %  75.3 %
"""

from ml_collections import ConfigDict

from imgcls_jax.config import sections


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:test` shrinks it to a few steps of small images."""
    config, options = sections(arg, loss=("plain", "focal", "balanced"), test=False)
    plain = "decode | rgb | resize(224, 224) | normalize(0.5, 0.5)"
    config.data.source = "label_table"
    config.data.root = "data/miml"
    config.data.train_transforms = plain
    config.data.eval_transforms = plain
    config.model.update(name="mobilenet_v2", variant="mobilenet_v2_folded")
    config.objective.update(name="multilabel", dropout=0.2)
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 0.001
    config.optimizer.schedule = "cosine"
    config.optimizer.weight_decay = 1e-4
    config.optimizer.groups = (("backbone/.*", None),)  # frozen: the features are computed once
    config.train.batch_size = 32
    config.train.total_epochs = 40.0
    config.train.eval_every_epochs = 20.0
    config.train.keep_checkpoints = 1
    config.evals.fitted = {"evaluator": "multilabel", "split": "val", "fit_split": "train"}
    config.evals.val = {"evaluator": "multilabel", "split": "val"}
    if options.loss == "focal":
        config.objective.update(loss="focal", alpha=0.5)
    elif options.loss == "balanced":
        config.objective.positive_weights = "balanced"
    if options.test:
        small = "decode | rgb | resize(64, 64) | normalize(0.5, 0.5)"
        config.data.update(train_transforms=small, eval_transforms=small)
        del config.train.eval_every_epochs
        config.train.total_epochs = 0.1
    return config
