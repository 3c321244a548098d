"""Public functions × kinds of model: the verdict on each cell.

A cell is *right*: the answer is that of the model's plain twin, or has a stated property where chance decides. Or it is
*refused*: the function raises an error of its own, which says what came and what to do. Or it *does not apply*. What is
not listed below is right.
"""

from typing import NamedTuple

from tests.support.calls_with_models import CALLS
from tests.support.kinds_of_models import KINDS

RIGHT, REFUSED, DOES_NOT_APPLY = "right", "refused", "does not apply"


class Verdict(NamedTuple):
    """What is expected of a cell.

    Attributes:
        verdict: right, refused or does not apply.
        why: of right a property in place of equality, or nothing; of refused the words of the error, with … for
            what depends on the call; else the reason.
    """

    verdict: str
    why: str = ""


# These are called with what a model returned, or has done.
AFTER_THE_MODEL = (
    "basics.describe_output",
    "interpretation.interpret_classification_output",
    "interpretation.interpret_regression_output",
    "interpretation.greedy_decode",
    "pitfalls.detect_nan_inf",
    "pitfalls.gradient_clipping",
    "capstone.evaluate_logits",
)
ONE_INPUT = "must be one torch.Tensor here, … for a model with several inputs pass a module that takes one"
ONE_TENSOR = "must be a torch.Tensor, but is a tuple of length 2; pass a single tensor"
HALF_TRAINING = "the model is in half precision, in which small updates vanish; train model.float()"

# (verdict, words or reason, kinds, functions)
EXCEPTIONS = (
    (
        REFUSED,
        "the model has lazy layers that do not know their sizes yet; run it once on a batch first",
        ("lazy",),
        [n for n in CALLS if n not in AFTER_THE_MODEL],
    ),
    (DOES_NOT_APPLY, "the caller has run the model, so it is not lazy any more", ("lazy",), AFTER_THE_MODEL),
    (
        REFUSED,
        "layers of a scripted model cannot be watched; pass the model that it was scripted from",
        ("scripted",),
        ["optimization.monte_carlo_dropout", "pitfalls.first_nonfinite_layer", "pitfalls.diagnose"],
    ),
    (
        REFUSED,
        "inside a TorchScript model no layer can be watched; pass the model that it was made from",
        ("scripted",),
        ["advanced.grad_cam"],
    ),
    (
        REFUSED,
        "holds weights and has no reset_parameters(), so nobody knows how its random weights are made",
        ("scripted", "adapter"),
        ["advanced.randomization_check"],
    ),
    (
        REFUSED,
        "is computed from other parameters in each forward pass, so a new one would be lost",
        ("pruned",),
        ["advanced.randomization_check"],
    ),
    (
        RIGHT,
        "the same seed gives the same answer; the new weights are drawn in the model's own dtype",
        ("half", "bfloat16", "float64"),
        ["advanced.randomization_check"],
    ),
    (REFUSED, HALF_TRAINING, ("half", "bfloat16"), ["capstone.train_model"]),
    (
        REFUSED,
        "the model must return a logit for each of the 2 classes of data, (N, 2)",
        ("one logit",),
        ["capstone.train_model"],
    ),
    (
        REFUSED,
        "one logit z a sample becomes two columns, 0 and z",
        ("one logit",),
        ["capstone.evaluate_logits"],
    ),
    (
        DOES_NOT_APPLY,
        "one logit for each token would be a vocabulary of one",
        ("one logit",),
        ["interpretation.greedy_decode", "interpretation.beam_search_decode"],
    ),
    (
        DOES_NOT_APPLY,
        "a model with two heads returns a dict of them, each with its own key",
        ("output object", "dict", "empty parts", "one logit"),
        ["advanced.multi_task_inference"],
    ),
    (
        REFUSED,
        "torchinfo could not run the model … unsupported input or output type",
        ("output object",),
        ["iris.model_summary"],
    ),
    (
        REFUSED,
        ONE_INPUT,
        ("two inputs",),
        [
            *("advanced.fgsm_attack", "advanced.pgd_attack", "advanced.adversarial_training"),
            *("advanced.evaluate_robustness", "advanced.saliency_map", "advanced.grad_cam"),
            *("advanced.square_attack", "advanced.occlusion_map", "advanced.rise_map"),
            *("advanced.randomization_check", "advanced.smoothed_predict", "advanced.certify"),
        ],
    ),
    (
        REFUSED,
        ONE_TENSOR,
        ("two inputs",),
        [
            *("interpretation.beam_search_decode", "advanced.multi_task_inference", "advanced.deletion_curve"),
            *("iris.plot_decision_regions", "capstone.predict_logits", "capstone.evaluate_model"),
            "capstone.interpret_model_outputs",
        ],
    ),
    (
        DOES_NOT_APPLY,
        "an ImageData holds one image a sample",
        ("two inputs",),
        [
            *("capstone.calibrate_model", "capstone.measure_robustness", "capstone.train_model"),
            *("capstone.bfloat16_is_faster", "capstone.write_report"),
        ],
    ),
    (
        RIGHT,
        "the same seed gives the same answer; the noise moves the stream of the dropout masks",
        ("stochastic",),
        ["iris.train", "advanced.adversarial_training", "capstone.train_model"],
    ),
)


def verdicts() -> dict[tuple[str, str], Verdict]:
    """(function, kind) → verdict, for all of them."""
    table = {(function, kind): Verdict(RIGHT) for function in CALLS for kind in KINDS}
    for verdict, why, kinds, functions in EXCEPTIONS:
        for cell in ((function, kind) for function in functions for kind in kinds):
            assert table[cell] == Verdict(RIGHT), f"{cell} is in two exceptions"
            table[cell] = Verdict(verdict, why)
    return table
