"""Which of these images has a model memorized, and how sure is that? ``audit_images``; docs/audit.md is its page."""

from plap_jax.audit.auditing import audit_images
from plap_jax.audit.merging import merge_shards
from plap_jax.audit.result import AuditResult
from plap_jax.audit.settings import AuditSettings
from plap_jax.audit.shards import audit_shard

__all__ = ["AuditResult", "AuditSettings", "audit_images", "audit_shard", "merge_shards"]
