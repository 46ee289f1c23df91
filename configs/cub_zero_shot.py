"""The benchmark of zero-shot learning on CUB-200-2011: 150 species learned, 50 never seen, fixed features.

  python -m imgcls_jax.main --config configs/cub_zero_shot.py --config.data.root=FOLDER \\
    --config.data.known_classes=trainvalclasses.txt --config.model.pretrained=resnet101.pth

`:probes`, the default, measures ESZSL and DAP on the features of an ImageNet ResNet-101; `:devise`, `:sje`
and `:ale` learn a compatibility on them. trainvalclasses.txt names the species learned, one a line; it comes
with the features of Xian et al. (arXiv:1707.00600), whose "proposed split" it is.

Published with that split and ResNet-101, accuracy on the unseen species: ALE 54.9 %, ESZSL 53.9 %, SJE
53.9 %, DeViSE 52.0 %, DAP 40.0 %; ESZSL among all species U 12.6, S 63.8, H 21.0. Not measured here, for want
of the split and the weights; `configs/cub_attributes.py` is the same in small, with figures.

Differences: the official test part is tested, of learned and unseen species alike. The benchmark holds out a
fifth of the learned species' images, and tests all images of the unseen ones. The rate and the weight decay
are those of the small set.
"""

from ml_collections import ConfigDict

from imgcls_jax.config import sections


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:test` shrinks it to small images and learns the first 150 species."""
    config, options = sections(arg, method=("probes", "devise", "sje", "ale"), test=False)
    side = 64 if options.test else 224
    line = f"decode | resize({side}) | normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))"
    config.data.source = "cub200"
    config.data.root = "data/CUB_200_2011"
    config.data.train_transforms = line
    config.data.eval_transforms = line
    config.data.known_classes = 150 if options.test else "data/CUB_200_2011/trainvalclasses.txt"
    config.data.signatures = "data/CUB_200_2011/attributes/class_attribute_labels_continuous.txt"
    config.model.update(name="resnet", variant="resnet101")
    config.optimizer.update(name="sgd", momentum=0.9, nesterov=True)
    config.optimizer.learning_rate = 0.01
    config.train.batch_size = 64
    config.train.keep_checkpoints = 1
    if options.method == "probes":
        config.objective.name = "supervised"
        config.train.total_steps = 0
        config.evals.eszsl = {"evaluator": "eszsl", "split": "test", "folds": 4}
        config.evals.dap = {"evaluator": "dap", "split": "test"}
        return config
    config.evals.zero_shot = {"evaluator": "zero_shot", "split": "test", "unseen_split": "unknown:{split}"}
    config.objective.update(name="compatibility", loss=options.method, head="linear")
    config.objective.head_fields = {"normalize": True}
    config.optimizer.schedule = "cosine"
    config.optimizer.weight_decay = 0.1
    config.phases.phase_1 = {
        "total_epochs": 0.1 if options.test else 20.0,
        "groups": (("backbone/.*", None),),
    }
    return config
