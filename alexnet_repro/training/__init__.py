"""Section 5: the update rule, the learning-rate schedule, and the loop."""
