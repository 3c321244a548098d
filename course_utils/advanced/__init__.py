"""Chapter 5: advanced outputs. Several tasks, attacks and promises, attributions and their scores, conformal sets."""

from course_utils.advanced.attacks import (
    AdversarialLosses,
    RobustnessResult,
    adversarial_training,
    evaluate_robustness,
    fgsm_attack,
    pgd_attack,
)
from course_utils.advanced.attention import attention_rollout, gradient_rollout
from course_utils.advanced.attributions import grad_cam, integrated_gradients, saliency_map
from course_utils.advanced.conformal import conformal_sets, coverage_distribution
from course_utils.advanced.multitask import MultiTaskLoss, MultiTaskModel, MultiTaskResult, multi_task_inference
from course_utils.advanced.perturbations import occlusion_map, rise_map
from course_utils.advanced.plotting import plot_attack, plot_scores_by_seed, visualize_attributions
from course_utils.advanced.randomization import randomization_check
from course_utils.advanced.scores import (
    centre_first,
    deletion_curve,
    energy_inside,
    grow_masks,
    pointing_game,
    score_maps,
)
from course_utils.advanced.smoothing import Certificates, certify, smoothed_predict
from course_utils.advanced.square import square_attack
from course_utils.foundation.plotting import plot_curves

__all__ = [
    "AdversarialLosses",
    "Certificates",
    "MultiTaskLoss",
    "MultiTaskModel",
    "MultiTaskResult",
    "RobustnessResult",
    "adversarial_training",
    "attention_rollout",
    "centre_first",
    "certify",
    "conformal_sets",
    "coverage_distribution",
    "deletion_curve",
    "energy_inside",
    "evaluate_robustness",
    "fgsm_attack",
    "grad_cam",
    "gradient_rollout",
    "grow_masks",
    "integrated_gradients",
    "multi_task_inference",
    "occlusion_map",
    "pgd_attack",
    "plot_attack",
    "plot_curves",
    "plot_scores_by_seed",
    "pointing_game",
    "randomization_check",
    "rise_map",
    "saliency_map",
    "score_maps",
    "smoothed_predict",
    "square_attack",
    "visualize_attributions",
]
