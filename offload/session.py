"""Load, plan, run: what the command line and `import offload` offer."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from offload.config import RunConfig, load_config
from offload.doctor import load_profile
from offload.kv.open_drives import MakeTiming
from offload.loader import load_model
from offload.offloaded_model import OffloadedModel
from offload.plan import Plan, Workload
from offload.positions import longest_context
from offload.prospect import open_prospect, plan_for
from offload.run import RunResult, run
from offload.run_observer import Status
from offload.runnable import runnable_model
from simulators.expert_trace import ExpertTrace
from simulators.profile import HardwareProfile
from tiers.timeline import Timeline
from tiers.transfer import TransferConfig

__all__ = ["RunResult", "Status", "load", "plan_model", "run"]

DEFAULT_PROMPT_TOKENS = 1024
DEFAULT_NEW_TOKENS = 256


def load(
    model: str | Path,
    *,
    prompt_tokens: int | None = None,
    new_tokens: int | None = None,
    config_file: Path | None = None,
    profile: HardwareProfile | None = None,
    timeline: Timeline | None = None,
    transfer: TransferConfig | None = None,
    drive_timing: MakeTiming | None = None,
    progress: Callable[[int, int], None] | None = None,
    **budget: object,
) -> OffloadedModel:
    """A transformers model that keeps within a budget; ``model.plan`` says what sits where.

    ``budget`` takes the fields of ``RunConfig`` as keywords, as their values or as the command line takes them. The
    plan is made for prompts of ``prompt_tokens`` and ``new_tokens`` more; longer ones work as long as the tiers below
    the device have room. Call ``close`` when done.

    Raises ModelError, BudgetError, InvalidOptionError (the caller's to mend), TierError (the machine's).
    """
    config = load_config(budget, file=config_file)
    given = ((prompt_tokens, DEFAULT_PROMPT_TOKENS), (new_tokens, DEFAULT_NEW_TOKENS))
    tokens = sum(default if count is None else count for count, default in given)
    prospect = open_prospect(runnable_model(str(model)), config, context_tokens=tokens)
    try:
        default = DEFAULT_PROMPT_TOKENS + DEFAULT_NEW_TOKENS
        longest = longest_context(prospect.config) or default
        new = min(DEFAULT_NEW_TOKENS, longest // 2) if new_tokens is None else new_tokens
        prompt = max(1, min(DEFAULT_PROMPT_TOKENS, longest - new)) if prompt_tokens is None else prompt_tokens
        workload = Workload(config.batch, prompt, new)
        profile = profile or load_profile(config.device)
        plan = plan_for(prospect, config, workload, profile)
        return load_model(
            prospect,
            plan,
            config,
            workload,
            profile=profile,
            timeline=timeline,
            transfer=transfer,
            drive_timing=drive_timing,
            progress=progress,
        )
    except BaseException:
        prospect.source.close()
        raise


def plan_model(
    config: RunConfig,
    model: Path,
    workload: Workload,
    *,
    elsewhere: HardwareProfile | None = None,
    trace: ExpertTrace | None = None,
) -> Plan:
    """What would sit where, and how fast that should be; loads nothing. Raises as ``load``, and TraceError.

    ``elsewhere`` is the profile of another machine to plan for, ``trace`` a recorded routing of the model.
    """
    if elsewhere is not None:
        config = replace(config, device=elsewhere.device)
    prospect = open_prospect(model, config, context_tokens=workload.context_tokens)
    try:
        profile = elsewhere or load_profile(config.device)
        return plan_for(prospect, config, workload, profile, elsewhere=elsewhere is not None, trace=trace)
    finally:
        prospect.source.close()
