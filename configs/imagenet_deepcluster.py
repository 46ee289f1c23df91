"""DeepCluster on ImageNet with VGG-16, by the authors' settings; not yet run.

  python -m imgcls_jax.main --config configs/imagenet_deepcluster.py

data/imagenet, or the folder named by `--config.data.root`, holds ImageNet (ILSVRC 2012,
https://image-net.org/download, 144 GB): train/ and val/ with a folder a class. The labels are read by the
evaluation alone. 10,000 clusters for 200 epochs, arXiv:1807.05520. Before every epoch the features of the
training split, 21 GB of float32, are held by the host, and at most twice by one device.

Differences from facebookresearch/deepcluster @2d1927e, none with a known cost: the classifier's SGD has
momentum within an epoch, theirs has none; the classifier keeps an output for every cluster, theirs for those
with members; the epoch's order holds each cluster equally often to within one visit, theirs draws one more of
each and cuts the shuffled list, and takes the last, smaller batch; faiss splits large clusters in place of
empty ones; its PCA and theirs differ in the factor n / (n - 1), which the scaling to norm 1 takes out.
"""

from ml_collections import ConfigDict

from imgcls_jax.config import sections


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `:test` shrinks it to a few steps of small images."""
    config, options = sections(arg, test=False)
    side = 32 if options.test else 224
    front = "normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)) | sobel"
    config.data.source = "image_folder"
    config.data.root = "data/imagenet"
    config.data.train_transforms = f"decode | random_resized_crop({side}) | flip | {front}"
    config.data.eval_transforms = f"decode | resize_short({side * 8 // 7}) | center_crop({side}) | {front}"
    config.data.on_bad_example = "skip"
    config.data.num_threads = 16
    config.model.update(name="vgg", variant="vgg16_bn", top=False)
    config.objective.update(name="deepcluster", num_clusters=10000, hidden=(4096, 4096), reads="map")
    config.objective.dropout_first = False
    config.optimizer.update(name="sgd", momentum=0.9)
    config.optimizer.learning_rate = 0.05
    config.optimizer.weight_decay = 1e-5
    config.optimizer.decay_params = ".*"
    config.train.batch_size = 256
    config.train.total_epochs = 200.0
    config.train.eval_every_epochs = 25.0
    config.train.checkpoint_every_steps = 2000
    config.evals.clusters = {
        "evaluator": "clustering",
        "split": "val",
        "fit_split": "train",
        "silhouette_examples": 0,
    }
    if options.test:
        del config.data.num_threads, config.train.checkpoint_every_steps
        config.objective.update(num_clusters=8, hidden=(32, 32), pca_dim=16)
        config.train.update(batch_size=16, total_epochs=1.0)
    return config
