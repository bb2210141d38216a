"""Training of networks: the loop, checkpoints, progress, device, average of weights, videos as batches, fast layers."""
