"""Which of these images did my model memorize, and how sure are you? ``python -m experiments.run +exp=audit``.

docs/audit.md is the page for users; the audit itself is ``plap_jax.audit``.
"""

from functools import partial

from experiments.core.cache import Cache
from experiments.core.report import Report
from experiments.core.schema import BaseConfig
from experiments.core.tracker import Tracker
from experiments.shared.audit_settings import Request
from experiments.shared.audited_models import load
from experiments.shared.audits import audit
from experiments.shared.sharded_audits import compute, merge
from plap_jax.audit.subject import Held

__all__ = ["Config", "run"]


class Config(BaseConfig, Request):
    """The config of this experiment."""


def run(config: Config, *, report: Report, cache: Cache, tracker: Tracker) -> None:
    """Score, judge, report; of shards either."""
    load_baseline = None if config.baseline is None else partial(load, "baseline", config.baseline)
    if config.shards is not None and config.shard is None:
        return merge(config, partial(load, "model", config.model), load_baseline, seed=config.seed, report=report)
    with report.stage("model"):
        held = Held(partial(load, "model", config.model))
        _ = held.subject
    baseline = None if load_baseline is None else Held(load_baseline)
    if config.shard is not None:
        return compute(config, held, baseline=baseline, seed=config.seed, report=report)
    audit(config, held, baseline=baseline, seed=config.seed, report=report, cache=cache)
