"""What is measured in this process runs as in the service's own."""

import promptreel.generation  # noqa: F401 - sets what torch reads when it is imported
