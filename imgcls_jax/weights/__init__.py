"""Files of weights, and their names in each family of networks."""
