"""The log, its threads, their snapshots, stubs and signals; and a cache of what nodes returned.

Number 0001, after nothing. Once released, never changed.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "checkpoints",
        sa.Column("thread_id", sa.Text, nullable=False),
        sa.Column("step", sa.BigInteger, nullable=False),
        sa.Column("parent_step", sa.BigInteger),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("superstep", sa.BigInteger, nullable=False),
        sa.Column("node", sa.Text),
        sa.Column("task", sa.Text),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.Text, nullable=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("thread_id", "step", name="pk_checkpoints"),
    )
    op.create_table(
        "threads",
        sa.Column("thread_id", sa.Text, nullable=False),
        sa.Column("graph", sa.Text, nullable=False),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("parent_thread_id", sa.Text),
        sa.Column("parent_step", sa.BigInteger),
        sa.Column("called_by", sa.Text),
        sa.Column("lease_owner", sa.Text),
        sa.Column("lease_since", sa.Text),
        sa.Column("lease_expires_at", sa.Text),
        sa.Column("wake_at", sa.Text),
        sa.Column("created_at", sa.Text, nullable=False),
        sa.Column("updated_at", sa.Text, nullable=False),
        sa.Column("metadata", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("thread_id", name="pk_threads"),
    )
    op.create_index("ix_threads_updated_at", "threads", ["updated_at"])
    op.create_index("ix_threads_status_updated_at", "threads", ["status", "updated_at"])
    op.create_index("ix_threads_called_by", "threads", ["called_by"])
    op.create_index("ix_threads_parent_thread_id", "threads", ["parent_thread_id"])
    op.create_table(
        "snapshots",
        sa.Column("thread_id", sa.Text, nullable=False),
        sa.Column("step", sa.BigInteger, nullable=False),
        sa.Column("state", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("thread_id", "step", name="pk_snapshots"),
    )
    op.create_table(
        "stubs",
        sa.Column("thread_id", sa.Text, nullable=False),
        sa.Column("step", sa.BigInteger, nullable=False),
        sa.Column("parent_hash", sa.LargeBinary, nullable=False),
        sa.Column("state", sa.LargeBinary, nullable=False),
        sa.Column("pruned_at", sa.Text, nullable=False),
        sa.Column("actor", sa.Text),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("thread_id", name="pk_stubs"),
    )
    op.create_table(
        "signals",
        sa.Column("thread_id", sa.Text, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("value", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("thread_id", "id", name="pk_signals"),
    )
    op.create_table(
        "cache",
        sa.Column("namespace", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("value", sa.LargeBinary, nullable=False),
        sa.Column("expires_at", sa.Text),
        sa.PrimaryKeyConstraint("namespace", "key", name="pk_cache"),
    )
    op.create_index("ix_cache_expires_at", "cache", ["expires_at"])


def downgrade() -> None:
    op.drop_table("cache")
    op.drop_table("signals")
    op.drop_table("stubs")
    op.drop_table("snapshots")
    op.drop_table("threads")
    op.drop_table("checkpoints")
