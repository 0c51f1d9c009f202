"""The AnimateDiff family: a Stable Diffusion checkpoint whose UNet has motion modules (Guo et al. 2023, "AnimateDiff")."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from diffusers import UNetMotionModel
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTinyOutput
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from torch import Tensor

from promptreel.generation.add_ons import EmbeddingFile, LoraFile, Variants, share_weights
from promptreel.generation.compute import ROWS_OF_A_CALL, ComputeThreads
from promptreel.generation.devices import Device
from promptreel.generation.embeddings import add_embeddings
from promptreel.generation.families.family import Conditioning, EncodedInit, Forward, Loadable, OnPart, Prepared, Rows, go_on
from promptreel.generation.families.guidance import classifier_free, is_guided
from promptreel.generation.families.windows import draw_noise, predict_in_windows
from promptreel.generation.finite import Stage, check_finite
from promptreel.generation.latent_previews import fit_colors
from promptreel.generation.loading import load_network, load_tokenizer, make_space
from promptreel.generation.lora import add_loras, name_variant
from promptreel.generation.model_space import ModelSpace
from promptreel.generation.prompts import PromptEncoder
from promptreel.generation.samplers.sampler import Call, Start
from promptreel.jobs.params import VideoParams
from promptreel.models.composition import ModelSet
from promptreel.models.families import generated_size
from promptreel.models.gate import Checkpoint, check_checkpoint, check_weights, hash_checkpoint
from promptreel.models.registry import ModelCard

# A VAE's activations are the largest tensors of all, so it gets a few frames at a time. On a CPU the number of parts is even,
# because there are two row threads. How frames are divided depends only on their number and size.
_PIXELS_AT_ONCE = {"cpu": 20 * 96 * 96, "cuda": 16 * 512 * 512}
_PARTS_BY = {"cpu": ROWS_OF_A_CALL, "cuda": 1}


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A checkpoint on a device: UNet with motion modules, text encoder and VAE.

    They run in the row threads of `compute`, whichever thread asks.
    """

    card: ModelCard
    model_hash: str
    device: Device
    compute: ComputeThreads
    space: ModelSpace
    unet: UNetMotionModel
    prompts: PromptEncoder
    vae: Any
    variant: str = ""
    variants: Variants = field(default_factory=Variants, repr=False, compare=False)

    def with_loras(self, loras: Sequence[LoraFile]) -> LoadedCheckpoint:
        """See LoadedModel."""
        return self.variants.get(name_variant(loras), lambda variant: self._make_variant(variant, loras))

    def _make_variant(self, variant: str, loras: Sequence[LoraFile]) -> LoadedCheckpoint:
        unet, text_encoder = share_weights(self.unet), share_weights(self.prompts.text_encoder)
        add_loras(unet, text_encoder, loras)
        prompts = PromptEncoder(self.prompts.tokenizer, text_encoder)
        return replace(self, unet=unet, prompts=prompts, variant=variant, variants=Variants())

    def with_embeddings(self, embeddings: Sequence[EmbeddingFile]) -> LoadedCheckpoint:
        """See LoadedModel. The UNet is the same, so that rows with embeddings and without share forwards."""
        name = "+".join(f"{each.sha256}={each.words}" for each in embeddings)
        return self.variants.get(name, lambda _name: self._add_words(embeddings))

    def _add_words(self, embeddings: Sequence[EmbeddingFile]) -> LoadedCheckpoint:
        text_encoder, words = add_embeddings(self.prompts.text_encoder, embeddings)
        return replace(self, prompts=PromptEncoder(self.prompts.tokenizer, text_encoder, words), variants=Variants())

    def encode_text(self, text: str, clip_skip: int = 0, chunks: int = 1) -> Tensor:
        """Embeddings [1, tokens, width] of one text, on the device. A long text takes several chunks; `chunks` is their least
        number, because texts of one forward must be equally long.

        Raises GenerationFailed if the text encoder has fewer layers than `clip_skip`.
        """
        embeddings = self._run(lambda: self.prompts.encode(text, clip_skip=clip_skip, chunks=chunks))
        return self._check(embeddings, "encoding the prompt")

    def count_chunks(self, text: str) -> int:
        """How many chunks the text takes."""
        return self.prompts.count_chunks(text)

    @property
    def pixels_a_latent(self) -> int:
        """Pixels for each latent, along one side."""
        return _downscaling(self.vae)

    def latent_shape(self, num_frames: int, width: int, height: int) -> tuple[int, int, int, int, int]:
        """Shape [1, C, T, h, w] of the latents of a clip of `width` x `height` pixels."""
        scale = self.pixels_a_latent
        return (1, self.unet.config.in_channels, num_frames, height // scale, width // scale)

    def fit_to(self, params: VideoParams) -> LoadedCheckpoint:  # noqa: ARG002
        """See LoadedModel. All clips use the same ModelSpace."""
        return self

    def encode_init(self, frames: Tensor, on_part: OnPart = go_on) -> EncodedInit:
        """See LoadedModel."""
        return EncodedInit(self.encode(frames, on_part))

    def prepare(self, params: VideoParams, init: EncodedInit | None = None) -> Prepared:
        """See LoadedModel. The conditioning is `text` [B, tokens, width], of the negative prompt, if there is guidance, and the
        prompt. Each text is encoded alone, so that neither changes the other's bits."""
        texts = [params.negative_prompt, params.prompt] if is_guided(params) else [params.prompt]
        chunks = max(map(self.count_chunks, texts))
        text = torch.cat([self.encode_text(each, params.clip_skip, chunks) for each in texts])
        generator = torch.Generator().manual_seed(params.seed)
        shape = self.latent_shape(params.num_frames, *generated_size(self.card, params))
        start = Start(
            draw_noise(shape, self.card.max_frames, generator),
            params.num_inference_steps,
            generator,
            init.latents if init else None,
            strength=1.0 if init is None else params.strength,
            guided=is_guided(params),
        )
        return Prepared(start, Conditioning({"text": text}))

    def ask(self, call: Call, conditioning: Conditioning) -> Rows:
        """See LoadedModel."""
        rows = conditioning if call.guided else conditioning.select(slice(-1, None))
        latents, timestep = self.space.to_model(call.latents, call.timestep)
        return Rows(
            self,
            latents.expand(len(rows), -1, -1, -1, -1),
            timestep.float().expand(len(rows)),
            rows,
            remaining=call.total - call.number,
        )

    def predict(self, rows: Rows, forward: Forward, on_part: Callable[[float], None]) -> Tensor:
        """See LoadedModel."""
        return predict_in_windows(rows, forward, on_part)

    def combine(self, output: Tensor, call: Call, conditioning: Conditioning, guidance_scale: float) -> Tensor:  # noqa: ARG002
        """See LoadedModel."""
        return self.space.from_model(classifier_free(output, guidance_scale), call.latents, call.timestep)

    def forward(self, rows: Rows) -> Tensor:
        """See LoadedModel."""
        return self._run(lambda: self._forward(rows))

    def _forward(self, rows: Rows) -> Tensor:
        device = self.device
        text = rows.conditioning.tensors["text"].to(device.name, device.dtype)
        output: Tensor = self.unet(
            rows.latents.to(device.name, device.dtype),
            rows.timesteps.to(device.name),
            encoder_hidden_states=text.repeat_interleave(rows.latents.shape[2], 0),
            return_dict=False,
        )[0]
        return output.float().cpu()

    def example(self) -> Rows:
        """See LoadedModel."""
        card = self.card
        shape = self.latent_shape(card.max_frames, card.native_width or 256, card.native_height or 256)
        latents = torch.zeros(shape).expand(ROWS_OF_A_CALL, -1, -1, -1, -1)
        text = self.encode_text("").expand(ROWS_OF_A_CALL, -1, -1)
        return Rows(self, latents, torch.full((ROWS_OF_A_CALL,), 500.0), Conditioning({"text": text}), remaining=1)

    @cached_property
    def colors(self) -> Tensor:
        """See LoadedModel. Fitted on first use."""
        return fit_colors(self.encode)

    def decode(self, latents: Tensor, generator: torch.Generator, on_part: OnPart = go_on) -> Iterator[Tensor]:  # noqa: ARG002
        """See LoadedModel. Between two parts others may compute. These VAEs draw no noise."""
        config = self.vae.config
        frames = latents[0].transpose(0, 1) / config.scaling_factor + (getattr(config, "shift_factor", None) or 0.0)
        scale = self.pixels_a_latent
        count = self._count_parts(len(frames), frames.shape[2] * scale, frames.shape[3] * scale)
        yield from self._run_parts(self._decode_some, frames.tensor_split(count), on_part)

    def encode(self, frames: Tensor, on_part: OnPart = go_on) -> Tensor:
        """Latents [1, C, T, h, w], scaled as in training. If the VAE encodes to a distribution, they are its mode.

        Consecutive equal frames are encoded once.
        """
        config = self.vae.config
        distinct, places = frames.unique_consecutive(return_inverse=True, dim=0)
        parts = distinct.tensor_split(self._count_parts(*distinct.shape[:3]))
        encoded = torch.cat(list(self._run_parts(self._encode_some, parts, on_part)))
        latents = (encoded - (getattr(config, "shift_factor", None) or 0.0)) * config.scaling_factor
        return latents[places].transpose(0, 1)[None]

    def _check(self, numbers: Tensor, stage: Stage) -> Tensor:
        return check_finite(numbers, stage, model_id=self.card.model_id, device=self.device)

    def _run_parts(self, work: Callable[[Tensor], Tensor], parts: Sequence[Tensor], on_part: OnPart) -> Iterator[Tensor]:
        """Runs as many parts at once as there are row threads."""
        works = (partial(torch.inference_mode()(work), part) for part in parts)
        with closing(self.compute.run_each(works)) as outputs:
            for output in outputs:
                on_part()
                yield output

    def _run(self, work: Callable[[], Tensor]) -> Tensor:
        return self.compute.run(torch.inference_mode()(work))

    def _encode_some(self, frames: Tensor) -> Tensor:
        pictures = frames.permute(0, 3, 1, 2).float() / 127.5 - 1
        encoded = self.vae.encode(pictures.to(self.device.name, self.device.dtype))
        match encoded:
            case AutoencoderKLOutput():
                latents = encoded.latent_dist.mode()
            case AutoencoderTinyOutput():
                latents = encoded.latents
            case _:
                latents = encoded.latent
        return self._check(latents.float().cpu(), "encoding the init")

    def _count_parts(self, frames: int, height: int, width: int) -> int:
        """The number of parts into which so many frames of this size, in pixels, are divided for the VAE."""
        kind = self.device.name.split(":")[0]
        at_once = max(1, _PIXELS_AT_ONCE[kind] // (height * width))
        by = _PARTS_BY[kind]
        return min(frames, math.ceil(frames / at_once / by) * by)

    def _decode_some(self, latents: Tensor) -> Tensor:
        pictures = self._check(self.vae.decode(latents.to(self.device.name, self.device.dtype)).sample.float(), "decoding")
        return ((pictures.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu()


def check_animatediff(models: ModelSet, device: Device, compute: ComputeThreads) -> Loadable:
    """Has the gate check the models' files, and all their weights. Raises CheckpointUnusable with what is wrong."""
    checkpoint = check_checkpoint(models.checkpoint, models.adapter, models.vae)
    check_weights(checkpoint)
    model_hash = hash_checkpoint(checkpoint)
    numbers = sum(
        math.prod(tensor.shape)
        for network in (checkpoint.unet, checkpoint.vae, checkpoint.text_encoder)
        for tensor in network.tensors.values()
    )
    return Loadable(
        numbers * device.dtype.itemsize,
        tuple(checkpoint.files.values()),
        partial(_load, checkpoint, model_hash, device, compute),
    )


def _load(checkpoint: Checkpoint, model_hash: str, device: Device, compute: ComputeThreads) -> LoadedCheckpoint:
    distilled = checkpoint.unet.arguments["time_cond_proj_dim"] is not None
    space = make_space(checkpoint.noise_table, model_id=checkpoint.card.model_id, distilled=distilled)
    return LoadedCheckpoint(
        card=checkpoint.card,
        model_hash=model_hash,
        device=device,
        compute=compute,
        space=space,
        unet=load_network(checkpoint.unet, device),
        prompts=PromptEncoder(load_tokenizer(checkpoint.tokenizer), load_network(checkpoint.text_encoder, device)),
        vae=load_network(checkpoint.vae, device),
    )


def _downscaling(vae: Any) -> int:
    config = vae.config
    if hasattr(config, "block_out_channels"):  # AutoencoderKL, AutoencoderTiny
        return int(2 ** (len(config.block_out_channels) - 1))
    return int(2 ** (len(config.encoder_block_out_channels) - 1))  # AutoencoderDC
