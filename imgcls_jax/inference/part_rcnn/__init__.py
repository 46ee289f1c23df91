"""Part R-CNN on frozen networks: regions found, described and classified.

Zhang et al. 2014, "Part-based R-CNNs for Fine-grained Category Detection", arXiv:1407.3867. `trunk` describes
regions, `detectors` and `geometry` find them, `fit` makes a `model`, which `stored` keeps and `predict` uses.
"""
