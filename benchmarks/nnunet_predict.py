"""nnU-Net v2's own predictor on one volume: a 2-D plan as its planner makes it, random weights of the true size.

    PYTHON_WITH_NNUNETV2 benchmarks/nnunet_predict.py VOLUME OUTPUT

No resampling is asked for, and reading and writing happen in this process: both to nnU-Net's advantage.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

CONV, NORM = "torch.nn.modules.conv.Conv2d", "torch.nn.modules.instancenorm.InstanceNorm2d"


def plans_for(shape: tuple[int, ...], spacing: list[float]) -> dict:
    """Of volumes with this shape (K, J, I): a patch that holds a slice, and halvings down to less than 8 pixels."""
    stages = max(int(np.log2(min(shape[1:]) / 4)), 1) + 1
    patch = [-(-side // 2 ** (stages - 1)) * 2 ** (stages - 1) for side in shape[1:]]
    function = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": stages, "features_per_stage": [min(512, 32 * 2**k) for k in range(stages)], "conv_op": CONV,
            "kernel_sizes": [[3, 3]] * stages, "strides": [[1, 1]] + [[2, 2]] * (stages - 1),
            "n_conv_per_stage": [2] * stages, "n_conv_per_stage_decoder": [2] * (stages - 1), "conv_bias": True,
            "norm_op": NORM, "norm_op_kwargs": {"eps": 1e-5, "affine": True}, "dropout_op": None,
            "dropout_op_kwargs": None, "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }  # fmt: skip
    configuration = {
        "data_identifier": "2d", "preprocessor_name": "DefaultPreprocessor", "batch_size": 12, "patch_size": patch,
        "median_image_size_in_voxels": list(shape[1:]), "spacing": spacing[1:], "batch_dice": True,
        "normalization_schemes": ["ZScoreNormalization"], "use_mask_for_norm": [False], "architecture": architecture,
    }  # fmt: skip
    for what in ("data", "seg", "probabilities"):
        configuration[f"resampling_fn_{what}"] = "resample_data_or_seg_to_shape"
        configuration[f"resampling_fn_{what}_kwargs"] = function | {"is_seg": what == "seg"}
    return {
        "dataset_name": "Dataset001_Speed", "plans_name": "nnUNetPlans", "image_reader_writer": "SimpleITKIO",
        "original_median_spacing_after_transp": spacing, "original_median_shape_after_transp": list(shape),
        "transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2], "configurations": {"2d": configuration},
        "experiment_planner_used": "ExperimentPlanner", "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": {}},
    }  # fmt: skip


def main(volume: str, output: str) -> None:
    image, properties = SimpleITKIO().read_images([volume])
    manager = PlansManager(plans_for(image.shape[1:], [float(each) for each in properties["spacing"]]))
    configuration = manager.get_configuration("2d")
    dataset = {"channel_names": {"0": "image"}, "labels": {"background": 0, "organ": 1}, "file_ending": ".nii.gz"}
    torch.manual_seed(0)
    network = get_network_from_plans(
        configuration.network_arch_class_name, configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import, 1, 2, deep_supervision=False,
    )  # fmt: skip
    predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False)
    predictor.manual_initialization(
        network, manager, configuration, [network.state_dict()], dataset, "nnUNetTrainer", (0, 1)
    )
    labels = predictor.predict_single_npy_array(image, properties)
    SimpleITKIO().write_seg(np.asarray(labels), output, properties)
    print(f"{sum(each.numel() for each in network.parameters()) / 1e6:.0f} M parameters")


if __name__ == "__main__":
    main(*sys.argv[1:3])
