"""What both trainings share: the loop, checkpoints, the device, fast convolutions on a CPU."""
