"""The search itself: Optuna says what to try next, a runner runs it, and what came out is kept at once."""

import random
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.trial import Trial, TrialState, create_trial

from offload.commands import interrupts
from offload.simulation.cell import Cell
from offload.simulation.runners.base import Answer, CellRunner, Refused
from offload.tuning.learned import Known, finished, study_name
from offload.tuning.parameters import choice_of, distributions, params_of
from offload.tuning.space import Choice
from offload.tuning.task import Task
from tiers.errors import UsageError

_LOOK_EVERY_S = 0.2
_REPEATS = 8
"""Suggestions in a row of what is known or beyond a limit, after which chance decides."""
_FEW = 20_000
"""Choices that are not too many to look at each."""

SEARCHED, REUSED, WARM = "search", "known", "warm start"
"""Where a trial comes from: suggested, run by an earlier search, or the best of a similar one run again here."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A trial that is to run."""

    trial: Trial
    choice: Choice
    cell: Cell


@dataclass(slots=True)
class Search:
    """One study of ``task`` in ``storage``; what it has tried stays there, however it ends."""

    task: Task
    storage: JournalStorage
    seed: int
    study: optuna.Study = field(init=False)
    refusals: list[str] = field(default_factory=list)
    """Why settings could not run, of this search."""
    num_known: int = 0
    """Settings with a row."""
    _seen: set[tuple[Any, ...]] = field(default_factory=set)
    """Choices that have a row, run, or cannot."""

    def __post_init__(self) -> None:
        self.study = optuna.create_study(
            storage=self.storage,
            study_name=study_name(self.task.identity),
            direction="maximize" if self.task.goal.is_maximized else "minimize",
            load_if_exists=True,
        )
        if "features" not in self.study.user_attrs:
            self.study.set_user_attr("features", self.task.features)
        for attributes in finished(self.study):
            self._seen.add(self.task.space.key(attributes["choice"]))
            self.num_known += 1
        # Not the same numbers again where an earlier search left off.
        seed = self.seed + 7919 * len(self.study.trials)
        self.study.sampler = optuna.samplers.TPESampler(seed=seed % 2**32)

    def begin_with(self, known: list[Known], most: int) -> int:
        """Takes over rows that hold here too, and queues at most ``most`` of the best settings of the nearest study.

        Returns how many were queued.
        """
        space, goal = self.task.space, self.task.goal
        others: dict[tuple[Any, ...], tuple[tuple[float, ...], Choice]] = {}
        nearest: float | None = None
        for one in known:
            choice, figures = space.nearest(one.choice), goal.figures(one.row)
            if choice is None or not self._is_open(choice) or not goal.can_judge(figures):
                continue
            cell = self._cell(choice)
            if cell is not None and cell.fingerprint == one.row.get("fingerprint"):
                self._take_over(choice, one.row)
            elif cell is not None and nearest in (None, one.distance):
                nearest = one.distance
                others.setdefault(space.key(choice), (goal.rank(figures), choice))
        left = [ranked for ranked in others.values() if self._is_open(ranked[1])]
        best = sorted(left, key=lambda ranked: ranked[0])[:most]
        for _, choice in best:
            self._enqueue(choice, WARM)
        return len(best)

    def run(
        self,
        runner: CellRunner,
        *,
        trials: int,
        jobs: int,
        deadline_s: float | None,
        progress: Callable[[int, int], None],
    ) -> None:
        """Runs at most so many trials. Raises TimeoutError at the deadline, KeyboardInterrupt, WorldError."""
        self._queue_rest(trials)
        pending: dict[Future[Answer], Attempt] = {}
        started = 0
        try:
            while True:
                progress(started - len(pending), trials)
                while len(pending) < jobs and started < trials and (attempt := self._ask()) is not None:
                    pending[runner.submit(attempt.cell)] = attempt
                    started += 1
                if not pending:
                    return
                for future in wait(pending, _LOOK_EVERY_S, FIRST_COMPLETED).done:
                    answer = future.result()
                    self._tell(pending.pop(future), answer)
                if deadline_s is not None and time.monotonic() > deadline_s:
                    raise TimeoutError
        finally:
            for attempt in pending.values():
                self._give_up(attempt.trial)

    def _ask(self) -> Attempt | None:
        """None where everything was tried."""
        repeats = 0
        while True:
            if repeats == _REPEATS:
                unseen = self._unseen()
                if unseen is None:
                    return None
                self._enqueue(unseen, SEARCHED)
                repeats = 0
            with interrupts.deferred():
                trial = self.study.ask(distributions(self.task.space))
            choice = choice_of(self.task.space, trial.params)
            is_open = self._is_open(choice)
            self._seen.add(self.task.space.key(choice))
            if is_open and (cell := self._cell(choice)) is not None:
                return Attempt(trial, choice, cell)
            self._give_up(
                trial, self.task.goal.excess(self.task.goal.figures({"tiers": self.task.space.tiers(choice)}))
            )
            repeats += 1

    def _tell(self, attempt: Attempt, answer: Answer) -> None:
        trial, goal = attempt.trial, self.task.goal
        if isinstance(answer, Refused):
            self.refusals.append(f"{attempt.cell}: {answer.message}")
            self._give_up(trial)
            return
        row = attempt.cell.row(answer)
        figures = goal.figures(row)
        if not goal.can_judge(figures):
            self.refusals.append(f"{attempt.cell}: {goal.objective} is {figures.get(goal.objective)}")
            self._give_up(trial)
            return
        with interrupts.deferred():
            for name, value in self._attributes(attempt.choice, row, SEARCHED).items():
                if name not in trial.user_attrs:
                    trial.set_user_attr(name, value)
            for name, excess in goal.excess(figures).items():
                trial.set_constraint(name, excess)
            self.study.tell(trial, goal.value(figures))
        self.num_known += 1

    def _take_over(self, choice: Choice, row: Mapping[str, Any]) -> None:
        goal = self.task.goal
        figures = goal.figures(row)
        with interrupts.deferred():
            self.study.add_trial(
                create_trial(
                    value=goal.value(figures),
                    params=params_of(self.task.space, choice),
                    distributions=distributions(self.task.space),
                    user_attrs=self._attributes(choice, row, REUSED),
                    constraints=goal.excess(figures) or None,
                )
            )
        self._seen.add(self.task.space.key(choice))
        self.num_known += 1

    def _queue_rest(self, trials: int) -> None:
        """All that is left, in order, where that is not more than will be tried anyway."""
        rest = self._open_choices()
        if rest is not None and len(rest) <= trials:
            for choice in rest:
                self._enqueue(choice, SEARCHED)

    def _unseen(self) -> Choice | None:
        """One by chance of those that are left."""
        draw = random.Random(self.seed + len(self._seen))  # noqa: S311 - nobody has to fail to guess it
        rest = self._open_choices()
        if rest is not None:
            return draw.choice(rest) if rest else None
        for _ in range(_FEW):
            choice = {axis.name: draw.choice(axis.values) for axis in self.task.space.axes}
            if self._is_open(choice):
                return choice
        return None

    def _open_choices(self) -> list[Choice] | None:
        """None where they are too many."""
        space = self.task.space
        return None if space.size > _FEW else [choice for choice in space.choices() if self._is_open(choice)]

    def _is_open(self, choice: Choice) -> bool:
        """Neither tried nor beyond a limit on memory."""
        space = self.task.space
        return space.key(choice) not in self._seen and not self.task.goal.forbids(space.tiers(choice))

    def _enqueue(self, choice: Choice, source: str) -> None:
        with interrupts.deferred():
            self.study.enqueue_trial(
                params_of(self.task.space, choice), user_attrs={"source": source}, skip_if_exists=True
            )

    def _give_up(self, trial: Trial, excess: Mapping[str, float] = MappingProxyType({})) -> None:
        """Where it is beyond a limit by ``excess``, the sampler is told so; of others it learns nothing."""
        is_beyond = any(share > 0 for share in excess.values())
        with interrupts.deferred():
            for name, share in excess.items() if is_beyond else ():
                trial.set_constraint(name, share)
            self.study.tell(trial, state=TrialState.PRUNED if is_beyond else TrialState.FAIL)

    def _cell(self, choice: Choice) -> Cell | None:
        try:
            return self.task.cell(choice)
        except UsageError as error:
            self.refusals.append(str(error))
            return None

    def _attributes(self, choice: Choice, row: Mapping[str, Any], source: str) -> dict[str, Any]:
        return {"choice": dict(choice), "row": dict(row), "source": source}
