"""What pyproject.toml cannot say: the folder `configs` of a checkout is `imgcls_jax/configs` in a wheel."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["imgcls_jax*"]), "imgcls_jax.configs"],
    package_dir={"imgcls_jax.configs": "configs"},
)
