"""What the configs of a Wan checkpoint's networks may contain, as in promptreel.models.configs."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from promptreel.models.configs import Channels, Config, Epsilon, Heads, LatentChannels, TokenId, require

Width = Annotated[int, Field(ge=1, le=65_536)]
Depth = Annotated[int, Field(ge=1, le=128)]
Mult = Annotated[int, Field(ge=1, le=16)]
Number = Annotated[float, Field(ge=-1e4, le=1e4)]
Positive = Annotated[float, Field(ge=1e-4, le=1e4)]

TEXT_TOKENS = 512
"""Tokens of a prompt. diffusers' attention counts on this number to tell text from the tokens of a picture."""
TIME_SCALE: Literal[4] = 4
"""Frames per latent. The first latent of a clip is one frame."""

# Of Wan 2.1, by channel; a config may leave them out.
_MEAN = (
    *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
    *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
)
_STD = (
    *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
    *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
)


class Transformer(Config):
    """WanTransformer3DModel."""

    patch_size: tuple[Literal[1], Literal[2], Literal[2]] = (1, 2, 2)
    num_attention_heads: Heads = 40
    attention_head_dim: Annotated[int, Field(ge=6, le=1024, multiple_of=2)] = 128
    in_channels: Channels = 16
    out_channels: Channels = 16
    text_dim: Width = 4096
    freq_dim: Annotated[int, Field(ge=4, le=4096, multiple_of=2)] = 256
    ffn_dim: Width = 13824
    num_layers: Depth = 40
    cross_attn_norm: bool = True
    qk_norm: Literal["rms_norm_across_heads"] = "rms_norm_across_heads"
    eps: Epsilon = 1e-6
    image_dim: Channels | None = None
    added_kv_proj_dim: Width | None = None
    rope_max_seq_len: Annotated[int, Field(ge=128, le=8192)] = 1024  # the longest side of any clip has 112 tokens
    pos_embed_seq_len: None = None  # of models that are given a first and a last picture

    @property
    def width(self) -> int:
        return self.num_attention_heads * self.attention_head_dim

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        fits = (self.image_dim is None) == (self.added_kv_proj_dim is None)
        require(fits, "image_dim and added_kv_proj_dim must both be numbers, or both null")
        fits = self.added_kv_proj_dim in {None, self.width}
        require(fits, "added_kv_proj_dim must be the width, num_attention_heads times attention_head_dim")
        return self


class Vae(Config):
    """AutoencoderKLWan. Its latents are normalized by `latents_mean` and `latents_std`."""

    base_dim: Channels = 96
    decoder_base_dim: Channels | None = None
    z_dim: LatentChannels = 16
    dim_mult: Annotated[tuple[Mult, ...], Field(min_length=2, max_length=8)] = (1, 2, 4, 4)
    num_res_blocks: Annotated[int, Field(ge=1, le=8)] = 2
    attn_scales: tuple[()] = ()
    temperal_downsample: tuple[bool, ...] = (False, True, True)
    latents_mean: tuple[Number, ...] = _MEAN
    latents_std: tuple[Positive, ...] = _STD
    is_residual: bool = False
    in_channels: Channels = 3
    out_channels: Channels = 3
    patch_size: Literal[1, 2, 4] | None = None
    scale_factor_temporal: Literal[4] = 4
    scale_factor_spatial: Annotated[int, Field(ge=1, le=64)] = 8

    @property
    def arguments(self) -> dict[str, Any]:
        """With lists, which the class adds up."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in super().arguments.items()}

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        steps, patch = len(self.dim_mult) - 1, self.patch_size or 1
        require(len(self.temperal_downsample) == steps, "temperal_downsample must have one value for each step down")
        require(2 ** sum(self.temperal_downsample) == TIME_SCALE, "temperal_downsample must halve the frames twice")
        fits = self.in_channels == self.out_channels == 3 * patch**2
        require(fits, "in_channels and out_channels must be 3, times patch_size squared")
        require(self.scale_factor_spatial == patch * 2**steps, "scale_factor_spatial must be the product of all steps down")
        fits = len(self.latents_mean) == len(self.latents_std) == self.z_dim
        require(fits, "latents_mean and latents_std must have z_dim values")
        widths = self.widths(self.decoder_base_dim or self.base_dim)
        require(not any(width % 2 for width in widths), "base_dim must be even")
        if self.is_residual:
            self._check_shortcuts()
        return self

    def widths(self, base: int) -> list[int]:
        """Channels of the first layer and of each block, from fine to coarse."""
        return [base, *(base * mult for mult in self.dim_mult)]

    def _check_shortcuts(self) -> None:
        """The shortcuts around residual blocks fold space and time into channels, and back."""
        down = self.widths(self.base_dim)
        for number, (inputs, outputs) in enumerate(pairwise(down)):
            require(inputs * self._fold(number) % outputs == 0, "the shortcuts of the encoder's blocks must come out even")
        up = self.widths(self.decoder_base_dim or self.base_dim)[:0:-1]
        up = [up[0], *up]
        for number, (inputs, outputs) in enumerate(pairwise(up)):
            fold = self._fold(len(self.dim_mult) - 2 - number)
            fits = number == len(self.dim_mult) - 1 or outputs * fold % inputs == 0
            require(fits, "the shortcuts of the decoder's blocks must come out even")

    def _fold(self, step: int) -> int:
        if not 0 <= step < len(self.temperal_downsample):
            return 1
        return 8 if self.temperal_downsample[step] else 4


class TextEncoder(Config):
    """UMT5EncoderModel."""

    model_type: Literal["umt5"] = Field(default="umt5", exclude=True)
    architectures: tuple[Literal["UMT5EncoderModel"]] | None = Field(default=None, exclude=True)
    vocab_size: Annotated[int, Field(ge=3, le=500_000)] = 250112
    d_model: Width = 512
    d_kv: Width = 64
    d_ff: Width = 1024
    num_layers: Depth = 8
    num_heads: Heads = 6
    relative_attention_num_buckets: Annotated[int, Field(ge=4, le=1024, multiple_of=4)] = 32
    relative_attention_max_distance: Annotated[int, Field(ge=2, le=65_536)] = 128
    layer_norm_epsilon: Epsilon = 1e-6
    feed_forward_proj: Literal["gated-gelu"] = "gated-gelu"
    pad_token_id: TokenId | None = 0
    eos_token_id: TokenId | None = 1

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        fits = 4 * self.relative_attention_max_distance > self.relative_attention_num_buckets
        require(fits, "relative_attention_max_distance must be over a quarter of relative_attention_num_buckets")
        return self


class ImageEncoder(Config):
    """CLIPVisionModel."""

    model_type: Literal["clip_vision_model"] = Field(default="clip_vision_model", exclude=True)
    hidden_size: Channels = 768
    intermediate_size: Width = 3072
    num_hidden_layers: Depth = 12
    num_attention_heads: Heads = 12
    num_channels: Literal[3] = 3
    image_size: Annotated[int, Field(ge=1, le=1024)] = 224
    patch_size: Annotated[int, Field(ge=1, le=256)] = 32
    hidden_act: Literal["quick_gelu", "gelu"] = "quick_gelu"
    layer_norm_eps: Epsilon = 1e-5

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        require(self.hidden_size % self.num_attention_heads == 0, "hidden_size must be a multiple of num_attention_heads")
        require(self.patch_size <= self.image_size, "patch_size must be at most image_size")
        return self


NETWORKS: dict[str, type[Config]] = {
    "WanTransformer3DModel": Transformer,
    "AutoencoderKLWan": Vae,
    "UMT5EncoderModel": TextEncoder,
    "CLIPVisionModel": ImageEncoder,
}
"""Configs by class."""
