"""The training loop of all stages and the probe: budget, learning rate, averaged weights, saving and resuming."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from recipes.cutout.muon import optimizers_for

SAVE_EVERY_SECONDS = 120
REPORT_EVERY_STEPS = 50


@dataclass(frozen=True)
class Budget:
    """How long a stage trains, over all its runs together: in steps, in minutes, or until the first of both is used up."""

    steps: int | None = None
    minutes: float | None = None

    def share_used(self, steps: int, seconds: float) -> float:
        """From 0 at the start to 1 at the end."""
        shares = [0.0]
        if self.steps:
            shares.append(steps / self.steps)
        if self.minutes:
            shares.append(seconds / (60 * self.minutes))
        return min(1.0, max(shares))


def learning_rate_share(step: int, share: float) -> float:
    """Linear warm-up over 100 steps, then constant, then linear to zero over the last quarter of the budget."""
    return min(1.0, (step + 1) / 100, max(0.0, (1 - share) / 0.25))


class Loop:
    """Trains `modules` and keeps an exponential average of their weights. It may be stopped at any time.

    Its state is in `folder`: `average.safetensors` (which the next stage uses), `weights.safetensors`, `optimizers.pt` and
    `progress.json`.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        folder: Path,
        *,
        lr: float,
        average_decay: float = 0.998,
        optimizers: Sequence[torch.optim.Optimizer] = (),
    ) -> None:
        """`optimizers` replace those of muon.py."""
        self.modules = dict(modules)
        self.folder = folder
        self.lr = lr
        self.average_decay = average_decay
        self.optimizers = list(optimizers) or optimizers_for(self.modules.values(), lr)
        self.step = 0
        self.seconds = 0.0
        self.averages = {name: copy.deepcopy(module).requires_grad_(False) for name, module in self.modules.items()}
        if (folder / "weights.safetensors").exists():
            self._resume()

    def run(self, loss: Callable[[], Tensor], budget: Budget) -> None:
        """Trains until the budget is used up; `loss` returns a scalar. Raises FloatingPointError if it is not finite."""
        last_save = time.monotonic()
        worked = _seconds_worked(self.modules.values())
        before = self.seconds - worked()
        losses: list[float] = []
        while (share := budget.share_used(self.step, self.seconds)) < 1:
            rate = self.lr * learning_rate_share(self.step, share)
            losses.append(self._step(loss(), rate))
            self.seconds = before + worked()
            if self.step % REPORT_EVERY_STEPS == 0:
                mean = sum(losses) / len(losses)
                print(f"{self.folder.name} step {self.step} {share:.1%} loss {mean:.4f} {self.seconds:.0f} s", flush=True)
                losses.clear()
            if time.monotonic() - last_save > SAVE_EVERY_SECONDS:
                self.save()
                last_save = time.monotonic()
        self.save()

    def _step(self, loss: Tensor, rate: float) -> float:
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss.item()} at step {self.step}; call again to continue from the last saved state"
            )
        loss.backward()
        weights = [w for module in self.modules.values() for w in module.parameters() if w.requires_grad]
        nn.utils.clip_grad_norm_(weights, 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        decay = min(self.average_decay, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            for name, module in self.modules.items():
                averages = [average.detach() for average in self.averages[name].parameters()]
                torch._foreach_lerp_(averages, [weight.detach() for weight in module.parameters()], 1 - decay)
        return float(loss.detach())

    def save(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        _replace(self.folder / "weights.safetensors", lambda path: save_weights(self.modules, path))
        _replace(self.folder / "average.safetensors", lambda path: save_weights(self.averages, path))
        states = [optimizer.state_dict() for optimizer in self.optimizers]
        _replace(self.folder / "optimizers.pt", lambda path: torch.save(states, path))
        progress = json.dumps({"step": self.step, "seconds": self.seconds})
        _replace(self.folder / "progress.json", lambda path: path.write_text(progress))

    def _resume(self) -> None:
        """Continues an earlier run.

        Weights from progress.py come without the optimizers' states, which recover soon. Weights from package.unpack come
        without progress too, so they start at step 0.
        """
        load_into(self.modules, self.folder / "weights.safetensors")
        load_into(self.averages, self.folder / "average.safetensors")
        if not (self.folder / "progress.json").exists():
            return
        if (self.folder / "optimizers.pt").exists():
            states = torch.load(self.folder / "optimizers.pt", weights_only=True)
            for optimizer, state in zip(self.optimizers, states, strict=True):
                optimizer.load_state_dict(state)
        progress = json.loads((self.folder / "progress.json").read_text())
        self.step, self.seconds = progress["step"], progress["seconds"]


def _seconds_worked(modules: Iterable[nn.Module]) -> Callable[[], float]:
    """The training's clock. On a CPU it counts computing time, so it stands while other processes have the cores."""
    on_cpu = all(weight.device.type == "cpu" for module in modules for weight in module.parameters())
    return (lambda: time.process_time() / torch.get_num_threads()) if on_cpu else time.monotonic


def load_into(modules: Mapping[str, nn.Module], path: Path) -> None:
    """Loads what `save_weights` wrote into modules of the same names and shapes."""
    tensors = load_file(path)
    for name, module in modules.items():
        prefix = f"{name}/"
        module.load_state_dict({key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)})


def save_weights(modules: Mapping[str, nn.Module], path: Path) -> None:
    """Writes modules to one file. Each weight's name begins with its module's."""
    tensors = {
        f"{name}/{key}": value.detach().contiguous().cpu()
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }
    save_file(tensors, path)


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Writes to a file beside `path`, then renames it. If stopped in the middle, the old file stays whole."""
    beside = path.with_name(path.name + ".part")
    write(beside)
    beside.replace(path)
