package eventlog_test

import (
	"testing"

	"github.com/cinnabar-hub/cinnabar/server/internal/eventlog"
)

func TestSameButPassword(t *testing.T) {
	t.Parallel()
	const base = "postgres://hub:old@db1,db2:5433/app?sslmode=require&password=old"
	for _, test := range []struct {
		other string
		same  bool
	}{
		{base, true},
		{"postgres://hub:new@db1,db2:5433/app?sslmode=require&password=new", true},
		{"postgres://hub@db1,db2:5433/app?sslmode=require", true},
		{"postgres://hub:new@db1,db2:5433/app?password=new&sslmode=require", true},
		{"postgres://other:old@db1,db2:5433/app?sslmode=require", false},
		{"postgres://hub:old@db1:5433/app?sslmode=require", false},
		{"postgres://hub:old@db1,db2:5433/other?sslmode=require", false},
		{"postgres://hub:old@db1,db2:5433/app?sslmode=disable", false},
		{"host=db1,db2 user=hub password=old", false},
		{"private", false},
		{"", false},
		{"postgres://%zz", false},
	} {
		if eventlog.SameButPassword(base, test.other) != test.same {
			t.Errorf("%s: want %v", test.other, test.same)
		}
	}
	if eventlog.SameButPassword("host=a password=b", "host=a password=c") || !eventlog.SameButPassword("host=a password=b", "host=a password=b") {
		t.Error("addresses that are no URLs are the same if they are equal, and not otherwise")
	}
}
