"""Sampling masks: the laws that draw them, masks like the one of a scan, masks from files."""

from sansref.kspace.masks.family import MaskFamily
from sansref.kspace.masks.laws import MASK_LAWS, draw_mask
from sansref.kspace.masks.mask import SamplingMask

__all__ = ["MASK_LAWS", "MaskFamily", "SamplingMask", "draw_mask"]
