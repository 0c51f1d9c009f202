"""The Wan family (Wan Team 2025): flow transformers over the latents of a causal video VAE, with UMT5's text.

One class for all of them. What a checkpoint has decides what it does: Wan 2.2's A14B has two experts, of which the timestep
chooses one. I2V models get a picture's latents as extra channels; those of Wan 2.1 also get its CLIP tokens. TI2V gives each
token a timestep of its own, 0 for those of a given first frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from promptreel.errors import CheckpointUnusable, GenerationFailed
from promptreel.generation.add_ons import EmbeddingFile, LoraFile, Variants, share_weights
from promptreel.generation.compute import ROWS_OF_A_CALL, ComputeThreads
from promptreel.generation.devices import Device
from promptreel.generation.families.family import Conditioning, EncodedInit, Forward, OnPart, Prepared, Rows, go_on
from promptreel.generation.families.guidance import classifier_free, is_guided
from promptreel.generation.families.turns import Turns
from promptreel.generation.families.wan_lora import add_wan_loras
from promptreel.generation.families.wan_text import WanTokenizer
from promptreel.generation.families.wan_vae import WanVae
from promptreel.generation.finite import Stage, check_finite
from promptreel.generation.latent_previews import fit_colors
from promptreel.generation.lora import name_variant
from promptreel.generation.model_space import ModelSpace, vp_scales
from promptreel.generation.samplers.sampler import Call, Start
from promptreel.jobs.params import VideoParams
from promptreel.models.families import WAN, generated_size
from promptreel.models.registry import ModelCard
from promptreel.models.wan.configs import TIME_SCALE

HIGH, LOW = "transformer", "transformer_2"
"""The experts, by component: for high noise, and for low noise. Most models have the first alone."""
MOST_VARIANTS = 3
"""Copies kept of one model. The LoRAs of a 14B have a gigabyte."""
SMALL_PIXELS = 832 * 480
SHIFTS_BY_SIZE = {True: 3.0, False: 5.0}
"""The shift of noise levels that Wan's authors use: for clips of up to SMALL_PIXELS, and for larger ones."""


@dataclass(frozen=True)
class LoadedWan:
    """A Wan checkpoint on a device; see LoadedModel.

    `spaces`: by whether the clip is small; two different ones only if the card's `flow_shift` is `by_size`. `networks` by
    component.
    `read_picture`: turns a frame into CLIP's input; None if the model has no image encoder.
    """

    card: ModelCard
    model_hash: str
    device: Device
    compute: ComputeThreads
    space: ModelSpace
    spaces: Mapping[bool, ModelSpace]
    networks: Turns
    tokenizer: WanTokenizer
    vae: WanVae
    boundary_ratio: float | None
    expands_timesteps: bool
    takes_picture: bool
    read_picture: Callable[[Tensor], Tensor] | None
    variant: str = ""
    variants: Variants = field(default_factory=partial(Variants, MOST_VARIANTS), repr=False, compare=False)

    def with_loras(self, loras: Sequence[LoraFile]) -> LoadedWan:
        """See LoadedModel."""
        return self.variants.get(name_variant(loras), lambda variant: self._make_variant(variant, loras))

    def _make_variant(self, variant: str, loras: Sequence[LoraFile]) -> LoadedWan:
        def change() -> Turns:
            experts = {name: share_weights(expert) for name, expert in self.networks.find(HIGH, LOW).items()}
            changed = add_wan_loras(experts, loras)
            return self.networks.with_changed({name: experts[name] for name in changed})

        # Where networks take turns, none may be there while it is copied.
        networks = change() if self.networks.together else self.compute.run(change)
        return replace(self, networks=networks, variant=variant, variants=Variants())

    def with_embeddings(self, embeddings: Sequence[EmbeddingFile]) -> LoadedWan:
        """See LoadedModel."""
        raise CheckpointUnusable(
            f"The embedding {embeddings[0].model_id!r} cannot be used with {self.card.model_id!r}: it is for Stable "
            "Diffusion's text encoder."
        )

    def fit_to(self, params: VideoParams) -> LoadedWan:
        """See LoadedModel."""
        width, height = generated_size(self.card, params)
        return replace(self, space=self.spaces[width * height <= SMALL_PIXELS])

    def encode_text(self, text: str) -> Tensor:
        """Embeddings [1, TEXT_TOKENS, width] on the device, zeros after the end of the text."""
        ids = self.tokenizer.split(text)
        tokens, mask = self.tokenizer.pad(ids)

        def encode() -> Tensor:
            encoder = self.networks.take("text_encoder")
            hidden: Tensor = encoder(tokens.to(self.device.name), mask.to(self.device.name)).last_hidden_state
            return torch.cat([hidden[:, : len(ids)], hidden.new_zeros(1, hidden.shape[1] - len(ids), hidden.shape[2])], dim=1)

        return self._check(self._run(encode), "encoding the prompt")

    def encode_init(self, frames: Tensor, on_part: OnPart = go_on) -> EncodedInit:
        """See LoadedModel. An I2V model begins with the first frame; so does TI2V, if the clip stands still."""
        if self.takes_picture:
            return EncodedInit(conditioning=self._encode_picture(frames, on_part))
        if self.expands_timesteps and bool((frames == frames[:1]).all()):
            return EncodedInit(conditioning={"first": self._encode(frames[:1], on_part)})
        return EncodedInit(self._encode(frames, on_part))

    def _encode_picture(self, frames: Tensor, on_part: OnPart) -> dict[str, Tensor]:
        """`picture` [1, 4 + C, T, h, w]: a mask of the given frames, then the latents of the picture followed by gray frames.
        `tokens` [1, tokens, width]: CLIP's, if the model reads them."""
        gray = torch.zeros(1, 3, len(frames), *frames.shape[1:3])
        gray[:, :, :1] = _to_numbers(frames[:1])
        latents = self._check(self._run_whole(lambda: self.vae.encode(gray, on_part)), "encoding the init")
        given = torch.zeros(1, TIME_SCALE, *latents.shape[2:])
        given[:, :, 0] = 1
        told = {"picture": torch.cat([given, latents], dim=1)}
        if self.read_picture is not None:
            pixels = self.read_picture(frames[0])
            told["tokens"] = self._check(self._run(lambda: self._read_tokens(pixels)), "encoding the init")
        return told

    def _read_tokens(self, pixels: Tensor) -> Tensor:
        encoder = self.networks.take("image_encoder")
        tokens: Tensor = encoder(pixels.to(self.device.name), output_hidden_states=True).hidden_states[-2]
        return tokens.cpu()

    def prepare(self, params: VideoParams, init: EncodedInit | None = None) -> Prepared:
        """See LoadedModel. The conditioning is `text` [B, tokens, width], and what the init adds."""
        if self.takes_picture and init is None:
            raise GenerationFailed(
                f"the model {self.card.model_id!r} makes videos from a picture: send one as init_image or input_reference"
            )
        texts = [params.negative_prompt, params.prompt] if is_guided(params) else [params.prompt]
        tensors = {"text": torch.cat([self.encode_text(each) for each in texts])}
        latents = None
        if init is not None:
            latents = init.latents
            tensors |= {name: each.expand(len(texts), *each.shape[1:]) for name, each in init.conditioning.items()}
        generator = torch.Generator().manual_seed(params.seed)
        shape = self.vae.latent_shape(params.num_frames, *generated_size(self.card, params))
        start = Start(
            torch.randn(shape, generator=generator),
            params.num_inference_steps,
            generator,
            latents,
            strength=1.0 if latents is None else params.strength,
            guided=is_guided(params),
        )
        return Prepared(start, Conditioning(tensors))

    def ask(self, call: Call, conditioning: Conditioning) -> Rows:
        """See LoadedModel."""
        rows = conditioning if call.guided else conditioning.select(slice(-1, None))
        latents, timestep = self.space.to_model(call.latents, call.timestep)
        latents = latents.expand(len(rows), -1, -1, -1, -1)
        timestep = timestep.float()
        if (first := rows.tensors.get("first")) is not None:
            latents = torch.cat([first, latents[:, :, 1:]], dim=2)
        timesteps = self._expand(timestep, latents, holds_first=first is not None)
        return Rows(self, latents, timesteps, rows, remaining=call.total - call.number, expert=self._choose(timestep))

    def _expand(self, timestep: Tensor, latents: Tensor, *, holds_first: bool) -> Tensor:
        """Timesteps [B], or [B, tokens] where each token has its own."""
        if not self.expands_timesteps:
            return timestep.expand(len(latents))
        frames, height, width = latents.shape[2:]
        tokens = timestep.repeat(frames, height // 2, width // 2)
        if holds_first:
            tokens[0] = 0
        return tokens.flatten().expand(len(latents), -1)

    def _choose(self, timestep: Tensor) -> str:
        """The expert for a timestep on the network's scale."""
        if self.boundary_ratio is None or float(timestep) >= self.boundary_ratio * len(self.space.sigmas):
            return HIGH
        return LOW

    def predict(self, rows: Rows, forward: Forward, on_part: Callable[[float], None]) -> Tensor:
        """See LoadedModel."""
        on_part(0.0)
        return forward(rows)

    def combine(self, output: Tensor, call: Call, conditioning: Conditioning, guidance_scale: float) -> Tensor:
        """See LoadedModel. The prediction for a given first frame is replaced by the frame itself, so the finished clip keeps
        it.
        """
        _, timestep = self.space.to_model(call.latents, call.timestep)
        guided = classifier_free(output, self._scale(self._choose(timestep), guidance_scale))
        prediction = self.space.from_model(guided, call.latents, call.timestep)
        if (first := conditioning.tensors.get("first")) is None:
            return prediction
        signal, noise = vp_scales(self.space.sigma_at(call.timestep))
        held = (signal * call.latents[:, :, :1] - first[-1:]) / noise
        return torch.cat([held, prediction[:, :, 1:]], dim=2)

    def _scale(self, expert: str, guidance_scale: float) -> float:
        """The expert's guidance. The card's low-noise guidance applies only if the request uses the default guidance: the two
        were published as a pair.
        """
        default = self.card.default_guidance or WAN.guidance_scale
        low = self.card.low_noise_guidance
        return low if expert == LOW and low is not None and guidance_scale == default else guidance_scale

    def forward(self, rows: Rows) -> Tensor:
        """See LoadedModel."""
        return self._run(lambda: self._forward(rows))

    def _forward(self, rows: Rows) -> Tensor:
        place, given = (self.device.name, self.device.dtype), rows.conditioning.tensors
        latents = torch.cat([rows.latents, given["picture"]], dim=1) if "picture" in given else rows.latents
        output: Tensor = self.networks.take(rows.expert)(
            latents.to(*place),
            rows.timesteps.to(self.device.name),
            given["text"].to(*place),
            encoder_hidden_states_image=given["tokens"].to(*place) if "tokens" in given else None,
            return_dict=False,
        )[0]
        return output.float().cpu()

    def example(self) -> Rows:
        """See LoadedModel."""
        card = self.card
        frames = torch.zeros(card.max_frames, card.native_height or 256, card.native_width or 256, 3, dtype=torch.uint8)
        shape = self.vae.latent_shape(card.max_frames, frames.shape[2], frames.shape[1])
        tensors = {"text": self.encode_text("")} | (self._encode_picture(frames, go_on) if self.takes_picture else {})
        tensors = {name: each.expand(ROWS_OF_A_CALL, *each.shape[1:]) for name, each in tensors.items()}
        latents = torch.zeros(shape).expand(ROWS_OF_A_CALL, -1, -1, -1, -1)
        timesteps = self._expand(torch.tensor(500.0), latents, holds_first=False)
        return Rows(self, latents, timesteps, Conditioning(tensors), remaining=1, expert=HIGH)

    @cached_property
    def colors(self) -> Tensor:
        """See LoadedModel. Fitted to pictures, each a clip of one frame."""
        return fit_colors(lambda pictures: torch.cat([self._encode(picture[None]) for picture in pictures], dim=2))

    def decode(self, latents: Tensor, generator: torch.Generator, on_part: OnPart = go_on) -> Iterator[Tensor]:  # noqa: ARG002
        """See LoadedModel. This VAE draws no noise."""
        for part in self._run_whole(lambda: self.vae.decode(latents, on_part)):
            frames = self._check(part[0], "decoding")
            yield ((frames + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0)

    def _encode(self, frames: Tensor, on_part: OnPart = go_on) -> Tensor:
        latents: Tensor = self._run_whole(lambda: self.vae.encode(_to_numbers(frames), on_part))
        return self._check(latents, "encoding the init")

    def _run_whole(self, work: Callable[[], Any]) -> Any:
        """Runs the VAE part by part, so that others compute in between. If the networks take turns on the GPU, runs all parts
        at once, or networks would be swapped for each.
        """
        if self.networks.together:
            return work()

        def run() -> Any:
            made = work()
            return made if isinstance(made, Tensor) else list(made)

        return self.compute.run(run)

    def _check(self, numbers: Tensor, stage: Stage) -> Tensor:
        return check_finite(numbers, stage, model_id=self.card.model_id, device=self.device)

    def _run(self, work: Callable[[], Tensor]) -> Tensor:
        return self.compute.run(torch.inference_mode()(work))


def _to_numbers(frames: Tensor) -> Tensor:
    """Frames, uint8 [T, H, W, 3], as a VAE takes them: float32 from -1 to 1, [1, 3, T, H, W]."""
    return (frames.float() / 255 * 2 - 1).permute(3, 0, 1, 2)[None]
