"""The configuration: read, resolved, compared."""
