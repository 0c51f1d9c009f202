"""What is measured in this process runs as in the service's own."""

from promptreel.bootstrap import prepare_torch

prepare_torch()
