"""Short texts for the rules of `course_utils.pitfalls.lint`: rule → (wrong ones, right ones).

A wrong text marks the lines that must be found with `# <<`. torch, F and nn are imported above each text.
"""

from tests.pitfalls.lint_snippets import attacks, evaluation, losses, modes, parameters, shapes, training

SNIPPETS: dict[str, tuple[list[str], list[str]]] = {
    **losses.SNIPPETS,
    **training.SNIPPETS,
    **parameters.SNIPPETS,
    **modes.SNIPPETS,
    **evaluation.SNIPPETS,
    **shapes.SNIPPETS,
    **attacks.SNIPPETS,
}
