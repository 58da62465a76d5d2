-- Tables that publish their own changes, and the cursor of a snapshot.
--
-- mercure.attach() writes triggers and functions that belong to who called it;
-- no function of the hub's ever runs what a user wrote. There are two:
--
-- "publish" inserts into the outbox. It consists of code from this file, with
-- the names of columns filled in, so it may be SECURITY DEFINER: who writes the
-- table needs no right to publish, which would be one to publish anything.
-- Nobody else may execute it, so nobody can hang it onto a table of theirs.
--
-- "decide" evaluates the condition, which is whatever its author wrote, and is
-- SECURITY INVOKER, as a trigger's WHEN is. All it hands over is one yes or no
-- for each row, in a setting: forging that publishes a change that did happen,
-- nothing else.
--
-- All state is in the catalogs: it is in dumps, and goes with the table.

-- +goose Up
SET LOCAL lock_timeout = '10s';

-- Percent-encodes what is not unreserved in URIs. With keep_reserved also
-- reserved characters and what is percent-encoded already are left alone: the
-- rule of RFC 6570 for {+a} and for literals.
-- +goose StatementBegin
CREATE FUNCTION mercure.uri_encode(value text, keep_reserved boolean DEFAULT false) RETURNS text
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
DECLARE
    keep CONSTANT text := CASE
        WHEN keep_reserved THEN '(?:[]A-Za-z0-9._~:/?#[@!$&''()*+,;=-]|%[0-9A-Fa-f]{2})+'
        ELSE '[A-Za-z0-9._~-]+'
    END;
    result text COLLATE "C" := '';
    rest text COLLATE "C" := value;
    kept text COLLATE "C";
    octets text COLLATE "C";
BEGIN
    -- What is too long for a topic stays too long, and is not worth the work.
    IF rest IS NULL OR rest ~ '^[A-Za-z0-9._~-]*$' OR octet_length(rest) > 4096 THEN
        RETURN rest;
    END IF;
    WHILE rest <> '' LOOP
        kept := coalesce(substring(rest FROM '^' || keep), '');
        rest := substr(rest, length(kept) + 1);
        octets := '';
        IF rest <> '' THEN
            octets := upper(regexp_replace(encode(convert_to(left(rest, 1), 'UTF8'), 'hex'), '(..)', '%\1', 'g'));
            rest := substr(rest, 2);
        END IF;
        result := result || kept || octets;
    END LOOP;
    RETURN result;
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE FUNCTION mercure.uri_decode(value text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN (
        SELECT convert_from(decode(string_agg(
            CASE WHEN length(m.part[1]) = 3 AND left(m.part[1], 1) = '%' THEN substr(m.part[1], 2) ELSE encode(convert_to(m.part[1], 'UTF8'), 'hex') END,
            '' ORDER BY m.ordinality), 'hex'), 'UTF8')
        FROM regexp_matches(value, '%[0-9A-Fa-f]{2}|.', 'g') WITH ORDINALITY AS m (part, ordinality)
    );
-- +goose StatementEnd

-- Turns a URI template, RFC 6570 up to level 3, into an SQL expression over a
-- row with these columns. A variable that is NULL makes all of it NULL. sample
-- is a value of it.
-- +goose StatementBegin
CREATE FUNCTION mercure.compile_topic(template text, columns text[], row_name text, OUT expression text, OUT sample text)
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET standard_conforming_strings = on
AS $$
DECLARE
    rest text := template;
    parts text[] := '{}';
    part text;
    match text[];
    operator text;
    separator text;
    named boolean;
    name text;
    value text;
BEGIN
    IF template IS NULL OR template = '' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'a topic is empty; give a URI template such as https://example.com/orders/{id}';
    END IF;
    sample := '';
    LOOP
        part := mercure.uri_encode(substring(rest FROM '^[^{}]*'), true);
        rest := substring(rest FROM '^[^{}]*(.*)$');
        sample := sample || part;
        parts := parts || quote_literal(part);
        EXIT WHEN rest = '';

        match := regexp_match(rest, '^\{([+#./;?&]?)((?:[A-Za-z0-9_]|%[0-9A-Fa-f]{2})+(?:[.,](?:[A-Za-z0-9_]|%[0-9A-Fa-f]{2})+)*)\}(.*)$');
        IF match IS NULL THEN
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
                MESSAGE = format('the topic %L is no URI template that could be used: at %L', left(template, 200), left(rest, 50)),
                HINT = 'Between braces stand names of columns, separated by commas, after one of + # . / ; ? & if need be. What is no letter, digit or underscore in a name is percent-encoded. There are no modifiers.';
        END IF;
        operator := match[1];
        rest := match[3];
        named := operator IN (';', '?', '&');
        separator := CASE WHEN operator IN ('', '+', '#') THEN ',' WHEN operator = '?' THEN '&' ELSE operator END;
        IF operator NOT IN ('', '+') THEN
            parts := parts || quote_literal(operator);
            sample := sample || operator;
        END IF;
        FOR name, part IN
            SELECT v.name, CASE WHEN v.ordinality > 1 THEN separator ELSE '' END
            FROM unnest(string_to_array(match[2], ',')) WITH ORDINALITY AS v (name, ordinality)
        LOOP
            IF mercure.uri_decode(name) <> ALL (columns) THEN
                RAISE EXCEPTION USING ERRCODE = 'undefined_column',
                    MESSAGE = format('the topic %L names a column that the table does not have: %s', left(template, 200), mercure.uri_decode(name)),
                    HINT = 'Names are case-sensitive here, and without quotes.';
            END IF;
            -- The text that JSON shows, which no setting but the time zone changes.
            value := format('mercure.uri_encode(to_jsonb((%s).%I) #>> ''{}'', %L)',
                row_name, mercure.uri_decode(name), operator IN ('+', '#'));
            IF operator = ';' THEN
                value := format('CASE %1$s WHEN '''' THEN '''' ELSE ''='' || %1$s END', value);
            END IF;
            IF named THEN
                part := part || name || CASE WHEN operator = ';' THEN '' ELSE '=' END;
            END IF;
            parts := parts || quote_literal(part) || value;
            sample := sample || part || 'x';
        END LOOP;
    END LOOP;
    expression := array_to_string(array_remove(parts, ''''''), ' || ');
END
$$;
-- +goose StatementEnd

-- Keeps what a trigger could not publish without failing the statement that
-- fired it.
-- +goose StatementBegin
CREATE FUNCTION mercure.reject_change(topics text[], data text, private boolean, type text, reason text) RETURNS void
    LANGUAGE sql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    INSERT INTO mercure.rejected (seq, reason, outbox_row)
    VALUES (
        nextval('mercure.outbox_seq_seq'), reason,
        jsonb_build_object('topics', topics, 'data', left(data, 10000), 'private', private, 'type', type)
    );
END;
-- +goose StatementEnd

-- Whether the outbox takes a change; if not, it is kept in mercure.rejected.
-- Who writes a table may not know that it publishes: a value that makes a bad
-- topic must not fail the statement. What is true of every row, and what types
-- may be, was checked when the table was attached.
-- +goose StatementBegin
CREATE FUNCTION mercure.admit_change(topics text[], data text, private boolean, type text) RETURNS boolean
    LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
    topic text;
    reason text;
BEGIN
    IF mercure.is_ordinary_update(topics, data, NULL, 'urn:uuid:00000000-0000-0000-0000-000000000000') THEN
        RETURN true;
    ELSIF cardinality(topics) = 0 THEN
        RETURN false;
    END IF;
    FOREACH topic IN ARRAY topics LOOP
        IF octet_length(topic) > 4096 THEN
            reason := format('the topic %L... is %s bytes long; at most 4096 are allowed', left(topic, 100), octet_length(topic));
        ELSIF topic = '' OR topic = '*' THEN
            reason := format('the topic %L cannot be published', topic);
        ELSIF mercure.is_reserved_topic(topic) THEN
            reason := format('the topic %L lies in the namespace reserved for the hub, %s', left(topic, 200), mercure.hub_path());
        END IF;
    END LOOP;
    IF octet_length(data) > 8388608 THEN
        reason := format('data is %s bytes long; at most 8388608 are allowed', octet_length(data));
    END IF;
    IF reason IS NULL THEN
        RETURN true;
    END IF;
    PERFORM mercure.reject_change(topics, data, private, type, reason);
    RETURN false;
END
$$;
-- +goose StatementEnd

-- The functions behind the triggers of attachments, by their names, since
-- their owners may have no right to mark them otherwise.
CREATE VIEW mercure.attachments AS
SELECT
    t.tgrelid::regclass AS relation,
    array_agg(o.operation ORDER BY o.ordinality) AS operations,
    pg_get_userbyid(p.proowner) AS attached_by,
    bool_and(t.tgenabled <> 'D') AS enabled,
    obj_description(p.oid, 'pg_proc') AS definition,
    p.oid::regprocedure AS publish_function,
    (
        SELECT DISTINCT d.tgfoid::regprocedure
        FROM pg_trigger AS d
        WHERE d.tgrelid = t.tgrelid AND d.tgname LIKE 'mercure\_attach\_decide\_%'
    ) AS decide_function
FROM pg_trigger AS t
JOIN pg_proc AS p ON p.oid = t.tgfoid
CROSS JOIN unnest(ARRAY[4, 16, 8, 32], ARRAY['insert', 'update', 'delete', 'truncate']) WITH ORDINALITY AS o (bit, operation, ordinality)
WHERE t.tgname LIKE 'mercure\_attach\_publish\_%' AND NOT t.tgisinternal
    AND p.proname ~ '^mercure_[0-9a-f]{12}_publish$'
    AND t.tgtype & o.bit <> 0
GROUP BY t.tgrelid, p.oid, p.proowner;
COMMENT ON VIEW mercure.attachments IS 'The tables that publish their changes. definition is the call that attached each.';

-- Takes the attachment of a table away. Returns whether there was one. For who
-- attached it, and for the owner of the table.
-- +goose StatementBegin
CREATE FUNCTION mercure.detach(relation regclass) RETURNS boolean
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
    SET client_min_messages = warning
AS $$
DECLARE
    found_one boolean := false;
    trigger record;
BEGIN
    FOR trigger IN
        SELECT t.tgname AS name, p.oid::regprocedure AS function, pg_has_role(p.proowner, 'USAGE') AS own
        FROM pg_trigger AS t
        JOIN pg_proc AS p ON p.oid = t.tgfoid
        WHERE t.tgrelid = detach.relation AND t.tgname ~ '^mercure_attach_(publish|decide)_' AND p.proname ~ '^mercure_[0-9a-f]{12}_(publish|decide)$'
        ORDER BY t.tgname
    LOOP
        found_one := true;
        -- Who may attach to a table of somebody else's may not drop triggers
        -- there, but they go with the function.
        IF NOT trigger.own THEN
            EXECUTE format('DROP TRIGGER %I ON %s', trigger.name, relation);
        ELSIF EXISTS (SELECT FROM pg_proc AS p WHERE p.oid = trigger.function) THEN
            EXECUTE format('DROP FUNCTION %s CASCADE', trigger.function);
        END IF;
    END LOOP;
    RETURN found_one;
END
$$;
-- +goose StatementEnd

-- Templates as one SQL expression: the topics of a row, without those that have
-- a variable that is NULL.
-- +goose StatementBegin
CREATE FUNCTION mercure.compile_topics(templates text[], columns text[], row_name text) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    template text;
    compiled record;
    expressions text[] := '{}';
    samples text[] := '{}';
BEGIN
    FOREACH template IN ARRAY templates LOOP
        SELECT c.expression, c.sample INTO compiled FROM mercure.compile_topic(template, columns, row_name) AS c;
        expressions := array_append(expressions, compiled.expression);
        samples := array_append(samples, compiled.sample);
    END LOOP;
    PERFORM mercure.check_topics(samples);
    RETURN format('array_remove(ARRAY[%s], NULL)', array_to_string(expressions, ', '));
END
$$;
-- +goose StatementEnd

-- The key by which the rows before and after an update are paired, as the
-- condition of a join: the columns of a unique index, compared by its
-- operators, wherever those are. NULL if there is none.
-- +goose StatementBegin
CREATE FUNCTION mercure.pairing(relation regclass, key text[], old_row text, new_row text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT k.condition
    FROM pg_index AS i
    CROSS JOIN LATERAL (
        SELECT
            array_agg(a.attname::text) AS columns,
            string_agg(
                format('%1$s.%2$I OPERATOR(%3$I.%4$s) %5$s.%2$I', old_row, a.attname, s.nspname, p.oprname, new_row),
                ' AND ' ORDER BY c.place
            ) AS condition,
            count(*) AS compared,
            bool_and(a.attnotnull) AS not_null
        FROM unnest(i.indkey::smallint[], i.indclass::oid[]) WITH ORDINALITY AS c (number, class, place)
        JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = c.number
        JOIN pg_opclass AS x ON x.oid = c.class
        JOIN pg_amop AS m ON m.amopfamily = x.opcfamily AND m.amoplefttype = x.opcintype
            AND m.amoprighttype = x.opcintype AND m.amopstrategy = 3 -- equality, in a btree
        JOIN pg_operator AS p ON p.oid = m.amopopr
        JOIN pg_namespace AS s ON s.oid = p.oprnamespace
        WHERE c.place <= i.indnkeyatts
    ) AS k
    WHERE i.indrelid = relation AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL
        AND k.compared = i.indnkeyatts AND k.not_null
        AND (key IS NULL OR (k.columns @> key AND k.columns <@ key))
    ORDER BY i.indisprimary DESC, i.indisreplident DESC, i.indexrelid
    LIMIT 1
$$;
-- +goose StatementEnd

-- The types of updates, by operation, checked: "insert" for an insert, and so
-- on, unless another or none is given.
-- +goose StatementBegin
CREATE FUNCTION mercure.change_types(types jsonb) RETURNS jsonb
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    defaults CONSTANT jsonb := '{"insert": "insert", "update": "update", "delete": "delete", "truncate": "truncate"}';
    type text;
BEGIN
    IF types IS NULL THEN
        RETURN '{}';
    END IF;
    IF jsonb_typeof(types) <> 'object' OR EXISTS (
        SELECT FROM jsonb_each(CASE jsonb_typeof(types) WHEN 'object' THEN types ELSE '{}' END) AS e
        WHERE NOT defaults ? e.key OR jsonb_typeof(e.value) NOT IN ('string', 'null')
    ) THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'types must be a JSON object of strings with the names insert, update, delete and truncate, such as {"insert": "created", "delete": null}';
    END IF;
    FOR type IN SELECT e.value FROM jsonb_each_text(types) AS e LOOP
        PERFORM mercure.check_type(type);
    END LOOP;
    RETURN defaults || types;
END
$$;
-- +goose StatementEnd

-- The SELECT that makes updates of what a statement did, from the transition
-- tables mercure_old and mercure_new.
--
-- A row is one record, r, and has its place in the statement, i. Where it is
-- named as a whole it has a name that no column has. A row that has
-- another key or other topics afterwards is gone for those who knew it, and new
-- to others. OFFSET 0 keeps the planner from evaluating an expression once for
-- each of its uses.
-- +goose StatementBegin
CREATE FUNCTION mercure.changes_query(
    operation text, columns text[], old_topics text, new_topics text, pairing text, types jsonb,
    private boolean, old_values boolean, only_changes boolean, decided boolean
) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    old_rows CONSTANT text := '(SELECT "mercure row" AS r, row_number() OVER () AS i FROM mercure_old AS "mercure row") AS o';
    new_rows CONSTANT text := '(SELECT "mercure row" AS r, row_number() OVER () AS i FROM mercure_new AS "mercure row") AS n';
    old_json text := 'row_to_json(o.r)';
    new_json text := 'row_to_json(n.r)';
    pair_json text;
    changed text := 'n.r *<> o.r';
    decision text := '';
    changes text;
BEGIN
    IF columns IS NOT NULL THEN
        SELECT
            format('(SELECT row_to_json("mercure row") FROM (SELECT %s) AS "mercure row")', string_agg(format('(o.r).%1$I AS %1$I', c.name), ', ' ORDER BY c.place)),
            format('(SELECT row_to_json("mercure row") FROM (SELECT %s) AS "mercure row")', string_agg(format('(n.r).%1$I AS %1$I', c.name), ', ' ORDER BY c.place)),
            format('ROW(%s)::record *<> ROW(%s)::record',
                string_agg(format('(n.r).%I', c.name), ', ' ORDER BY c.place), string_agg(format('(o.r).%I', c.name), ', ' ORDER BY c.place))
        INTO old_json, new_json, changed
        FROM unnest(columns) WITH ORDINALITY AS c (name, place);
    END IF;
    pair_json := new_json;
    IF old_values THEN
        pair_json := format('json_build_object(''new'', %s, ''old'', %s)', new_json, old_json);
        new_json := format('json_build_object(''new'', %s, ''old'', NULL)', new_json);
        old_json := format('json_build_object(''new'', NULL, ''old'', %s)', old_json);
    END IF;
    IF decided THEN
        decision := E'\n    WHERE ' || CASE operation
            WHEN 'insert' THEN 'get_byte(decided_new, n.i::integer - 1) = 49'
            WHEN 'delete' THEN 'get_byte(decided_old, o.i::integer - 1) = 49'
            ELSE 'CASE WHEN n.i IS NULL THEN get_byte(decided_old, o.i::integer - 1) ELSE get_byte(decided_new, n.i::integer - 1) END = 49'
        END;
    END IF;

    changes := CASE operation
        WHEN 'insert' THEN format(
$sql$    SELECT n.i, 1 AS step, %s AS topics, %s::text AS data, %L::text AS type
    FROM %s$sql$, new_topics, new_json, nullif(types ->> 'insert', ''), new_rows)
        WHEN 'delete' THEN format(
$sql$    SELECT o.i, 1 AS step, %s AS topics, %s::text AS data, %L::text AS type
    FROM %s$sql$, old_topics, old_json, nullif(types ->> 'delete', ''), old_rows)
        ELSE format(
$sql$    SELECT coalesce(n.i, o.i) AS i, e.step, e.topics, e.data, e.type
    FROM (SELECT n.r, n.i, %s AS topics FROM %s) AS n
    FULL JOIN (SELECT o.r, o.i, %s AS topics FROM %s) AS o ON %s
    CROSS JOIN LATERAL (
        SELECT 1, n.topics, %s::text, %L::text WHERE n.topics = o.topics%s
        UNION ALL
        SELECT 1, o.topics, %s::text, %L::text WHERE o.i IS NOT NULL AND n.topics IS DISTINCT FROM o.topics
        UNION ALL
        SELECT 2, n.topics, %s::text, %L::text WHERE n.i IS NOT NULL AND n.topics IS DISTINCT FROM o.topics
    ) AS e (step, topics, data, type)$sql$,
            new_topics, new_rows, old_topics, old_rows, pairing,
            pair_json, nullif(types ->> 'update', ''), CASE WHEN only_changes THEN ' AND ' || changed ELSE '' END,
            old_json, nullif(types ->> 'delete', ''), new_json, nullif(types ->> 'insert', ''))
    END;
    RETURN format(
$sql$SELECT c.topics, c.data, %1$L::boolean, c.type
FROM (
%2$s%3$s
    OFFSET 0
) AS c
WHERE mercure.admit_change(c.topics, c.data, %1$L::boolean, c.type)
ORDER BY c.i, c.step$sql$, private, changes, decision);
END
$$;
-- +goose StatementEnd

-- The SELECT that decides which changes are published: a digit for each row of
-- mercure_new, and one for each of mercure_old.
-- +goose StatementBegin
CREATE FUNCTION mercure.decisions_query(operation text, condition text, pairing text) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    old_rows CONSTANT text := '(SELECT x.*, row_number() OVER () AS "mercure place" FROM mercure_old AS x) AS old';
    new_rows CONSTANT text := '(SELECT x.*, row_number() OVER () AS "mercure place" FROM mercure_new AS x) AS new';
BEGIN
    RETURN format(
$sql$SELECT
    string_agg(d.verdict, '' ORDER BY d.new_place) FILTER (WHERE d.new_place IS NOT NULL),
    string_agg(d.verdict, '' ORDER BY d.old_place) FILTER (WHERE d.old_place IS NOT NULL)
FROM (
    SELECT new."mercure place" AS new_place, old."mercure place" AS old_place, CASE WHEN (
%s
) THEN '1' ELSE '0' END AS verdict
    FROM %s
    OFFSET 0
) AS d$sql$,
        condition,
        CASE operation
            WHEN 'insert' THEN new_rows || ' LEFT JOIN (SELECT x.*, NULL::bigint AS "mercure place" FROM mercure_new AS x LIMIT 0) AS old ON true'
            WHEN 'delete' THEN old_rows || ' LEFT JOIN (SELECT x.*, NULL::bigint AS "mercure place" FROM mercure_old AS x LIMIT 0) AS new ON true'
            ELSE new_rows || ' FULL JOIN ' || old_rows || ' ON ' || pairing
        END);
END
$$;
-- +goose StatementEnd

-- Fails unless this is one query over the transition tables of a table.
-- Executes nothing.
-- +goose StatementBegin
CREATE FUNCTION mercure.check_query(relation regclass, query text) RETURNS void
    LANGUAGE plpgsql STABLE
AS $$
DECLARE
    one_query refcursor;
BEGIN
    OPEN one_query FOR EXECUTE pg_catalog.format(
        'WITH mercure_new AS (SELECT (NULL::%1$s).*), mercure_old AS (SELECT (NULL::%1$s).*) %2$s', relation, query);
    CLOSE one_query;
END
$$;
-- +goose StatementEnd

-- Refuses tables that cannot be attached, and callers who may not.
-- +goose StatementBegin
CREATE FUNCTION mercure.check_attachable(relation regclass) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    class record;
    problem text;
    advice text;
BEGIN
    SELECT c.relkind, c.relispartition, c.relpersistence, n.nspname INTO class
    FROM pg_class AS c
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.oid = relation;
    IF class.relkind IS NULL OR class.relkind NOT IN ('r', 'p') THEN
        problem := format('%s is %s, but only tables can publish their changes', relation, CASE class.relkind
            WHEN 'v' THEN 'a view' WHEN 'm' THEN 'a materialized view' WHEN 'f' THEN 'a foreign table' ELSE 'no table' END);
        advice := 'Attach the tables that it has its rows from.';
    ELSIF class.relispartition THEN
        problem := format('%s is a partition', relation);
        advice := format('Attach %s, which it belongs to.', pg_partition_root(relation));
    ELSIF class.relpersistence = 't' THEN
        problem := format('%s is a temporary table', relation);
        advice := 'Attach a table that stays.';
    ELSIF class.nspname IN ('mercure', 'pg_catalog') THEN
        problem := format('%s belongs to the hub or to PostgreSQL', relation);
        advice := 'Attach a table of an application.';
    END IF;
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'wrong_object_type', MESSAGE = problem, HINT = advice;
    END IF;
    IF NOT has_table_privilege(relation, 'TRIGGER') THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
            MESSAGE = format('%I may not create triggers on %s', current_user, relation),
            HINT = format('As its owner: GRANT TRIGGER ON %s TO %I;', relation, current_user);
    END IF;
    IF NOT (
        SELECT bool_and(has_column_privilege('mercure.outbox', c.name, 'INSERT'))
        FROM unnest('{topics,data,private,type}'::text[]) AS c (name)
    ) THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
            MESSAGE = format('%I may not publish, and so cannot let a table publish', current_user),
            HINT = format('GRANT mercure_publisher TO %I;', current_user);
    END IF;
END
$$;
-- +goose StatementEnd

-- Makes a table publish its changes, in the transactions that make them. Takes
-- the place of what was attached before. docs/postgresql.md explains the
-- parameters; when_path is where the condition finds what it names.
-- +goose StatementBegin
CREATE FUNCTION mercure.attach(
    relation regclass, topic text DEFAULT NULL, topics text[] DEFAULT NULL, columns text[] DEFAULT NULL,
    operations text[] DEFAULT '{insert,update,delete}', types jsonb DEFAULT '{}', private boolean DEFAULT true,
    old_values boolean DEFAULT false, only_changes boolean DEFAULT true, when_condition text DEFAULT NULL,
    key text[] DEFAULT NULL, truncate_topic text DEFAULT NULL, schema text DEFAULT NULL,
    when_path name[] DEFAULT pg_catalog.current_schemas(false)
) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
    SET standard_conforming_strings = on
AS $$
#variable_conflict use_variable
DECLARE
    all_columns CONSTANT text[] := ARRAY(
        SELECT a.attname::text FROM pg_attribute AS a WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
    );
    templates CONSTANT text[] := array_remove(array_prepend(topic, topics), NULL);
    path CONSTANT text := (SELECT string_agg(quote_ident(p.name), ', ') FROM unnest(array_append(when_path, 'pg_temp')) AS p (name));
    pairs CONSTANT text := mercure.pairing(relation, key, '(o.r)', '(n.r)');
    type_of CONSTANT jsonb := mercure.change_types(types);
    unknown CONSTANT text := (SELECT coalesce(c.name, 'NULL') FROM unnest(columns) AS c (name) WHERE (c.name = ANY (all_columns)) IS NOT TRUE LIMIT 1);
    done text;
    query text;
    publish text := '';
    decide text := '';
    problem text := CASE
        WHEN cardinality(templates) = 0 THEN 'no topic is given; give a URI template such as https://example.com/orders/{id}'
        WHEN NOT coalesce(cardinality(operations) > 0 AND operations <@ '{insert,update,delete}', false) THEN 'operations must name some of insert, update and delete'
        WHEN cardinality(columns) = 0 THEN 'columns is empty; leave it out to publish all columns'
        WHEN private IS NULL OR old_values IS NULL OR only_changes IS NULL THEN 'private, old_values and only_changes must be true or false'
        WHEN unknown IS NOT NULL THEN format('%s has no column %I; names are case-sensitive here, and without quotes', relation, unknown)
        WHEN key IS NOT NULL AND pairs IS NULL THEN
            format('the columns %s are no key of %s: a key has a unique index, neither partial nor deferrable, and its columns are NOT NULL', key, relation)
        WHEN 'update' = ANY (operations) AND pairs IS NULL THEN
            format('%s has no key, without which the rows before and after an update cannot be paired: add a primary key, or attach with operations => ''{insert,delete}''', relation)
    END;
BEGIN
    PERFORM mercure.check_attachable(relation);
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = problem;
    END IF;
    FOREACH done IN ARRAY operations LOOP
        query := mercure.changes_query(
            done, columns, mercure.compile_topics(templates, all_columns, 'o.r'), mercure.compile_topics(templates, all_columns, 'n.r'),
            pairs, type_of, private, old_values, only_changes, when_condition IS NOT NULL
        );
        publish := publish || format(E'IF TG_OP = %L THEN\nINSERT INTO mercure.outbox (topics, data, private, type)\n%s;\nEND IF;\n', upper(done), query);
        PERFORM mercure.check_query(relation, regexp_replace(query, 'get_byte\(decided_(old|new),', 'get_byte(''''::bytea,', 'g'));
        IF when_condition IS NOT NULL THEN
            query := mercure.decisions_query(done, when_condition, mercure.pairing(relation, key, 'old', 'new'));
            decide := decide || format(E'IF TG_OP = %L THEN\n%s\nINTO decided_new, decided_old;\nEND IF;\n', upper(done), query);
            PERFORM set_config('search_path', path, true);
            PERFORM mercure.check_query(relation, query);
            PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
        END IF;
    END LOOP;
    IF truncate_topic IS NOT NULL THEN
        PERFORM mercure.check_topics(ARRAY[truncate_topic]);
        publish := publish || format(E'IF TG_OP = ''TRUNCATE'' THEN\nINSERT INTO mercure.outbox (topics, private, type) VALUES (ARRAY[%L], %L, %L);\nEND IF;\n',
            truncate_topic, private, nullif(type_of ->> 'truncate', ''));
    END IF;
    PERFORM mercure.detach(relation);
    PERFORM mercure.create_attachment(
        relation, schema, operations || CASE WHEN truncate_topic IS NULL THEN '{}' ELSE '{truncate}'::text[] END, publish, nullif(decide, ''), path,
        mercure.attach_call(relation, templates, columns, operations, types, private, old_values, only_changes, when_condition, key, truncate_topic, schema, when_path)
    );
END
$$;
-- +goose StatementEnd

-- Creates what an attachment consists of, owned by the caller.
--
-- Nothing that who writes the table may set changes what is published: not the
-- time zone, not how binary data is shown. Plans are kept, so one that was made
-- for a single row must do for 100,000: rows are never paired by nested loops.
-- +goose StatementBegin
CREATE FUNCTION mercure.create_attachment(
    relation regclass, schema text, events text[], publish text, decide text, decide_path text, definition text
) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
    SET standard_conforming_strings = on
AS $$
DECLARE
    name CONSTANT text := format('%I.mercure_%s', coalesce(schema, (
        SELECT n.nspname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = relation
    )), left(replace(gen_random_uuid()::text, '-', ''), 12));
    trigger record;
BEGIN
    EXECUTE format(
$sql$CREATE FUNCTION %s_publish() RETURNS trigger
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET standard_conforming_strings = on
    SET timezone = 'UTC'
    SET datestyle = 'ISO'
    SET intervalstyle = 'postgres'
    SET bytea_output = 'hex'
    SET extra_float_digits = 1
    SET jit = off
    SET enable_nestloop = off
AS %L$sql$, name, format(E'\n#variable_conflict use_column\n%sBEGIN\n%sRETURN NULL;\nEND\n',
        CASE WHEN decide IS NOT NULL THEN
$sql$DECLARE
decided_new bytea := convert_to(current_setting('mercure.decided_new'), 'UTF8');
decided_old bytea := convert_to(current_setting('mercure.decided_old'), 'UTF8');
$sql$ END, publish));
    EXECUTE format('REVOKE ALL ON FUNCTION %s_publish() FROM PUBLIC', name);
    EXECUTE format('COMMENT ON FUNCTION %s_publish() IS %L', name, definition);
    IF decide IS NOT NULL THEN
        EXECUTE format(
$sql$CREATE FUNCTION %s_decide() RETURNS trigger
    LANGUAGE plpgsql VOLATILE SECURITY INVOKER
    SET search_path = %s
    SET standard_conforming_strings = on
    SET jit = off
    SET enable_nestloop = off
AS %L$sql$, name, decide_path, format(
$sql$
#variable_conflict use_column
DECLARE
decided_new text;
decided_old text;
BEGIN
%sPERFORM pg_catalog.set_config('mercure.decided_new', coalesce(decided_new, ''), true),
    pg_catalog.set_config('mercure.decided_old', coalesce(decided_old, ''), true);
RETURN NULL;
END
$sql$, decide));
    END IF;
    -- Triggers fire in the order of their names.
    FOR trigger IN
        SELECT f.name AS function, e.name AS event, CASE e.name
            WHEN 'insert' THEN 'REFERENCING NEW TABLE AS mercure_new'
            WHEN 'delete' THEN 'REFERENCING OLD TABLE AS mercure_old'
            WHEN 'update' THEN 'REFERENCING OLD TABLE AS mercure_old NEW TABLE AS mercure_new'
        END AS tables
        FROM unnest(events) AS e (name)
        CROSS JOIN unnest('{decide,publish}'::text[]) AS f (name)
        WHERE f.name = 'publish' OR (decide IS NOT NULL AND e.name <> 'truncate')
    LOOP
        EXECUTE format('CREATE TRIGGER mercure_attach_%s_%s AFTER %2$s ON %s %s FOR EACH STATEMENT EXECUTE FUNCTION %s_%1$s()',
            trigger.function, trigger.event, relation, trigger.tables, name);
    END LOOP;
END
$$;
-- +goose StatementEnd

-- The call that makes an attachment, as text.
-- +goose StatementBegin
CREATE FUNCTION mercure.attach_call(
    relation regclass, topics text[], columns text[], operations text[], types jsonb, private boolean, old_values boolean,
    only_changes boolean, when_condition text, key text[], truncate_topic text, schema text, when_path name[]
) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET standard_conforming_strings = on
AS $$
BEGIN
    RETURN 'SELECT mercure.attach(' || concat_ws(', ',
        quote_literal(relation::text),
        'topics => ' || quote_literal(topics::text),
        'columns => ' || quote_literal(columns::text),
        'operations => ' || quote_literal(operations::text),
        'types => ' || quote_nullable(types::text),
        'private => ' || private::text,
        'old_values => ' || old_values::text,
        'only_changes => ' || only_changes::text,
        'when_condition => ' || quote_literal(when_condition),
        'key => ' || quote_literal(key::text),
        'truncate_topic => ' || quote_literal(truncate_topic),
        'schema => ' || quote_literal(schema),
        CASE WHEN when_condition IS NOT NULL THEN 'when_path => ' || quote_literal(when_path::text) END
    ) || ');';
END
$$;
-- +goose StatementEnd

-- The id to pass as last_event_id so that a subscriber misses nothing that is
-- not in the snapshot of the calling statement. It may get some that is.
--
-- Why nothing is missed: call S the snapshot, C the update whose id is returned
-- and U one whose transaction T is not in S. Whoever appended C committed before
-- S was taken, T after. A drain moves U only with a snapshot that has T, which
-- is younger than S, and only then takes a position for it, under the append
-- lock: a greater one than all that were taken before S. If U came over HTTP, T
-- is the append itself: it did not hold the lock before C's append did, since
-- then it would have committed first and be in S.
--
-- STABLE is what makes it work: a volatile function would look at the log with
-- a snapshot of its own, younger than that of the rows.
-- +goose StatementBegin
CREATE FUNCTION mercure.cursor() RETURNS text
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN coalesce((SELECT u.id FROM mercure.updates AS u ORDER BY u.position DESC LIMIT 1), 'earliest');
END
$$;
-- +goose StatementEnd
REVOKE EXECUTE ON FUNCTION mercure.cursor(), mercure.reject_change(text[], text, boolean, text, text) FROM PUBLIC;

-- +goose StatementBegin
DO $$
DECLARE
    statement text;
    grants CONSTANT text[] := ARRAY[
        (
            SELECT format('GRANT EXECUTE ON FUNCTION %s TO mercure_publisher', string_agg(p.oid::regprocedure::text, ', '))
            FROM pg_proc AS p
            WHERE p.pronamespace = 'mercure'::regnamespace AND p.proname = ANY ('{uri_encode,uri_decode,compile_topic,compile_topics,pairing,change_types,changes_query,decisions_query,check_query,check_attachable,create_attachment,attach_call,attach,detach,admit_change,reject_change,cursor}')
        ),
        'GRANT SELECT ON mercure.attachments TO mercure_publisher'
    ];
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'mercure_publisher') THEN
        RAISE WARNING 'The role mercure_publisher does not exist. To let other roles attach tables, run as the owner of the schema, once it does: %;', array_to_string(grants, '; ');
        RETURN;
    END IF;
    FOREACH statement IN ARRAY grants LOOP
        EXECUTE statement;
    END LOOP;
END
$$;
-- +goose StatementEnd

INSERT INTO mercure.schema_version (version, oldest_hub) VALUES (10, 1);

-- Tables are detached first: else every write to them would fail.
-- +goose Down
SET LOCAL lock_timeout = '10s';
DELETE FROM mercure.schema_version WHERE version = 10;
SELECT mercure.detach(a.relation) FROM mercure.attachments AS a;
DROP VIEW mercure.attachments;
-- +goose StatementBegin
DO $$
DECLARE
    statement text;
BEGIN
    FOR statement IN
        SELECT format('DROP FUNCTION %s', p.oid::regprocedure)
        FROM pg_proc AS p
        WHERE p.pronamespace = 'mercure'::regnamespace AND p.proname = ANY ('{uri_encode,uri_decode,compile_topic,compile_topics,pairing,change_types,changes_query,decisions_query,check_query,check_attachable,create_attachment,attach_call,attach,detach,admit_change,reject_change,cursor}')
    LOOP
        EXECUTE statement;
    END LOOP;
END
$$;
-- +goose StatementEnd
