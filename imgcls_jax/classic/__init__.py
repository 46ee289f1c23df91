"""Image classification before deep networks: hand-made features, and classifiers of scikit-learn on them.

`histograms` and `sift` describe images; `coding`, `pyramid` and `fisher` make one vector of many descriptors;
`features` ties them together; `kernels` and `classifiers` classify. Images are uint8 [H, W, C] on the host.
"""
