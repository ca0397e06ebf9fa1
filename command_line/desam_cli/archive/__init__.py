"""``desam segment --recursive``: a tree of volumes is planned (``tree``), segmented and recorded, a line for each case."""
