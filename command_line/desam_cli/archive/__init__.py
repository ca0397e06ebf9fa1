"""``desam segment --recursive``: a tree of volumes is planned, segmented and recorded, a line for each case."""
