"""Does it generalise? The paper's experiments on a data set of the user's own, with baselines on the same features."""
