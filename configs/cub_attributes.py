"""Birds of species without a single training image, recognized by their attributes: zero-shot learning.

  python -m imgcls_jax.main --config configs/cub_attributes.py:probes --config.data.root=FOLDER \\
    --config.data.signatures=FILE --config.model.pretrained=mobilenet_v2_1.0_224_folded.npz

The first 50 of 100 species are learned. `:probes`, the default, measures ESZSL and DAP on the features of the
frozen network and trains nothing; `:devise`, `:sje` and `:ale` learn a compatibility. `:efficientnet_lite0`
beside them takes the other network, and reads efficientnet_lite0.pth.

Measured on the development split: 300 images of the species learned, 1,200 of the others (means over species;
chance 2 %). U, S, H: among all 100 species; below ESZSL with delta off the learned ones. Mean and deviation of
seeds 0 to 2 for what is trained; DAP and ESZSL draw no more than folds. In %:

               MobileNetV2: unseen   U     S     H     Lite0: unseen   U     S     H
  dap               35.4             1.8   77.3  3.4       42.7       2.3  85.7   4.5
  eszsl             48.7            16.2   88.0  27.4       54.8      18.8  86.3  30.9
    calibrated                      45.7   48.0  46.8                 50.6  55.7  53.0
  devise         39.3 +- 1.7        15.4   78.2  25.7    43.9 +- 1.8  18.7  81.4  30.4
  sje            41.9 +- 0.4        16.2   83.7  27.1    47.8 +- 0.9  22.7  86.1  36.0
  ale            41.6 +- 0.4        16.8   83.2  28.0    47.5 +- 1.0  22.6  84.7  35.7

The rate and its decay are one choice for all three, by species held out of the first 50, as are ESZSL's
penalties, its delta and DAP's C (1; at 10 DAP has 38.4 %). ImageNet has many of these birds: the features have
seen some unseen species. About two minutes of processor time each, most of it reading images (1,004 s and
548 s for :probes and :ale on a busy machine).
"""

from ml_collections import ConfigDict

from imgcls_jax.config import sections


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:test` shrinks it to a few steps of small images."""
    networks = ("mobilenet_v2", "efficientnet_lite0")
    config, options = sections(arg, method=("probes", "devise", "sje", "ale"), network=networks, test=False)
    side = 64 if options.test else 224
    normalize = "normalize(0.5, 0.5)"
    config.model.update(name="mobilenet_v2", variant="mobilenet_v2_folded")
    if options.network == "efficientnet_lite0":
        config.model.update(name="efficientnet", variant="efficientnet_lite0")
        normalize = f"normalize({127 / 255}, {128 / 255})"
    config.data.source = "cub200"
    config.data.root = "data/CUB_200_2011"
    config.data.train_transforms = f"decode | resize({side}) | {normalize}"
    config.data.eval_transforms = config.data.train_transforms
    config.data.known_classes = 50
    config.data.signatures = "data/CUB_200_2011/attributes/class_attribute_labels_continuous.txt"
    config.optimizer.update(name="sgd", momentum=0.9, nesterov=True)
    config.optimizer.learning_rate = 0.01
    config.train.batch_size = 32
    config.train.keep_checkpoints = 1
    splits = {"split": "test", "unseen_split": "unknown:train"}
    if options.method == "probes":
        config.objective.name = "supervised"
        config.train.total_steps = 0
        config.evals.eszsl = {"evaluator": "eszsl", "folds": 2} | splits
        config.evals.dap = {"evaluator": "dap"} | splits
        return config
    config.evals.zero_shot = {"evaluator": "zero_shot"} | splits
    config.objective.update(name="compatibility", loss=options.method, head="linear")
    config.objective.head_fields = {"normalize": True}
    config.optimizer.schedule = "cosine"
    config.optimizer.weight_decay = 0.1
    config.phases.phase_1 = {
        "total_epochs": 0.1 if options.test else 20.0,
        "groups": (("backbone/.*", None),),
    }
    return config
