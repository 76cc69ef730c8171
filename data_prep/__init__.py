"""From raw images to a prepared data set (section 2 of the paper). Knows nothing of networks or training."""
