"""Names and shapes of the tensors of Wan's networks, as in promptreel.models.layouts."""

from __future__ import annotations

from itertools import pairwise

from promptreel.models.configs import Config
from promptreel.models.layouts import Layout
from promptreel.models.wan.configs import ImageEncoder, TextEncoder, Transformer, Vae


def lay_out(config: Config) -> Layout:
    """The tensors of the config's class."""
    match config:
        case Transformer():
            return _lay_out_transformer(config)
        case Vae():
            return _lay_out_vae(config)
        case TextEncoder():
            return _lay_out_text_encoder(config)
        case ImageEncoder():
            return _lay_out_image_encoder(config)
        case _:
            raise TypeError(f"{type(config).__name__} is not the config of a network")


def _lay_out_transformer(config: Transformer) -> Layout:
    layout, width = Layout(), config.width
    layout["patch_embedding.weight"] = (width, config.in_channels, *config.patch_size)
    layout["patch_embedding.bias"] = (width,)
    layout["scale_shift_table"] = (1, 2, width)
    layout.linear("condition_embedder.time_embedder.linear_1", config.freq_dim, width)
    layout.linear("condition_embedder.time_embedder.linear_2", width, width)
    layout.linear("condition_embedder.time_proj", width, 6 * width)
    layout.linear("condition_embedder.text_embedder.linear_1", config.text_dim, width)
    layout.linear("condition_embedder.text_embedder.linear_2", width, width)
    if config.image_dim is not None:
        name = "condition_embedder.image_embedder"
        layout.norm(f"{name}.norm1", config.image_dim)
        layout.linear(f"{name}.ff.net.0.proj", config.image_dim, config.image_dim)
        layout.linear(f"{name}.ff.net.2", config.image_dim, width)
        layout.norm(f"{name}.norm2", width)
    for number in range(config.num_layers):
        _lay_out_block(layout, f"blocks.{number}", config)
    layout.linear("proj_out", width, 4 * config.out_channels)
    return layout


def _lay_out_block(layout: Layout, name: str, config: Transformer) -> None:
    width = config.width
    layout[f"{name}.scale_shift_table"] = (1, 6, width)
    for attention in ("attn1", "attn2"):
        layout.attention(f"{name}.{attention}", width, width, bias=True)
        for norm in ("norm_q", "norm_k"):
            layout[f"{name}.{attention}.{norm}.weight"] = (width,)
    if config.added_kv_proj_dim is not None:
        for part in ("add_k_proj", "add_v_proj"):
            layout.linear(f"{name}.attn2.{part}", config.added_kv_proj_dim, width)
        layout[f"{name}.attn2.norm_added_k.weight"] = (width,)
    if config.cross_attn_norm:
        layout.norm(f"{name}.norm2", width)
    layout.linear(f"{name}.ffn.net.0.proj", width, config.ffn_dim)
    layout.linear(f"{name}.ffn.net.2", config.ffn_dim, width)


class _VaeLayout(Layout):
    def conv3d(self, name: str, inputs: int, outputs: int, kernel: tuple[int, int, int] = (3, 3, 3)) -> None:
        self[f"{name}.weight"] = (outputs, inputs, *kernel)
        self[f"{name}.bias"] = (outputs,)

    def block(self, name: str, inputs: int, outputs: int) -> None:
        self[f"{name}.norm1.gamma"] = (inputs, 1, 1, 1)
        self.conv3d(f"{name}.conv1", inputs, outputs)
        self[f"{name}.norm2.gamma"] = (outputs, 1, 1, 1)
        self.conv3d(f"{name}.conv2", outputs, outputs)
        if inputs != outputs:
            self.conv3d(f"{name}.conv_shortcut", inputs, outputs, (1, 1, 1))

    def blocks(self, name: str, inputs: int, outputs: int, count: int) -> None:
        for number in range(count):
            self.block(f"{name}.{number}", inputs if number == 0 else outputs, outputs)

    def middle(self, name: str, channels: int) -> None:
        for number in range(2):
            self.block(f"{name}.resnets.{number}", channels, channels)
        self[f"{name}.attentions.0.norm.gamma"] = (channels, 1, 1)
        self.conv(f"{name}.attentions.0.to_qkv", channels, 3 * channels, 1)
        self.conv(f"{name}.attentions.0.proj", channels, channels, 1)

    def ends(self, name: str, channels: int, outputs: int) -> None:
        self[f"{name}.norm_out.gamma"] = (channels, 1, 1, 1)
        self.conv3d(f"{name}.conv_out", channels, outputs)

    def down(self, name: str, channels: int, *, in_time: bool) -> None:
        self.conv(f"{name}.resample.1", channels, channels)
        if in_time:
            self.conv3d(f"{name}.time_conv", channels, channels, (3, 1, 1))

    def up(self, name: str, channels: int, outputs: int, *, in_time: bool) -> None:
        self.conv(f"{name}.resample.1", channels, outputs)
        if in_time:
            self.conv3d(f"{name}.time_conv", channels, 2 * channels, (3, 1, 1))


def _lay_out_vae(config: Vae) -> Layout:
    layout = _VaeLayout()
    _lay_out_encoder(layout, config)
    _lay_out_decoder(layout, config)
    layout.conv3d("quant_conv", 2 * config.z_dim, 2 * config.z_dim, (1, 1, 1))
    layout.conv3d("post_quant_conv", config.z_dim, config.z_dim, (1, 1, 1))
    return layout


def _lay_out_encoder(layout: _VaeLayout, config: Vae) -> None:
    widths = config.widths(config.base_dim)
    layout.conv3d("encoder.conv_in", config.in_channels, widths[0])
    layer = 0
    for step, (inputs, outputs) in enumerate(pairwise(widths)):
        goes_down = step < len(config.dim_mult) - 1
        if config.is_residual:
            name = f"encoder.down_blocks.{step}"
            layout.blocks(f"{name}.resnets", inputs, outputs, config.num_res_blocks)
            if goes_down:
                layout.down(f"{name}.downsampler", outputs, in_time=config.temperal_downsample[step])
            continue
        for number in range(config.num_res_blocks):  # one list of all blocks and steps
            layout.block(f"encoder.down_blocks.{layer}", inputs if number == 0 else outputs, outputs)
            layer += 1
        if goes_down:
            layout.down(f"encoder.down_blocks.{layer}", outputs, in_time=config.temperal_downsample[step])
            layer += 1
    layout.middle("encoder.mid_block", widths[-1])
    layout.ends("encoder", widths[-1], 2 * config.z_dim)


def _lay_out_decoder(layout: _VaeLayout, config: Vae) -> None:
    widths = config.widths(config.decoder_base_dim or config.base_dim)[:0:-1]
    layout.conv3d("decoder.conv_in", config.z_dim, widths[0])
    layout.middle("decoder.mid_block", widths[0])
    for step, (before, outputs) in enumerate(pairwise([widths[0], *widths])):
        inputs = before if config.is_residual or step == 0 else before // 2
        name = f"decoder.up_blocks.{step}"
        layout.blocks(f"{name}.resnets", inputs, outputs, config.num_res_blocks + 1)
        if step < len(config.dim_mult) - 1:
            in_time = config.temperal_downsample[::-1][step]
            if config.is_residual:
                layout.up(f"{name}.upsampler", outputs, outputs, in_time=in_time)
            else:
                layout.up(f"{name}.upsamplers.0", outputs, outputs // 2, in_time=in_time)
    layout.ends("decoder", widths[-1], config.out_channels)


def _lay_out_text_encoder(config: TextEncoder) -> Layout:
    layout, inner = Layout(), config.num_heads * config.d_kv
    for name in ("shared", "encoder.embed_tokens"):  # the same tensor twice
        layout[f"{name}.weight"] = (config.vocab_size, config.d_model)
    for number in range(config.num_layers):
        name = f"encoder.block.{number}.layer"
        for part in ("q", "k", "v"):
            layout.linear(f"{name}.0.SelfAttention.{part}", config.d_model, inner, bias=False)
        layout.linear(f"{name}.0.SelfAttention.o", inner, config.d_model, bias=False)
        layout[f"{name}.0.SelfAttention.relative_attention_bias.weight"] = (
            config.relative_attention_num_buckets,
            config.num_heads,
        )
        for part in ("wi_0", "wi_1"):
            layout.linear(f"{name}.1.DenseReluDense.{part}", config.d_model, config.d_ff, bias=False)
        layout.linear(f"{name}.1.DenseReluDense.wo", config.d_ff, config.d_model, bias=False)
        for half in (0, 1):
            layout[f"{name}.{half}.layer_norm.weight"] = (config.d_model,)
    layout["encoder.final_layer_norm.weight"] = (config.d_model,)
    return layout


def _lay_out_image_encoder(config: ImageEncoder) -> Layout:
    layout, width = Layout(), config.hidden_size
    layout["embeddings.class_embedding"] = (width,)
    layout.conv("embeddings.patch_embedding", 3, width, config.patch_size, bias=False)
    layout["embeddings.position_embedding.weight"] = ((config.image_size // config.patch_size) ** 2 + 1, width)
    layout.norm("pre_layrnorm", width)
    layout.clip_layers("encoder.layers", width, config.intermediate_size, config.num_hidden_layers)
    layout.norm("post_layernorm", width)
    return layout
