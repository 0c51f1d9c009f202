"""What a network's config.json may contain: the arguments of its class, each within bounds.

Only the keys listed here reach a constructor. A key for a feature that Promptreel does not support must have its default. A key
that makes a loader fetch or run something must be null. All other keys are ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Channels = Annotated[int, Field(ge=1, le=4096)]
LatentChannels = Annotated[int, Field(ge=1, le=64)]
Layers = Annotated[int, Field(ge=1, le=8)]
LayersOrNone = Annotated[int, Field(ge=0, le=8)]
Transformers = Annotated[int, Field(ge=0, le=16)]
Heads = Annotated[int, Field(ge=1, le=512)]
PER_BLOCK = Field(min_length=1, max_length=8)
"""For a tuple with one value per block."""
ChannelsEach = Annotated[tuple[Channels, ...], PER_BLOCK]
LayersEach = Annotated[tuple[Layers, ...], PER_BLOCK]
LayersOrNoneEach = Annotated[tuple[LayersOrNone, ...], PER_BLOCK]
TransformersEach = Annotated[tuple[Transformers, ...], PER_BLOCK]
HeadsEach = Annotated[tuple[Heads, ...], PER_BLOCK]
Frames = Annotated[int, Field(ge=1, le=1024)]
TokenId = Annotated[int, Field(ge=0, le=1_000_000)]
Epsilon = Annotated[float, Field(gt=0, le=1)]
Scale = Annotated[float, Field(ge=1e-4, le=1e4)]
Shift = Annotated[float, Field(ge=-1e4, le=1e4)]
Activation = Literal["silu", "swish", "mish", "gelu", "relu"]


class Config(BaseModel):
    """The arguments of a network's constructor."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, allow_inf_nan=False)

    # These would make a loader fetch code or convert the weights.
    auto_map: None = Field(default=None, exclude=True)
    quantization_config: None = Field(default=None, exclude=True)

    @property
    def arguments(self) -> dict[str, Any]:
        return self.model_dump()


def require(condition: bool, problem: str) -> None:
    if not condition:
        raise ValueError(problem)


def per_block(value: int | tuple[int, ...], blocks: int) -> tuple[int, ...]:
    """One value per block. A single number applies to all blocks."""
    return (value,) * blocks if isinstance(value, int) else value


class MotionUNet(Config):
    """UNetMotionModel: Stable Diffusion's UNet with motion modules."""

    in_channels: LatentChannels = 4
    out_channels: LatentChannels = 4
    down_block_types: Annotated[tuple[Literal["CrossAttnDownBlockMotion", "DownBlockMotion"], ...], PER_BLOCK] = (
        *("CrossAttnDownBlockMotion",) * 3,
        "DownBlockMotion",
    )
    up_block_types: Annotated[tuple[Literal["CrossAttnUpBlockMotion", "UpBlockMotion"], ...], PER_BLOCK] = (
        "UpBlockMotion",
        *("CrossAttnUpBlockMotion",) * 3,
    )
    block_out_channels: ChannelsEach = (320, 640, 1280, 1280)
    layers_per_block: Layers | LayersEach = 2
    downsample_padding: Literal[0, 1] = 1
    mid_block_scale_factor: Scale = 1.0
    act_fn: Activation = "silu"
    norm_num_groups: Channels = 32
    norm_eps: Epsilon = 1e-5
    cross_attention_dim: Channels = 1280
    transformer_layers_per_block: Transformers | TransformersEach = 1
    reverse_transformer_layers_per_block: None = None
    temporal_transformer_layers_per_block: Transformers | TransformersEach = 1
    reverse_temporal_transformer_layers_per_block: None = None
    transformer_layers_per_mid_block: Transformers | None = None
    temporal_transformer_layers_per_mid_block: Transformers = 1
    use_linear_projection: bool = False
    num_attention_heads: Heads | HeadsEach = 8
    motion_max_seq_length: Frames = 32
    motion_num_attention_heads: Heads | HeadsEach = 8
    reverse_motion_num_attention_heads: None = None
    use_motion_mid_block: bool = True
    mid_block_layers: Literal[1] = 1
    encoder_hid_dim: None = None
    encoder_hid_dim_type: None = None
    addition_embed_type: None = None
    addition_time_embed_dim: None = None
    projection_class_embeddings_input_dim: None = None
    time_cond_proj_dim: Channels | None = None

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        channels = self.block_out_channels
        for name in (
            "down_block_types",
            "up_block_types",
            "layers_per_block",
            "transformer_layers_per_block",
            "temporal_transformer_layers_per_block",
            "num_attention_heads",
            "motion_num_attention_heads",
        ):
            value = getattr(self, name)
            require(isinstance(value, int) or len(value) == len(channels), f"{name} must have one value for each block")
        require_plain_input(self)
        require(not any(count % 2 for count in channels), "block_out_channels must be even")
        require_multiples(channels, per_block(self.norm_num_groups, len(channels)), "norm_num_groups")
        require_multiples(channels, per_block(self.num_attention_heads, len(channels)), "num_attention_heads")
        require_multiples(channels, per_block(self.motion_num_attention_heads, len(channels)), "motion_num_attention_heads")
        return self


def require_plain_input(unet: MotionUNet | ImageUNet) -> None:
    require(
        unet.in_channels == unet.out_channels,
        f"it takes {unet.in_channels} channels and returns {unet.out_channels}, like a UNet for inpainting or for editing, "
        "which also reads a picture: take a plain text-to-image checkpoint",
    )


def require_multiples(channels: Sequence[int], parts: Sequence[int], name: str) -> None:
    fits = not any(count % part for count, part in zip(channels, parts, strict=True))
    require(fits, f"the channels of each block must be a multiple of {name}")


class ImageUNet(Config):
    """UNet2DConditionModel, limited to what UNetMotionModel also supports."""

    in_channels: LatentChannels = 4
    out_channels: LatentChannels = 4
    down_block_types: Annotated[tuple[Literal["CrossAttnDownBlock2D", "DownBlock2D"], ...], PER_BLOCK] = (
        *("CrossAttnDownBlock2D",) * 3,
        "DownBlock2D",
    )
    mid_block_type: Literal["UNetMidBlock2DCrossAttn"] = "UNetMidBlock2DCrossAttn"
    up_block_types: Annotated[tuple[Literal["CrossAttnUpBlock2D", "UpBlock2D"], ...], PER_BLOCK] = (
        "UpBlock2D",
        *("CrossAttnUpBlock2D",) * 3,
    )
    block_out_channels: ChannelsEach = (320, 640, 1280, 1280)
    layers_per_block: Layers | LayersEach = 2
    downsample_padding: Literal[0, 1] = 1
    mid_block_scale_factor: Scale = 1.0
    act_fn: Activation = "silu"
    norm_num_groups: Channels = 32
    norm_eps: Epsilon = 1e-5
    cross_attention_dim: Channels = 1280
    transformer_layers_per_block: Transformers | TransformersEach = 1
    attention_head_dim: Heads | HeadsEach = 8
    use_linear_projection: bool = False
    time_cond_proj_dim: Channels | None = None

    center_input_sample: Literal[False] = False
    flip_sin_to_cos: Literal[True] = True
    freq_shift: Literal[0] = 0
    only_cross_attention: Literal[False] = False
    reverse_transformer_layers_per_block: None = None
    encoder_hid_dim: None = None
    encoder_hid_dim_type: None = None
    num_attention_heads: None = None
    dual_cross_attention: Literal[False] = False
    class_embed_type: None = None
    addition_embed_type: None = None
    num_class_embeds: None = None
    resnet_time_scale_shift: Literal["default"] = "default"
    resnet_skip_time_act: Literal[False] = False
    resnet_out_scale_factor: Annotated[float, Field(ge=1, le=1)] = 1.0
    time_embedding_type: Literal["positional"] = "positional"
    time_embedding_dim: None = None
    time_embedding_act_fn: None = None
    timestep_post_act: None = None
    conv_in_kernel: Literal[3] = 3
    conv_out_kernel: Literal[3] = 3
    attention_type: Literal["default"] = "default"
    class_embeddings_concat: Literal[False] = False
    mid_block_only_cross_attention: Literal[False] | None = None
    cross_attention_norm: None = None

    @model_validator(mode="after")
    def _has_plain_input(self) -> Self:
        require_plain_input(self)
        return self


class MotionAdapter(Config):
    """MotionAdapter: motion modules without their UNet."""

    block_out_channels: ChannelsEach = (320, 640, 1280, 1280)
    motion_layers_per_block: Layers | LayersEach = 2
    motion_transformer_layers_per_block: Transformers | TransformersEach = 1
    motion_mid_block_layers_per_block: Literal[1] = 1
    motion_transformer_layers_per_mid_block: Transformers = 1
    motion_num_attention_heads: Heads | HeadsEach = 8
    motion_norm_num_groups: Channels = 32
    motion_max_seq_length: Frames = 32
    use_motion_mid_block: bool = True
    conv_in_channels: None = None  # PIA has it: its UNet also reads a picture


# Which arguments of UNetMotionModel come from the UNet, and which from the adapter (with the adapter's name).
_FROM_IMAGE_UNET = (
    "in_channels",
    "out_channels",
    "block_out_channels",
    "downsample_padding",
    "mid_block_scale_factor",
    "act_fn",
    "norm_num_groups",
    "norm_eps",
    "cross_attention_dim",
    "transformer_layers_per_block",
    "use_linear_projection",
    "time_cond_proj_dim",
)
_FROM_ADAPTER = {
    "layers_per_block": "motion_layers_per_block",
    "temporal_transformer_layers_per_block": "motion_transformer_layers_per_block",
    "temporal_transformer_layers_per_mid_block": "motion_transformer_layers_per_mid_block",
    "motion_max_seq_length": "motion_max_seq_length",
    "motion_num_attention_heads": "motion_num_attention_heads",
    "use_motion_mid_block": "use_motion_mid_block",
}


def add_motion(unet: ImageUNet, adapter: MotionAdapter) -> MotionUNet:
    """The config that UNetMotionModel.from_unet2d would make. Raises ValueError if the two do not fit together."""
    blocks = len(unet.block_out_channels)
    require(unet.block_out_channels == adapter.block_out_channels, "block_out_channels differ")
    layers, motion_layers = (
        per_block(unet.layers_per_block, blocks),
        per_block(adapter.motion_layers_per_block, blocks),
    )
    require(layers == motion_layers, "layers_per_block and motion_layers_per_block differ")
    merged: dict[str, Any] = {name: getattr(unet, name) for name in _FROM_IMAGE_UNET}
    merged |= {name: getattr(adapter, theirs) for name, theirs in _FROM_ADAPTER.items()}
    merged |= {"num_attention_heads": unet.attention_head_dim}
    for name in ("down_block_types", "up_block_types"):
        merged[name] = tuple(kind.replace("2D", "Motion") for kind in getattr(unet, name))
    return MotionUNet(**merged)


class VaeKL(Config):
    """AutoencoderKL."""

    in_channels: Literal[3] = 3
    out_channels: Literal[3] = 3
    down_block_types: Annotated[tuple[Literal["DownEncoderBlock2D"], ...], PER_BLOCK] = ("DownEncoderBlock2D",)
    up_block_types: Annotated[tuple[Literal["UpDecoderBlock2D"], ...], PER_BLOCK] = ("UpDecoderBlock2D",)
    block_out_channels: ChannelsEach = (64,)
    layers_per_block: Layers = 1
    act_fn: Activation = "silu"
    latent_channels: LatentChannels = 4
    norm_num_groups: Channels = 32
    scaling_factor: Scale = 0.18215
    shift_factor: Shift | None = None
    latents_mean: None = None
    latents_std: None = None
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        channels = self.block_out_channels
        fits = len(self.down_block_types) == len(self.up_block_types) == len(channels)
        require(fits, "down_block_types, up_block_types and block_out_channels must have equally many values")
        require_multiples(channels, per_block(self.norm_num_groups, len(channels)), "norm_num_groups")
        return self


class VaeDC(Config):
    """AutoencoderDC, with residual blocks only."""

    in_channels: Literal[3] = 3
    latent_channels: LatentChannels = 32
    encoder_block_types: Literal["ResBlock"] | Annotated[tuple[Literal["ResBlock"], ...], PER_BLOCK] = "ResBlock"
    decoder_block_types: Literal["ResBlock"] | Annotated[tuple[Literal["ResBlock"], ...], PER_BLOCK] = "ResBlock"
    encoder_block_out_channels: ChannelsEach = (128, 256, 512, 512, 1024, 1024)
    decoder_block_out_channels: ChannelsEach = (128, 256, 512, 512, 1024, 1024)
    encoder_layers_per_block: LayersOrNoneEach = (2, 2, 2, 3, 3, 3)
    decoder_layers_per_block: LayersOrNoneEach = (3, 3, 3, 3, 3, 3)
    upsample_block_type: Literal["pixel_shuffle", "interpolate"] = "pixel_shuffle"
    downsample_block_type: Literal["pixel_unshuffle", "conv"] = "pixel_unshuffle"
    decoder_norm_types: Literal["rms_norm"] = "rms_norm"
    decoder_act_fns: Activation = "silu"
    encoder_out_shortcut: bool = True
    decoder_in_shortcut: bool = True
    decoder_conv_act_fn: Activation = "relu"
    scaling_factor: Scale = 1.0

    @property
    def arguments(self) -> dict[str, Any]:
        """Adds the attention's scales. They are empty, because residual blocks have no attention."""
        scales = {f"{half}_qkv_multiscales": ((),) * len(self.encoder_block_out_channels) for half in ("encoder", "decoder")}
        return super().arguments | scales

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        blocks = len(self.encoder_block_out_channels)
        for half in ("encoder", "decoder"):
            channels, layers = getattr(self, f"{half}_block_out_channels"), getattr(self, f"{half}_layers_per_block")
            require(
                len(channels) == len(layers) == blocks >= 2, "encoder and decoder must have equally many blocks, at least 2"
            )
            require(all(layers[1:]), f"{half}_layers_per_block: only the first block may have no layers")
            kinds = getattr(self, f"{half}_block_types")
            require(isinstance(kinds, str) or len(kinds) == blocks, f"{half}_block_types must have one value for each block")
            require(channels[-1] % self.latent_channels == 0, "the last block's channels must be a multiple of latent_channels")
            pairs = list(pairwise(channels))[0 if layers[0] else 1 :]
            fits = not any(many % 4 or 4 * few % many for few, many in pairs) and channels[1] % 4 == 0
            require(fits, f"{half}_block_out_channels must be multiples of 4, and each a divisor of 4 times the one before")
        return self


class VaeTiny(Config):
    """AutoencoderTiny."""

    in_channels: Literal[3] = 3
    out_channels: Literal[3] = 3
    encoder_block_out_channels: ChannelsEach = (64, 64, 64, 64)
    decoder_block_out_channels: ChannelsEach = (64, 64, 64, 64)
    act_fn: Activation = "relu"
    upsample_fn: Literal["nearest"] = "nearest"
    latent_channels: LatentChannels = 4
    upsampling_scaling_factor: Literal[2] = 2
    num_encoder_blocks: LayersOrNoneEach = (1, 3, 3, 3)
    num_decoder_blocks: LayersOrNoneEach = (3, 3, 3, 1)
    latent_magnitude: Literal[3] = 3
    latent_shift: float = Field(default=0.5, ge=0, le=1)
    scaling_factor: Scale = 1.0
    shift_factor: Shift = 0.0

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        channels = (*self.encoder_block_out_channels, *self.decoder_block_out_channels)
        require(len(set(channels)) == 1, "all blocks must have equally many channels")
        counts = {len(self.encoder_block_out_channels), len(self.decoder_block_out_channels)}
        counts |= {len(self.num_encoder_blocks), len(self.num_decoder_blocks)}
        require(len(counts) == 1, "encoder and decoder must have equally many blocks")
        return self


class TextEncoder(Config):
    """CLIPTextModel."""

    model_type: Literal["clip_text_model"] = Field(default="clip_text_model", exclude=True)
    architectures: tuple[Literal["CLIPTextModel"]] | None = Field(default=None, exclude=True)
    attn_implementation: Literal["eager", "sdpa"] | None = Field(default=None, exclude=True, alias="_attn_implementation")
    vocab_size: Annotated[int, Field(ge=3, le=500_000)] = 49408
    hidden_size: Channels = 512
    intermediate_size: Annotated[int, Field(ge=1, le=16_384)] = 2048
    num_hidden_layers: Annotated[int, Field(ge=1, le=64)] = 12
    num_attention_heads: Heads = 8
    max_position_embeddings: Annotated[int, Field(ge=3, le=4096)] = 77
    hidden_act: Literal["quick_gelu", "gelu"] = "quick_gelu"
    layer_norm_eps: Epsilon = 1e-5
    bos_token_id: TokenId | None = 49406
    eos_token_id: TokenId = 49407
    pad_token_id: TokenId | None = 1

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        require(self.hidden_size % self.num_attention_heads == 0, "hidden_size must be a multiple of num_attention_heads")
        return self


NETWORKS: dict[str, dict[str, type[Config]]] = {
    "unet": {"UNet2DConditionModel": ImageUNet, "UNetMotionModel": MotionUNet},
    "motion_adapter": {"MotionAdapter": MotionAdapter},
    "vae": {"AutoencoderKL": VaeKL, "AutoencoderDC": VaeDC, "AutoencoderTiny": VaeTiny},
    "text_encoder": {"CLIPTextModel": TextEncoder},
}
"""The allowed classes of each component, and their configs."""
