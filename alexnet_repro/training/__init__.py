"""Section 5: the update rule, the learning-rate schedule, the loop, and checkpoints."""
