"""Commands, a file each: python -m imgcls_jax.tools.NAME."""
