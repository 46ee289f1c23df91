"""python -m imgcls_jax: the same as python -m imgcls_jax.main."""

from imgcls_jax.main import command

if __name__ == "__main__":
    command()
