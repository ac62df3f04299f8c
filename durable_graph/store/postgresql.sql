-- Written by `python -m durable_graph.store.statements`: not to be changed here.

-- name: append
INSERT INTO checkpoints (thread_id, step, parent_step, kind, superstep, node, task, run_id, epoch, body, created_at, hash) SELECT :thread_id::VARCHAR AS anon_1, :step::BIGINT AS anon_2, :parent_step::BIGINT AS anon_3, :kind::VARCHAR AS anon_4, :superstep::BIGINT AS anon_5, :node::VARCHAR AS anon_6, :task::VARCHAR AS anon_7, :run_id::VARCHAR AS anon_8, :epoch::BIGINT AS anon_9, :body AS anon_10, :created_at::VARCHAR AS anon_11, :hash AS anon_12
FROM threads
WHERE threads.thread_id = :thread_id::VARCHAR AND threads.epoch = :epoch::BIGINT FOR SHARE ON CONFLICT DO NOTHING;

-- name: append_fork
INSERT INTO checkpoints (thread_id, step, parent_step, kind, superstep, node, task, run_id, epoch, body, created_at, hash) SELECT :thread_id::VARCHAR AS anon_1, :step::BIGINT AS anon_2, :parent_step::BIGINT AS anon_3, :kind::VARCHAR AS anon_4, :superstep::BIGINT AS anon_5, :node::VARCHAR AS anon_6, :task::VARCHAR AS anon_7, :run_id::VARCHAR AS anon_8, :epoch::BIGINT AS anon_9, :body AS anon_10, :created_at::VARCHAR AS anon_11, :hash AS anon_12
FROM threads
WHERE threads.thread_id = :thread_id::VARCHAR AND threads.epoch = :epoch::BIGINT AND (EXISTS (SELECT *
FROM checkpoints AS origin
WHERE origin.thread_id = :origin::VARCHAR AND origin.step = :parent_step::BIGINT)) AND NOT (EXISTS (SELECT *
FROM stubs
WHERE stubs.thread_id = :origin::VARCHAR AND stubs.step > :parent_step::BIGINT)) FOR SHARE ON CONFLICT DO NOTHING;

-- name: rows
SELECT anon_1.thread_id, anon_1.step, anon_1.parent_step, anon_1.kind, anon_1.superstep, anon_1.node, anon_1.task, anon_1.run_id, anon_1.epoch, anon_1.body, anon_1.created_at, anon_1.hash
FROM (SELECT anon_2.thread_id AS thread_id, anon_2.step AS step, anon_2.parent_step AS parent_step, anon_2.kind AS kind, anon_2.superstep AS superstep, anon_2.node AS node, anon_2.task AS task, anon_2.run_id AS run_id, anon_2.epoch AS epoch, anon_2.body AS body, anon_2.created_at AS created_at, anon_2.hash AS hash, coalesce(sum(octet_length(anon_2.body)) OVER (ORDER BY anon_2.step ROWS BETWEEN UNBOUNDED PRECEDING AND 1::INTEGER PRECEDING), 0::INTEGER) AS before
FROM (SELECT checkpoints.thread_id AS thread_id, checkpoints.step AS step, checkpoints.parent_step AS parent_step, checkpoints.kind AS kind, checkpoints.superstep AS superstep, checkpoints.node AS node, checkpoints.task AS task, checkpoints.run_id AS run_id, checkpoints.epoch AS epoch, checkpoints.body AS body, checkpoints.created_at AS created_at, checkpoints.hash AS hash
FROM checkpoints
WHERE checkpoints.thread_id = :thread_id::VARCHAR AND checkpoints.step > :after::BIGINT AND checkpoints.step <= :until::BIGINT ORDER BY checkpoints.step
 LIMIT :count::BIGINT) AS anon_2) AS anon_1
WHERE anon_1.before < :bytes::BIGINT ORDER BY anon_1.step;

-- name: newest_rows
SELECT anon_1.thread_id, anon_1.step, anon_1.parent_step, anon_1.kind, anon_1.superstep, anon_1.node, anon_1.task, anon_1.run_id, anon_1.epoch, anon_1.body, anon_1.created_at, anon_1.hash
FROM (SELECT anon_2.thread_id AS thread_id, anon_2.step AS step, anon_2.parent_step AS parent_step, anon_2.kind AS kind, anon_2.superstep AS superstep, anon_2.node AS node, anon_2.task AS task, anon_2.run_id AS run_id, anon_2.epoch AS epoch, anon_2.body AS body, anon_2.created_at AS created_at, anon_2.hash AS hash, coalesce(sum(octet_length(anon_2.body)) OVER (ORDER BY anon_2.step DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1::INTEGER PRECEDING), 0::INTEGER) AS before
FROM (SELECT checkpoints.thread_id AS thread_id, checkpoints.step AS step, checkpoints.parent_step AS parent_step, checkpoints.kind AS kind, checkpoints.superstep AS superstep, checkpoints.node AS node, checkpoints.task AS task, checkpoints.run_id AS run_id, checkpoints.epoch AS epoch, checkpoints.body AS body, checkpoints.created_at AS created_at, checkpoints.hash AS hash
FROM checkpoints
WHERE checkpoints.thread_id = :thread_id::VARCHAR AND checkpoints.step > :after::BIGINT AND checkpoints.step <= :until::BIGINT ORDER BY checkpoints.step DESC
 LIMIT :count::BIGINT) AS anon_2) AS anon_1
WHERE anon_1.before < :bytes::BIGINT ORDER BY anon_1.step DESC;

-- name: bodies
SELECT anon_1.step, anon_1.parent_step, anon_1.kind, anon_1.body
FROM (SELECT anon_2.step AS step, anon_2.parent_step AS parent_step, anon_2.kind AS kind, anon_2.body AS body, coalesce(sum(octet_length(anon_2.body)) OVER (ORDER BY anon_2.step ROWS BETWEEN UNBOUNDED PRECEDING AND 1::INTEGER PRECEDING), 0::INTEGER) AS before
FROM (SELECT checkpoints.step AS step, checkpoints.parent_step AS parent_step, checkpoints.kind AS kind, checkpoints.body AS body
FROM checkpoints
WHERE checkpoints.thread_id = :thread_id::VARCHAR AND checkpoints.step > :after::BIGINT AND checkpoints.step <= :until::BIGINT ORDER BY checkpoints.step
 LIMIT :count::BIGINT) AS anon_2) AS anon_1
WHERE anon_1.before < :bytes::BIGINT ORDER BY anon_1.step;

-- name: hash
SELECT checkpoints.hash
FROM checkpoints
WHERE checkpoints.thread_id = :thread_id::VARCHAR AND checkpoints.step = :step::BIGINT;

-- name: restore_row
INSERT INTO checkpoints (thread_id, step, parent_step, kind, superstep, node, task, run_id, epoch, body, created_at, hash) VALUES (:thread_id::VARCHAR, :step::BIGINT, :parent_step::BIGINT, :kind::VARCHAR, :superstep::BIGINT, :node::VARCHAR, :task::VARCHAR, :run_id::VARCHAR, :epoch::BIGINT, :body, :created_at::VARCHAR, :hash);

-- name: put_snapshot
INSERT INTO snapshots (thread_id, step, state) VALUES (:thread_id::VARCHAR, :step::BIGINT, :state) ON CONFLICT (thread_id, step) DO UPDATE SET state = excluded.state;

-- name: snapshot
SELECT snapshots.step, snapshots.state
FROM snapshots
WHERE snapshots.thread_id = :thread_id::VARCHAR AND snapshots.step <= :until::BIGINT ORDER BY snapshots.step DESC
 LIMIT 1::INTEGER;

-- name: delete(threads)
DELETE FROM threads WHERE threads.thread_id = :thread_id::VARCHAR;

-- name: delete(checkpoints)
DELETE FROM checkpoints WHERE checkpoints.thread_id = :thread_id::VARCHAR;

-- name: delete(snapshots)
DELETE FROM snapshots WHERE snapshots.thread_id = :thread_id::VARCHAR;

-- name: delete(stubs)
DELETE FROM stubs WHERE stubs.thread_id = :thread_id::VARCHAR;

-- name: delete(signals)
DELETE FROM signals WHERE signals.thread_id = :thread_id::VARCHAR;

-- name: thread
SELECT threads.thread_id, threads.graph, threads.fingerprint, threads.status, threads.epoch, threads.parent_thread_id, threads.parent_step, threads.called_by, threads.lease_owner, threads.lease_since, threads.lease_expires_at, threads.wake_at, threads.created_at, threads.updated_at, threads.metadata, threads.queue
FROM threads
WHERE threads.thread_id = :thread_id::VARCHAR;

-- name: new_thread(called_by, created_at, epoch, fingerprint, graph, lease_expires_at, lease_owner, lease_since, metadata, parent_step, parent_thread_id, queue, status, updated_at, wake_at)
INSERT INTO threads (thread_id, graph, fingerprint, status, epoch, parent_thread_id, parent_step, called_by, lease_owner, lease_since, lease_expires_at, wake_at, created_at, updated_at, metadata, queue) VALUES (:new_thread_id::VARCHAR, :new_graph::VARCHAR, :new_fingerprint::VARCHAR, :new_status::VARCHAR, :new_epoch::BIGINT, :new_parent_thread_id::VARCHAR, :new_parent_step::BIGINT, :new_called_by::VARCHAR, :new_lease_owner::VARCHAR, :new_lease_since::VARCHAR, :new_lease_expires_at::VARCHAR, :new_wake_at::VARCHAR, :new_created_at::VARCHAR, :new_updated_at::VARCHAR, :new_metadata, :new_queue::VARCHAR) ON CONFLICT DO NOTHING;

-- name: change_thread(lease_expires_at, lease_owner, lease_since, status, updated_at, wake_at)
UPDATE threads SET status=:new_status::VARCHAR, lease_owner=:new_lease_owner::VARCHAR, lease_since=:new_lease_since::VARCHAR, lease_expires_at=:new_lease_expires_at::VARCHAR, wake_at=:new_wake_at::VARCHAR, updated_at=:new_updated_at::VARCHAR WHERE threads.thread_id = :thread_id::VARCHAR AND threads.epoch = :epoch::BIGINT;

-- name: change_thread(epoch, fingerprint, graph, lease_expires_at, lease_owner, lease_since, queue, status, updated_at, wake_at)
UPDATE threads SET graph=:new_graph::VARCHAR, fingerprint=:new_fingerprint::VARCHAR, status=:new_status::VARCHAR, epoch=:new_epoch::BIGINT, lease_owner=:new_lease_owner::VARCHAR, lease_since=:new_lease_since::VARCHAR, lease_expires_at=:new_lease_expires_at::VARCHAR, wake_at=:new_wake_at::VARCHAR, updated_at=:new_updated_at::VARCHAR, queue=:new_queue::VARCHAR WHERE threads.thread_id = :thread_id::VARCHAR AND threads.epoch = :epoch::BIGINT;

-- name: change_thread(epoch, lease_expires_at, lease_owner, lease_since, status, updated_at, wake_at)
UPDATE threads SET status=:new_status::VARCHAR, epoch=:new_epoch::BIGINT, lease_owner=:new_lease_owner::VARCHAR, lease_since=:new_lease_since::VARCHAR, lease_expires_at=:new_lease_expires_at::VARCHAR, wake_at=:new_wake_at::VARCHAR, updated_at=:new_updated_at::VARCHAR WHERE threads.thread_id = :thread_id::VARCHAR AND threads.epoch = :epoch::BIGINT;

-- name: change_thread(metadata, updated_at)
UPDATE threads SET updated_at=:new_updated_at::VARCHAR, metadata=:new_metadata WHERE threads.thread_id = :thread_id::VARCHAR AND threads.epoch = :epoch::BIGINT;

-- name: renew(1)
UPDATE threads SET lease_expires_at=:new_lease_expires_at::VARCHAR WHERE threads.thread_id IN (:thread_0::VARCHAR) AND threads.lease_owner IN (:owner_0::VARCHAR);

-- name: renew(2)
UPDATE threads SET lease_expires_at=:new_lease_expires_at::VARCHAR WHERE threads.thread_id IN (:thread_0::VARCHAR, :thread_1::VARCHAR) AND threads.lease_owner IN (:owner_0::VARCHAR, :owner_1::VARCHAR);

-- name: renew(4)
UPDATE threads SET lease_expires_at=:new_lease_expires_at::VARCHAR WHERE threads.thread_id IN (:thread_0::VARCHAR, :thread_1::VARCHAR, :thread_2::VARCHAR, :thread_3::VARCHAR) AND threads.lease_owner IN (:owner_0::VARCHAR, :owner_1::VARCHAR, :owner_2::VARCHAR, :owner_3::VARCHAR);

-- name: renew(8)
UPDATE threads SET lease_expires_at=:new_lease_expires_at::VARCHAR WHERE threads.thread_id IN (:thread_0::VARCHAR, :thread_1::VARCHAR, :thread_2::VARCHAR, :thread_3::VARCHAR, :thread_4::VARCHAR, :thread_5::VARCHAR, :thread_6::VARCHAR, :thread_7::VARCHAR) AND threads.lease_owner IN (:owner_0::VARCHAR, :owner_1::VARCHAR, :owner_2::VARCHAR, :owner_3::VARCHAR, :owner_4::VARCHAR, :owner_5::VARCHAR, :owner_6::VARCHAR, :owner_7::VARCHAR);

-- name: renew(16)
UPDATE threads SET lease_expires_at=:new_lease_expires_at::VARCHAR WHERE threads.thread_id IN (:thread_0::VARCHAR, :thread_1::VARCHAR, :thread_2::VARCHAR, :thread_3::VARCHAR, :thread_4::VARCHAR, :thread_5::VARCHAR, :thread_6::VARCHAR, :thread_7::VARCHAR, :thread_8::VARCHAR, :thread_9::VARCHAR, :thread_10::VARCHAR, :thread_11::VARCHAR, :thread_12::VARCHAR, :thread_13::VARCHAR, :thread_14::VARCHAR, :thread_15::VARCHAR) AND threads.lease_owner IN (:owner_0::VARCHAR, :owner_1::VARCHAR, :owner_2::VARCHAR, :owner_3::VARCHAR, :owner_4::VARCHAR, :owner_5::VARCHAR, :owner_6::VARCHAR, :owner_7::VARCHAR, :owner_8::VARCHAR, :owner_9::VARCHAR, :owner_10::VARCHAR, :owner_11::VARCHAR, :owner_12::VARCHAR, :owner_13::VARCHAR, :owner_14::VARCHAR, :owner_15::VARCHAR);

-- name: restore_thread
INSERT INTO threads (thread_id, graph, fingerprint, status, epoch, parent_thread_id, parent_step, called_by, lease_owner, lease_since, lease_expires_at, wake_at, created_at, updated_at, metadata, queue) VALUES (:thread_id::VARCHAR, :graph::VARCHAR, :fingerprint::VARCHAR, :status::VARCHAR, :epoch::BIGINT, :parent_thread_id::VARCHAR, :parent_step::BIGINT, :called_by::VARCHAR, :lease_owner::VARCHAR, :lease_since::VARCHAR, :lease_expires_at::VARCHAR, :wake_at::VARCHAR, :created_at::VARCHAR, :updated_at::VARCHAR, :metadata, :queue::VARCHAR) ON CONFLICT DO NOTHING;

-- name: called
WITH RECURSIVE below(thread_id) AS
(SELECT threads.thread_id AS thread_id
FROM threads
WHERE threads.called_by = :thread_id::VARCHAR UNION SELECT threads.thread_id AS thread_id
FROM threads JOIN below ON threads.called_by = below.thread_id)
 SELECT below.thread_id
FROM below;

-- name: threads
SELECT threads.thread_id, threads.graph, threads.fingerprint, threads.status, threads.epoch, threads.parent_thread_id, threads.parent_step, threads.called_by, threads.lease_owner, threads.lease_since, threads.lease_expires_at, threads.wake_at, threads.created_at, threads.updated_at, threads.metadata, threads.queue
FROM threads
WHERE threads.updated_at > :since::VARCHAR AND threads.updated_at < :before::VARCHAR AND (threads.updated_at, threads.thread_id) < (:updated_at::VARCHAR, :thread_id::VARCHAR) ORDER BY threads.updated_at DESC, threads.thread_id DESC
 LIMIT :count::BIGINT;

-- name: threads(graph)
SELECT threads.thread_id, threads.graph, threads.fingerprint, threads.status, threads.epoch, threads.parent_thread_id, threads.parent_step, threads.called_by, threads.lease_owner, threads.lease_since, threads.lease_expires_at, threads.wake_at, threads.created_at, threads.updated_at, threads.metadata, threads.queue
FROM threads
WHERE threads.graph = :graph::VARCHAR AND threads.updated_at > :since::VARCHAR AND threads.updated_at < :before::VARCHAR AND (threads.updated_at, threads.thread_id) < (:updated_at::VARCHAR, :thread_id::VARCHAR) ORDER BY threads.updated_at DESC, threads.thread_id DESC
 LIMIT :count::BIGINT;

-- name: threads(status)
SELECT threads.thread_id, threads.graph, threads.fingerprint, threads.status, threads.epoch, threads.parent_thread_id, threads.parent_step, threads.called_by, threads.lease_owner, threads.lease_since, threads.lease_expires_at, threads.wake_at, threads.created_at, threads.updated_at, threads.metadata, threads.queue
FROM threads
WHERE threads.status = :status::VARCHAR AND threads.updated_at > :since::VARCHAR AND threads.updated_at < :before::VARCHAR AND (threads.updated_at, threads.thread_id) < (:updated_at::VARCHAR, :thread_id::VARCHAR) ORDER BY threads.updated_at DESC, threads.thread_id DESC
 LIMIT :count::BIGINT;

-- name: threads(graph, status)
SELECT threads.thread_id, threads.graph, threads.fingerprint, threads.status, threads.epoch, threads.parent_thread_id, threads.parent_step, threads.called_by, threads.lease_owner, threads.lease_since, threads.lease_expires_at, threads.wake_at, threads.created_at, threads.updated_at, threads.metadata, threads.queue
FROM threads
WHERE threads.graph = :graph::VARCHAR AND threads.status = :status::VARCHAR AND threads.updated_at > :since::VARCHAR AND threads.updated_at < :before::VARCHAR AND (threads.updated_at, threads.thread_id) < (:updated_at::VARCHAR, :thread_id::VARCHAR) ORDER BY threads.updated_at DESC, threads.thread_id DESC
 LIMIT :count::BIGINT;

-- name: threads(2)
SELECT anon_1.thread_id, anon_1.graph, anon_1.fingerprint, anon_1.status, anon_1.epoch, anon_1.parent_thread_id, anon_1.parent_step, anon_1.called_by, anon_1.lease_owner, anon_1.lease_since, anon_1.lease_expires_at, anon_1.wake_at, anon_1.created_at, anon_1.updated_at, anon_1.metadata, anon_1.queue
FROM (SELECT anon_2.thread_id AS thread_id, anon_2.graph AS graph, anon_2.fingerprint AS fingerprint, anon_2.status AS status, anon_2.epoch AS epoch, anon_2.parent_thread_id AS parent_thread_id, anon_2.parent_step AS parent_step, anon_2.called_by AS called_by, anon_2.lease_owner AS lease_owner, anon_2.lease_since AS lease_since, anon_2.lease_expires_at AS lease_expires_at, anon_2.wake_at AS wake_at, anon_2.created_at AS created_at, anon_2.updated_at AS updated_at, anon_2.metadata AS metadata, anon_2.queue AS queue
FROM (SELECT threads.thread_id AS thread_id, threads.graph AS graph, threads.fingerprint AS fingerprint, threads.status AS status, threads.epoch AS epoch, threads.parent_thread_id AS parent_thread_id, threads.parent_step AS parent_step, threads.called_by AS called_by, threads.lease_owner AS lease_owner, threads.lease_since AS lease_since, threads.lease_expires_at AS lease_expires_at, threads.wake_at AS wake_at, threads.created_at AS created_at, threads.updated_at AS updated_at, threads.metadata AS metadata, threads.queue AS queue
FROM threads
WHERE threads.status = :status_0::VARCHAR AND threads.updated_at > :since::VARCHAR AND threads.updated_at < :before::VARCHAR AND (threads.updated_at, threads.thread_id) < (:updated_at::VARCHAR, :thread_id::VARCHAR) ORDER BY threads.updated_at DESC, threads.thread_id DESC
 LIMIT :count::BIGINT) AS anon_2 UNION ALL SELECT anon_3.thread_id AS thread_id, anon_3.graph AS graph, anon_3.fingerprint AS fingerprint, anon_3.status AS status, anon_3.epoch AS epoch, anon_3.parent_thread_id AS parent_thread_id, anon_3.parent_step AS parent_step, anon_3.called_by AS called_by, anon_3.lease_owner AS lease_owner, anon_3.lease_since AS lease_since, anon_3.lease_expires_at AS lease_expires_at, anon_3.wake_at AS wake_at, anon_3.created_at AS created_at, anon_3.updated_at AS updated_at, anon_3.metadata AS metadata, anon_3.queue AS queue
FROM (SELECT threads.thread_id AS thread_id, threads.graph AS graph, threads.fingerprint AS fingerprint, threads.status AS status, threads.epoch AS epoch, threads.parent_thread_id AS parent_thread_id, threads.parent_step AS parent_step, threads.called_by AS called_by, threads.lease_owner AS lease_owner, threads.lease_since AS lease_since, threads.lease_expires_at AS lease_expires_at, threads.wake_at AS wake_at, threads.created_at AS created_at, threads.updated_at AS updated_at, threads.metadata AS metadata, threads.queue AS queue
FROM threads
WHERE threads.status = :status_1::VARCHAR AND threads.updated_at > :since::VARCHAR AND threads.updated_at < :before::VARCHAR AND (threads.updated_at, threads.thread_id) < (:updated_at::VARCHAR, :thread_id::VARCHAR) ORDER BY threads.updated_at DESC, threads.thread_id DESC
 LIMIT :count::BIGINT) AS anon_3) AS anon_1 ORDER BY anon_1.updated_at DESC, anon_1.thread_id DESC
 LIMIT :count::BIGINT;

-- name: threads(4)
SELECT anon_1.thread_id, anon_1.graph, anon_1.fingerprint, anon_1.status, anon_1.epoch, anon_1.parent_thread_id, anon_1.parent_step, anon_1.called_by, anon_1.lease_owner, anon_1.lease_since, anon_1.lease_expires_at, anon_1.wake_at, anon_1.created_at, anon_1.updated_at, anon_1.metadata, anon_1.queue
FROM (SELECT anon_2.thread_id AS thread_id, anon_2.graph AS graph, anon_2.fingerprint AS fingerprint, anon_2.status AS status, anon_2.epoch AS epoch, anon_2.parent_thread_id AS parent_thread_id, anon_2.parent_step AS parent_step, anon_2.called_by AS called_by, anon_2.lease_owner AS lease_owner, anon_2.lease_since AS lease_since, anon_2.lease_expires_at AS lease_expires_at, anon_2.wake_at AS wake_at, anon_2.created_at AS created_at, anon_2.updated_at AS updated_at, anon_2.metadata AS metadata, anon_2.queue AS queue
FROM (SELECT threads.thread_id AS thread_id, threads.graph AS graph, threads.fingerprint AS fingerprint, threads.status AS status, threads.epoch AS epoch, threads.parent_thread_id AS parent_thread_id, threads.parent_step AS parent_step, threads.called_by AS called_by, threads.lease_owner AS lease_owner, threads.lease_since AS lease_since, threads.lease_expires_at AS lease_expires_at, threads.wake_at AS wake_at, threads.created_at AS created_at, threads.updated_at AS updated_at, threads.metadata AS metadata, threads.queue AS queue
FROM threads
WHERE threads.status = :status_0::VARCHAR AND threads.updated_at > :since::VARCHAR AND threads.updated_at < :before::VARCHAR AND (threads.updated_at, threads.thread_id) < (:updated_at::VARCHAR, :thread_id::VARCHAR) ORDER BY threads.updated_at DESC, threads.thread_id DESC
 LIMIT :count::BIGINT) AS anon_2 UNION ALL SELECT anon_3.thread_id AS thread_id, anon_3.graph AS graph, anon_3.fingerprint AS fingerprint, anon_3.status AS status, anon_3.epoch AS epoch, anon_3.parent_thread_id AS parent_thread_id, anon_3.parent_step AS parent_step, anon_3.called_by AS called_by, anon_3.lease_owner AS lease_owner, anon_3.lease_since AS lease_since, anon_3.lease_expires_at AS lease_expires_at, anon_3.wake_at AS wake_at, anon_3.created_at AS created_at, anon_3.updated_at AS updated_at, anon_3.metadata AS metadata, anon_3.queue AS queue
FROM (SELECT threads.thread_id AS thread_id, threads.graph AS graph, threads.fingerprint AS fingerprint, threads.status AS status, threads.epoch AS epoch, threads.parent_thread_id AS parent_thread_id, threads.parent_step AS parent_step, threads.called_by AS called_by, threads.lease_owner AS lease_owner, threads.lease_since AS lease_since, threads.lease_expires_at AS lease_expires_at, threads.wake_at AS wake_at, threads.created_at AS created_at, threads.updated_at AS updated_at, threads.metadata AS metadata, threads.queue AS queue
FROM threads
WHERE threads.status = :status_1::VARCHAR AND threads.updated_at > :since::VARCHAR AND threads.updated_at < :before::VARCHAR AND (threads.updated_at, threads.thread_id) < (:updated_at::VARCHAR, :thread_id::VARCHAR) ORDER BY threads.updated_at DESC, threads.thread_id DESC
 LIMIT :count::BIGINT) AS anon_3 UNION ALL SELECT anon_4.thread_id AS thread_id, anon_4.graph AS graph, anon_4.fingerprint AS fingerprint, anon_4.status AS status, anon_4.epoch AS epoch, anon_4.parent_thread_id AS parent_thread_id, anon_4.parent_step AS parent_step, anon_4.called_by AS called_by, anon_4.lease_owner AS lease_owner, anon_4.lease_since AS lease_since, anon_4.lease_expires_at AS lease_expires_at, anon_4.wake_at AS wake_at, anon_4.created_at AS created_at, anon_4.updated_at AS updated_at, anon_4.metadata AS metadata, anon_4.queue AS queue
FROM (SELECT threads.thread_id AS thread_id, threads.graph AS graph, threads.fingerprint AS fingerprint, threads.status AS status, threads.epoch AS epoch, threads.parent_thread_id AS parent_thread_id, threads.parent_step AS parent_step, threads.called_by AS called_by, threads.lease_owner AS lease_owner, threads.lease_since AS lease_since, threads.lease_expires_at AS lease_expires_at, threads.wake_at AS wake_at, threads.created_at AS created_at, threads.updated_at AS updated_at, threads.metadata AS metadata, threads.queue AS queue
FROM threads
WHERE threads.status = :status_2::VARCHAR AND threads.updated_at > :since::VARCHAR AND threads.updated_at < :before::VARCHAR AND (threads.updated_at, threads.thread_id) < (:updated_at::VARCHAR, :thread_id::VARCHAR) ORDER BY threads.updated_at DESC, threads.thread_id DESC
 LIMIT :count::BIGINT) AS anon_4 UNION ALL SELECT anon_5.thread_id AS thread_id, anon_5.graph AS graph, anon_5.fingerprint AS fingerprint, anon_5.status AS status, anon_5.epoch AS epoch, anon_5.parent_thread_id AS parent_thread_id, anon_5.parent_step AS parent_step, anon_5.called_by AS called_by, anon_5.lease_owner AS lease_owner, anon_5.lease_since AS lease_since, anon_5.lease_expires_at AS lease_expires_at, anon_5.wake_at AS wake_at, anon_5.created_at AS created_at, anon_5.updated_at AS updated_at, anon_5.metadata AS metadata, anon_5.queue AS queue
FROM (SELECT threads.thread_id AS thread_id, threads.graph AS graph, threads.fingerprint AS fingerprint, threads.status AS status, threads.epoch AS epoch, threads.parent_thread_id AS parent_thread_id, threads.parent_step AS parent_step, threads.called_by AS called_by, threads.lease_owner AS lease_owner, threads.lease_since AS lease_since, threads.lease_expires_at AS lease_expires_at, threads.wake_at AS wake_at, threads.created_at AS created_at, threads.updated_at AS updated_at, threads.metadata AS metadata, threads.queue AS queue
FROM threads
WHERE threads.status = :status_3::VARCHAR AND threads.updated_at > :since::VARCHAR AND threads.updated_at < :before::VARCHAR AND (threads.updated_at, threads.thread_id) < (:updated_at::VARCHAR, :thread_id::VARCHAR) ORDER BY threads.updated_at DESC, threads.thread_id DESC
 LIMIT :count::BIGINT) AS anon_5) AS anon_1 ORDER BY anon_1.updated_at DESC, anon_1.thread_id DESC
 LIMIT :count::BIGINT;

-- name: threads(8)
SELECT anon_1.thread_id, anon_1.graph, anon_1.fingerprint, anon_1.status, anon_1.epoch, anon_1.parent_thread_id, anon_1.parent_step, anon_1.called_by, anon_1.lease_owner, anon_1.lease_since, anon_1.lease_expires_at, anon_1.wake_at, anon_1.created_at, anon_1.updated_at, anon_1.metadata, anon_1.queue
FROM (SELECT anon_2.thread_id AS thread_id, anon_2.graph AS graph, anon_2.fingerprint AS fingerprint, anon_2.status AS status, anon_2.epoch AS epoch, anon_2.parent_thread_id AS parent_thread_id, anon_2.parent_step AS parent_step, anon_2.called_by AS called_by, anon_2.lease_owner AS lease_owner, anon_2.lease_since AS lease_since, anon_2.lease_expires_at AS lease_expires_at, anon_2.wake_at AS wake_at, anon_2.created_at AS created_at, anon_2.updated_at AS updated_at, anon_2.metadata AS metadata, anon_2.queue AS queue
FROM (SELECT threads.thread_id AS thread_id, threads.graph AS graph, threads.fingerprint AS fingerprint, threads.status AS status, threads.epoch AS epoch, threads.parent_thread_id AS parent_thread_id, threads.parent_step AS parent_step, threads.called_by AS called_by, threads.lease_owner AS lease_owner, threads.lease_since AS lease_since, threads.lease_expires_at AS lease_expires_at, threads.wake_at AS wake_at, threads.created_at AS created_at, threads.updated_at AS updated_at, threads.metadata AS metadata, threads.queue AS queue
FROM threads
WHERE threads.status = :status_0::VARCHAR AND threads.updated_at > :since::VARCHAR AND threads.updated_at < :before::VARCHAR AND (threads.updated_at, threads.thread_id) < (:updated_at::VARCHAR, :thread_id::VARCHAR) ORDER BY threads.updated_at DESC, threads.thread_id DESC
 LIMIT :count::BIGINT) AS anon_2 UNION ALL SELECT anon_3.thread_id AS thread_id, anon_3.graph AS graph, anon_3.fingerprint AS fingerprint, anon_3.status AS status, anon_3.epoch AS epoch, anon_3.parent_thread_id AS parent_thread_id, anon_3.parent_step AS parent_step, anon_3.called_by AS called_by, anon_3.lease_owner AS lease_owner, anon_3.lease_since AS lease_since, anon_3.lease_expires_at AS lease_expires_at, anon_3.wake_at AS wake_at, anon_3.created_at AS created_at, anon_3.updated_at AS updated_at, anon_3.metadata AS metadata, anon_3.queue AS queue
FROM (SELECT threads.thread_id AS thread_id, threads.graph AS graph, threads.fingerprint AS fingerprint, threads.status AS status, threads.epoch AS epoch, threads.parent_thread_id AS parent_thread_id, threads.parent_step AS parent_step, threads.called_by AS called_by, threads.lease_owner AS lease_owner, threads.lease_since AS lease_since, threads.lease_expires_at AS lease_expires_at, threads.wake_at AS wake_at, threads.created_at AS created_at, threads.updated_at AS updated_at, threads.metadata AS metadata, threads.queue AS queue
FROM threads
WHERE threads.status = :status_1::VARCHAR AND threads.updated_at > :since::VARCHAR AND threads.updated_at < :before::VARCHAR AND (threads.updated_at, threads.thread_id) < (:updated_at::VARCHAR, :thread_id::VARCHAR) ORDER BY threads.updated_at DESC, threads.thread_id DESC
 LIMIT :count::BIGINT) AS anon_3 UNION ALL SELECT anon_4.thread_id AS thread_id, anon_4.graph AS graph, anon_4.fingerprint AS fingerprint, anon_4.status AS status, anon_4.epoch AS epoch, anon_4.parent_thread_id AS parent_thread_id, anon_4.parent_step AS parent_step, anon_4.called_by AS called_by, anon_4.lease_owner AS lease_owner, anon_4.lease_since AS lease_since, anon_4.lease_expires_at AS lease_expires_at, anon_4.wake_at AS wake_at, anon_4.created_at AS created_at, anon_4.updated_at AS updated_at, anon_4.metadata AS metadata, anon_4.queue AS queue
FROM (SELECT threads.thread_id AS thread_id, threads.graph AS graph, threads.fingerprint AS fingerprint, threads.status AS status, threads.epoch AS epoch, threads.parent_thread_id AS parent_thread_id, threads.parent_step AS parent_step, threads.called_by AS called_by, threads.lease_owner AS lease_owner, threads.lease_since AS lease_since, threads.lease_expires_at AS lease_expires_at, threads.wake_at AS wake_at, threads.created_at AS created_at, threads.updated_at AS updated_at, threads.metadata AS metadata, threads.queue AS queue
FROM threads
WHERE threads.status = :status_2::VARCHAR AND threads.updated_at > :since::VARCHAR AND threads.updated_at < :before::VARCHAR AND (threads.updated_at, threads.thread_id) < (:updated_at::VARCHAR, :thread_id::VARCHAR) ORDER BY threads.updated_at DESC, threads.thread_id DESC
 LIMIT :count::BIGINT) AS anon_4 UNION ALL SELECT anon_5.thread_id AS thread_id, anon_5.graph AS graph, anon_5.fingerprint AS fingerprint, anon_5.status AS status, anon_5.epoch AS epoch, anon_5.parent_thread_id AS parent_thread_id, anon_5.parent_step AS parent_step, anon_5.called_by AS called_by, anon_5.lease_owner AS lease_owner, anon_5.lease_since AS lease_since, anon_5.lease_expires_at AS lease_expires_at, anon_5.wake_at AS wake_at, anon_5.created_at AS created_at, anon_5.updated_at AS updated_at, anon_5.metadata AS metadata, anon_5.queue AS queue
FROM (SELECT threads.thread_id AS thread_id, threads.graph AS graph, threads.fingerprint AS fingerprint, threads.status AS status, threads.epoch AS epoch, threads.parent_thread_id AS parent_thread_id, threads.parent_step AS parent_step, threads.called_by AS called_by, threads.lease_owner AS lease_owner, threads.lease_since AS lease_since, threads.lease_expires_at AS lease_expires_at, threads.wake_at AS wake_at, threads.created_at AS created_at, threads.updated_at AS updated_at, threads.metadata AS metadata, threads.queue AS queue
FROM threads
WHERE threads.status = :status_3::VARCHAR AND threads.updated_at > :since::VARCHAR AND threads.updated_at < :before::VARCHAR AND (threads.updated_at, threads.thread_id) < (:updated_at::VARCHAR, :thread_id::VARCHAR) ORDER BY threads.updated_at DESC, threads.thread_id DESC
 LIMIT :count::BIGINT) AS anon_5 UNION ALL SELECT anon_6.thread_id AS thread_id, anon_6.graph AS graph, anon_6.fingerprint AS fingerprint, anon_6.status AS status, anon_6.epoch AS epoch, anon_6.parent_thread_id AS parent_thread_id, anon_6.parent_step AS parent_step, anon_6.called_by AS called_by, anon_6.lease_owner AS lease_owner, anon_6.lease_since AS lease_since, anon_6.lease_expires_at AS lease_expires_at, anon_6.wake_at AS wake_at, anon_6.created_at AS created_at, anon_6.updated_at AS updated_at, anon_6.metadata AS metadata, anon_6.queue AS queue
FROM (SELECT threads.thread_id AS thread_id, threads.graph AS graph, threads.fingerprint AS fingerprint, threads.status AS status, threads.epoch AS epoch, threads.parent_thread_id AS parent_thread_id, threads.parent_step AS parent_step, threads.called_by AS called_by, threads.lease_owner AS lease_owner, threads.lease_since AS lease_since, threads.lease_expires_at AS lease_expires_at, threads.wake_at AS wake_at, threads.created_at AS created_at, threads.updated_at AS updated_at, threads.metadata AS metadata, threads.queue AS queue
FROM threads
WHERE threads.status = :status_4::VARCHAR AND threads.updated_at > :since::VARCHAR AND threads.updated_at < :before::VARCHAR AND (threads.updated_at, threads.thread_id) < (:updated_at::VARCHAR, :thread_id::VARCHAR) ORDER BY threads.updated_at DESC, threads.thread_id DESC
 LIMIT :count::BIGINT) AS anon_6 UNION ALL SELECT anon_7.thread_id AS thread_id, anon_7.graph AS graph, anon_7.fingerprint AS fingerprint, anon_7.status AS status, anon_7.epoch AS epoch, anon_7.parent_thread_id AS parent_thread_id, anon_7.parent_step AS parent_step, anon_7.called_by AS called_by, anon_7.lease_owner AS lease_owner, anon_7.lease_since AS lease_since, anon_7.lease_expires_at AS lease_expires_at, anon_7.wake_at AS wake_at, anon_7.created_at AS created_at, anon_7.updated_at AS updated_at, anon_7.metadata AS metadata, anon_7.queue AS queue
FROM (SELECT threads.thread_id AS thread_id, threads.graph AS graph, threads.fingerprint AS fingerprint, threads.status AS status, threads.epoch AS epoch, threads.parent_thread_id AS parent_thread_id, threads.parent_step AS parent_step, threads.called_by AS called_by, threads.lease_owner AS lease_owner, threads.lease_since AS lease_since, threads.lease_expires_at AS lease_expires_at, threads.wake_at AS wake_at, threads.created_at AS created_at, threads.updated_at AS updated_at, threads.metadata AS metadata, threads.queue AS queue
FROM threads
WHERE threads.status = :status_5::VARCHAR AND threads.updated_at > :since::VARCHAR AND threads.updated_at < :before::VARCHAR AND (threads.updated_at, threads.thread_id) < (:updated_at::VARCHAR, :thread_id::VARCHAR) ORDER BY threads.updated_at DESC, threads.thread_id DESC
 LIMIT :count::BIGINT) AS anon_7 UNION ALL SELECT anon_8.thread_id AS thread_id, anon_8.graph AS graph, anon_8.fingerprint AS fingerprint, anon_8.status AS status, anon_8.epoch AS epoch, anon_8.parent_thread_id AS parent_thread_id, anon_8.parent_step AS parent_step, anon_8.called_by AS called_by, anon_8.lease_owner AS lease_owner, anon_8.lease_since AS lease_since, anon_8.lease_expires_at AS lease_expires_at, anon_8.wake_at AS wake_at, anon_8.created_at AS created_at, anon_8.updated_at AS updated_at, anon_8.metadata AS metadata, anon_8.queue AS queue
FROM (SELECT threads.thread_id AS thread_id, threads.graph AS graph, threads.fingerprint AS fingerprint, threads.status AS status, threads.epoch AS epoch, threads.parent_thread_id AS parent_thread_id, threads.parent_step AS parent_step, threads.called_by AS called_by, threads.lease_owner AS lease_owner, threads.lease_since AS lease_since, threads.lease_expires_at AS lease_expires_at, threads.wake_at AS wake_at, threads.created_at AS created_at, threads.updated_at AS updated_at, threads.metadata AS metadata, threads.queue AS queue
FROM threads
WHERE threads.status = :status_6::VARCHAR AND threads.updated_at > :since::VARCHAR AND threads.updated_at < :before::VARCHAR AND (threads.updated_at, threads.thread_id) < (:updated_at::VARCHAR, :thread_id::VARCHAR) ORDER BY threads.updated_at DESC, threads.thread_id DESC
 LIMIT :count::BIGINT) AS anon_8 UNION ALL SELECT anon_9.thread_id AS thread_id, anon_9.graph AS graph, anon_9.fingerprint AS fingerprint, anon_9.status AS status, anon_9.epoch AS epoch, anon_9.parent_thread_id AS parent_thread_id, anon_9.parent_step AS parent_step, anon_9.called_by AS called_by, anon_9.lease_owner AS lease_owner, anon_9.lease_since AS lease_since, anon_9.lease_expires_at AS lease_expires_at, anon_9.wake_at AS wake_at, anon_9.created_at AS created_at, anon_9.updated_at AS updated_at, anon_9.metadata AS metadata, anon_9.queue AS queue
FROM (SELECT threads.thread_id AS thread_id, threads.graph AS graph, threads.fingerprint AS fingerprint, threads.status AS status, threads.epoch AS epoch, threads.parent_thread_id AS parent_thread_id, threads.parent_step AS parent_step, threads.called_by AS called_by, threads.lease_owner AS lease_owner, threads.lease_since AS lease_since, threads.lease_expires_at AS lease_expires_at, threads.wake_at AS wake_at, threads.created_at AS created_at, threads.updated_at AS updated_at, threads.metadata AS metadata, threads.queue AS queue
FROM threads
WHERE threads.status = :status_7::VARCHAR AND threads.updated_at > :since::VARCHAR AND threads.updated_at < :before::VARCHAR AND (threads.updated_at, threads.thread_id) < (:updated_at::VARCHAR, :thread_id::VARCHAR) ORDER BY threads.updated_at DESC, threads.thread_id DESC
 LIMIT :count::BIGINT) AS anon_9) AS anon_1 ORDER BY anon_1.updated_at DESC, anon_1.thread_id DESC
 LIMIT :count::BIGINT;

-- name: threads(2, graph)
SELECT anon_1.thread_id, anon_1.graph, anon_1.fingerprint, anon_1.status, anon_1.epoch, anon_1.parent_thread_id, anon_1.parent_step, anon_1.called_by, anon_1.lease_owner, anon_1.lease_since, anon_1.lease_expires_at, anon_1.wake_at, anon_1.created_at, anon_1.updated_at, anon_1.metadata, anon_1.queue
FROM (SELECT anon_2.thread_id AS thread_id, anon_2.graph AS graph, anon_2.fingerprint AS fingerprint, anon_2.status AS status, anon_2.epoch AS epoch, anon_2.parent_thread_id AS parent_thread_id, anon_2.parent_step AS parent_step, anon_2.called_by AS called_by, anon_2.lease_owner AS lease_owner, anon_2.lease_since AS lease_since, anon_2.lease_expires_at AS lease_expires_at, anon_2.wake_at AS wake_at, anon_2.created_at AS created_at, anon_2.updated_at AS updated_at, anon_2.metadata AS metadata, anon_2.queue AS queue
FROM (SELECT threads.thread_id AS thread_id, threads.graph AS graph, threads.fingerprint AS fingerprint, threads.status AS status, threads.epoch AS epoch, threads.parent_thread_id AS parent_thread_id, threads.parent_step AS parent_step, threads.called_by AS called_by, threads.lease_owner AS lease_owner, threads.lease_since AS lease_since, threads.lease_expires_at AS lease_expires_at, threads.wake_at AS wake_at, threads.created_at AS created_at, threads.updated_at AS updated_at, threads.metadata AS metadata, threads.queue AS queue
FROM threads
WHERE threads.graph = :graph::VARCHAR AND threads.status = :status_0::VARCHAR AND threads.updated_at > :since::VARCHAR AND threads.updated_at < :before::VARCHAR AND (threads.updated_at, threads.thread_id) < (:updated_at::VARCHAR, :thread_id::VARCHAR) ORDER BY threads.updated_at DESC, threads.thread_id DESC
 LIMIT :count::BIGINT) AS anon_2 UNION ALL SELECT anon_3.thread_id AS thread_id, anon_3.graph AS graph, anon_3.fingerprint AS fingerprint, anon_3.status AS status, anon_3.epoch AS epoch, anon_3.parent_thread_id AS parent_thread_id, anon_3.parent_step AS parent_step, anon_3.called_by AS called_by, anon_3.lease_owner AS lease_owner, anon_3.lease_since AS lease_since, anon_3.lease_expires_at AS lease_expires_at, anon_3.wake_at AS wake_at, anon_3.created_at AS created_at, anon_3.updated_at AS updated_at, anon_3.metadata AS metadata, anon_3.queue AS queue
FROM (SELECT threads.thread_id AS thread_id, threads.graph AS graph, threads.fingerprint AS fingerprint, threads.status AS status, threads.epoch AS epoch, threads.parent_thread_id AS parent_thread_id, threads.parent_step AS parent_step, threads.called_by AS called_by, threads.lease_owner AS lease_owner, threads.lease_since AS lease_since, threads.lease_expires_at AS lease_expires_at, threads.wake_at AS wake_at, threads.created_at AS created_at, threads.updated_at AS updated_at, threads.metadata AS metadata, threads.queue AS queue
FROM threads
WHERE threads.graph = :graph::VARCHAR AND threads.status = :status_1::VARCHAR AND threads.updated_at > :since::VARCHAR AND threads.updated_at < :before::VARCHAR AND (threads.updated_at, threads.thread_id) < (:updated_at::VARCHAR, :thread_id::VARCHAR) ORDER BY threads.updated_at DESC, threads.thread_id DESC
 LIMIT :count::BIGINT) AS anon_3) AS anon_1 ORDER BY anon_1.updated_at DESC, anon_1.thread_id DESC
 LIMIT :count::BIGINT;

-- name: threads(4, graph)
SELECT anon_1.thread_id, anon_1.graph, anon_1.fingerprint, anon_1.status, anon_1.epoch, anon_1.parent_thread_id, anon_1.parent_step, anon_1.called_by, anon_1.lease_owner, anon_1.lease_since, anon_1.lease_expires_at, anon_1.wake_at, anon_1.created_at, anon_1.updated_at, anon_1.metadata, anon_1.queue
FROM (SELECT anon_2.thread_id AS thread_id, anon_2.graph AS graph, anon_2.fingerprint AS fingerprint, anon_2.status AS status, anon_2.epoch AS epoch, anon_2.parent_thread_id AS parent_thread_id, anon_2.parent_step AS parent_step, anon_2.called_by AS called_by, anon_2.lease_owner AS lease_owner, anon_2.lease_since AS lease_since, anon_2.lease_expires_at AS lease_expires_at, anon_2.wake_at AS wake_at, anon_2.created_at AS created_at, anon_2.updated_at AS updated_at, anon_2.metadata AS metadata, anon_2.queue AS queue
FROM (SELECT threads.thread_id AS thread_id, threads.graph AS graph, threads.fingerprint AS fingerprint, threads.status AS status, threads.epoch AS epoch, threads.parent_thread_id AS parent_thread_id, threads.parent_step AS parent_step, threads.called_by AS called_by, threads.lease_owner AS lease_owner, threads.lease_since AS lease_since, threads.lease_expires_at AS lease_expires_at, threads.wake_at AS wake_at, threads.created_at AS created_at, threads.updated_at AS updated_at, threads.metadata AS metadata, threads.queue AS queue
FROM threads
WHERE threads.graph = :graph::VARCHAR AND threads.status = :status_0::VARCHAR AND threads.updated_at > :since::VARCHAR AND threads.updated_at < :before::VARCHAR AND (threads.updated_at, threads.thread_id) < (:updated_at::VARCHAR, :thread_id::VARCHAR) ORDER BY threads.updated_at DESC, threads.thread_id DESC
 LIMIT :count::BIGINT) AS anon_2 UNION ALL SELECT anon_3.thread_id AS thread_id, anon_3.graph AS graph, anon_3.fingerprint AS fingerprint, anon_3.status AS status, anon_3.epoch AS epoch, anon_3.parent_thread_id AS parent_thread_id, anon_3.parent_step AS parent_step, anon_3.called_by AS called_by, anon_3.lease_owner AS lease_owner, anon_3.lease_since AS lease_since, anon_3.lease_expires_at AS lease_expires_at, anon_3.wake_at AS wake_at, anon_3.created_at AS created_at, anon_3.updated_at AS updated_at, anon_3.metadata AS metadata, anon_3.queue AS queue
FROM (SELECT threads.thread_id AS thread_id, threads.graph AS graph, threads.fingerprint AS fingerprint, threads.status AS status, threads.epoch AS epoch, threads.parent_thread_id AS parent_thread_id, threads.parent_step AS parent_step, threads.called_by AS called_by, threads.lease_owner AS lease_owner, threads.lease_since AS lease_since, threads.lease_expires_at AS lease_expires_at, threads.wake_at AS wake_at, threads.created_at AS created_at, threads.updated_at AS updated_at, threads.metadata AS metadata, threads.queue AS queue
FROM threads
WHERE threads.graph = :graph::VARCHAR AND threads.status = :status_1::VARCHAR AND threads.updated_at > :since::VARCHAR AND threads.updated_at < :before::VARCHAR AND (threads.updated_at, threads.thread_id) < (:updated_at::VARCHAR, :thread_id::VARCHAR) ORDER BY threads.updated_at DESC, threads.thread_id DESC
 LIMIT :count::BIGINT) AS anon_3 UNION ALL SELECT anon_4.thread_id AS thread_id, anon_4.graph AS graph, anon_4.fingerprint AS fingerprint, anon_4.status AS status, anon_4.epoch AS epoch, anon_4.parent_thread_id AS parent_thread_id, anon_4.parent_step AS parent_step, anon_4.called_by AS called_by, anon_4.lease_owner AS lease_owner, anon_4.lease_since AS lease_since, anon_4.lease_expires_at AS lease_expires_at, anon_4.wake_at AS wake_at, anon_4.created_at AS created_at, anon_4.updated_at AS updated_at, anon_4.metadata AS metadata, anon_4.queue AS queue
FROM (SELECT threads.thread_id AS thread_id, threads.graph AS graph, threads.fingerprint AS fingerprint, threads.status AS status, threads.epoch AS epoch, threads.parent_thread_id AS parent_thread_id, threads.parent_step AS parent_step, threads.called_by AS called_by, threads.lease_owner AS lease_owner, threads.lease_since AS lease_since, threads.lease_expires_at AS lease_expires_at, threads.wake_at AS wake_at, threads.created_at AS created_at, threads.updated_at AS updated_at, threads.metadata AS metadata, threads.queue AS queue
FROM threads
WHERE threads.graph = :graph::VARCHAR AND threads.status = :status_2::VARCHAR AND threads.updated_at > :since::VARCHAR AND threads.updated_at < :before::VARCHAR AND (threads.updated_at, threads.thread_id) < (:updated_at::VARCHAR, :thread_id::VARCHAR) ORDER BY threads.updated_at DESC, threads.thread_id DESC
 LIMIT :count::BIGINT) AS anon_4 UNION ALL SELECT anon_5.thread_id AS thread_id, anon_5.graph AS graph, anon_5.fingerprint AS fingerprint, anon_5.status AS status, anon_5.epoch AS epoch, anon_5.parent_thread_id AS parent_thread_id, anon_5.parent_step AS parent_step, anon_5.called_by AS called_by, anon_5.lease_owner AS lease_owner, anon_5.lease_since AS lease_since, anon_5.lease_expires_at AS lease_expires_at, anon_5.wake_at AS wake_at, anon_5.created_at AS created_at, anon_5.updated_at AS updated_at, anon_5.metadata AS metadata, anon_5.queue AS queue
FROM (SELECT threads.thread_id AS thread_id, threads.graph AS graph, threads.fingerprint AS fingerprint, threads.status AS status, threads.epoch AS epoch, threads.parent_thread_id AS parent_thread_id, threads.parent_step AS parent_step, threads.called_by AS called_by, threads.lease_owner AS lease_owner, threads.lease_since AS lease_since, threads.lease_expires_at AS lease_expires_at, threads.wake_at AS wake_at, threads.created_at AS created_at, threads.updated_at AS updated_at, threads.metadata AS metadata, threads.queue AS queue
FROM threads
WHERE threads.graph = :graph::VARCHAR AND threads.status = :status_3::VARCHAR AND threads.updated_at > :since::VARCHAR AND threads.updated_at < :before::VARCHAR AND (threads.updated_at, threads.thread_id) < (:updated_at::VARCHAR, :thread_id::VARCHAR) ORDER BY threads.updated_at DESC, threads.thread_id DESC
 LIMIT :count::BIGINT) AS anon_5) AS anon_1 ORDER BY anon_1.updated_at DESC, anon_1.thread_id DESC
 LIMIT :count::BIGINT;

-- name: threads(8, graph)
SELECT anon_1.thread_id, anon_1.graph, anon_1.fingerprint, anon_1.status, anon_1.epoch, anon_1.parent_thread_id, anon_1.parent_step, anon_1.called_by, anon_1.lease_owner, anon_1.lease_since, anon_1.lease_expires_at, anon_1.wake_at, anon_1.created_at, anon_1.updated_at, anon_1.metadata, anon_1.queue
FROM (SELECT anon_2.thread_id AS thread_id, anon_2.graph AS graph, anon_2.fingerprint AS fingerprint, anon_2.status AS status, anon_2.epoch AS epoch, anon_2.parent_thread_id AS parent_thread_id, anon_2.parent_step AS parent_step, anon_2.called_by AS called_by, anon_2.lease_owner AS lease_owner, anon_2.lease_since AS lease_since, anon_2.lease_expires_at AS lease_expires_at, anon_2.wake_at AS wake_at, anon_2.created_at AS created_at, anon_2.updated_at AS updated_at, anon_2.metadata AS metadata, anon_2.queue AS queue
FROM (SELECT threads.thread_id AS thread_id, threads.graph AS graph, threads.fingerprint AS fingerprint, threads.status AS status, threads.epoch AS epoch, threads.parent_thread_id AS parent_thread_id, threads.parent_step AS parent_step, threads.called_by AS called_by, threads.lease_owner AS lease_owner, threads.lease_since AS lease_since, threads.lease_expires_at AS lease_expires_at, threads.wake_at AS wake_at, threads.created_at AS created_at, threads.updated_at AS updated_at, threads.metadata AS metadata, threads.queue AS queue
FROM threads
WHERE threads.graph = :graph::VARCHAR AND threads.status = :status_0::VARCHAR AND threads.updated_at > :since::VARCHAR AND threads.updated_at < :before::VARCHAR AND (threads.updated_at, threads.thread_id) < (:updated_at::VARCHAR, :thread_id::VARCHAR) ORDER BY threads.updated_at DESC, threads.thread_id DESC
 LIMIT :count::BIGINT) AS anon_2 UNION ALL SELECT anon_3.thread_id AS thread_id, anon_3.graph AS graph, anon_3.fingerprint AS fingerprint, anon_3.status AS status, anon_3.epoch AS epoch, anon_3.parent_thread_id AS parent_thread_id, anon_3.parent_step AS parent_step, anon_3.called_by AS called_by, anon_3.lease_owner AS lease_owner, anon_3.lease_since AS lease_since, anon_3.lease_expires_at AS lease_expires_at, anon_3.wake_at AS wake_at, anon_3.created_at AS created_at, anon_3.updated_at AS updated_at, anon_3.metadata AS metadata, anon_3.queue AS queue
FROM (SELECT threads.thread_id AS thread_id, threads.graph AS graph, threads.fingerprint AS fingerprint, threads.status AS status, threads.epoch AS epoch, threads.parent_thread_id AS parent_thread_id, threads.parent_step AS parent_step, threads.called_by AS called_by, threads.lease_owner AS lease_owner, threads.lease_since AS lease_since, threads.lease_expires_at AS lease_expires_at, threads.wake_at AS wake_at, threads.created_at AS created_at, threads.updated_at AS updated_at, threads.metadata AS metadata, threads.queue AS queue
FROM threads
WHERE threads.graph = :graph::VARCHAR AND threads.status = :status_1::VARCHAR AND threads.updated_at > :since::VARCHAR AND threads.updated_at < :before::VARCHAR AND (threads.updated_at, threads.thread_id) < (:updated_at::VARCHAR, :thread_id::VARCHAR) ORDER BY threads.updated_at DESC, threads.thread_id DESC
 LIMIT :count::BIGINT) AS anon_3 UNION ALL SELECT anon_4.thread_id AS thread_id, anon_4.graph AS graph, anon_4.fingerprint AS fingerprint, anon_4.status AS status, anon_4.epoch AS epoch, anon_4.parent_thread_id AS parent_thread_id, anon_4.parent_step AS parent_step, anon_4.called_by AS called_by, anon_4.lease_owner AS lease_owner, anon_4.lease_since AS lease_since, anon_4.lease_expires_at AS lease_expires_at, anon_4.wake_at AS wake_at, anon_4.created_at AS created_at, anon_4.updated_at AS updated_at, anon_4.metadata AS metadata, anon_4.queue AS queue
FROM (SELECT threads.thread_id AS thread_id, threads.graph AS graph, threads.fingerprint AS fingerprint, threads.status AS status, threads.epoch AS epoch, threads.parent_thread_id AS parent_thread_id, threads.parent_step AS parent_step, threads.called_by AS called_by, threads.lease_owner AS lease_owner, threads.lease_since AS lease_since, threads.lease_expires_at AS lease_expires_at, threads.wake_at AS wake_at, threads.created_at AS created_at, threads.updated_at AS updated_at, threads.metadata AS metadata, threads.queue AS queue
FROM threads
WHERE threads.graph = :graph::VARCHAR AND threads.status = :status_2::VARCHAR AND threads.updated_at > :since::VARCHAR AND threads.updated_at < :before::VARCHAR AND (threads.updated_at, threads.thread_id) < (:updated_at::VARCHAR, :thread_id::VARCHAR) ORDER BY threads.updated_at DESC, threads.thread_id DESC
 LIMIT :count::BIGINT) AS anon_4 UNION ALL SELECT anon_5.thread_id AS thread_id, anon_5.graph AS graph, anon_5.fingerprint AS fingerprint, anon_5.status AS status, anon_5.epoch AS epoch, anon_5.parent_thread_id AS parent_thread_id, anon_5.parent_step AS parent_step, anon_5.called_by AS called_by, anon_5.lease_owner AS lease_owner, anon_5.lease_since AS lease_since, anon_5.lease_expires_at AS lease_expires_at, anon_5.wake_at AS wake_at, anon_5.created_at AS created_at, anon_5.updated_at AS updated_at, anon_5.metadata AS metadata, anon_5.queue AS queue
FROM (SELECT threads.thread_id AS thread_id, threads.graph AS graph, threads.fingerprint AS fingerprint, threads.status AS status, threads.epoch AS epoch, threads.parent_thread_id AS parent_thread_id, threads.parent_step AS parent_step, threads.called_by AS called_by, threads.lease_owner AS lease_owner, threads.lease_since AS lease_since, threads.lease_expires_at AS lease_expires_at, threads.wake_at AS wake_at, threads.created_at AS created_at, threads.updated_at AS updated_at, threads.metadata AS metadata, threads.queue AS queue
FROM threads
WHERE threads.graph = :graph::VARCHAR AND threads.status = :status_3::VARCHAR AND threads.updated_at > :since::VARCHAR AND threads.updated_at < :before::VARCHAR AND (threads.updated_at, threads.thread_id) < (:updated_at::VARCHAR, :thread_id::VARCHAR) ORDER BY threads.updated_at DESC, threads.thread_id DESC
 LIMIT :count::BIGINT) AS anon_5 UNION ALL SELECT anon_6.thread_id AS thread_id, anon_6.graph AS graph, anon_6.fingerprint AS fingerprint, anon_6.status AS status, anon_6.epoch AS epoch, anon_6.parent_thread_id AS parent_thread_id, anon_6.parent_step AS parent_step, anon_6.called_by AS called_by, anon_6.lease_owner AS lease_owner, anon_6.lease_since AS lease_since, anon_6.lease_expires_at AS lease_expires_at, anon_6.wake_at AS wake_at, anon_6.created_at AS created_at, anon_6.updated_at AS updated_at, anon_6.metadata AS metadata, anon_6.queue AS queue
FROM (SELECT threads.thread_id AS thread_id, threads.graph AS graph, threads.fingerprint AS fingerprint, threads.status AS status, threads.epoch AS epoch, threads.parent_thread_id AS parent_thread_id, threads.parent_step AS parent_step, threads.called_by AS called_by, threads.lease_owner AS lease_owner, threads.lease_since AS lease_since, threads.lease_expires_at AS lease_expires_at, threads.wake_at AS wake_at, threads.created_at AS created_at, threads.updated_at AS updated_at, threads.metadata AS metadata, threads.queue AS queue
FROM threads
WHERE threads.graph = :graph::VARCHAR AND threads.status = :status_4::VARCHAR AND threads.updated_at > :since::VARCHAR AND threads.updated_at < :before::VARCHAR AND (threads.updated_at, threads.thread_id) < (:updated_at::VARCHAR, :thread_id::VARCHAR) ORDER BY threads.updated_at DESC, threads.thread_id DESC
 LIMIT :count::BIGINT) AS anon_6 UNION ALL SELECT anon_7.thread_id AS thread_id, anon_7.graph AS graph, anon_7.fingerprint AS fingerprint, anon_7.status AS status, anon_7.epoch AS epoch, anon_7.parent_thread_id AS parent_thread_id, anon_7.parent_step AS parent_step, anon_7.called_by AS called_by, anon_7.lease_owner AS lease_owner, anon_7.lease_since AS lease_since, anon_7.lease_expires_at AS lease_expires_at, anon_7.wake_at AS wake_at, anon_7.created_at AS created_at, anon_7.updated_at AS updated_at, anon_7.metadata AS metadata, anon_7.queue AS queue
FROM (SELECT threads.thread_id AS thread_id, threads.graph AS graph, threads.fingerprint AS fingerprint, threads.status AS status, threads.epoch AS epoch, threads.parent_thread_id AS parent_thread_id, threads.parent_step AS parent_step, threads.called_by AS called_by, threads.lease_owner AS lease_owner, threads.lease_since AS lease_since, threads.lease_expires_at AS lease_expires_at, threads.wake_at AS wake_at, threads.created_at AS created_at, threads.updated_at AS updated_at, threads.metadata AS metadata, threads.queue AS queue
FROM threads
WHERE threads.graph = :graph::VARCHAR AND threads.status = :status_5::VARCHAR AND threads.updated_at > :since::VARCHAR AND threads.updated_at < :before::VARCHAR AND (threads.updated_at, threads.thread_id) < (:updated_at::VARCHAR, :thread_id::VARCHAR) ORDER BY threads.updated_at DESC, threads.thread_id DESC
 LIMIT :count::BIGINT) AS anon_7 UNION ALL SELECT anon_8.thread_id AS thread_id, anon_8.graph AS graph, anon_8.fingerprint AS fingerprint, anon_8.status AS status, anon_8.epoch AS epoch, anon_8.parent_thread_id AS parent_thread_id, anon_8.parent_step AS parent_step, anon_8.called_by AS called_by, anon_8.lease_owner AS lease_owner, anon_8.lease_since AS lease_since, anon_8.lease_expires_at AS lease_expires_at, anon_8.wake_at AS wake_at, anon_8.created_at AS created_at, anon_8.updated_at AS updated_at, anon_8.metadata AS metadata, anon_8.queue AS queue
FROM (SELECT threads.thread_id AS thread_id, threads.graph AS graph, threads.fingerprint AS fingerprint, threads.status AS status, threads.epoch AS epoch, threads.parent_thread_id AS parent_thread_id, threads.parent_step AS parent_step, threads.called_by AS called_by, threads.lease_owner AS lease_owner, threads.lease_since AS lease_since, threads.lease_expires_at AS lease_expires_at, threads.wake_at AS wake_at, threads.created_at AS created_at, threads.updated_at AS updated_at, threads.metadata AS metadata, threads.queue AS queue
FROM threads
WHERE threads.graph = :graph::VARCHAR AND threads.status = :status_6::VARCHAR AND threads.updated_at > :since::VARCHAR AND threads.updated_at < :before::VARCHAR AND (threads.updated_at, threads.thread_id) < (:updated_at::VARCHAR, :thread_id::VARCHAR) ORDER BY threads.updated_at DESC, threads.thread_id DESC
 LIMIT :count::BIGINT) AS anon_8 UNION ALL SELECT anon_9.thread_id AS thread_id, anon_9.graph AS graph, anon_9.fingerprint AS fingerprint, anon_9.status AS status, anon_9.epoch AS epoch, anon_9.parent_thread_id AS parent_thread_id, anon_9.parent_step AS parent_step, anon_9.called_by AS called_by, anon_9.lease_owner AS lease_owner, anon_9.lease_since AS lease_since, anon_9.lease_expires_at AS lease_expires_at, anon_9.wake_at AS wake_at, anon_9.created_at AS created_at, anon_9.updated_at AS updated_at, anon_9.metadata AS metadata, anon_9.queue AS queue
FROM (SELECT threads.thread_id AS thread_id, threads.graph AS graph, threads.fingerprint AS fingerprint, threads.status AS status, threads.epoch AS epoch, threads.parent_thread_id AS parent_thread_id, threads.parent_step AS parent_step, threads.called_by AS called_by, threads.lease_owner AS lease_owner, threads.lease_since AS lease_since, threads.lease_expires_at AS lease_expires_at, threads.wake_at AS wake_at, threads.created_at AS created_at, threads.updated_at AS updated_at, threads.metadata AS metadata, threads.queue AS queue
FROM threads
WHERE threads.graph = :graph::VARCHAR AND threads.status = :status_7::VARCHAR AND threads.updated_at > :since::VARCHAR AND threads.updated_at < :before::VARCHAR AND (threads.updated_at, threads.thread_id) < (:updated_at::VARCHAR, :thread_id::VARCHAR) ORDER BY threads.updated_at DESC, threads.thread_id DESC
 LIMIT :count::BIGINT) AS anon_9) AS anon_1 ORDER BY anon_1.updated_at DESC, anon_1.thread_id DESC
 LIMIT :count::BIGINT;

-- name: oldest
SELECT threads.thread_id, threads.graph, threads.fingerprint, threads.status, threads.epoch, threads.parent_thread_id, threads.parent_step, threads.called_by, threads.lease_owner, threads.lease_since, threads.lease_expires_at, threads.wake_at, threads.created_at, threads.updated_at, threads.metadata, threads.queue
FROM threads
WHERE threads.status = :status::VARCHAR AND threads.graph = :graph::VARCHAR AND (threads.updated_at, threads.thread_id) > (:updated_at::VARCHAR, :thread_id::VARCHAR) ORDER BY threads.updated_at, threads.thread_id
 LIMIT :count::BIGINT;

-- name: family
WITH RECURSIVE family(thread_id) AS
(SELECT threads.thread_id AS thread_id
FROM threads
WHERE threads.thread_id = :thread_id::VARCHAR UNION SELECT threads.thread_id AS thread_id
FROM threads JOIN family ON threads.called_by = family.thread_id)
 SELECT family.thread_id
FROM family;

-- name: forks
WITH RECURSIVE family(thread_id) AS
(SELECT threads.thread_id AS thread_id
FROM threads
WHERE threads.thread_id = :thread_id::VARCHAR UNION SELECT threads.thread_id AS thread_id
FROM threads JOIN family ON threads.called_by = family.thread_id)
 SELECT threads.thread_id, threads.parent_thread_id, threads.parent_step
FROM threads
WHERE threads.parent_thread_id IN (SELECT family.thread_id
FROM family) AND (threads.thread_id NOT IN (SELECT family.thread_id
FROM family));

-- name: roots
SELECT threads.thread_id, threads.graph, threads.fingerprint, threads.status, threads.epoch, threads.parent_thread_id, threads.parent_step, threads.called_by, threads.lease_owner, threads.lease_since, threads.lease_expires_at, threads.wake_at, threads.created_at, threads.updated_at, threads.metadata, threads.queue
FROM threads
WHERE threads.called_by IS NULL AND threads.updated_at < :before::VARCHAR AND (threads.updated_at, threads.thread_id) > (:updated_at::VARCHAR, :thread_id::VARCHAR) ORDER BY threads.updated_at, threads.thread_id
 LIMIT :count::BIGINT;

-- name: size
WITH RECURSIVE family(thread_id) AS
(SELECT threads.thread_id AS thread_id
FROM threads
WHERE threads.thread_id = :thread_id::VARCHAR UNION SELECT threads.thread_id AS thread_id
FROM threads JOIN family ON threads.called_by = family.thread_id)
 SELECT (SELECT count(*) AS count_1
FROM threads
WHERE threads.thread_id IN (SELECT family.thread_id
FROM family)) AS anon_1, (SELECT count(*) AS count_2
FROM checkpoints
WHERE checkpoints.thread_id IN (SELECT family.thread_id
FROM family)) AS anon_2, (SELECT coalesce(sum(length(checkpoints.body)), 0::INTEGER) AS coalesce_1
FROM checkpoints
WHERE checkpoints.thread_id IN (SELECT family.thread_id
FROM family)) + (SELECT coalesce(sum(length(snapshots.state)), 0::INTEGER) AS coalesce_3
FROM snapshots
WHERE snapshots.thread_id IN (SELECT family.thread_id
FROM family)) + (SELECT coalesce(sum(length(stubs.state)), 0::INTEGER) AS coalesce_5
FROM stubs
WHERE stubs.thread_id IN (SELECT family.thread_id
FROM family)) + (SELECT coalesce(sum(length(signals.value)), 0::INTEGER) AS coalesce_7
FROM signals
WHERE signals.thread_id IN (SELECT family.thread_id
FROM family)) AS anon_3;

-- name: size_before
SELECT 0, (SELECT coalesce(count(*), 0::INTEGER) AS coalesce_1
FROM checkpoints
WHERE checkpoints.thread_id = :thread_id::VARCHAR AND checkpoints.step < :until::BIGINT) AS anon_1, (SELECT coalesce(sum(length(checkpoints.body)), 0::INTEGER) AS coalesce_3
FROM checkpoints
WHERE checkpoints.thread_id = :thread_id::VARCHAR AND checkpoints.step < :until::BIGINT) + (SELECT coalesce(sum(length(snapshots.state)), 0::INTEGER) AS coalesce_5
FROM snapshots
WHERE snapshots.thread_id = :thread_id::VARCHAR AND snapshots.step < :until::BIGINT) AS anon_2;

-- name: lock
UPDATE threads SET epoch=threads.epoch WHERE threads.thread_id = :thread_id::VARCHAR;

-- name: next_epoch
UPDATE threads SET epoch=:next_epoch::BIGINT WHERE threads.thread_id = :thread_id::VARCHAR AND threads.epoch = :epoch::BIGINT;

-- name: no_fork
UPDATE threads SET parent_thread_id=NULL, parent_step=NULL WHERE threads.thread_id = :thread_id::VARCHAR;

-- name: stub
SELECT stubs.thread_id, stubs.step, stubs.parent_hash, stubs.state, stubs.pruned_at, stubs.actor, stubs.hash
FROM stubs
WHERE stubs.thread_id = :thread_id::VARCHAR;

-- name: put_stub
INSERT INTO stubs (thread_id, step, parent_hash, state, pruned_at, actor, hash) VALUES (:thread_id::VARCHAR, :step::BIGINT, :parent_hash, :state, :pruned_at::VARCHAR, :actor::VARCHAR, :hash) ON CONFLICT (thread_id) DO UPDATE SET step = excluded.step, parent_hash = excluded.parent_hash, state = excluded.state, pruned_at = excluded.pruned_at, actor = excluded.actor, hash = excluded.hash;

-- name: trim(checkpoints)
DELETE FROM checkpoints WHERE checkpoints.thread_id = :thread_id::VARCHAR AND checkpoints.step < :until::BIGINT AND checkpoints.step < (SELECT stubs.step
FROM stubs
WHERE stubs.thread_id = :thread_id::VARCHAR);

-- name: trim(snapshots)
DELETE FROM snapshots WHERE snapshots.thread_id = :thread_id::VARCHAR AND snapshots.step < :until::BIGINT AND snapshots.step < (SELECT stubs.step
FROM stubs
WHERE stubs.thread_id = :thread_id::VARCHAR);

-- name: held
SELECT (SELECT coalesce(sum(length(snapshots.state)), 0::INTEGER) AS coalesce_1
FROM snapshots) AS anon_1, (SELECT coalesce(sum(length(stubs.state)), 0::INTEGER) AS coalesce_3
FROM stubs) AS anon_2, (SELECT coalesce(sum(length(signals.value)), 0::INTEGER) AS coalesce_5
FROM signals) AS anon_3, (SELECT coalesce(sum(length(cache.value)), 0::INTEGER) AS coalesce_7
FROM cache) AS anon_4;

-- name: held(thread_id)
SELECT (SELECT coalesce(sum(length(snapshots.state)), 0::INTEGER) AS coalesce_1
FROM snapshots
WHERE snapshots.thread_id = :thread_id::VARCHAR) AS anon_1, (SELECT coalesce(sum(length(stubs.state)), 0::INTEGER) AS coalesce_3
FROM stubs
WHERE stubs.thread_id = :thread_id::VARCHAR) AS anon_2, (SELECT coalesce(sum(length(signals.value)), 0::INTEGER) AS coalesce_5
FROM signals
WHERE signals.thread_id = :thread_id::VARCHAR) AS anon_3, 0;

-- name: send
INSERT INTO signals (thread_id, id, name, value) VALUES (:thread_id::VARCHAR, :id::VARCHAR, :name::VARCHAR, :value) ON CONFLICT DO NOTHING;

-- name: signals
SELECT signals.thread_id, signals.id, signals.name, signals.value
FROM signals
WHERE signals.thread_id = :thread_id::VARCHAR ORDER BY signals.id;

-- name: signalled
SELECT signals.thread_id, signals.name, max(signals.id) AS max_1
FROM signals GROUP BY signals.thread_id, signals.name ORDER BY signals.thread_id, signals.name;

-- name: take_signal
DELETE FROM signals WHERE signals.thread_id = :thread_id::VARCHAR AND signals.id = :id::VARCHAR;

-- name: heads
SELECT anon_1.head, count(*) AS count_1
FROM (SELECT CASE WHEN (substr(checkpoints.body, 1::INTEGER, :size::INTEGER) = :mark) THEN substr(checkpoints.body, 1::INTEGER, :length::INTEGER) END AS head
FROM checkpoints UNION ALL SELECT CASE WHEN (substr(snapshots.state, 1::INTEGER, :size::INTEGER) = :mark) THEN substr(snapshots.state, 1::INTEGER, :length::INTEGER) END AS head
FROM snapshots UNION ALL SELECT CASE WHEN (substr(stubs.state, 1::INTEGER, :size::INTEGER) = :mark) THEN substr(stubs.state, 1::INTEGER, :length::INTEGER) END AS head
FROM stubs UNION ALL SELECT CASE WHEN (substr(signals.value, 1::INTEGER, :size::INTEGER) = :mark) THEN substr(signals.value, 1::INTEGER, :length::INTEGER) END AS head
FROM signals UNION ALL SELECT CASE WHEN (substr(cache.value, 1::INTEGER, :size::INTEGER) = :mark) THEN substr(cache.value, 1::INTEGER, :length::INTEGER) END AS head
FROM cache) AS anon_1 GROUP BY anon_1.head;

-- name: recall
SELECT cache.value
FROM cache
WHERE cache.namespace = :namespace::VARCHAR AND cache.key = :key::VARCHAR AND (cache.expires_at IS NULL OR cache.expires_at > :now::VARCHAR);

-- name: keep
INSERT INTO cache (namespace, key, value, expires_at) VALUES (:namespace::VARCHAR, :key::VARCHAR, :value, :expires_at::VARCHAR) ON CONFLICT (namespace, key) DO UPDATE SET value = excluded.value, expires_at = excluded.expires_at;

-- name: purge
DELETE FROM cache WHERE (cache.namespace, cache.key) IN (SELECT cache.namespace, cache.key
FROM cache
WHERE cache.expires_at <= :now::VARCHAR ORDER BY cache.expires_at
 LIMIT :count::BIGINT FOR UPDATE SKIP LOCKED);

-- name: forget
DELETE FROM cache WHERE cache.namespace = :namespace::VARCHAR;

-- name: forget_all
DELETE FROM cache;
