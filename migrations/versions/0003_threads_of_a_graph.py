"""Threads of one graph with one status are found without looking at those of all others.

Number 0003, after 0002. Once released, never changed.
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_threads_status_graph_updated_at", "threads", ["status", "graph", "updated_at"])


def downgrade() -> None:
    op.drop_index("ix_threads_status_graph_updated_at", "threads")
