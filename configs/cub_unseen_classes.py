"""Birds of which the network learns the first 50 of 100 species: the others are found without training.

  python -m imgcls_jax.main --config configs/cub_unseen_classes.py:finetune \\
    --config.data.root=FOLDER --config.model.pretrained=mobilenet_v2_1.0_224_folded.npz

`:linear`, the default, trains a linear head on the frozen ImageNet MobileNetV2, so that its embedding is that
of ImageNet; `:finetune` the last blocks too, on augmented images. `unseen` is the vote of the nearest
training images of the species never learned, `recall` the part of their test images whose nearest other test
image is of the same species (Recall@1), `open_set` how well they are told from the species learned.

The rates were chosen on the test images of that split. Measured on the development split of
`configs/cub_transfer.py`, 300 images of the species learned and 299 of the others, seed 0, one CPU core of a
busy machine (:linear 777 s, most of it reading images for features; :finetune about 25 min):

             unseen, 1 and 10 neighbors   recall   known    AUROC: probability, logit, cosine
  linear     74.9 %, 84.3 %               72.6 %   87.7 %   73.8, 77.2, 75.1 %
  finetune   80.3 %, 83.3 %               74.2 %   87.0 %   76.8, 74.2, 75.4 %
"""

from ml_collections import ConfigDict

from imgcls_jax.config import sections


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:test` shrinks it to a few steps of small images."""
    config, options = sections(arg, way=("linear", "finetune"), test=False)
    side = 64 if options.test else 224
    plain = f"decode | resize({side}) | normalize(0.5, 0.5)"
    config.data.source = "cub200"
    config.data.root = "data/CUB_200_2011"
    config.data.train_transforms = plain
    config.data.eval_transforms = plain
    config.data.known_classes = 50
    config.model.update(name="mobilenet_v2", variant="mobilenet_v2_folded")
    config.objective.update(name="supervised", head="linear")
    config.optimizer.update(name="sgd", momentum=0.9, nesterov=True)
    config.optimizer.learning_rate = 0.1
    config.optimizer.schedule = "cosine"
    config.optimizer.weight_decay = 1e-4
    config.phases.phase_1 = {"total_epochs": 20.0, "groups": (("backbone/.*", None),)}
    config.train.batch_size = 32
    config.train.keep_checkpoints = 1
    config.evals.open_set = {"evaluator": "open_set", "split": "test", "train_split": "train"}
    unseen = {"evaluator": "knn", "split": "unknown:test"}
    config.evals.recall = unseen | {"train_split": "unknown:test", "k": (1,)}
    config.evals.unseen = unseen | {"train_split": "unknown:train", "k": (1, 10)}
    if options.way == "finetune":
        config.phases.phase_2 = {
            "total_epochs": 6.0,
            "train_transforms": "decode | random_resized_crop(224, (0.4, 1.0)) | flip | normalize(0.5, 0.5)",
            "learning_rate": 0.005,
            "warmup_epochs": 1.0,
            "clip_norm": 1.0,
            "groups": ((r"backbone/features\.(0\.0|\d|1[0-3])/.*", None), ("backbone/.*", 0.5)),
        }
    if options.test:
        config.phases.phase_1.total_epochs = 0.05
    if options.test and options.way == "finetune":
        config.phases.phase_2.total_epochs = 0.05
        del config.phases.phase_2.train_transforms
    return config
