"""What chaos excuses where a run does not come out as claimed, and what it does not.

Training is chaotic where rounding grows until another computer ends in another network. Then a claim can be right and
yet not come out. So such a run is repeated with slightly perturbed inputs. An honest claim is one more of these draws.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from course_utils.homework.comparison import Comparison
from course_utils.homework.data import PARTS
from course_utils.homework.metrics import higher_is_better, is_share
from course_utils.homework.runs import RunRecord

CLOSE = 1e-6  # of a loss, relative to max(1, loss): the two engines differ by a tenth of it where nothing is chaotic
CHANCE = 0.003  # at most, that an honest file of a computer that rounds otherwise seems to favour its best setting
LUCKY = 0.1  # the same for a winner that does not win here
NO_NUMBER = 1e40  # stands for NaN: worse than every float32
FIGURES = slice(0, len(PARTS))  # of the numbers of a run; behind them stand the points of its curve
CURVE = slice(len(PARTS), None)


@dataclass(frozen=True, eq=False)
class Repetition:
    """A claimed run beside what comes out here.

    Attributes:
        claim: the run as handed in.
        draws: the run as repeated; behind it the same with perturbed inputs, where the claim is another one.
        metric: of the figures.
        sample: (3,) by how much one answer changes each figure; 0 for the loss.
        tolerance: of the curve, relative to max(1, loss).
    """

    claim: RunRecord
    draws: tuple[RunRecord, ...]
    metric: str
    sample: np.ndarray
    tolerance: float

    @cached_property
    def claimed(self) -> np.ndarray:
        """(F,) the three figures and the curve."""
        return _numbers(self.claim)

    @cached_property
    def drawn(self) -> np.ndarray:
        """(D, F)."""
        return np.stack([_numbers(run) for run in self.draws])

    @cached_property
    def _spread(self) -> np.ndarray:
        """(F,) how far the draws are from the first one."""
        return np.abs(self.drawn - self.drawn[0]).max(0)

    @cached_property
    def _allowed(self) -> np.ndarray:
        """(F,) by how much the claim may differ from the first draw where nothing is chaotic."""
        unit = np.maximum(1.0, self.drawn[0])
        allowed = self.tolerance * unit
        allowed[FIGURES] = 1e-9 if is_share(self.metric) else (CLOSE * unit + 2 * self._spread)[FIGURES]
        return allowed

    @cached_property
    def _telling(self) -> np.ndarray:
        """(F,) the points of the curve where the draws are so far apart that a curve tells its rounding."""
        telling = self._spread > self.tolerance * np.maximum(1.0, self.drawn[0])
        telling[FIGURES] = False
        return telling

    @cached_property
    def excused(self) -> np.ndarray:
        """(F,) what only has to be possible: the curve from where the draws separate, and the figures that separate.

        Where curves lie far apart, equal figures of the draws are luck, and all figures are excused. But if there the
        claimed curve is the one that comes out here, to every digit, the rounding was the same, and none is.
        """
        apart = self._spread > self.tolerance / 10 * np.maximum(1.0, self.drawn[0])
        excused = np.r_[apart[FIGURES], np.maximum.accumulate(apart[CURVE])]
        if (telling := self._telling).any():
            same = np.allclose(self.claimed[telling], self.drawn[0, telling], rtol=CLOSE, atol=CLOSE)
            excused[FIGURES] = not same
        return excused

    @property
    def is_chaotic(self) -> bool:
        return bool(self.excused.any())

    def contradictions(self) -> list[str]:
        """What does not come out as claimed and is not excused, in words."""
        wrong = (np.abs(self.claimed - self.drawn[0]) > self._allowed) & ~self.excused
        texts = self._differences(wrong, self.drawn[0])
        if {run.diverged for run in self.draws} == {not self.claim.diverged}:
            did = {True: "diverged", False: "did not diverge"}
            texts.append(f"it says that it {did[self.claim.diverged]}, but it {did[self.draws[0].diverged]}")
        where = f"the run of setting {self.claim.setting}, seed {self.claim.seed} is not reproduced"
        return [f"{where}: {text}" for text in texts]

    def _differences(self, wrong: np.ndarray, found: np.ndarray) -> list[str]:
        claimed, found = ([f"{x:.6g}" if x < NO_NUMBER else "no number" for x in xs] for xs in (self.claimed, found))
        texts = [
            f"its {name} figure is {claimed[i]}, but {found[i]} comes out" for i, name in enumerate(PARTS) if wrong[i]
        ]
        if len(points := np.flatnonzero(wrong[CURVE])):
            first = len(PARTS) + points[0]
            texts.append(
                f"its curve differs at {len(points)} point(s); at point {points[0] + 1} it is {claimed[first]}, "
                f"but {found[first]} comes out"
            )
        return texts

    def _scaled(self, numbers: np.ndarray) -> np.ndarray:
        """Losses as logarithms, since those of chaotic runs lie factors apart; below the tolerance all are alike."""
        scaled = np.log(np.maximum(numbers, 0.0) + self.tolerance)
        if is_share(self.metric):
            scaled[..., FIGURES] = numbers[..., FIGURES]
        return scaled

    @cached_property
    def ranges(self) -> np.ndarray:
        """(4,) of the draws: of each figure, and of the curve where they are widest apart."""
        scaled, is_number = self._scaled(self.drawn), self.drawn < NO_NUMBER
        high, low = scaled.max(0, where=is_number, initial=-np.inf), scaled.min(0, where=is_number, initial=np.inf)
        ranges = np.where(self.excused, np.maximum(high - low, 0.0), 0.0)
        return np.r_[ranges[FIGURES], ranges[CURVE].max()]

    def impossible(self, ranges: np.ndarray) -> list[str]:
        """What chaos would excuse, but lies farther outside the draws than their `ranges` (4,), in words."""
        samples = (3 if self._telling.any() else 1) * self.sample
        width = np.r_[np.maximum(ranges[FIGURES], samples), np.full(len(self.claim.losses), ranges[-1])]
        claimed, drawn = self._scaled(self.claimed), self._scaled(self.drawn)
        low, high = drawn.min(0) - width - CLOSE, drawn.max(0) + width + CLOSE
        wrong = ~((low <= claimed) & (claimed <= high)) & self.excused
        where = f"the run of setting {self.claim.setting}, seed {self.claim.seed}"
        nearest = self.drawn[np.abs(drawn - claimed).argmin(0), np.arange(len(claimed))]
        tries = f"at best, in {len(self.draws)} tries with other rounding"
        return [f"{where}: {text} {tries}" for text in self._differences(wrong, nearest)]

    def deviations(self, part: str) -> np.ndarray:
        """(1 + D,) of the claim and the draws from their common mean, scaled; empty unless all are numbers."""
        column = PARTS.index(part)
        values = self._scaled(np.vstack([self.claimed, self.drawn]))[:, column]
        return values - values.mean() if max(self.claimed[column], *self.drawn[:, column]) < NO_NUMBER else values[:0]

    def as_it_comes_out(self) -> RunRecord:
        """The claim with the mean figures of the draws; if most of them diverged, of those that did."""
        diverged = 2 * sum(run.diverged for run in self.draws) > len(self.draws)
        runs = [run for run in self.draws if run.diverged == diverged]
        figures = {name: float(np.mean([getattr(run, name) for run in runs])) for name in PARTS}
        return replace(self.claim, diverged=diverged, **figures)


def _numbers(record: RunRecord) -> np.ndarray:
    return np.nan_to_num([record.train, record.validation, record.test, *record.losses], nan=NO_NUMBER)


def outliers(tried: Sequence[Repetition]) -> list[tuple[Repetition, list[str]]]:
    """Repetitions whose claim chaos does not make possible, each with texts that say so.

    How far apart the draws of a run are is itself a matter of luck, since often only one of ten ends in another valley.
    So all runs of a setting are judged by the widest of their ranges.
    """
    widest: dict[int, np.ndarray] = {}
    for one in tried:
        widest[one.claim.setting] = np.maximum(one.ranges, widest.get(one.claim.setting, 0.0))
    found = [(one, one.impossible(widest[one.claim.setting])) for one in tried]
    return [(one, texts) for one, texts in found if texts]


def favoured(comparison: Comparison, tried: Sequence[Repetition]) -> list[str]:
    """Do the differences that chaos excuses favour the best setting, taken together?

    An honest claim is one more draw: each of the n + 1 values of a run, the claim and the n draws, could as well have
    been the claimed one. d is a value's distance from their mean, with a minus for rivals of the best setting and
    where less is better. If the claims are honest, the sum T of their distances is reached with a probability of at
    most

        min over λ > 0 of exp(−λT) · Π mean(exp(λd)),    the product over the runs, the mean over a run's values

    (Chernoff's bound, whatever the distribution.) This is asked for all runs, and for those of each setting; the chance
    of a false alarm is shared among these questions.
    """
    numbers = sorted({one.claim.setting for one in tried})
    groups = {"the best setting": list(tried)}
    groups |= {
        f"the best setting, in the runs of setting {number}": [one for one in tried if one.claim.setting == number]
        for number in numbers
    }
    problems = []
    for part in ("validation", "test"):
        for name, group in groups.items():
            signed = _signed(comparison, group, part)
            if _chance_of_sum(signed) < CHANCE / len(groups):
                total, spread = sum(values[0] for values in signed), sum(values.var() for values in signed) ** 0.5
                unit = "" if is_share(comparison.metric) else " (of the logarithm)"
                problems.append(
                    f"where runs are not reproduced exactly, their {part} figures differ in favour of {name}, by "
                    f"{total:.4g} in sum{unit}; rounding explains about ±{spread:.2g}"
                )
                break
    return problems


def _signed(comparison: Comparison, group: Iterable[Repetition], part: str) -> list[np.ndarray]:
    """The deviations of each run, positive where they favour the best setting."""
    best, better = comparison.best().setting, 1 if higher_is_better(comparison.metric) else -1
    signed = [better * (1 if one.claim.setting == best else -1) * one.deviations(part) for one in group]
    return [values for values in signed if values.any()]


def _chance_of_sum(signed: Sequence[np.ndarray]) -> float:
    """The bound that `favoured` describes; the first value of each run is the claimed one."""
    if not signed:
        return 1.0
    scale = sum(values.var() for values in signed) ** 0.5
    rates = np.geomspace(0.1, 1e4, 100)[:, None] / scale
    # Σ log mean exp(λ(d − claimed)), the largest exponent taken out so that nothing overflows.
    log_chance = np.zeros(len(rates))
    for values in signed:
        exponents = rates * (values - values[0])
        largest = exponents.max(1)
        log_chance += largest + np.log(np.exp(exponents - largest[:, None]).mean(1))
    return float(np.exp(min(0.0, log_chance.min())))


def what_chaos_means(
    comparison: Comparison, tried: Sequence[Repetition], num_repeated: int
) -> tuple[list[str], list[str]]:
    """For the student: notes on how much could not be confirmed, and what speaks against the claimed winner."""
    chaotic = [one for one in tried if one.is_chaotic]
    if not tried:
        return [], []
    best, num_seeds = comparison.best(), len(comparison.seeds)
    here = _as_it_comes_out(comparison, tried)
    notes, against = [], []
    if chaotic:
        of_best = sum(one.claim.setting == best.setting for one in chaotic)
        text = (
            f"training is chaotic in {len(chaotic)} of {num_repeated} repeated runs, {of_best} of the best setting's "
            f"{num_seeds}: rounding decides there, so their figures are possible, but cannot be confirmed"
        )
        if of_best:
            validation, test = (here.matrix(part)[best.setting].mean() for part in ("validation", "test"))
            text += (
                f"; the best setting's means on validation and test are {best.validation:.4g} and {best.test:.4g}, "
                f"here {validation:.4g} and {test:.4g}"
            )
        notes.append(text)
    table = here.summary().set_index("setting")
    winner = table.index[0]
    if winner != best.setting:
        text = f"with the figures that come out here, setting {winner} is the best one, not setting {best.setting}"
        between = [one for one in tried if one.claim.setting in (winner, best.setting)]
        is_lucky = _chance_of_sum(_signed(comparison, between, "validation")) < LUCKY
        if table["tied_with_best"][best.setting] and not is_lucky:
            notes.append(f"{text}; the two cannot be told apart, and the report should say so")
        else:
            against.append(
                f"{text}, and the difference is larger than in most cases. Chaotic training can do that by an accident "
                "of rounding; a smaller learning rate or more seeds give a result that others can confirm"
            )
    return notes, against


def _as_it_comes_out(comparison: Comparison, tried: Iterable[Repetition]) -> Comparison:
    """The comparison with the figures that come out here, where they are others."""
    found = {(one.claim.setting, one.claim.seed): one.as_it_comes_out() for one in tried}
    records = tuple(found.get((record.setting, record.seed), record) for record in comparison.records)
    return replace(comparison, records=records)
