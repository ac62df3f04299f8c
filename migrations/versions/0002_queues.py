"""Which queue a thread waits in for workers.

Number 0002, after 0001. Once released, never changed.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("threads", sa.Column("queue", sa.Text))


def downgrade() -> None:
    op.drop_column("threads", "queue")
