"""The networks of unpaired learning put together: one for each direction and domain, or switchable ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from sansref.errors import SettingError
from sansref.networks.discriminator import Discriminator, NoiseExtractor
from sansref.networks.generator import CODE_LENGTH, CodeGenerator, Generator, code_widths
from sansref.networks.reconstructor import check_size


@dataclass(frozen=True)
class TranslatorOptions:
    """Size of generator, discriminator and noise extractor.

    Attributes
    ----------
    width
        Features of the first layers; 32 in the papers.
    blocks
        Residual blocks of the generator.
    extractor_layers
        Convolutions of the noise extractor.
    complex
        Two channels for real and imaginary part; False works on magnitudes, as the papers do.
    start
        published: the generator begins at noise, as in the papers; identity: it begins as the identity, and learns what
        to add to an image. That is for supervised_generator: unpaired methods hardly leave it.
    """

    width: int = 32
    blocks: int = 3
    extractor_layers: int = 20
    complex: bool = False
    start: Literal["published", "identity"] = "published"

    def __post_init__(self) -> None:
        for name, least, most in (("width", 1, 1024), ("blocks", 0, 1000), ("extractor_layers", 2, 1000)):
            if not least <= getattr(self, name) <= most:
                raise SettingError(f"network.{name} must lie in {least}..{most}, got {getattr(self, name)}")
        # Two convolutions of 3 x 3 and four times the width in every block, the discriminator's, the extractor's.
        weights = (2 * 9 * 16 * self.blocks + 3000 + 9 * self.extractor_layers) * self.width**2
        check_size(2 * weights, "width, blocks and extractor_layers")

    @property
    def channels(self) -> int:
        """Of the images."""
        return 2 if self.complex else 1

    def generator(self, switchable: bool = False) -> Generator:
        """A new generator."""
        return Generator(self.channels, self.width, self.blocks, switchable, self.start == "identity")

    def discriminator(self, switchable: bool = False) -> Discriminator:
        """A new discriminator."""
        return Discriminator(self.channels, self.width, switchable)

    def extractor(self) -> NoiseExtractor:
        """A new noise extractor."""
        return NoiseExtractor(self.channels, self.width, self.extractor_layers)


class TwoGenerators(nn.Module):
    """A generator for each direction (CycleGAN, ISCL)."""

    def __init__(self, options: TranslatorOptions) -> None:
        super().__init__()
        self.restorer = options.generator()
        self.degrader = options.generator()

    def full(self, image: Tensor) -> Tensor:
        """Undersampled to full, (batch, channels, height, width) in [-1, 1]."""
        return self.restorer(image)

    def undersampled(self, image: Tensor, noise: Tensor) -> Tensor:
        """Full to undersampled; ``noise`` is that of a switchable generator's code, and without effect."""
        return self.degrader(image)


class SwitchableGenerator(nn.Module):
    """One generator for both directions, and the code that switches it from full to undersampled.

    Parameters
    ----------
    options
        Sizes.
    jitter
        Factor of the noise that is added to the code's fixed random vector.
    """

    vector: Tensor

    def __init__(self, options: TranslatorOptions, jitter: float = 0.1) -> None:
        super().__init__()
        self.generator = options.generator(switchable=True)
        self.code = CodeGenerator(code_widths(options.width))
        self.jitter = jitter
        self.register_buffer("vector", torch.randn(CODE_LENGTH))

    def full(self, image: Tensor) -> Tensor:
        """Undersampled to full, (batch, channels, height, width) in [-1, 1]: means 0, standard deviations 1."""
        return self.generator(image)

    def undersampled(self, image: Tensor, noise: Tensor) -> Tensor:
        """Full to undersampled, by the code of the fixed vector plus ``jitter`` times ``noise`` (batch, 64)."""
        return self.generator(image, self.code(self.vector + self.jitter * noise))


class TwoDiscriminators(nn.Module):
    """A discriminator for each domain (CycleGAN, ISCL)."""

    def __init__(self, options: TranslatorOptions) -> None:
        super().__init__()
        self.of_full = options.discriminator()
        self.of_undersampled = options.discriminator()

    def full(self, image: Tensor) -> Tensor:
        """Judge images (batch, channels, height, width) as full ones."""
        return self.of_full(image)

    def undersampled(self, image: Tensor) -> Tensor:
        """Judge images as undersampled ones."""
        return self.of_undersampled(image)


class SwitchableDiscriminator(nn.Module):
    """One discriminator for both domains; its scales and shifts are active for the full one."""

    def __init__(self, options: TranslatorOptions) -> None:
        super().__init__()
        self.discriminator = options.discriminator(switchable=True)

    def full(self, image: Tensor) -> Tensor:
        """Judge images (batch, channels, height, width) as full ones."""
        return self.discriminator(image, full=True)

    def undersampled(self, image: Tensor) -> Tensor:
        """Judge images as undersampled ones."""
        return self.discriminator(image)
