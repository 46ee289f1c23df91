"""A trained network put to use: loaded, evaluated, exported, indexed."""
