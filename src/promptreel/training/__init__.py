"""A training: an order in, a model's files out.

Importing generation sets the variables that torch reads on import; no module here may import torch before that.
"""

import promptreel.generation as _before_torch  # noqa: F401
