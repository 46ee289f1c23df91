"""Birds of which the network learns the first 50 of 100 species: the others are found without training.

  python -m imgcls_jax.main --config configs/cub_unseen_classes.py:efficientnet_lite0,finetune,arcface \\
    --config.data.root=FOLDER --config.model.pretrained=efficientnet_lite0.pth

`:linear` trains a head on the frozen ImageNet network, whose embedding stays; `:finetune` the last blocks
too; `:triplet` is beside the softmax. `unseen` is the vote of the 1 and 10 nearest training images of species
never learned, `recall` ranks their test images by likeness (Recall@1), `open_set` tells them from those
learned: AUROC by probability, logit, cosine. In percent, on the development split of `cub_transfer`, 300
images of species learned (`known`), 299 of others, seed 0; MobileNetV2's rates were chosen on those.
                          unseen       recall   known   AUROC
  MobileNetV2, linear     74.9, 84.3   72.6     87.7    73.8, 77.2, 75.1
  MobileNetV2, finetune   80.3, 83.3   74.2     87.0    76.8, 74.2, 75.4
  Lite0, softmax          89.0, 91.6   77.9     92.7    82.2, 83.2, 80.7
  Lite0, triplet          89.3, 91.6   79.9     92.3    82.5, 82.9, 84.6
  Lite0, cosface          91.0, 93.0   85.3     94.3    85.0, 85.8, 83.7
  Lite0, arcface          91.6, 93.3   83.3     94.0    82.8, 85.7, 83.8
MAP@R of Lite0: 49.7, 53.2, 55.9, 55.9; untrained 50.9, recall 82.6. Seed 1: cosface 84.6, softmax 78.3.
"""

from ml_collections import ConfigDict

from imgcls_jax.config import sections

TRUNKS, LOSSES = ("mobilenet_v2", "efficientnet_lite0"), ("softmax", "cosface", "arcface", "triplet")


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:test` shrinks it to a few steps of small images."""
    config, options = sections(arg, trunk=TRUNKS, way=("linear", "finetune"), loss=LOSSES, test=False)
    side = 64 if options.test else 224
    config.model.update(name="mobilenet_v2", variant="mobilenet_v2_folded")
    normalize, frozen, rate = "normalize(0.5, 0.5)", r"backbone/features\.(0\.0|\d|1[0-3])/.*", 0.1
    if options.trunk == "efficientnet_lite0":
        config.model.update(name="efficientnet", variant="efficientnet_lite0", stochastic_depth=0.0)
        normalize = f"normalize({127 / 255}, {128 / 255})"
        frozen, rate = r"backbone/(features\.[0-5]\b|.*/1/).*", 0.03  # BatchNorm keeps its statistics, too
    config.data.update(source="cub200", root="data/CUB_200_2011", known_classes=50)
    config.data.train_transforms = f"decode | resize({side}) | {normalize}"
    config.data.eval_transforms = config.data.train_transforms
    config.objective.update(name="supervised", head="linear")
    if options.loss != "softmax":
        config.objective = {"name": "metric_learning"}  # its default is CosFace
    if options.loss == "arcface":
        config.objective.loss = "arcface"
    if options.loss == "triplet":
        config.objective.update(loss="softmax", triplet_weight=1.0)
        config.data.images_per_class = 4
    config.optimizer.update(name="sgd", momentum=0.9, nesterov=True, weight_decay=1e-4)
    config.optimizer.update(learning_rate=rate, schedule="cosine")
    config.phases.phase_1 = {"total_epochs": 20.0, "groups": (("backbone/.*", None),)}
    config.train.update(batch_size=32, keep_checkpoints=1)
    config.evals.open_set = {"evaluator": "open_set", "split": "test", "train_split": "train"}
    config.evals.recall = {"evaluator": "retrieval", "split": "unknown:test"}
    unseen = {"evaluator": "knn", "split": "unknown:test", "train_split": "unknown:train"}
    config.evals.unseen = unseen | {"k": (1, 10)}
    if options.way == "finetune":
        config.phases.phase_2 = dict(total_epochs=6.0, learning_rate=0.005, warmup_epochs=1.0, clip_norm=1.0)
        crop = f"random_resized_crop({side}, (0.4, 1.0))"
        config.phases.phase_2.train_transforms = f"decode | {crop} | flip | {normalize}"
        config.phases.phase_2.groups = ((frozen, None), ("backbone/.*", 0.5))
    if options.test:
        for phase in config.phases.values():
            phase.total_epochs = 0.05
    return config
