"""One scan of eight coils, simulated from a T2 volume: what settings for a single scan were chosen on.

python one_scan.py patient12_study1_T2W.nii.gz simulated.npy
"""

import sys

import nibabel
import numpy as np
import torch

from sansref.data.simulate import Simulation, simulate
from sansref.kspace.grid import center_crop
from sansref.randomness import seeded
from sansref.scan import ScanMeta

volume = np.asarray(nibabel.load(sys.argv[1]).dataobj, dtype=np.float32)
image = center_crop(torch.from_numpy(np.ascontiguousarray(volume[:, :, volume.shape[2] // 2].T)), (256, 256))
name = "patient12_study1_T2W"
options = Simulation(phase=1.5, snr=80, coils=8)
scan = simulate((image / image.max()).clamp(min=0), options, seeded(7, name), ScanMeta(name, name))
np.save(sys.argv[2], scan.kspace.numpy())
