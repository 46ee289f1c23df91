"""The configuration: written, resolved, compared.

A file of `configs/` needs one name of it:

    from imgcls_jax.config import sections
"""

from imgcls_jax.config.written import sections

__all__ = ["sections"]
