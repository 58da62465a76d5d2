package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

type attachCmd struct {
	Topic         []string          `required:"" sep:"none" placeholder:"TEMPLATE" help:"Topic of each row, a URI template over its columns; repeatable, the first one is the canonical one."`
	Column        []string          `sep:"none" placeholder:"NAME" help:"Column to publish; repeatable. By default all."`
	Operation     []string          `enum:"insert,update,delete" placeholder:"NAME" help:"What to publish: insert, update, delete; repeatable. By default all."`
	Type          map[string]string `mapsep:"none" placeholder:"OPERATION=NAME" help:"Type of the updates of an operation, such as insert=created, or insert= for none; repeatable. By default its name."`
	Public        bool              `help:"Anybody may receive the updates. By default they are private."`
	OldValues     bool              `help:"Publish the values before the change, too."`
	AllUpdates    bool              `help:"Also publish updates that change no published column."`
	When          string            `placeholder:"EXPRESSION" help:"SQL condition over new and old, such as new.state = 'paid'. What it is not true for is not published."`
	Key           []string          `sep:"none" placeholder:"COLUMN" help:"Column of the key by which rows are known; repeatable. By default those of the primary key."`
	TruncateTopic string            `placeholder:"TOPIC" help:"Where to publish that the table was truncated. By default nowhere."`
	Schema        string            `placeholder:"NAME" help:"Schema for the trigger functions. By default that of the table."`
	Table         string            `arg:"" help:"The table, as in SQL, such as orders or shop.\"Orders\"."`
}

// Help implements kong.HelpProvider.
func (*attachCmd) Help() string {
	return `Prints a migration for goose that makes a table publish its changes: the call of mercure.attach(), and that of
mercure.detach() to take it back. Nothing is connected to. With other tools, copy the calls.

Example:

    cinnabar attach orders --topic 'https://example.com/orders/{id}' --column id --column state \
      --when "new.state <> 'draft'" > migrations/00042_attach_orders.sql`
}

// Run is called by kong.
func (c *attachCmd) Run(a *app) error {
	arguments, err := c.arguments()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.stdout, `-- Changes of the table are published when they are committed.

-- +goose Up
SET LOCAL lock_timeout = '10s';
-- +goose StatementBegin
SELECT mercure.attach(
    %s
);
-- +goose StatementEnd

-- +goose Down
SET LOCAL lock_timeout = '10s';
-- +goose StatementBegin
SELECT mercure.detach(%s);
-- +goose StatementEnd
`, strings.Join(arguments, ",\n    "), sqlText(c.Table))
	return err
}

// arguments are those of mercure.attach, without what is its default anyway.
func (c *attachCmd) arguments() ([]string, error) {
	list := []string{sqlText(c.Table), "topics => " + sqlArray(c.Topic)}
	for name, values := range map[string][]string{"columns": c.Column, "operations": c.Operation, "key": c.Key} {
		if len(values) > 0 {
			list = append(list, name+" => "+sqlArray(values))
		}
	}
	if len(c.Type) > 0 {
		var pairs []string
		for _, operation := range slices.Sorted(maps.Keys(c.Type)) {
			if !slices.Contains([]string{"insert", "update", "delete", "truncate"}, operation) {
				return nil, &usageError{reason: fmt.Sprintf("--type: %q is no operation; there are insert, update, delete and truncate", operation)}
			}
			pairs = append(pairs, sqlText(operation), sqlText(c.Type[operation]))
		}
		list = append(list, "types => jsonb_build_object("+strings.Join(pairs, ", ")+")")
	}
	for name, value := range map[string]string{"when_condition": c.When, "truncate_topic": c.TruncateTopic, "schema": c.Schema} {
		if value != "" {
			list = append(list, name+" => "+sqlText(value))
		}
	}
	for argument, wanted := range map[string]bool{"private => false": c.Public, "old_values => true": c.OldValues, "only_changes => false": c.AllUpdates} {
		if wanted {
			list = append(list, argument)
		}
	}
	slices.Sort(list[2:])
	return list, nil
}

type detachCmd struct {
	Table string `arg:"" help:"The table, as in SQL, such as orders or shop.\"Orders\"."`
}

// Help implements kong.HelpProvider.
func (*detachCmd) Help() string {
	return `Prints a migration for goose after which a table publishes nothing any more. Down does nothing: the view
mercure.attachments shows, before, what would be needed there.

Example:

    cinnabar detach orders > migrations/00043_detach_orders.sql`
}

// Run is called by kong.
func (c *detachCmd) Run(a *app) error {
	_, err := io.WriteString(a.stdout, `-- Changes of the table are not published any more.

-- +goose Up
SET LOCAL lock_timeout = '10s';
-- +goose StatementBegin
SELECT mercure.detach(`+sqlText(c.Table)+`);
-- +goose StatementEnd

-- +goose Down
-- Attach the table here, if it is to publish again.
`)
	return err
}

// sqlText is a literal that stays on its line and means the same under any
// setting.
func sqlText(s string) string {
	quoted := "'" + strings.ReplaceAll(s, "'", "''") + "'"
	if !strings.ContainsAny(s, "\\\n\r") {
		return quoted
	}
	return "E" + strings.NewReplacer(`\`, `\\`, "\n", `\n`, "\r", `\r`).Replace(quoted)
}

func sqlArray(values []string) string {
	list := make([]string, len(values))
	for i, v := range values {
		list[i] = sqlText(v)
	}
	return "ARRAY[" + strings.Join(list, ", ") + "]"
}
