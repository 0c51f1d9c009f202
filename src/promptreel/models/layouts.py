"""Names and shapes of a network's tensors, computed from its config as diffusers 0.42 and transformers 5.23 build it.

With them, the gate compares a checkpoint's files with its configs before anything is built, even in the api, which has no
torch. Tests compare this module with the libraries' classes. The loader compares files and network once more.
"""

from __future__ import annotations

from collections.abc import Sequence

from promptreel.models.configs import Config, MotionUNet, TextEncoder, VaeDC, VaeKL, VaeTiny, per_block

TensorShape = tuple[int, ...]
MOTION = ".motion_modules."
"""The names of motion modules' tensors contain this. No other names do."""


class Layout(dict[str, TensorShape]):
    """The shape of each tensor by name. Each method adds the tensors of one layer or block."""

    def conv(self, name: str, inputs: int, outputs: int, kernel: int = 3, *, bias: bool = True) -> None:
        self[f"{name}.weight"] = (outputs, inputs, kernel, kernel)
        if bias:
            self[f"{name}.bias"] = (outputs,)

    def linear(self, name: str, inputs: int, outputs: int, *, bias: bool = True) -> None:
        self[f"{name}.weight"] = (outputs, inputs)
        if bias:
            self[f"{name}.bias"] = (outputs,)

    def norm(self, name: str, channels: int) -> None:
        self[f"{name}.weight"] = self[f"{name}.bias"] = (channels,)

    def resnet(self, name: str, inputs: int, outputs: int, time: int | None = None) -> None:
        self.norm(f"{name}.norm1", inputs)
        self.conv(f"{name}.conv1", inputs, outputs)
        if time is not None:
            self.linear(f"{name}.time_emb_proj", time, outputs)
        self.norm(f"{name}.norm2", outputs)
        self.conv(f"{name}.conv2", outputs, outputs)
        if inputs != outputs:
            self.conv(f"{name}.conv_shortcut", inputs, outputs, 1)

    def attention(self, name: str, channels: int, context: int, *, bias: bool = False) -> None:
        self.linear(f"{name}.to_q", channels, channels, bias=bias)
        self.linear(f"{name}.to_k", context, channels, bias=bias)
        self.linear(f"{name}.to_v", context, channels, bias=bias)
        self.linear(f"{name}.to_out.0", channels, channels)

    def transformer(self, name: str, channels: int, context: int) -> None:
        """A block of self-attention, attention to the context, and two linear layers."""
        for number, other in enumerate((channels, context), 1):
            self.norm(f"{name}.norm{number}", channels)
            self.attention(f"{name}.attn{number}", channels, other)
        self.norm(f"{name}.norm3", channels)
        self.linear(f"{name}.ff.net.0.proj", channels, 8 * channels)
        self.linear(f"{name}.ff.net.2", 4 * channels, channels)

    def clip_layers(self, name: str, width: int, intermediate: int, count: int) -> None:
        """The layers of a CLIP encoder, of texts or of pictures."""
        for layer in (f"{name}.{number}" for number in range(count)):
            for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
                self.linear(f"{layer}.self_attn.{part}", width, width)
            self.norm(f"{layer}.layer_norm1", width)
            self.linear(f"{layer}.mlp.fc1", width, intermediate)
            self.linear(f"{layer}.mlp.fc2", intermediate, width)
            self.norm(f"{layer}.layer_norm2", width)


def lay_out(config: Config) -> Layout:
    """The tensors of the config's class."""
    match config:
        case MotionUNet():
            return _UNet(config).lay_out()
        case VaeKL():
            return _lay_out_kl(config)
        case VaeDC():
            return _lay_out_dc(config)
        case VaeTiny():
            return _lay_out_tiny(config)
        case TextEncoder():
            return _lay_out_text_encoder(config)
        case _:
            raise TypeError(f"{type(config).__name__} is not the config of a network")


class _UNet:
    """UNetMotionModel: down blocks, a middle block and up blocks, with skip connections from down blocks to up blocks."""

    def __init__(self, config: MotionUNet) -> None:
        self.config = config
        self.channels = config.block_out_channels
        self.time = 4 * self.channels[0]
        self.layers = per_block(config.layers_per_block, len(self.channels))
        self.transformers = per_block(config.transformer_layers_per_block, len(self.channels))
        self.motions = per_block(config.temporal_transformer_layers_per_block, len(self.channels))
        self.layout = Layout()

    def lay_out(self) -> Layout:
        config, layout, first = self.config, self.layout, self.channels[0]
        layout.conv("conv_in", config.in_channels, first)
        layout.linear("time_embedding.linear_1", first, self.time)
        layout.linear("time_embedding.linear_2", self.time, self.time)
        if config.time_cond_proj_dim is not None:
            layout.linear("time_embedding.cond_proj", config.time_cond_proj_dim, first, bias=False)
        self._lay_out_down_blocks()
        self._lay_out_mid_block()
        self._lay_out_up_blocks()
        layout.norm("conv_norm_out", first)
        layout.conv("conv_out", first, config.out_channels)
        return layout

    def _lay_out_down_blocks(self) -> None:
        inputs = self.channels[0]
        last = len(self.channels) - 1
        for block, outputs in enumerate(self.channels):
            name = f"down_blocks.{block}"
            for layer in range(self.layers[block]):
                self.layout.resnet(f"{name}.resnets.{layer}", inputs if layer == 0 else outputs, outputs, self.time)
                self._attend(name, layer, outputs, block, "CrossAttn" in self.config.down_block_types[block])
            if block != last:
                self.layout.conv(f"{name}.downsamplers.0.conv", outputs, outputs)
            inputs = outputs

    def _lay_out_mid_block(self) -> None:
        config, channels = self.config, self.channels[-1]
        for number in range(2):
            self.layout.resnet(f"mid_block.resnets.{number}", channels, channels, self.time)
        layers = config.transformer_layers_per_mid_block
        self._image_transformer("mid_block.attentions.0", channels, self.transformers[-1] if layers is None else layers)
        if config.use_motion_mid_block:
            self._motion_module("mid_block.motion_modules.0", channels, config.temporal_transformer_layers_per_mid_block)

    def _lay_out_up_blocks(self) -> None:
        before = self.channels[-1]
        last = len(self.channels) - 1
        for number in range(len(self.channels)):
            block = last - number  # the down block at the same resolution
            name, outputs, skipped = f"up_blocks.{number}", self.channels[block], self.channels[max(block - 1, 0)]
            for layer in range(self.layers[block] + 1):
                inputs = (before if layer == 0 else outputs) + (skipped if layer == self.layers[block] else outputs)
                self.layout.resnet(f"{name}.resnets.{layer}", inputs, outputs, self.time)
                self._attend(name, layer, outputs, block, "CrossAttn" in self.config.up_block_types[number])
            if number != last:
                self.layout.conv(f"{name}.upsamplers.0.conv", outputs, outputs)
            before = outputs

    def _attend(self, name: str, layer: int, channels: int, block: int, reads_text: bool) -> None:
        if reads_text:
            self._image_transformer(f"{name}.attentions.{layer}", channels, self.transformers[block])
        self._motion_module(f"{name}.motion_modules.{layer}", channels, self.motions[block])

    def _image_transformer(self, name: str, channels: int, layers: int) -> None:
        self.layout.norm(f"{name}.norm", channels)
        for projection in ("proj_in", "proj_out"):
            if self.config.use_linear_projection:
                self.layout.linear(f"{name}.{projection}", channels, channels)
            else:
                self.layout.conv(f"{name}.{projection}", channels, channels, 1)
        for number in range(layers):
            self.layout.transformer(f"{name}.transformer_blocks.{number}", channels, self.config.cross_attention_dim)

    def _motion_module(self, name: str, channels: int, layers: int) -> None:
        self.layout.norm(f"{name}.norm", channels)
        for projection in ("proj_in", "proj_out"):
            self.layout.linear(f"{name}.{projection}", channels, channels)
        for number in range(layers):
            block = f"{name}.transformer_blocks.{number}"
            self.layout.transformer(block, channels, channels)
            self.layout[f"{block}.pos_embed.pe"] = (1, self.config.motion_max_seq_length, channels)


def _lay_out_kl(config: VaeKL) -> Layout:
    layout = Layout()
    channels, latents = config.block_out_channels, config.latent_channels
    layout.conv("encoder.conv_in", 3, channels[0])
    _lay_out_kl_blocks(layout, "encoder.down_blocks", "downsamplers", channels, config.layers_per_block)
    layout.conv("encoder.conv_out", channels[-1], 2 * latents)
    layout.conv("decoder.conv_in", latents, channels[-1])
    _lay_out_kl_blocks(layout, "decoder.up_blocks", "upsamplers", channels[::-1], config.layers_per_block + 1)
    layout.conv("decoder.conv_out", channels[0], 3)
    for half, last in (("encoder", channels[-1]), ("decoder", channels[0])):
        for number in range(2):
            layout.resnet(f"{half}.mid_block.resnets.{number}", channels[-1], channels[-1])
        if config.mid_block_add_attention:
            layout.norm(f"{half}.mid_block.attentions.0.group_norm", channels[-1])
            layout.attention(f"{half}.mid_block.attentions.0", channels[-1], channels[-1], bias=True)
        layout.norm(f"{half}.conv_norm_out", last)
    if config.use_quant_conv:
        layout.conv("quant_conv", 2 * latents, 2 * latents, 1)
    if config.use_post_quant_conv:
        layout.conv("post_quant_conv", latents, latents, 1)
    return layout


def _lay_out_kl_blocks(layout: Layout, name: str, scaler: str, channels: Sequence[int], layers: int) -> None:
    inputs = channels[0]
    for block, outputs in enumerate(channels):
        for layer in range(layers):
            layout.resnet(f"{name}.{block}.resnets.{layer}", inputs if layer == 0 else outputs, outputs)
        if block != len(channels) - 1:
            layout.conv(f"{name}.{block}.{scaler}.0.conv", outputs, outputs)
        inputs = outputs


def _lay_out_dc(config: VaeDC) -> Layout:
    layout = Layout()
    latents, unshuffles = config.latent_channels, config.downsample_block_type == "pixel_unshuffle"
    channels, layers = config.encoder_block_out_channels, config.encoder_layers_per_block
    if layers[0]:
        layout.conv("encoder.conv_in", 3, channels[0])
    else:
        layout.conv("encoder.conv_in.conv", 3, channels[1] // 4 if unshuffles else channels[1])
    for block, count in enumerate(layers):
        for layer in range(count):
            _lay_out_dc_block(layout, f"encoder.down_blocks.{block}.{layer}", channels[block])
        if count and block != len(layers) - 1:
            outputs = channels[block + 1] // 4 if unshuffles else channels[block + 1]
            layout.conv(f"encoder.down_blocks.{block}.{count}.conv", channels[block], outputs)
    layout.conv("encoder.conv_out", channels[-1], latents)

    more = 1 if config.upsample_block_type == "interpolate" else 4
    channels, layers = config.decoder_block_out_channels, config.decoder_layers_per_block
    layout.conv("decoder.conv_in", latents, channels[-1])
    for block, count in enumerate(layers):
        grows = int(count > 0 and block != len(layers) - 1)
        if grows:
            layout.conv(f"decoder.up_blocks.{block}.0.conv", channels[block + 1], more * channels[block])
        for layer in range(count):
            _lay_out_dc_block(layout, f"decoder.up_blocks.{block}.{layer + grows}", channels[block])
    last = channels[0] if layers[0] else channels[1]
    layout.norm("decoder.norm_out", last)
    if layers[0]:
        layout.conv("decoder.conv_out", last, 3)
    else:
        layout.conv("decoder.conv_out.conv", last, more * 3)
    return layout


def _lay_out_dc_block(layout: Layout, name: str, channels: int) -> None:
    layout.conv(f"{name}.conv1", channels, channels)
    layout.conv(f"{name}.conv2", channels, channels, bias=False)
    layout.norm(f"{name}.norm", channels)


def _lay_out_tiny(config: VaeTiny) -> Layout:
    """Encoder and decoder are each one list of layers. Layers without weights count in its indexes, too."""
    layout = Layout()
    channels, latents = config.encoder_block_out_channels[0], config.latent_channels
    number = 0
    for block, count in enumerate(config.num_encoder_blocks):
        layout.conv(f"encoder.layers.{number}", channels if block else 3, channels, bias=not block)
        number = _lay_out_tiny_blocks(layout, "encoder", number + 1, count, channels)
    layout.conv(f"encoder.layers.{number}", channels, latents)

    layout.conv("decoder.layers.0", latents, channels)
    number = 2  # 1 is an activation
    for block, count in enumerate(config.num_decoder_blocks):
        is_last = block == len(config.num_decoder_blocks) - 1
        number = _lay_out_tiny_blocks(layout, "decoder", number, count, channels) + (not is_last)  # skips the upsampling layer
        layout.conv(f"decoder.layers.{number}", channels, 3 if is_last else channels, bias=is_last)
        number += 1
    return layout


def _lay_out_tiny_blocks(layout: Layout, half: str, first: int, count: int, channels: int) -> int:
    """Returns the next layer's index."""
    for number in range(first, first + count):
        for layer in (0, 2, 4):
            layout.conv(f"{half}.layers.{number}.conv.{layer}", channels, channels)
    return first + count


def _lay_out_text_encoder(config: TextEncoder) -> Layout:
    layout = Layout()
    width = config.hidden_size
    layout["embeddings.token_embedding.weight"] = (config.vocab_size, width)
    layout["embeddings.position_embedding.weight"] = (config.max_position_embeddings, width)
    layout.clip_layers("encoder.layers", width, config.intermediate_size, config.num_hidden_layers)
    layout.norm("final_layer_norm", width)
    return layout
