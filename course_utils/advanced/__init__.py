"""Chapter 5: advanced outputs. Several tasks at once, attacks and training against them, attributions scored."""

from course_utils.advanced.attacks import (
    AdversarialLosses,
    RobustnessResult,
    adversarial_training,
    evaluate_robustness,
    fgsm_attack,
    pgd_attack,
)
from course_utils.advanced.attributions import grad_cam, integrated_gradients, saliency_map
from course_utils.advanced.multitask import MultiTaskLoss, MultiTaskModel, MultiTaskResult, multi_task_inference
from course_utils.advanced.plotting import plot_attack, plot_scores_by_seed, visualize_attributions
from course_utils.advanced.scores import deletion_curve, energy_inside, pointing_game
from course_utils.foundation.plotting import plot_curves

__all__ = [
    "AdversarialLosses",
    "MultiTaskLoss",
    "MultiTaskModel",
    "MultiTaskResult",
    "RobustnessResult",
    "adversarial_training",
    "deletion_curve",
    "energy_inside",
    "evaluate_robustness",
    "fgsm_attack",
    "grad_cam",
    "integrated_gradients",
    "multi_task_inference",
    "pgd_attack",
    "plot_attack",
    "plot_curves",
    "plot_scores_by_seed",
    "pointing_game",
    "saliency_map",
    "visualize_attributions",
]
