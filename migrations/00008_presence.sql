-- Who is subscribed on all nodes. A row and its events are written in one
-- transaction under the append lock: no cursor stands between them.

-- +goose Up
SET LOCAL lock_timeout = '10s';

-- The lease is a counter, not a time: a node is dead when another has watched
-- it stand still for long enough by its own clock.
CREATE TABLE mercure.nodes (
    id uuid CONSTRAINT nodes_pkey PRIMARY KEY,
    lease bigint NOT NULL DEFAULT 0,
    batch bigint NOT NULL DEFAULT 0,
    dead boolean NOT NULL DEFAULT false,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE mercure.nodes IS 'Hub processes that keep subscriptions.';
COMMENT ON COLUMN mercure.nodes.lease IS 'Goes up every few seconds while the process lives.';
COMMENT ON COLUMN mercure.nodes.batch IS 'The last batch written. One with a lower number comes too late.';
COMMENT ON COLUMN mercure.nodes.dead IS 'Given up by the others: it may write nothing any more.';

-- No foreign key: it would lock the row of the node once for each of its rows.
-- mercure.end_node() removes a node after its last row, under the append lock.
CREATE TABLE mercure.subscriptions (
    node uuid NOT NULL,
    number bigint NOT NULL,
    selector boolean NOT NULL,
    topic text COLLATE "C" NOT NULL,
    collection text COLLATE "C" NOT NULL,
    document text NOT NULL,
    CONSTRAINT subscriptions_pkey PRIMARY KEY (node, number)
)
WITH (
    -- Rows live as long as connections: vacuum by their number, not by a share.
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 5000
);
COMMENT ON TABLE mercure.subscriptions IS 'The subscriptions of all connected subscribers.';
COMMENT ON COLUMN mercure.subscriptions.number IS 'Given by the node.';
COMMENT ON COLUMN mercure.subscriptions.selector IS 'A 0.x selector, not a 1.0 matcher.';
COMMENT ON COLUMN mercure.subscriptions.topic IS 'Of its events, and its path in the API.';
COMMENT ON COLUMN mercure.subscriptions.collection IS 'The topic without the subscriber.';
COMMENT ON COLUMN mercure.subscriptions.document IS 'Data of the event that told of it.';

-- A topic may be too long for an index row, hence hashes. With the key behind
-- it a collection is read in pages.
CREATE INDEX subscriptions_topic_idx ON mercure.subscriptions (pg_catalog.hashtextextended(topic, 0::bigint));
CREATE INDEX subscriptions_collection_idx ON mercure.subscriptions
    (pg_catalog.hashtextextended(collection, 0::bigint), node, number);

-- Events of subscriptions are emptied after a while: id and position stay, so
-- that cursors resolve; without a topic they match nobody.
--
-- Nothing here reads or rewrites the log, which may be long: the default is a
-- constant, the constraint is not validated because every older row meets a
-- stricter one, and no index tells which events are to be emptied.
ALTER TABLE mercure.updates
    ADD COLUMN from_hub boolean NOT NULL DEFAULT false,
    DROP CONSTRAINT updates_topics_not_empty,
    ADD CONSTRAINT updates_topics_not_empty CHECK (cardinality(topics) > 0 OR from_hub) NOT VALID;
COMMENT ON COLUMN mercure.updates.from_hub IS 'An event of a subscription, which the hub itself published.';

-- One row for each transaction that appended some, all of them next to each
-- other: nobody else appends meanwhile.
CREATE TABLE mercure.hub_events (
    up_to_position bigint CONSTRAINT hub_events_pkey PRIMARY KEY,
    after_position bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE mercure.hub_events IS 'Where in the log events of subscriptions stand that were not emptied yet.';

-- Deletes subscriptions and appends the events of their end. The caller holds
-- the append lock. Spec: R-1, R-3, R-4.
-- +goose StatementBegin
CREATE FUNCTION mercure.end_subscriptions(node_id uuid, numbers bigint[]) RETURNS void
    LANGUAGE plpgsql VOLATILE
AS $$
BEGIN
    WITH ended AS (
        DELETE FROM mercure.subscriptions AS s
        WHERE s.node = node_id AND s.number = ANY (numbers)
        RETURNING s.number, s.selector, s.topic, s.document
    )
    INSERT INTO mercure.updates (position, id, topics, data, private, type, size, from_hub)
    SELECT
        nextval('mercure.updates_position_seq'), e.id, e.topics, e.data, true, e.type,
        mercure.update_size(e.id, e.topics, octet_length(e.data), e.type), true
    FROM (
        SELECT
            mercure.new_id() AS id, ARRAY[s.topic] AS topics,
            regexp_replace(s.document, '"active":true', '"active":false') AS data, -- the first only
            CASE WHEN NOT s.selector THEN 'mercure' END AS type
        FROM ended AS s
        ORDER BY s.number
    ) AS e;
END
$$;
-- +goose StatementEnd

-- Notes that what was appended behind a position is to be emptied, and tells the
-- hubs of it. The caller has held the append lock since.
-- +goose StatementBegin
CREATE FUNCTION mercure.hub_events_appended(head_before bigint) RETURNS void
    LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
    head_after CONSTANT bigint := mercure.head();
BEGIN
    IF head_after > head_before THEN
        INSERT INTO mercure.hub_events (up_to_position, after_position) VALUES (head_after, head_before);
        PERFORM pg_notify('mercure_updates', head_before || ',' || head_after);
    END IF;
END
$$;
-- +goose StatementEnd

-- Writes what began and what ended on a node since its last batch, with the
-- events. The numbers of batches go up: one that was believed lost, and comes
-- after a later one, is not alive. Neither is a node that was given up, or one
-- whose acknowledged batch the database has lost in a failover.
--
-- Writing again what is there already, or ending what is not, does nothing: a
-- batch whose outcome is unknown is simply part of the next one.
-- +goose StatementBegin
CREATE FUNCTION mercure.write_presence(
    node_id uuid, new_batch bigint, acknowledged bigint, ended bigint[],
    numbers bigint[], selectors boolean[], topics text[], collections text[], documents text[],
    OUT alive boolean
)
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    SET jit = off
    SET lock_timeout = '10s'
AS $$
DECLARE
    head_before bigint;
BEGIN
    PERFORM mercure.require_primary();
    -- Before the row of the node: while others append, the lease is renewed.
    LOCK TABLE mercure.append_lock IN EXCLUSIVE MODE;
    UPDATE mercure.nodes AS n
    SET batch = new_batch
    WHERE n.id = node_id AND NOT n.dead AND n.batch >= acknowledged AND n.batch < new_batch;
    alive := FOUND;
    IF NOT alive THEN
        RETURN;
    END IF;

    head_before := mercure.head_to_append();
    IF cardinality(ended) > 0 THEN
        PERFORM mercure.end_subscriptions(node_id, ended);
    END IF;
    IF cardinality(numbers) > 0 THEN
        WITH began AS (
            INSERT INTO mercure.subscriptions AS s (node, number, selector, topic, collection, document)
            SELECT node_id, b.number, b.selector, b.topic, b.collection, b.document
            FROM unnest(numbers, selectors, topics, collections, documents)
                AS b (number, selector, topic, collection, document)
            ON CONFLICT DO NOTHING
            RETURNING s.number, s.selector, s.topic, s.document
        )
        INSERT INTO mercure.updates (position, id, topics, data, private, type, size, from_hub)
        SELECT
            nextval('mercure.updates_position_seq'), e.id, e.topics, e.data, true, e.type,
            mercure.update_size(e.id, e.topics, octet_length(e.data), e.type), true
        FROM (
            SELECT
                mercure.new_id() AS id, ARRAY[s.topic] AS topics, s.document AS data,
                CASE WHEN NOT s.selector THEN 'mercure' END AS type
            FROM began AS s
            ORDER BY s.number
        ) AS e;
    END IF;
    PERFORM mercure.hub_events_appended(head_before);
END
$$;
-- +goose StatementEnd

-- Gives a node up, if its lease is still the one observed (NULL: whatever it
-- is), and ends its subscriptions, up to max_rows and about max_bytes. Call
-- again while more is true. Any number may do it at once: the append lock lets
-- each end be written once. Removes the node after the last one.
-- +goose StatementBegin
CREATE FUNCTION mercure.end_node(node_id uuid, observed bigint, max_rows integer, max_bytes bigint, OUT more boolean)
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    SET jit = off
    SET lock_timeout = '10s'
AS $$
DECLARE
    head_before bigint;
    numbers bigint[];
BEGIN
    PERFORM mercure.require_primary();
    LOCK TABLE mercure.append_lock IN EXCLUSIVE MODE;
    more := false;
    UPDATE mercure.nodes AS n
    SET dead = true
    WHERE n.id = node_id AND (n.dead OR observed IS NULL OR n.lease = observed);
    IF NOT FOUND THEN
        RETURN;
    END IF;
    SELECT array_agg(m.number) INTO numbers
    FROM (
        SELECT c.number, sum(octet_length(c.document)) OVER (ORDER BY c.number) - octet_length(c.document) AS before
        FROM (
            SELECT s.number, s.document
            FROM mercure.subscriptions AS s
            WHERE s.node = node_id
            ORDER BY s.number
            LIMIT max_rows
        ) AS c
    ) AS m
    WHERE m.before < max_bytes;
    IF numbers IS NULL THEN
        DELETE FROM mercure.nodes AS n WHERE n.id = node_id;
        RETURN;
    END IF;
    head_before := mercure.head_to_append();
    PERFORM mercure.end_subscriptions(node_id, numbers);
    PERFORM mercure.hub_events_appended(head_before);
    more := true;
END
$$;
-- +goose StatementEnd

-- A node that is there already is left as it is: the answer to an earlier call
-- may have been lost.
-- +goose StatementBegin
CREATE FUNCTION mercure.add_node(node_id uuid) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '10s'
AS $$
BEGIN
    PERFORM mercure.require_primary();
    INSERT INTO mercure.nodes (id) VALUES (node_id) ON CONFLICT DO NOTHING;
END
$$;
-- +goose StatementEnd

-- Returns the last batch of the node; NULL: it was given up.
-- +goose StatementBegin
CREATE FUNCTION mercure.renew_node(node_id uuid) RETURNS bigint
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '10s'
AS $$
DECLARE
    last_batch bigint;
BEGIN
    UPDATE mercure.nodes AS n SET lease = n.lease + 1
    WHERE n.id = node_id AND NOT n.dead
    RETURNING n.batch INTO last_batch;
    RETURN last_batch;
END
$$;
-- +goose StatementEnd

-- A page of the subscriptions of one dialect behind a node and number, those of
-- one collection or of all (empty): at most max_rows, about max_bytes, at least
-- one. Connects come in storms that no statistics keep up with; the settings
-- leave the planner only the index whose order is that of the page. With
-- others, each page would read and sort all that is left.
-- +goose StatementBegin
CREATE FUNCTION mercure.subscriptions_page(
    of_selectors boolean, of_collection text, after_node uuid, after_number bigint, max_rows integer, max_bytes bigint
) RETURNS TABLE (node uuid, number bigint, document text)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET enable_sort = off
    SET jit = off
AS $$
#variable_conflict use_column
BEGIN
    IF of_collection = '' THEN
        RETURN QUERY
        SELECT m.node, m.number, m.document
        FROM (
            SELECT c.*, sum(octet_length(c.document)) OVER (ORDER BY c.node, c.number) - octet_length(c.document) AS before
            FROM (
                SELECT s.node, s.number, s.document
                FROM mercure.subscriptions AS s
                WHERE (s.node, s.number) > (after_node, after_number) AND s.selector = of_selectors
                ORDER BY s.node, s.number
                LIMIT max_rows
            ) AS c
        ) AS m
        WHERE m.before < max_bytes;
        RETURN;
    END IF;
    RETURN QUERY
    SELECT m.node, m.number, m.document
    FROM (
        SELECT c.*, sum(octet_length(c.document)) OVER (ORDER BY c.node, c.number) - octet_length(c.document) AS before
        FROM (
            SELECT s.node, s.number, s.document
            FROM mercure.subscriptions AS s
            WHERE hashtextextended(s.collection, 0::bigint) = hashtextextended(of_collection COLLATE "C", 0::bigint)
                AND s.collection = of_collection
                AND (s.node, s.number) > (after_node, after_number) AND s.selector = of_selectors
            ORDER BY s.node, s.number
            LIMIT max_rows
        ) AS c
    ) AS m
    WHERE m.before < max_bytes;
END
$$;
-- +goose StatementEnd

-- Empties the oldest events of subscriptions, about max_rows of them. Call again
-- while more is true. What retention has removed from the log is passed over.
-- +goose StatementBegin
CREATE FUNCTION mercure.empty_hub_events(older_than interval, max_rows integer, OUT more boolean)
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    SET jit = off
    SET lock_timeout = '10s'
AS $$
BEGIN
    WITH old AS (
        DELETE FROM mercure.hub_events AS e
        WHERE e.up_to_position IN (
            SELECT m.up_to_position
            FROM (
                SELECT
                    c.up_to_position, c.created_at,
                    sum(c.events) OVER (ORDER BY c.up_to_position) - c.events AS before
                FROM (
                    SELECT h.up_to_position, h.created_at, h.up_to_position - h.after_position AS events
                    FROM mercure.hub_events AS h
                    ORDER BY h.up_to_position
                    LIMIT max_rows
                ) AS c
            ) AS m
            WHERE m.before < max_rows AND m.created_at < clock_timestamp() - older_than
        )
        RETURNING e.after_position, e.up_to_position
    ), emptied AS (
        UPDATE mercure.updates AS u
        SET topics = '{}', data = '', type = NULL, size = octet_length(u.id)
        FROM old AS o
        WHERE u.position > o.after_position AND u.position <= o.up_to_position AND u.from_hub
    )
    SELECT count(*) > 0 INTO more FROM old;
END
$$;
-- +goose StatementEnd

REVOKE EXECUTE ON FUNCTION
    mercure.end_subscriptions(uuid, bigint[]),
    mercure.hub_events_appended(bigint),
    mercure.write_presence(uuid, bigint, bigint, bigint[], bigint[], boolean[], text[], text[], text[]),
    mercure.end_node(uuid, bigint, integer, bigint),
    mercure.add_node(uuid),
    mercure.renew_node(uuid),
    mercure.subscriptions_page(boolean, text, uuid, bigint, integer, bigint),
    mercure.empty_hub_events(interval, integer)
FROM PUBLIC;

INSERT INTO mercure.schema_version (version, oldest_hub) VALUES (8, 1);

-- Events that were emptied stay: the constraint looks at new rows only.
-- +goose Down
SET LOCAL lock_timeout = '10s';
DELETE FROM mercure.schema_version WHERE version = 8;
DROP FUNCTION mercure.empty_hub_events(interval, integer);
DROP FUNCTION mercure.subscriptions_page(boolean, text, uuid, bigint, integer, bigint);
DROP FUNCTION mercure.renew_node(uuid);
DROP FUNCTION mercure.add_node(uuid);
DROP FUNCTION mercure.end_node(uuid, bigint, integer, bigint);
DROP FUNCTION mercure.write_presence(uuid, bigint, bigint, bigint[], bigint[], boolean[], text[], text[], text[]);
DROP FUNCTION mercure.hub_events_appended(bigint);
DROP FUNCTION mercure.end_subscriptions(uuid, bigint[]);
ALTER TABLE mercure.updates
    DROP CONSTRAINT updates_topics_not_empty,
    ADD CONSTRAINT updates_topics_not_empty CHECK (cardinality(topics) > 0) NOT VALID,
    DROP COLUMN from_hub;
DROP TABLE mercure.hub_events, mercure.subscriptions, mercure.nodes;
