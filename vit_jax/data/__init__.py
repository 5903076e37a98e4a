"""From a named data set to batches: sources, cache, splits, pipelines, augmentation."""
