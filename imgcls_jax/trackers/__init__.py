"""Where a run's numbers and pictures go, a file a place: what `train.loggers` may say."""
